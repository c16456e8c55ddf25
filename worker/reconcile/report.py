"""The report of `reconcile`: the comparisons, their results, and the words for both. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import structlog

log = structlog.get_logger()

FEW: Final = 5


@dataclass(frozen=True)
class ReconcileScope:
    """The scope of a comparison. `threshold`: the share of ours by which theirs may differ silently."""

    from_ms: int = 0
    to_ms: int = 2**53
    org_id: str = ""
    provider: str = ""
    threshold: float = 0.0
    shadow_threshold: float = 0.15
    """The same for what is only estimated here, and billed by another system at the provider."""
    correct: bool = False
    recent: bool = False


@dataclass(frozen=True)
class Line:
    """One organisation's feature on one day, in base units."""

    day_ms: int
    org_id: str
    provider: str
    customer_id: str
    feature: str
    ours: int
    theirs: int
    verdict: str
    corrected: int = 0
    """The corrected part of the difference."""
    note: str | None = None
    balance: bool = False
    """True if `theirs` is the draw of this cycle that the balance shows, and not a day's total of events."""
    by_hand: int = 0
    """The quantity that a person billed by hand, if the line is equal without it.

    Events may show that quantity, and lack as much of ours.
    """
    from_ms: int = 0
    to_ms: int = 0
    """The part of the day in which this organisation was billed as this customer, and sent or only compared."""
    scale: int = 1
    """Quantities in one unit of the balance, for a credit system."""
    standing: bool = False
    """True if a balance line is reported beside lines of days that events leave open: each time, and without a mark."""
    unsure: int = 0
    """The possible further difference: the amounts of some charges are unknown."""

    @property
    def is_left(self) -> bool:
        """True if some of the difference is left to a person."""
        return abs(self.theirs - self.ours) != self.corrected or bool(self.unsure)


@dataclass(frozen=True)
class LeftOut:
    """A balance that this run did not compare, and why."""

    provider: str
    customer_id: str
    feature: str
    reason: str


@dataclass
class Reconciled:
    """The result of a comparison.

    `waiting` lines were left for later: some of their pushes are unsettled, or too fresh.
    """

    compared: int = 0
    waiting: int = 0
    unread: int = 0
    other_terms: int = 0
    """Lines of which something was sent under names or units that are no longer used: they cannot be compared."""
    reasons: list[str] = field(default_factory=list)
    """Why something could not be read, the first few."""
    covered: int = 0
    """Lines of which events show less, and the customer's balance shows that it was charged: nothing is to be done."""
    forgiven: int = 0
    """Lines that differ by less than may be silently: in shadow mode 15 %, unless told otherwise."""
    differing: list[Line] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Providers that cannot be compared, with the reason."""
    unusable: list[str] = field(default_factory=list)
    """Providers among them that bill an organisation: nothing was proven of them."""

    open_days: int = 0
    """Days of customers that were settled more than a day ago, and are not compared yet."""
    left_out: list[LeftOut] = field(default_factory=list)
    """Balances that were not compared, although all events of their customers were."""
    unfinished: bool = False
    """True if time was up before all was compared: balances, which depend on all of it, were not compared."""

    def not_read(self, customer_id: str, reason: str) -> None:
        self.unread += 1
        if len(self.reasons) < FEW:
            self.reasons.append(f"{customer_id}: {reason}")

    @property
    def exit_status(self) -> int:
        """1: a person is needed. 75: what differed was corrected, could not be read, or was not reached, and the next
        run tells."""
        if self.unusable or any(line.is_left for line in self.differing):
            return 1
        return 75 if self.differing or self.unread or self.unfinished else 0


def above(line: Line, threshold: float) -> bool:
    """Return True if a difference has to be reported."""
    return max(abs(line.theirs - line.ours), line.unsure) > threshold * abs(line.ours)


def tell(line: Line) -> None:
    """An event for each difference, so that an alert can rest on it."""
    say = log.info if line.verdict == "equal" else log.error
    say(
        "reconcile_covered" if line.verdict == "equal" else "reconcile_differs",
        org=line.org_id,
        provider=line.provider,
        feature=line.feature,
        day_ms=line.day_ms,
        verdict=line.verdict,
        ours=line.ours,
        theirs=line.theirs,
        corrected=line.corrected,
        note=line.note,
    )


def tell_left_out(one: LeftOut) -> None:
    """An event for each balance that was not compared."""
    its = {"provider": one.provider, "customer": one.customer_id, "feature": one.feature, "reason": one.reason}
    log.warning("balance_not_compared", **its)


def of_line(line: Line) -> dict[str, object]:
    """Return the values of the statements about one line."""
    return {
        "provider": line.provider,
        "from_ms": line.from_ms,
        "to_ms": line.to_ms,
        "org_id": line.org_id,
        "customer_id": line.customer_id,
        "feature": line.feature,
    }
