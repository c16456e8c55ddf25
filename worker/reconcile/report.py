"""Define the report of `reconcile`, and log its differences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import structlog

log = structlog.get_logger()

FEW: Final = 5


@dataclass(frozen=True)
class ReconcileScope:
    """The scope of a comparison: the windows in [from_ms, to_ms).

    `threshold`: the share of our quantity by which the provider's quantity may differ without a report. `org_id`,
    `provider`: '' for all. `correct`: True to correct proven differences. `recent`: True to compare days that were
    settled recently, or since the last comparison of their customer.
    """

    from_ms: int = 0
    to_ms: int = 2**53
    org_id: str = ""
    provider: str = ""
    threshold: float = 0.0
    shadow_threshold: float = 0.15
    """The threshold for usage in shadow, which another system bills at the provider."""
    correct: bool = False
    recent: bool = False


@dataclass(frozen=True)
class Line:
    """A comparison of an organisation's feature on a day, in base units.

    `ours`: the accepted quantity. `theirs`: the quantity at the provider. `verdict`: short (the provider has less),
    over, equal, shadow, or unsure (a balance may agree). `note`: further facts in words, or None.
    """

    day_ms: int
    org_id: str
    provider: str
    customer_id: str
    feature: str
    ours: int
    theirs: int
    verdict: str
    corrected: int = 0
    """The size of the corrected part of the difference."""
    note: str | None = None
    balance: bool = False
    """True if `theirs` is the draw of this cycle that the balance shows, instead of a day's total of events."""
    by_hand: int = 0
    """The quantity that a person billed by hand, if the line is equal or over only without it.

    Events may show that quantity, and lack a quantity of ours.
    """
    from_ms: int = 0
    to_ms: int = 0
    """The end of the part of the day, from `from_ms`, in which this organisation was billed as this customer, in shadow
    or not.
    """
    scale: int = 1
    """Quantities in one unit of the balance, for a credit system."""
    standing: bool = False
    """True if events leave days of the customer open. In that case, the line of the balance is reported each time,
    without a mark.
    """
    unsure: int = 0
    """The possible further difference, because the amounts of some charges are unknown."""

    @property
    def is_left(self) -> bool:
        """Return True if a person must resolve a part of the difference."""
        return abs(self.theirs - self.ours) != self.corrected or bool(self.unsure)


@dataclass(frozen=True)
class LeftOut:
    """A balance that this run did not compare, with the reason."""

    provider: str
    customer_id: str
    feature: str
    reason: str


@dataclass
class Reconciled:
    """The result of a comparison with providers.

    A line is an organisation's feature on a day. `waiting`: the number of lines left for later, because one of their
    pushes is due, queued, in doubt or too recent. `unread`: the number of failed reads. `compared`: the number of
    compared lines. `differing`: the lines that differ.
    """

    compared: int = 0
    waiting: int = 0
    unread: int = 0
    other_terms: int = 0
    """Lines with pushes that were sent under names or units that are no longer used, so that they cannot be
    compared.
    """
    reasons: list[str] = field(default_factory=list)
    """The first FEW reasons of failed reads."""
    covered: int = 0
    """Lines of which events show less, although the customer's balance shows the charge, so that a correction is not
    needed.
    """
    forgiven: int = 0
    """Lines that differ by at most the threshold, which is 15 % in shadow by default."""
    differing: list[Line] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Providers that cannot be compared, with the reason."""
    unusable: list[str] = field(default_factory=list)
    """Skipped providers that bill an organisation. Their charges are unproven."""

    open_days: int = 0
    """Customer-days that were settled more than a day ago, but are not compared yet."""
    left_out: list[LeftOut] = field(default_factory=list)
    """Balances that were not compared, although all events of their customers are."""
    unfinished: bool = False
    """True if time was over before all lines were compared. Balances are then not compared, because they depend on all
    lines.
    """

    def not_read(self, customer_id: str, reason: str) -> None:
        self.unread += 1
        if len(self.reasons) < FEW:
            self.reasons.append(f"{customer_id}: {reason}")

    @property
    def exit_status(self) -> int:
        """Return 1 if a person must act, 75 if the next run must continue, else 0.

        The next run must continue after a correction, a failed read, or the end of the time.
        """
        if self.unusable or any(line.is_left for line in self.differing):
            return 1
        return 75 if self.differing or self.unread or self.unfinished else 0


def above(line: Line, threshold: float) -> bool:
    """Return True if a difference must be reported.

    The difference or its uncertainty must exceed `threshold`, a share of our quantity.
    """
    return max(abs(line.theirs - line.ours), line.unsure) > threshold * abs(line.ours)


def tell(line: Line) -> None:
    """Log `reconcile_differs` for a line, or `reconcile_covered` if it is equal.

    You can build an alert on the event.
    """
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
    """Log `balance_not_compared` for a balance that was not compared."""
    its = {"provider": one.provider, "customer": one.customer_id, "feature": one.feature, "reason": one.reason}
    log.warning("balance_not_compared", **its)


def of_line(line: Line) -> dict[str, object]:
    """Return the parameters of statements about one line."""
    return {
        "provider": line.provider,
        "from_ms": line.from_ms,
        "to_ms": line.to_ms,
        "org_id": line.org_id,
        "customer_id": line.customer_id,
        "feature": line.feature,
    }
