"""Read reserved credit, and apply changes of wallets that are due by time.

Reserved credit is in wallets, or in balances that providers keep. It reduces the credit that an organisation may use.
Due changes are the ends of reservations, and lots that begin and expire.

Guarantee: a reservation that is over does not count, even before its end is recorded. If metering settles an execution,
the use of its sandboxes is not reserved as well, because usage is subtracted separately. A transaction that reserves
credit applies due changes first; the sweep of a tick only applies them earlier.

If metering settles an execution, its reservation shrinks by the amount that metering has drawn for its sandboxes. Seal
and push do not depend on the reservation. The drawn amount is computed again each time. It is the execution's part of
the ledger's charge for a window and feature, by its share of the samples. It never exceeds the price of the execution's
own samples, and the parts of all executions never exceed the charge. Locks: reservations by their keys, then wallets by
their ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Final

import sqlalchemy as sa
import structlog

from drawdown.ledger import accounts, due_changes, reservations
from drawdown.ledger.due_changes import MATURE_AT_ONCE, Matured, expire, mature_due
from drawdown.ledger.rates import RateCard, read_rate_card
from drawdown.schema.sql import Part, queries
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.worker.catalog.mapping import MB_SECONDS, mapping_rows, resolve
from drawdown.worker.catalog.wallets import orgs_of, wallets_at
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.verdict.refresh_requests import mark_for_projection

log = structlog.get_logger()

SQL = queries(__file__)

READ_TRIES: Final = 3
"""Most reads of reserved credit.

Drawdown repeats a read if reservations that metering settles change meanwhile.
"""
MOST_SWEEPS: Final = 10
"""Most transactions of one tick that apply due changes to wallets.

The next tick applies the rest.
"""
MOST_OVER_AT_ONCE: Final = 1_000
"""Reservations outside of wallets that one transaction ends."""


def read_held(connection: sa.Connection, provider: str, org_ids: Sequence[str], now_ms: int) -> Mapping[str, int]:
    """Return the reserved credit by organisation, in micro-credits.

    The credit is in the organisations' wallets, or in their balances at the provider. Wallets on a plan without
    `holds_halt` are not included, because their reservations do not halt an organisation.
    """
    if not org_ids:
        return {}
    part = held_part(provider, org_ids, now_ms, in_wallets=provider in wallets_at(connection))
    rows: Sequence[Any] = SQL.run(connection, part.name, part.values).all()
    used: Mapping[str, int] = {}
    for _ in range(READ_TRIES):
        if not metering_in(rows):
            break
        used, before = used_up(connection, metering_in(rows), now_ms), rows
        rows = SQL.run(connection, part.name, part.values).all()
        if rows == before:
            break  # the reads agree, so credit that was freed meanwhile is not counted twice or left out
    return held_of(rows, used if metering_in(rows) else {})


def held_part(provider: str, org_ids: Sequence[str], now_ms: int, *, in_wallets: bool) -> Part:
    """Return the query of reservations: rows for `metering_in` and `held_of`.

    One statement can run this query together with others.

    `in_wallets`: True if the balances are in this ledger.
    """
    values = {"org_ids": org_ids, "provider": provider, "now_ms": now_ms}
    return SQL.part("held" if in_wallets else "held_elsewhere", values)


def metering_in(rows: Iterable[Any]) -> list[str]:
    """Return the customers with reservations that metering settles.

    For these customers, also read `used_up`.
    """
    return [row.customer_id for row in rows if row.has_metering]


def held_of(rows: Iterable[Any], used: Mapping[str, int]) -> dict[str, int]:
    """Return the unused reserved credit by organisation, in micro-credits.

    `used`: the part that is used up, by customer.
    """
    return {row.org_id: max(int(row.held_micro) - used.get(row.customer_id, 0), 0) for row in rows}


@dataclass(frozen=True)
class Lapsed:
    """The rest of an organisation's ended lots, in micro-credits.

    The rest pays only for use before `until_ms` that is not charged yet.
    """

    lapsed_micro: int
    until_ms: int


def read_lapsed(connection: sa.Connection, provider: str, org_ids: Sequence[str], now_ms: int) -> Mapping[str, Lapsed]:
    """Return the rest of ended lots, for organisations with such lots.

    Call this only for a provider with balances in this ledger.
    """
    part = lapsed_part(provider, org_ids, now_ms)
    return lapsed_of(SQL.run(connection, part.name, part.values))


def lapsed_part(provider: str, org_ids: Sequence[str], now_ms: int) -> Part:
    """Return the query of ended lots: rows for `lapsed_of`.

    One statement can run this query together with others.
    """
    return SQL.part("lapsed", {"org_ids": org_ids, "provider": provider, "now_ms": now_ms})


def lapsed_of(rows: Iterable[Any]) -> dict[str, Lapsed]:
    """Return the rest of ended lots, by organisation."""
    return {row.org_id: Lapsed(int(row.lapsed_micro), row.lots_over_ms) for row in rows}


def read_in_wallets(connection: sa.Connection, provider: str, org_ids: Sequence[str], now_ms: int) -> dict[str, int]:
    """Return the credit of wallets by organisation, in micro-credits.

    The credit is for new use and for open executions. Call this only for a provider with balances in this ledger.
    """
    part = wallets_part(provider, org_ids, now_ms)
    return wallets_of(SQL.run(connection, part.name, part.values))


def wallets_part(provider: str, org_ids: Sequence[str], now_ms: int) -> Part:
    """Return the query of wallets: rows for `wallets_of`.

    One statement can run this query together with others.
    """
    return SQL.part("in_wallets", {"org_ids": org_ids, "provider": provider, "now_ms": now_ms})


def wallets_of(rows: Iterable[Any]) -> dict[str, int]:
    """Return the credit of wallets, by organisation."""
    return {row.org_id: int(row.payable_micro) for row in rows}


def expire_holds(context: Context, sweeps: int = MOST_SWEEPS) -> Steps[int]:
    """Apply changes that are due by time; return the number of changed wallets.

    Due changes are ends of reservations, in wallets or not, and lots that begin or expire. A wallet counts as changed
    if its balance moved, or if it can pay another amount. `sweeps`: the most transactions for wallets, and as many for
    other reservations.
    """
    yield from shrink_holds(context)
    over = 0 if context.out_of_time() else (yield from _end_elsewhere(context, sweeps))
    if over:
        log.info("holds_ended", elsewhere=over)
    return (yield from mature_wallets(context, sweeps))


def mature_wallets(context: Context, sweeps: int = MOST_SWEEPS) -> Steps[int]:
    """Apply due changes of all wallets, and return the number of changed wallets.

    A wallet counts as changed if its balance moved, or if it can pay another amount. `sweeps`: the most transactions.

    If usage came late, an ended lot may pay for it, and the balance is too low until this has run. So verdicts wait for
    this.
    """
    done = 0
    for _ in range(sweeps):
        if context.out_of_time():
            break
        now_ms = context.clock.now_ms()
        matured: Matured = yield Transaction("expire_holds", partial(_expire, now_ms=now_ms))
        done += len(matured.moved)
        if not matured.more:
            break
    if done:
        log.info("wallets_matured", wallets=done)
    return done


def shrink_holds(context: Context) -> Steps[None]:
    """Shrink reservations by the amounts that metering has drawn for them.

    This does not change a verdict.
    """
    after: str | None = ""
    while after is not None and not context.out_of_time():
        after = yield Transaction("shrink_holds", partial(shrink, now_ms=context.clock.now_ms(), after=after))


def _end_elsewhere(context: Context, sweeps: int) -> Steps[int]:
    """End the expired reservations outside of wallets, and return their number."""
    done = 0
    for _ in range(sweeps):
        work = partial(_expire_elsewhere, now_ms=context.clock.now_ms())
        ended: int = yield Transaction("expire_holds_elsewhere", work)
        done += ended
        if ended < MOST_OVER_AT_ONCE:
            break
    return done


def _expire_elsewhere(connection: sa.Connection, *, now_ms: int) -> int:
    over = SQL.run(connection, "over_elsewhere", {"now_ms": now_ms, "at_most": MOST_OVER_AT_ONCE}).scalars().all()
    if over:
        expired = expire(connection, over, now_ms)
        mark_for_projection(connection, [row.org_id for row in expired], now_ms)
    return len(over)


def _expire(connection: sa.Connection, *, now_ms: int) -> Matured:
    matured = mature_due(connection, now_ms)
    mark_for_projection(connection, orgs_of(connection, matured.moved), now_ms)
    return matured


SHRUNK_AT_ONCE: Final = 500
"""Executions with a reservation that one transaction reads and shrinks."""
LOOKED_BACK_MS: Final = 60 * MINUTE_MS
"""Milliseconds for which late usage may still shrink a reservation."""


@dataclass(frozen=True)
class Spot:
    """A window of an organisation, and a feature used in it."""

    org_id: str
    window_ms: int
    feature: str


@dataclass
class Uses:
    """Base units by spot: of the sandboxes of each execution, and of all sandboxes."""

    of_run: dict[str, dict[Spot, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    of_all: dict[Spot, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(frozen=True)
class Drawn:
    """The amount that metering has drawn for an execution, in micro-credits.

    `before`: the part before `to_ms`, which is final. `freed_micro`: the reserved credit that it frees.
    """

    reservation: str
    customer_id: str
    drawn: int
    before: int
    to_ms: int
    freed_micro: int


def shrink(connection: sa.Connection, now_ms: int, after: str = "") -> str | None:
    """Shrink at most SHRUNK_AT_ONCE reservations with keys after `after`.

    Return the key of the last reservation if there may be more, else None.
    """
    values = {"after": after, "at_most": SHRUNK_AT_ONCE}
    runs = SQL.run(connection, "hold_runs", values).all()
    _shrink(connection, runs, now_ms)
    return str(runs[-1].reservation) if len(runs) == SHRUNK_AT_ONCE else None


def shrink_of(connection: sa.Connection, customers: Sequence[str], now_ms: int, own: str = "") -> None:
    """Shrink the reservations in some customers' wallets before the caller uses them.

    Only reservations that metering settles shrink. Without such reservations, the call does nothing. Otherwise it locks
    all rows that the caller needs to apply due changes in these wallets, and to change its `own` execution.
    """
    if SQL.run(connection, "runs_of", {"customers": list(customers)}).first() is None:
        return
    due_of, touched = due_changes.touched(connection, customers, now_ms)
    values = {"customers": list(customers), "due_of": due_of, "now_ms": now_ms, "own": own, "at_most": MATURE_AT_ONCE}
    held = SQL.run(connection, "hold_all", values).all()
    wallets = [accounts.wallet_account(one) for one in touched]
    due_changes.SQL.run(connection, "hold_wallets", {"accounts": wallets}).all()
    _shrink(connection, [run for run in held if run.settled_by == "metering" and run.customer_id in customers], now_ms)


def freed_by_now(connection: sa.Connection, customer_id: str, now_ms: int) -> int:
    """Return the credit that `shrink_of` would free for a customer. This only reads."""
    runs = [row for row in SQL.run(connection, "runs_of", {"customers": [customer_id]}) if row.expires_ms > now_ms]
    return sum(one.freed_micro for one in _drawn(connection, runs, now_ms))


def _shrink(connection: sa.Connection, runs: Sequence[sa.Row[Any]], now_ms: int) -> None:
    """Write the drawn amounts of executions that this transaction has locked."""
    freed: dict[str, int] = defaultdict(int)
    changed = _drawn(connection, runs, now_ms)
    if changed:
        SQL.run(connection, "shrink", {"runs": [vars(one) for one in changed]})
    for one in changed:
        freed[one.customer_id] += one.freed_micro
    for customer in sorted(freed):
        if freed[customer]:
            values = {"account_id": accounts.wallet_account(customer), "freed_micro": freed[customer]}
            reservations.SQL.run(connection, "free", values)


def _drawn(connection: sa.Connection, runs: Sequence[sa.Row[Any]], now_ms: int) -> list[Drawn]:
    """Return the drawn amounts of the executions that change.

    The function reads the end of charged usage first, so that a charge made meanwhile counts the next time.
    """
    if not runs:
        return []
    ends = {row.org_id: row.end_ms for row in SQL.run(connection, "behind", {"orgs": _from_by_org(runs)})}
    uses, card = _read_uses(connection, runs), read_rate_card(connection)
    charged = _read_charged(connection, runs)
    found = []
    for run in runs:
        parts = _parts(run, uses, charged, card)
        to_ms = max(run.from_ms, _floor(min(now_ms - LOOKED_BACK_MS, ends.get(run.org_id) or 0)))
        drawn = max(run.drawn_micro, run.metered_before_micro + sum(parts.values()))
        before = run.metered_before_micro + sum(part for spot, part in parts.items() if spot.window_ms < to_ms)
        if drawn != run.drawn_micro or to_ms != run.from_ms:
            freed = _undrawn_micro(run, run.drawn_micro) - _undrawn_micro(run, drawn)
            found.append(Drawn(run.reservation, run.customer_id, drawn, before, to_ms, freed))
    return found


def used_up(connection: sa.Connection, customers: Sequence[str], now_ms: int) -> Mapping[str, int]:
    """Return the part of customers' reservations that sandboxes have already used.

    The usage may be charged, sealed or neither. The credit is still reserved, and an estimate subtracts the usage
    separately.
    """
    runs = [row for row in SQL.run(connection, "runs_of", {"customers": list(customers)}) if row.expires_ms > now_ms]
    if not runs:
        return {}
    uses, card = _read_uses(connection, runs), read_rate_card(connection)
    found: dict[str, int] = defaultdict(int)
    for run in runs:
        prices = (card.price(spot.feature, spot.window_ms, n) for spot, n in uses.of_run[run.reservation].items())
        used = run.metered_before_micro + sum(price for price in prices if price is not None)
        found[run.customer_id] += _undrawn_micro(run, run.drawn_micro) - _undrawn_micro(run, max(run.drawn_micro, used))
    return found


def _undrawn_micro(run: sa.Row[Any], drawn_micro: int) -> int:
    return max(int(run.amount_micro) - drawn_micro, 0)


def _floor(moment_ms: int) -> int:
    return moment_ms - moment_ms % WINDOW_MS


def _from_by_org(runs: Iterable[sa.Row[Any]]) -> list[dict[str, object]]:
    """Return each organisation's first window that is not finally counted.

    It is the earliest such window of the organisation's executions.
    """
    found: dict[str, int] = {}
    for run in runs:
        found[run.org_id] = min(run.from_ms, found.get(run.org_id, run.from_ms))
    return [{"org_id": org_id, "from_ms": from_ms} for org_id, from_ms in sorted(found.items())]


def _read_uses(connection: sa.Connection, runs: Sequence[sa.Row[Any]]) -> Uses:
    """Read the use of executions from samples in force.

    The use begins with the first window that is not finally counted.
    """
    mapping = mapping_rows(connection)
    feature_of = cache(lambda memory_mb, window_ms: resolve(mapping, memory_mb, window_ms))
    begins = {run.reservation: run.from_ms for run in runs}
    values = {"orgs": _from_by_org(runs), "runs": [{"reservation": run.reservation} for run in runs]}
    found = Uses()
    for row in SQL.run(connection, "used", values):
        made = feature_of(int(row.memory_mb), int(row.window_ms))
        if made is None or made.feature is None:
            continue
        spot = Spot(row.org_id, int(row.window_ms), made.feature)
        quantity = int(row.seconds) * (int(row.memory_mb) if made.unit == MB_SECONDS else 1)
        found.of_all[spot] += quantity
        if row.reservation is not None and spot.window_ms >= begins[row.reservation]:
            found.of_run[row.reservation][spot] += quantity
    return found


def _read_charged(connection: sa.Connection, runs: Sequence[sa.Row[Any]]) -> Mapping[tuple[str, int, str], sa.Row[Any]]:
    """Return the ledger's charges of wallets, by customer, window and feature."""
    begins: dict[str, int] = {}
    for run in runs:
        begins[run.customer_id] = min(run.from_ms, begins.get(run.customer_id, run.from_ms))
    wallets = [{"customer_id": one, "from_ms": from_ms} for one, from_ms in sorted(begins.items())]
    rows = SQL.run(connection, "charged", {"wallets": wallets})
    return {(row.customer_id, int(row.window_ms), row.feature): row for row in rows}


def _parts(
    run: sa.Row[Any], uses: Uses, charged: Mapping[tuple[str, int, str], sa.Row[Any]], card: RateCard
) -> dict[Spot, int]:
    """Return an execution's part of each charge, in micro-credits, rounded down."""
    found = {}
    for spot, quantity in uses.of_run[run.reservation].items():
        row = charged.get((run.customer_id, spot.window_ms, spot.feature))
        price = card.price(spot.feature, spot.window_ms, quantity)
        if row is not None and price is not None and row.amount_micro > 0 and row.quantity > 0:
            whole = max(uses.of_all[spot], int(row.quantity))
            found[spot] = min(price, int(row.amount_micro) * quantity // whole)
    return found
