"""What a tick does of an order about a wallet's top-ups: another card, or a start.

Guarantee: as on the command line, a service that fills its customer itself is refused, and the wallet is filled at once
where it is low. It is harmless twice: what is so already is said no second time, and the fill charges what is low and
has no charge open. Terms are looked at once more in the transaction that changes them: what a person said while the
service was asked stands.
"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.errors import Refused
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.orders import wallets
from drawdown.worker.orders.asked import AskedTopup
from drawdown.worker.orders.asking import Turn
from drawdown.worker.topup import actions as topups
from drawdown.worker.topup.actions import Said, Terms
from drawdown.worker.topup.fill import Filled, fill
from drawdown.worker.topup.only_one import require_only_one


def top_up(context: Context, asked: AskedTopup, by: By) -> Steps[Turn]:
    """Ask the service who fills, say it, and fill what is low."""
    terms: Terms = yield Transaction(
        "topup_asked", partial(topups.require_terms, customer_id=asked.wallet), rollback=True
    )
    if terms.service not in context.payments:
        return Turn(None, f"{terms.service} cannot be used by the tick: see its `payments` there", in_vain=True)
    try:
        if asked.what == "start" or terms.mode != "shadow":
            silent = yield from require_only_one(context, terms.service, terms.service_customer)
            if silent is not None:
                why = f"whether {terms.service} fills {terms.service_customer} itself is not told: {silent.reason}"
                return Turn(None, why, in_vain=True)
        said: Said | None = yield Transaction("topup_ordered", partial(_say, asked=asked, by=by))
    except Refused as error:
        return Turn("failed", str(error))
    filled = yield from fill(context, asked.wallet)
    return Turn("done", _in_words(asked, said, filled))


def _say(connection: sa.Connection, *, asked: AskedTopup, by: By) -> Said | None:
    """None where it is so already."""
    topups.require_terms(connection, asked.wallet)  # their lock: nobody changes them until this is committed
    if not wallets.is_to_be_done(connection, asked):
        return None
    if asked.what == "arm":
        return topups.arm(connection, asked.wallet, by)
    return topups.set_mode(connection, asked.wallet, "live", by)


def _in_words(asked: AskedTopup, said: Said | None, filled: Filled) -> str:
    did = "armed" if asked.what == "arm" else "live"
    words = [f"top-ups of {asked.wallet} are {did}{' already' if said is None else ''}"]
    if said is not None and said.blocked_reason:
        words += [f"they {'had' if asked.what == 'arm' else 'have'} stopped themselves: {said.blocked_reason}"]
    some = (("begun", filled.begun), ("credited", filled.credited), ("declined", filled.declined))
    words += [f"{count:,} {what}" for what, count in some if count]
    return "; ".join(words)
