"""Reservations of one wallet that are decided together: one statement holds what all of them ask for.

Guarantee: each is held as `reservations.reserve` would hold it, or none is (`NotTogether`), and whoever asked for them
asks for each alone. Locks are taken in the order of `reservations`: their keys, then the wallet.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.accounts import wallet_account
from drawdown.ledger.runs import reservations
from drawdown.ledger.runs.reservations import Ask, Reservation, Room
from drawdown.schema.audit import By
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries

SQL = queries(__file__)


class NotTogether(Refused):
    """One statement cannot hold them all: a key was used before, there is no room for all, or something is due in the
    wallet. Nothing may be kept of the transaction."""


def reserve_all(
    connection: sa.Connection, asked: Sequence[tuple[Ask, By]], now_ms: int, room: Room
) -> list[Reservation]:
    """Hold what several runs of one wallet may cost, where there is so much `room`; the new reservations, in the order
    of the asks.

    Errors: NotTogether.
    """
    (customer_id,) = {ask.customer_id for ask, _ in asked}
    made = [reservations.noted(ask, by) for ask, by in asked]
    if _insert(connection, made) < len(made):
        raise NotTogether("a key was used before, or stands there twice")
    values = {
        "account_id": wallet_account(customer_id),
        "amount_micro": sum(ask.amount_micro for ask, _ in asked),
        "expires_ms": min(ask.expires_ms for ask, _ in asked),
        "now_ms": now_ms,
        **room.values(),
    }
    if reservations.SQL.run(connection, "hold", values).first() is None:
        raise NotTogether(f"{customer_id} has no room for all of them, or something is due in its wallet")
    return made


_SAID: Final = attrgetter(
    "reservation", "org_id", "customer_id", "project", "subject", "action", "estimate", "amount_micro", "overage",
    "accepted_ms", "expires_ms", "fingerprint", "actor", "reason", "supplier",
)  # fmt: skip


def _insert(connection: sa.Connection, made: Sequence[Reservation]) -> int:
    """How many of them are new."""
    if connection.dialect.name == "postgresql":
        return SQL.run(connection, "insert", {"asks": [vars(one) for one in made]}).rowcount
    # Straight to the driver: a mapping for each row would take as long as all the rest.
    return connection.exec_driver_sql(SQL.text("insert", "sqlite"), list(map(_SAID, made))).rowcount
