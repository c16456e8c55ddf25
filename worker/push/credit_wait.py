"""Rejections that wait for credit: billed again once the provider shows that the customer has some.

Guarantee: a push is voided only where its last answer proves that nothing was taken (P5) and a read after that answer
shows credit that its feature can draw on. The next seal owes its usage under a new key, since Autumn keeps the key of a
charge that took nothing (recorded). A push that is refused again and again waits longer each time. A push that a person
has to settle is left alone. Each tick asks about the customers who wait: a halted organisation uses nothing, and Autumn
sends no webhook of a grant (recorded).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.schema.audit import By
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.engine.shard import Shard
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.push.outcome import CREDIT_WAIT_MS
from drawdown.worker.push.rows import newest_unanswered
from drawdown.worker.push.void import MAY_ARRIVE_MS, REJECTED, void_many
from drawdown.worker.verdict.asks import mark_for_projection

log = structlog.get_logger()
SQL = queries(__file__)

MOST_AGAIN: Final = 1_000
"""Rejections that one transaction bills again; a tick goes on until none is left."""
LONGEST_WAIT_MS: Final = DAY_MS
"""Between two tries of one window, however often it was refused."""


def bill_again(context: Context) -> Steps[int]:
    """Void what was refused for want of credit of customers who have some now; returns how many there were."""
    done = 0
    while not context.out_of_time():
        now = context.clock.now_ms()
        voided: int = yield Transaction(
            "bill_again", partial(_bill_again, shard=context.shard, now_ms=now, witness=context.witness)
        )
        done += voided
        if voided < MOST_AGAIN:
            break
    if done:
        log.info("billed_again", pushes=done)
    return done


def _bill_again(connection: sa.Connection, *, shard: Shard, now_ms: int, witness: Witness | None) -> int:
    values = {
        "now_ms": now_ms,
        "lo": shard.lo,
        "hi": shard.hi,
        "first_wait_ms": CREDIT_WAIT_MS,
        "longest_wait_ms": LONGEST_WAIT_MS,
        "at_most": MOST_AGAIN,
    }
    unread = SQL.run(connection, "unread", values).scalars().all()
    if SQL.run(connection, "waiting", values, held="").first() is None:
        _ask(connection, unread, now_ms)
        return 0  # the usual case: no customer has credit for it
    lock_buckets(connection)
    require_same(connection, witness)
    _ask(connection, unread, now_ms)  # after that lock, as everybody takes them
    # Held: a person may resolve one as accepted meanwhile, which takes no such lock.
    waiting = SQL.run(connection, "waiting", values, held="hold_push").all()
    chosen = [
        push
        for push, newest_ms in zip(waiting, newest_unanswered(connection, waiting), strict=True)
        if newest_ms is None or now_ms - newest_ms >= MAY_ARRIVE_MS
    ]
    by = By(now_ms, "drawdown", "the customer has credit again")
    void_many(connection, chosen, by, [push.last_error or REJECTED for push in chosen], "rejected")
    return len(chosen)


def _ask(connection: sa.Connection, unread: Sequence[str], now_ms: int) -> None:
    if unread:
        mark_for_projection(connection, unread, now_ms)
