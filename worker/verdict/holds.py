"""What runs have reserved of the wallets of organisations: taken off what an organisation may use, and free again once
it is over. What is due in wallets by time: the ends of holds, lots that begin, end and expire.

Guarantee: a hold that is over counts nowhere, whether it was expired yet or not. What the sandboxes of a run that
metering settles have used is not held as well: usage is taken off by itself. The sweep is an optimisation of that;
whoever reserves credit has what is due made true first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.ledger.maturing import Matured, mature_due
from drawdown.schema.sql import queries
from drawdown.worker.catalog.wallets import orgs_of, wallets_at
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.verdict.asks import mark_for_projection
from drawdown.worker.verdict.metered import shrink, used_up

log = structlog.get_logger()
SQL = queries(__file__)

MOST_SWEEPS: Final = 10
"""Transactions of one tick that make true what is due in wallets; what is left, the next one does."""


def read_held(connection: sa.Connection, provider: str, org_ids: Sequence[str], now_ms: int) -> Mapping[str, int]:
    """What is held of these organisations' wallets, in micro-credits; nothing of those whose balances lie elsewhere."""
    if not org_ids or provider not in wallets_at(connection):
        return {}
    values = {"orgs": [{"org_id": org_id} for org_id in org_ids], "provider": provider, "now_ms": now_ms}
    rows = SQL.run(connection, "held", values).all()
    metering = [row.customer_id for row in rows if row.has_metering]
    used = used_up(connection, metering, now_ms) if metering else {}
    return {row.org_id: int(row.held_micro) - used.get(row.customer_id, 0) for row in rows}


@dataclass(frozen=True)
class Lapsed:
    """Of an organisation's wallet, what is left of lots that are over and pays for nothing new, in micro-credits. What
    was used before `until_ms`, and is not charged yet, they still pay for."""

    lapsed_micro: int
    until_ms: int


def read_lapsed(connection: sa.Connection, provider: str, org_ids: Sequence[str], now_ms: int) -> Mapping[str, Lapsed]:
    """What is left of lots that are over, of those organisations that have any."""
    if not org_ids or provider not in wallets_at(connection):
        return {}
    values = {"orgs": [{"org_id": org_id} for org_id in org_ids], "provider": provider, "now_ms": now_ms}
    rows = SQL.run(connection, "lapsed", values)
    return {row.org_id: Lapsed(int(row.lapsed_micro), row.lots_over_ms) for row in rows}


def expire_holds(context: Context, sweeps: int = MOST_SWEEPS) -> Steps[int]:
    """Make true what is due in all wallets: holds and lots that are over, lots that begin or expire; how many wallets
    moved, or may pay another amount."""
    yield from shrink_holds(context)
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


def _expire(connection: sa.Connection, *, now_ms: int) -> Matured:
    matured = mature_due(connection, now_ms)
    mark_for_projection(connection, orgs_of(connection, matured.moved), now_ms)
    return matured
