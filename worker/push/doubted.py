"""A person's decision about all pushes in doubt that a filter finds, some at a time.

Guarantee: each portion is one transaction, with every push on record as if it had been named by its key. A push that a
rule protects is counted by its reason and stays as it is. If the command is cut off, repeat it: it does the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Literal

import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema import ids
from drawdown.schema.audit import By, require_org
from drawdown.schema.database import Transact
from drawdown.schema.errors import Exit, Refused, UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.units import MINUTE_MS, PUSH_ID
from drawdown.worker.history.incarnation import require_whole
from drawdown.worker.push.actions import accept_many
from drawdown.worker.push.rows import PushRow
from drawdown.worker.push.void import Barrier, Refusal, refusals, void_many
from drawdown.worker.verdict.rates import Prices, Quantity, Worth

SQL = queries(__file__)

AT_ONCE: Final = 1_000
"""Pushes that one transaction resolves: seals wait for it."""
FIRST_MS: Final = -1
LAST_MS: Final = 2**62
"""Windows before and behind each that there is."""

Outcome = Literal["accepted", "absent"]
Judge = Callable[[sa.Connection, Sequence[PushRow], int], Iterator[Refusal]]
PASSING: Final[frozenset[Barrier]] = frozenset({"charged", "may_arrive"})
"""Reasons that end by themselves: the same command does the rest later."""


@dataclass(frozen=True)
class DoubtFilter:
    """Which pushes in doubt: of windows in [from_ms, to_ms), whose last error holds `error`. Empty: any.

    `at_most`: refuse if there are more.
    """

    provider: str = ""
    org: str = ""
    customer: str = ""
    feature: str = ""
    from_ms: int | None = None
    to_ms: int | None = None
    error: str = ""
    at_most: int | None = None

    @property
    def values(self) -> dict[str, object]:
        """The values of the fragment `chosen`."""
        return {
            "provider": self.provider,
            "org_id": self.org,
            "customer_id": self.customer,
            "feature": self.feature,
            "from_ms": 0 if self.from_ms is None else self.from_ms,
            "to_ms": LAST_MS if self.to_ms is None else self.to_ms,
            "error": self.error,
        }

    def require(self, connection: sa.Connection) -> int:
        """Return how many pushes there are.

        Errors: UsageError for an empty range; UnknownId for a mistyped organisation, customer or feature; Refused for a
        provider that never billed anybody, or for more pushes than `at_most`.
        """
        if self.from_ms is not None and self.to_ms is not None and self.from_ms >= self.to_ms:
            raise UsageError("the range is empty: --to must be later than --from")
        if self.org:
            require_org(connection, self.org)
        for kind, given in ((ids.CUSTOMER, self.customer), (ids.FEATURE, self.feature)):
            if given:
                ids.require(connection, kind, given)
        if self.provider and not SQL.run(connection, "was_assigned", {"provider": self.provider}).first():
            raise Refused(f"nothing was ever assigned to a provider {self.provider!r}; `drawdown provider list`")
        found = int(SQL.run(connection, "count", self.values).scalar_one())
        if self.at_most is not None and found > self.at_most:
            raise Refused(
                f"--at-most {self.at_most:,}: there are {found:,} pushes in doubt now. Check them with --dry-run"
            )
        return found


@dataclass(frozen=True)
class Stays:
    """Pushes that a rule protects: why, how many, and the rule's words about the first. `wait_ms`: when the last of
    them can be resolved; 0: that is not known."""

    reason: Barrier
    pushes: int
    example: str
    wait_ms: int = 0

    @property
    def words(self) -> str:
        """The reason for people, and what to do next."""
        minutes = -(-self.wait_ms // MINUTE_MS)
        return {
            "below_floor": "below their organisations' floor: settle them with the customers, then --accepted",
            "charged": "charged by the embedded ledger: the next tick accepts them",
            "may_arrive": f"an attempt may still arrive: give the same command in {minutes:,} minutes",
            "not_charged": "never charged by the embedded ledger: --absent",
        }[self.reason]


@dataclass(frozen=True)
class ResolvedAll:
    """What became of the pushes that a filter found; in a dry run, what would."""

    outcome: Outcome
    dry_run: bool
    found: int
    pushes: int
    orgs: int
    worth: Worth
    stays: list[Stays]

    @property
    def exit_status(self) -> Exit:
        """0: all are resolved. 75: the rest can be resolved later. 1: a rule refuses some for good."""
        if any(one.reason not in PASSING for one in self.stays):
            return Exit.PERSON
        return Exit.LEFT if self.stays else Exit.SETTLED


@dataclass
class _Sums:
    pushes: int = 0
    orgs: set[str] = field(default_factory=set)
    used: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    stays: dict[Barrier, Stays] = field(default_factory=dict)

    def add(self, portion: _Portion) -> None:
        """Count a portion once its transaction is kept: what conflicts is run again."""
        self.pushes += len(portion.done)
        for push in portion.done:
            self.orgs.add(str(push.org_id))
            self.used[str(push.provider), str(push.feature), int(push.window_ms)] += int(push.sent_qty)
        for one in portion.refused:
            before = self.stays.get(one.barrier, Stays(one.barrier, 0, one.text))
            wait_ms = max(before.wait_ms, one.wait_ms)
            self.stays[one.barrier] = replace(before, pushes=before.pushes + 1, wait_ms=wait_ms)

    def worth(self, connection: sa.Connection) -> Worth:
        sums = (Quantity(*place, quantity) for place, quantity in self.used.items())
        return Prices(connection).worth(sums)


@dataclass(frozen=True)
class _Portion:
    done: Sequence[PushRow]
    refused: Sequence[Refusal]
    last: PushRow | None
    """Where the next one begins; None: there is none."""


def resolve_all(
    transact: Transact, chosen: DoubtFilter, outcome: Outcome, by: By, evidence: str, *, dry_run: bool = False
) -> ResolvedAll:
    """Accept or void all pushes in doubt of a filter, AT_ONCE to a transaction. A dry run needs no evidence.

    Errors: UsageError without evidence, and for a filter that names nothing; Refused for more than `at_most`;
    HistoryDoubted while the database stands still.
    """
    if not (dry_run or evidence.strip()):
        raise UsageError("no evidence is given: say what shows it with --evidence")
    evidence = evidence.strip() or "dry run"
    left = found = transact(chosen.require, rollback=True)
    sums, after = _Sums(), (FIRST_MS, "", "", -1)
    while left > 0:  # no more than were counted: what goes in doubt meanwhile was seen by nobody
        work = partial(
            _portion, chosen=chosen, outcome=outcome, by=by, evidence=evidence, after=after, most=min(left, AT_ONCE)
        )
        portion = transact(work, rollback=dry_run)
        sums.add(portion)
        if portion.last is None:
            break
        left -= AT_ONCE
        after = tuple(getattr(portion.last, name) for name in PUSH_ID)
    worth = transact(sums.worth, rollback=True)
    return ResolvedAll(outcome, dry_run, found, sums.pushes, len(sums.orgs), worth, list(sums.stays.values()))


def _portion(
    connection: sa.Connection,
    *,
    chosen: DoubtFilter,
    outcome: Outcome,
    by: By,
    evidence: str,
    after: tuple[int, str, str, int],
    most: int,
) -> _Portion:
    """Resolve the next pushes; all that a rule does not protect."""
    if outcome == "absent":
        lock_buckets(connection)
    require_whole(connection)
    names = ("after_ms", "after_org", "after_feature", "after_revision")
    values = {**chosen.values, **dict(zip(names, after, strict=True)), "at_most": most}
    held = SQL.run(connection, "portion", values).all()
    if not held:
        return _Portion([], [], None)
    refused = _once_each(_REFUSALS[outcome](connection, held, by.now_ms))
    kept = {one.key for one in refused}
    done = [push for push in held if push.key not in kept]
    if outcome == "accepted":
        accept_many(connection, done, by, evidence)
    else:
        void_many(connection, done, by, [evidence] * len(done), "operator")
    return _Portion(done, refused, held[-1] if len(held) == most else None)


def _once_each(found: Iterator[Refusal]) -> list[Refusal]:
    """The first refusal of each push."""
    first: dict[str, Refusal] = {}
    for one in found:
        first.setdefault(one.key, one)
    return list(first.values())


def _not_charged(connection: sa.Connection, held: Sequence[PushRow], _now_ms: int) -> Iterator[Refusal]:
    """The embedded ledger knows what it charged: a person cannot say otherwise."""
    ours = [str(push.key) for push in held if push.provider == EMBEDDED]
    charged = wallet.read_charges(connection, ours)
    for key in ours:
        if key not in charged:
            yield Refusal(key, "not_charged", f"{key}: the embedded ledger has no such charge, so it is --absent")


_REFUSALS: Final[dict[Outcome, Judge]] = {
    "accepted": _not_charged,
    "absent": refusals,
}
