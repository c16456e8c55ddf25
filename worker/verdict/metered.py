"""Runs that metering settles: their holds shrink by what metering has drawn for the sandboxes that they name.

Guarantee: seal and push know nothing of it. What was drawn is a difference, computed again each time: a run's part of
what the ledger charged its wallet for a window and feature, by its share of the samples there; never more than the
price of its own samples, nor, all runs together, than what was charged. Locks: reservations by their keys, then
wallets by their ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger import accounts, maturing
from drawdown.ledger.maturing import MATURE_AT_ONCE
from drawdown.ledger.rates import RateCard, read_rate_card
from drawdown.ledger.runs import reservations
from drawdown.schema.sql import queries
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.worker.catalog.mapping import MB_SECONDS, mapping_rows, resolve

SQL = queries(__file__)

SHRUNK_AT_ONCE: Final = 500
"""Runs that one transaction looks at."""
LOOKED_BACK_MS: Final = 60 * MINUTE_MS
"""For how long a window is computed again, for usage that comes late."""


@dataclass(frozen=True)
class Spot:
    """A window of an organisation, and a feature used in it."""

    org_id: str
    window_ms: int
    feature: str


@dataclass
class Uses:
    """Base units by spot: of each run's sandboxes, and of all."""

    of_run: dict[str, dict[Spot, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    of_all: dict[Spot, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(frozen=True)
class Drawn:
    """What metering has drawn for a run by now, of it before `to_ms`, for good; and what is free by it."""

    reservation: str
    customer_id: str
    drawn: int
    before: int
    to_ms: int
    freed_micro: int


def shrink(connection: sa.Connection, now_ms: int, after: str = "") -> str | None:
    """Have holds shrink by what metering has drawn by now: of runs whose keys come after this one, a bounded number at
    once. The last of them, where there may be more."""
    values = {"after": after, "at_most": SHRUNK_AT_ONCE}
    runs = SQL.run(connection, "hold_runs", values).all()
    _shrink(connection, runs, now_ms)
    return str(runs[-1].reservation) if len(runs) == SHRUNK_AT_ONCE else None


def shrink_of(connection: sa.Connection, customers: Sequence[str], now_ms: int, own: str = "") -> None:
    """The same for the wallets of some customers, before their balances are believed. What the caller does with them
    next it may do without waiting for a lock: what is due in them, and what changes its `own` run."""
    if SQL.run(connection, "runs_of", {"customers": list(customers)}).first() is None:
        return
    due_of, touched = maturing.touched(connection, customers, now_ms)
    values = {"customers": list(customers), "due_of": due_of, "now_ms": now_ms, "own": own, "at_most": MATURE_AT_ONCE}
    held = SQL.run(connection, "hold_all", values).all()
    wallets = [accounts.wallet_account(one) for one in touched]
    maturing.SQL.run(connection, "hold_wallets", {"accounts": wallets}).all()
    _shrink(connection, [run for run in held if run.settled_by == "metering" and run.customer_id in customers], now_ms)


def freed_by_now(connection: sa.Connection, customer_id: str, now_ms: int) -> int:
    """What `shrink_of` would free of a customer's holds. Nothing is written."""
    runs = [row for row in SQL.run(connection, "runs_of", {"customers": [customer_id]}) if row.expires_ms > now_ms]
    return sum(one.freed_micro for one in _drawn(connection, runs, now_ms))


def _shrink(connection: sa.Connection, runs: Sequence[sa.Row[Any]], now_ms: int) -> None:
    """These runs are held by this transaction."""
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
    """Those of these runs that change. Up to where is charged is asked first: what is charged meanwhile counts for good
    the next time, and never as nothing."""
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
            freed = _left(run, run.drawn_micro) - _left(run, drawn)
            found.append(Drawn(run.reservation, run.customer_id, drawn, before, to_ms, freed))
    return found


def used_up(connection: sa.Connection, customers: Sequence[str], now_ms: int) -> Mapping[str, int]:
    """What of the holds of customers' runs their sandboxes have used by now, charged, sealed or neither, and is held
    all the same: an estimate takes usage off by itself, wherever it has come to."""
    runs = [row for row in SQL.run(connection, "runs_of", {"customers": list(customers)}) if row.expires_ms > now_ms]
    if not runs:
        return {}
    uses, card = _read_uses(connection, runs), read_rate_card(connection)
    found: dict[str, int] = defaultdict(int)
    for run in runs:
        prices = (card.price(spot.feature, spot.window_ms, n) for spot, n in uses.of_run[run.reservation].items())
        used = run.metered_before_micro + sum(price for price in prices if price is not None)
        found[run.customer_id] += _left(run, run.drawn_micro) - _left(run, max(run.drawn_micro, used))
    return found


def _left(run: sa.Row[Any], drawn_micro: int) -> int:
    return max(int(run.amount_micro) - drawn_micro, 0)


def _floor(moment_ms: int) -> int:
    return moment_ms - moment_ms % WINDOW_MS


def _from_by_org(runs: Iterable[sa.Row[Any]]) -> list[dict[str, object]]:
    """From which window on something of an organisation's runs is not counted for good."""
    found: dict[str, int] = {}
    for run in runs:
        found[run.org_id] = min(run.from_ms, found.get(run.org_id, run.from_ms))
    return [{"org_id": org_id, "from_ms": from_ms} for org_id, from_ms in sorted(found.items())]


def _read_uses(connection: sa.Connection, runs: Sequence[sa.Row[Any]]) -> Uses:
    """By the samples in force, from the first window on that is not counted for good."""
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
    """What the ledger charged wallets, by customer, window and feature."""
    begins: dict[str, int] = {}
    for run in runs:
        begins[run.customer_id] = min(run.from_ms, begins.get(run.customer_id, run.from_ms))
    wallets = [{"customer_id": one, "from_ms": from_ms} for one, from_ms in sorted(begins.items())]
    rows = SQL.run(connection, "charged", {"wallets": wallets})
    return {(row.customer_id, int(row.window_ms), row.feature): row for row in rows}


def _parts(
    run: sa.Row[Any], uses: Uses, charged: Mapping[tuple[str, int, str], sa.Row[Any]], card: RateCard
) -> dict[Spot, int]:
    """A run's part of what was charged, in micro-credits, rounded down."""
    found = {}
    for spot, quantity in uses.of_run[run.reservation].items():
        row = charged.get((run.customer_id, spot.window_ms, spot.feature))
        price = card.price(spot.feature, spot.window_ms, quantity)
        if row is not None and price is not None and row.amount_micro > 0 and row.quantity > 0:
            whole = max(uses.of_all[spot], int(row.quantity))
            found[spot] = min(price, int(row.amount_micro) * quantity // whole)
    return found
