"""Read and change the guard's counters, each of which is the sum of its uses.

A use changes the counters. The check in `worker.checks` compares the counters with all uses.

Guarantee: a counter is locked before it is read for a decision, and changes in the transaction of the use that it
counts. A transaction locks the counters of an organisation's metric in the order in which their periods begin. If two
periods begin together, it locks the counter of the longer period first. Then it locks uses, then executions, then
wallets. An expired reservation of a use does not count, even before a transaction marks it as expired. A transaction
that marks, ends or extends an earlier use locks the counters of that use's periods after the present counters. If a
correction of several counters runs at the same time, PostgreSQL may report a deadlock and end one of the two
transactions. The caller then retries that transaction.

A correction is computed under the counter's lock, and is recorded with the amounts before and after. A counter without
uses is not corrected, because its right amount is unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.guard.decide import Bound, Counted, Price, warned_after
from drawdown.guard.periods import PERIODS, Period, Span, end_of, start_of, starts
from drawdown.schema.audit import By, record
from drawdown.schema.errors import DatabaseBusy, UsageError
from drawdown.schema.sql import Part, queries
from drawdown.schema.units import MINUTE_MS

SQL = queries(__file__)

State: TypeAlias = Literal["used", "held", "settled", "released", "expired"]
OVER_AT_ONCE: Final = 1_000
"""Expired uses of one metric that one statement subtracts from their counters.

An expired use is `held`, past its end.
"""
MOST_OVER_PARTS: Final = 100
"""Statements of one transaction that each subtract up to OVER_AT_ONCE expired uses.

The remaining expired uses count until the next transaction.
"""
TURN_MS: Final = 5 * MINUTE_MS
"""Milliseconds around the turn of a month in which uses of both months may run.

Servers with different clocks then use different counters, so a counter's lock does not protect a use key. The time
counts before and after the turn.
"""
NO_END: Final = 2**62
"""Amount above every counter, in base units.

It stands for an unlimited amount in SQL.
"""


class LimitReached(DatabaseBusy):
    """Raised if a concurrent use reached a limit after this decision.

    The transaction is rolled back.
    """


@dataclass(frozen=True)
class Use:
    """A row of `guard_uses`: a quantity that is used, or reserved for use.

    `asked`: the requested base units. `amount`: the base units that count now. `number`: the number of the use among
    the organisation's uses of the metric in the month, from 1. `metric_number`: the number of the metric's terms.
    `decision`: the decision that counts. `would`: the decision of phase 3. `enforced`: True if the phase enforces the
    decision. `rule`: the rule that decided. `degraded`: the credit was unknown, or a client allowed the use without the
    server. `reservation`: the execution that charges the use (None: the use is not charged). `limit_period`,
    `limit_amount`: the nearest limit, in base units (None: unlimited, or phase 3 would block). `forgone_micro`: the
    part of the price that was not charged, 0 until a reserved use ends. `expires_ms` None: it was not reserved.
    `ended_ms` None: it has not ended.

    `price`: the metric's price at the time of the decision. `payer`: the wallet that the execution charges (None:
    without an execution).
    """

    use_key: str
    org_id: str
    metric: str
    number: int
    month_ms: int
    metric_number: int
    asked: int
    amount: int
    state: State
    decision: str
    would: str
    rule: str
    enforced: bool
    limit_period: Span | None
    limit_amount: int | None
    degraded: bool
    reservation: str | None
    charged_micro: int
    forgone_micro: int
    fingerprint: str
    at_ms: int
    expires_ms: int | None
    ended_ms: int | None
    actor: str
    reason: str
    price: Price
    payer: str | None

    @property
    def price_micro(self) -> int:
        """Return the cost of the use in micro-credits, as it ended or as it is reserved."""
        return self.price.hold_micro(self.amount) if self.state == "held" else self.charged_micro + self.forgone_micro


@dataclass(frozen=True)
class Counters:
    """The counters of an organisation's metric at a moment, locked or as read.

    `uses`: the number of uses in the month. `overs`: the number of expired uses of the metric that still count. `rows`:
    the number of existing counters.
    """

    org_id: str
    metric: str
    at_ms: int
    counted: Mapping[Span, Counted]
    uses: int
    overs: int = 0
    rows: int = 0


def look(connection: sa.Connection, org_id: str, metric: str, now_ms: int) -> Counters:
    """Return the counters of a metric, minus the amounts of expired uses.

    The function only reads, and does not lock.
    """
    found = _read(connection, org_id, metric, now_ms, held="")
    if not found.overs:
        return found
    values = {"org_id": org_id, "metric": metric, "now_ms": now_ms}
    over = SQL.run(connection, "over_in_all", {**values, **_starts(now_ms)}).one()
    given_back = dict(zip(PERIODS, (int(over.hour), int(over.day), int(over.month)), strict=True))
    counted: dict[Span, Counted] = {
        one: replace(found.counted[one], used=found.counted[one].used - given_back[one]) for one in PERIODS
    }
    return replace(found, counted=counted, overs=0, rows=0)


def lock(connection: sa.Connection, org_id: str, metric: str, now_ms: int) -> Counters:
    """Lock and return the counters of a metric.

    The lock lasts until this transaction ends. The function first subtracts the amounts of expired uses.
    """
    found = _locked(connection, org_id, metric, now_ms)
    for _ in range(MOST_OVER_PARTS):
        if not found.overs or not _give_back(connection, org_id, metric, now_ms):
            break
        found = _read(connection, org_id, metric, now_ms, held="")
    return found


def lock_keys(connection: sa.Connection, names: Collection[str], now_ms: int) -> None:
    """Lock the keys of uses near the turn of a month.

    At any other time, the lock of the counter is sufficient. The row of a new key does not exist yet, so the lock is an
    advisory lock. SQLite has one writer at a time, so it does not need a lock.
    """
    part = keys_part(connection, names, now_ms)
    if part is not None:
        SQL.run(connection, part.name, part.values).all()


def keys_part(connection: sa.Connection, names: Collection[str], now_ms: int) -> Part | None:
    """Return the query that locks the keys of uses.

    The query can run with other queries in one statement. Return None if the keys do not need a lock (see `lock_keys`).
    """
    at_turn = start_of("month", now_ms - TURN_MS) != start_of("month", now_ms + TURN_MS)
    if not at_turn or connection.dialect.name != "postgresql":
        return None
    return SQL.part("lock_keys", {"names": [{"name": one} for one in sorted(set(names))]})


def _give_back(connection: sa.Connection, org_id: str, metric: str, now_ms: int) -> int:
    """Subtract the amounts of at most OVER_AT_ONCE expired uses from their counters.

    Return the number of these uses.
    """
    values = {"org_id": org_id, "metric": metric, "now_ms": now_ms, "at_most": OVER_AT_ONCE}
    over = SQL.run(connection, "over", values).all()
    if not over:
        return 0
    SQL.run(connection, "expire", {"keys": [row.use_key for row in over], "now_ms": now_ms})
    hours = [start_of("hour", int(row.at_ms)) for row in over]
    for hour_ms in sorted(set(hours)):
        back = sum(int(row.amount) for row, its_ms in zip(over, hours, strict=True) if its_ms == hour_ms)
        _locked(connection, org_id, metric, hour_ms)
        SQL.run(connection, "give_back", {"org_id": org_id, "metric": metric, "amount": back, **_starts(hour_ms)})
    return len(over)


def lock_of(connection: sa.Connection, use: Use) -> Counters:
    """Lock and return the counters of the periods in which a use was decided."""
    return _locked(connection, use.org_id, use.metric, use.at_ms)


def after(found: Counters, amount: int, bounds: Sequence[Bound], warn_ppm: int, *, uses: int) -> Counters:
    """Return the counters after a change by `amount` base units and `uses`.

    `bounds`: the limits, from which the function computes the warnings.
    """
    limits = {one.period: one.amount for one in bounds}
    counted: dict[Span, Counted] = {}
    for period, before in found.counted.items():
        limit = limits.get(period)
        was = before.warned and warned_after(warn_ppm, limit, before.used, before=True)
        used = before.used + amount
        counted[period] = Counted(used, warned_after(warn_ppm, limit, used, before=was))
    return replace(found, counted=counted, uses=found.uses + uses)


def write(
    connection: sa.Connection, found: Counters, then: Counters, bounds: Sequence[Bound],
    *, passes: Collection[Span] = (),
) -> None:  # fmt: skip
    """Change locked counters from `found` to `then`.

    The SQL statement checks the limits again. `passes`: the periods in which the counters may exceed a limit.

    Errors: LimitReached if another limit would be exceeded. In that case the whole transaction is rolled back.
    """
    limits = {one.period: one.amount for one in bounds if one.period not in passes}
    most = {f"most_{period}": limits.get(period) for period in PERIODS}
    warned = {f"warned_{period}": one.warned for period, one in then.counted.items()}
    amount = then.counted["month"].used - found.counted["month"].used
    values = {"org_id": found.org_id, "metric": found.metric, "amount": amount, "uses": then.uses - found.uses}
    ends = {name: NO_END if limit is None else limit for name, limit in most.items()}
    moved = SQL.run(connection, "move", {**values, **ends, **warned, **_starts(found.at_ms)}).rowcount
    if moved != len(PERIODS):
        raise LimitReached(f"cannot count the use: another use just reached a limit of {found.metric!r}. Try again")


def read_use(connection: sa.Connection, name: str) -> Use | None:
    """Return a use; None if it does not exist."""
    return read_uses(connection, [name]).get(name)


def read_uses(connection: sa.Connection, names: Sequence[str]) -> dict[str, Use]:
    """Return the existing uses with these names, by name."""
    return {one.use_key: one for one in map(_use, SQL.run(connection, "uses", {"names": names}, held="").mappings())}


def uses_part(names: Collection[str], held: str = "") -> Part:
    """Return the query of existing uses, to run with others in one statement.

    `uses_of` reads its rows. `held`: the name of the clause that locks the rows; empty: do not lock them.
    """
    return SQL.part("uses", {"names": sorted(set(names))}, held=held)


def uses_of(rows: Iterable[Any]) -> dict[str, Use]:
    """Return uses from the rows of `uses_part`, by name."""
    return {one.use_key: one for one in (_use(vars(row)) for row in rows)}


def hold_use(connection: sa.Connection, name: str) -> Use | None:
    """Lock and return a use; None if it does not exist.

    Until this transaction ends, other transactions cannot end the use.
    """
    row = SQL.run(connection, "uses", {"names": [name]}, held="for_update").mappings().one_or_none()
    return None if row is None else _use(row)


def add_uses(connection: sa.Connection, uses: Sequence[Use]) -> int:
    """Insert the uses with new keys. Return the number of inserted uses."""
    return len(SQL.run(connection, "add_uses", {"uses": [_columns(one) for one in uses]}).all())


def change_use(connection: sa.Connection, use: Use) -> None:
    """Update the row of a use: its amount, state, charge and end."""
    SQL.run(connection, "change_use", _columns(use))


def change_uses(connection: sa.Connection, uses: Sequence[Use]) -> None:
    """Update the rows of several uses (see `change_use`)."""
    SQL.run(connection, "change_use", [_columns(one) for one in uses])


class Denials:
    """Refusals of one metric in one minute, enforced or not, by code.

    Each code has the number of refusals, their base units, and the key of the first refusal.
    """

    def __init__(self) -> None:
        self.found: dict[tuple[str, bool], tuple[int, int, str]] = {}

    def add(self, code: str, amount: int, sample: str, *, enforced: bool) -> None:
        count, before, first = self.found.get((code, enforced), (0, 0, sample))
        self.found[code, enforced] = count + 1, before + amount, first


def deny(connection: sa.Connection, found: Counters, denials: Denials, now_ms: int, *, pays: bool) -> None:
    """Count refusals in one row for each minute, code, and whether they were enforced."""
    of = {"org_id": found.org_id, "metric": found.metric, "now_ms": now_ms, "pays": pays}
    for (code, enforced), (count, amount, sample) in sorted(denials.found.items()):
        said = {"reason_code": code, "enforced": enforced, "count": count, "amount": amount, "sample": sample}
        SQL.run(connection, "deny", {**of, **said, "minute_ms": now_ms - now_ms % 60_000})


def _locked(connection: sa.Connection, org_id: str, metric: str, at_ms: int) -> Counters:
    found = _read(connection, org_id, metric, at_ms, held="for_update")
    if found.rows < len(PERIODS):  # this is the first use of a period
        rows = [{"period": period, "start_ms": start} for period, start in reversed(starts(at_ms).items())]
        SQL.run(connection, "make", {"org_id": org_id, "metric": metric, "rows": rows})
        found = _read(connection, org_id, metric, at_ms, held="for_update")
    return found


def _read(connection: sa.Connection, org_id: str, metric: str, at_ms: int, *, held: str) -> Counters:
    values = {"org_id": org_id, "metric": metric, "now_ms": at_ms, **_starts(at_ms)}
    rows = {row.period: row for row in SQL.run(connection, "counters", values, held=held)}
    counted: dict[Span, Counted] = {
        period: Counted(int(rows[period].used), bool(rows[period].warned)) if period in rows else Counted()
        for period in PERIODS
    }
    uses = int(rows["month"].uses) if "month" in rows else 0
    overs = max((int(row.overs) for row in rows.values()), default=0)
    return Counters(org_id, metric, at_ms, counted, uses, overs, len(rows))


def _starts(at_ms: int) -> dict[str, int]:
    return {f"{period}_ms": start for period, start in starts(at_ms).items()}


def _use(row: Mapping[Any, Any]) -> Use:
    found = {**row, "enforced": bool(row["enforced"]), "degraded": bool(row["degraded"])}
    return Use(price=Price(found.pop("price_micro"), found.pop("per_units")), **found)


def _columns(use: Use) -> dict[str, object]:
    return {name: value for name, value in vars(use).items() if name != "price"}


CORRECTED_AT_ONCE: Final = 1_000
"""Counters that one transaction corrects."""


@dataclass(frozen=True)
class Counter:
    """The key of a counter: an organisation, a metric, and a period with its start."""

    org_id: str
    metric: str
    period: Period
    start_ms: int


@dataclass(frozen=True)
class Correction:
    """A counter's amount before and after a correction, in base units."""

    counter: Counter
    before: int
    after: int


def correct(connection: sa.Connection, counters: list[Counter], by: By) -> list[Correction]:
    """Set counters to the sums of their uses, except counters without uses.

    Return the corrections, in the order of the locks.

    Errors: UsageError for more than CORRECTED_AT_ONCE counters.
    """
    if len(counters) > CORRECTED_AT_ONCE:
        raise UsageError(f"too many counters: {len(counters):,}. Correct at most {CORRECTED_AT_ONCE:,} at once")
    longer_first: dict[Period, int] = {"month": 0, "day": 1, "hour": 2}
    found = []
    for one in sorted(counters, key=lambda c: (c.org_id, c.metric, c.start_ms, longer_first[c.period])):
        done = _correct(connection, one, by)
        if done is not None:
            found.append(done)
    return found


def _correct(connection: sa.Connection, counter: Counter, by: By) -> Correction | None:
    values = vars(counter)
    SQL.run(connection, "make_one", values)
    kept = SQL.run(connection, "counter", values).one()
    lines = SQL.run(connection, "sum", {**values, "end_ms": end_of(counter.period, counter.start_ms)}).one()
    before, after, uses = int(kept.used), int(lines.amount), int(lines.uses)
    if uses == 0 or (before, int(kept.uses)) == (after, uses):
        return None
    SQL.run(connection, "correct", {**values, "after": after, "uses": uses})
    said = {**values, "before": before, "after": after}
    SQL.run(connection, "add", {**said, "at_ms": by.now_ms, "actor": by.actor, "reason": by.reason})
    record(connection, "guard_correct", counter.metric, said, by)
    return Correction(counter, before, after)
