"""Charges the embedded ledger's own pushes where they stand: picked, charged and settled in one transaction.

Guarantee: entry, attempt and state are committed together, so that no answer can be lost: there is no byte that leaves
(P1). Each key is charged once for good. What is not plain (sent before, no rate, beyond a bound, charged under its key
already) stays due, and is sent the way of all providers, which has an answer for each.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.entries import MAX_ENTRY_MICRO, MOST_BALANCE_MICRO
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Remember, Steps, Transaction
from drawdown.worker.engine.shard import Shard
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import count_sends, require_same
from drawdown.worker.push.rows import plan
from drawdown.worker.verdict.asks import mark_for_projection

SQL = queries(__file__)

AT_ONCE: Final = 4_096
"""Pushes that one transaction charges."""
MOST_RATE: Final = 10**12
"""What a rate charges, and for how many units, at most: as `ledger rate` takes it."""
MOST_PRODUCT: Final = 2**62
"""Twice a quantity times its rate, at most: what SQL works out stays within 64 bits."""


class NotPlain(Refused):
    """A key was charged before, or a wallet would stand beyond what any may; nothing was charged."""


def charge_in_place(context: Context, claim: str, sending: int, until_ms: int | None = None) -> Steps[int]:
    """Charge all that is plain, until nothing of it is due or time is up, or it is `until_ms`; how many that were."""
    done = 0
    while not context.out_of_time(sending):
        now = context.clock.now_ms()
        if until_ms is not None and now >= until_ms:
            break
        work = partial(charge_due, claim=claim, now=now, shard=context.shard, witness=context.witness)
        try:
            charged, witness = yield Transaction("charge", work)
        except NotPlain:
            break
        if witness is not None:
            context.witness = witness
            yield Remember(witness)  # R1: what is charged is counted outside of the database, too
        done += charged
        context.advanced("pushed", charged)
        if charged < AT_ONCE:
            break
    return done


def charge_due(
    connection: sa.Connection, *, claim: str, now: int, shard: Shard, witness: Witness | None
) -> tuple[int, Witness | None]:
    """Charge and settle at most `AT_ONCE` pushes that are due; how many, and what to remember of it (None: nothing).

    Errors: NotPlain; HistoryDoubted.
    """
    require_same(connection, witness)
    SQL.run(connection, "make_charges")
    plan(connection, "by_key", "by_turn")
    limits = {"now_ms": now, "at_most": AT_ONCE, "lo": shard.lo, "hi": shard.hi}
    most = {"most_rate": MOST_RATE, "most_product": MOST_PRODUCT, "most_entry_micro": MAX_ENTRY_MICRO}
    picked = SQL.run(connection, "pick_charges", {"provider": EMBEDDED, **limits, **most}).rowcount
    if not picked:
        return 0, None
    plan(connection, "end_by_turn")
    if SQL.run(connection, "post_charges", {"now_ms": now}).rowcount < picked:
        raise NotPlain("a key was charged before")
    SQL.run(connection, "move_charges")
    if SQL.run(connection, "charged_beyond", {"most": MOST_BALANCE_MICRO}).first() is not None:
        raise NotPlain("a wallet would stand beyond what any may")
    SQL.run(connection, "settle_charges", {"now_ms": now, "claim_owner": claim})
    mark_for_projection(connection, SQL.run(connection, "charged_orgs").scalars().all(), now)
    return picked, count_sends(connection, picked, witness)
