"""Wallets whose top-ups are ordered: how they stood, and whether they stand so still.

Guarantee: an order is of the terms that its person saw, and of the stop that the other card ends. Whatever a person
said since, and whatever was declined since, is for a person to look at. What is so already is done no second time.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.schema.text import typed
from drawdown.worker.orders.asked import AskedTopup, Stood
from drawdown.worker.topup.actions import STOPPED, terms_of

SQL = queries(__file__)


def stands(connection: sa.Connection, wallet: str) -> Stood:
    """How its top-ups stand now. Errors: UnknownId."""
    row = SQL.run(connection, "topup_terms", {"wallet": wallet}).mappings().one_or_none()
    if row is None:
        ids.require(connection, ids.TOPPED_UP, wallet)
        raise Refused(f"{wallet} got terms this moment: try again")
    terms = asdict(terms_of(row))
    mode = terms.pop("mode")
    return Stood(
        json.dumps(terms, sort_keys=True), mode, row["at_ms"], row["declines"], row["wait_until_ms"], row["blocked_ms"]
    )


def require_use(asked: AskedTopup) -> None:
    """Errors: Refused where it would change nothing, or could not be done."""
    assert asked.was is not None
    if asked.what == "start" and asked.was.mode == "live":
        raise Refused(f"top-ups of {asked.wallet} are live already: `drawdown topup show {typed(asked.wallet)}`")
    if asked.what == "arm" and asked.was.mode == "stopped":
        raise Refused(STOPPED.format(asked.wallet, typed(asked.wallet)))
    if asked.what == "arm" and asked.was.stops == (0, None, None):
        raise Refused(f"nothing has stopped the top-ups of {asked.wallet}: no card of it was declined")


def is_to_be_done(connection: sa.Connection, asked: AskedTopup) -> bool:
    """Whether it is still to be done; false where it is so by now, by a tick that died or by a person.

    Errors: Refused where a person said otherwise since it was ordered, or the card was declined since.
    """
    was, now = asked.was, stands(connection, asked.wallet)
    assert was is not None
    if asked.what == "start" and (now.terms, now.mode) == (was.terms, "live"):
        return False
    if (now.terms, now.mode, now.said_ms) != (was.terms, was.mode, was.said_ms):
        raise Refused(f"the terms of {asked.wallet} were changed since it was ordered: look, and order it again")
    if asked.what == "start" or now.stops == was.stops:
        return True
    if now.stops == (0, None, None):
        return False
    raise Refused(f"a charge of {asked.wallet} was declined since it was ordered: look, and order it again")
