"""Signed orders: each counts once.

Guarantee: a signature is used up in the transaction that does what it orders.
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


def use_once(connection: sa.Connection, signature: str, now_ms: int, *, fresh_ms: int) -> bool:
    """Whether this signature was not used before; it is remembered for twice as long as it could be fresh."""
    SQL.run(connection, "forget", {"now_ms": now_ms})
    values = {"signature_sha256": hashlib.sha256(signature.encode()).hexdigest(), "expires_ms": now_ms + 2 * fresh_ms}
    return SQL.run(connection, "use", values).first() is not None
