"""What runs have reserved of organisations' wallets, or of balances that providers keep: taken off what an organisation
may use, and free again once it is over. What is due in wallets by time: the ends of holds, lots that begin and expire.

Guarantee: a hold that is over counts nowhere, whether it was expired yet or not. What the sandboxes of a run that
metering settles have used is not held as well: usage is taken off by itself. The sweep is an optimisation of that;
whoever reserves credit has what is due made true first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
import structlog

from drawdown.ledger.maturing import Matured, expire, mature_due
from drawdown.schema.sql import Part, queries
from drawdown.worker.catalog.wallets import orgs_of, wallets_at
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.verdict.asks import mark_for_projection
from drawdown.worker.verdict.metered import shrink, used_up

log = structlog.get_logger()
SQL = queries(__file__)

READ_TRIES: Final = 3
"""How often what is held is read again, while holds of runs that metering settles change meanwhile."""
MOST_SWEEPS: Final = 10
"""Transactions of one tick that make true what is due in wallets; what is left, the next one does."""
MOST_OVER_AT_ONCE: Final = 1_000
"""Holds in no wallet that one transaction ends."""


def read_held(connection: sa.Connection, provider: str, org_ids: Sequence[str], now_ms: int) -> Mapping[str, int]:
    """What is held of these organisations' wallets, in micro-credits; or of their balances, where those lie at the
    provider."""
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
            break  # nothing was freed between the statements that is not held, and is taken off, or neither
    return held_of(rows, used if metering_in(rows) else {})


def held_part(provider: str, org_ids: Sequence[str], now_ms: int, *, in_wallets: bool) -> Part:
    """What is held, for whoever reads more in one statement: rows for `metering_in` and `held_of`. `in_wallets`:
    whether the balances lie here."""
    values = {"org_ids": org_ids, "provider": provider, "now_ms": now_ms}
    return SQL.part("held" if in_wallets else "held_elsewhere", values)


def metering_in(rows: Iterable[Any]) -> list[str]:
    """The customers of whom runs hold something that metering settles: `used_up` has to be read, too."""
    return [row.customer_id for row in rows if row.has_metering]


def held_of(rows: Iterable[Any], used: Mapping[str, int]) -> dict[str, int]:
    """What is held by organisation, without what was used up of it."""
    return {row.org_id: max(int(row.held_micro) - used.get(row.customer_id, 0), 0) for row in rows}


@dataclass(frozen=True)
class Lapsed:
    """Of an organisation's wallet, what is left of lots that are over and pays for nothing new, in micro-credits. What
    was used before `until_ms`, and is not charged yet, they still pay for."""

    lapsed_micro: int
    until_ms: int


def read_lapsed(connection: sa.Connection, provider: str, org_ids: Sequence[str], now_ms: int) -> Mapping[str, Lapsed]:
    """What is left of lots that are over, of those organisations that have any, where balances lie here."""
    part = lapsed_part(provider, org_ids, now_ms)
    return lapsed_of(SQL.run(connection, part.name, part.values))


def lapsed_part(provider: str, org_ids: Sequence[str], now_ms: int) -> Part:
    """The same, for whoever reads more in one statement: rows for `lapsed_of`."""
    return SQL.part("lapsed", {"org_ids": org_ids, "provider": provider, "now_ms": now_ms})


def lapsed_of(rows: Iterable[Any]) -> dict[str, Lapsed]:
    """What is left of lots that are over, by organisation."""
    return {row.org_id: Lapsed(int(row.lapsed_micro), row.lots_over_ms) for row in rows}


def read_in_wallets(connection: sa.Connection, provider: str, org_ids: Sequence[str], now_ms: int) -> dict[str, int]:
    """What wallets have for new use and for runs that go on, by organisation, in micro-credits, where balances lie
    here."""
    part = wallets_part(provider, org_ids, now_ms)
    return wallets_of(SQL.run(connection, part.name, part.values))


def wallets_part(provider: str, org_ids: Sequence[str], now_ms: int) -> Part:
    """The same, for whoever reads more in one statement: rows for `wallets_of`."""
    return SQL.part("in_wallets", {"org_ids": org_ids, "provider": provider, "now_ms": now_ms})


def wallets_of(rows: Iterable[Any]) -> dict[str, int]:
    """What wallets have, by organisation."""
    return {row.org_id: int(row.payable_micro) for row in rows}


def expire_holds(context: Context, sweeps: int = MOST_SWEEPS) -> Steps[int]:
    """Make true what is due in all wallets: holds and lots that are over, lots that begin or expire; how many wallets
    moved, or may pay another amount. Holds that lie in none end, too."""
    yield from shrink_holds(context)
    over = 0 if context.out_of_time() else (yield from _end_elsewhere(context, sweeps))
    if over:
        log.info("holds_ended", elsewhere=over)
    return (yield from mature_wallets(context, sweeps))


def mature_wallets(context: Context, sweeps: int = MOST_SWEEPS) -> Steps[int]:
    """Make true what is due in all wallets, and nothing else; how many moved, or may pay another amount. Verdicts wait
    for it where something came late: a lot pays for that after all, and until then a balance is too low."""
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
    """Have the holds of runs that metering settles shrink by what it has drawn. No verdict changes by it."""
    after: str | None = ""
    while after is not None and not context.out_of_time():
        after = yield Transaction("shrink_holds", partial(shrink, now_ms=context.clock.now_ms(), after=after))


def _end_elsewhere(context: Context, sweeps: int) -> Steps[int]:
    """End the holds that lie in no wallet and are over; how many."""
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
