"""Signed orders: each counts once.

Guarantee: a signature is used up in the transaction that does what it orders.
"""

from __future__ import annotations

import hashlib
from typing import Final

import sqlalchemy as sa

_USE: Final = """
INSERT INTO used_signatures (signature_sha256, expires_ms) VALUES (:hash, :expires)
ON CONFLICT (signature_sha256) DO NOTHING RETURNING expires_ms
"""
_FORGET: Final = "DELETE FROM used_signatures WHERE expires_ms < :now"


def use_once(connection: sa.Connection, signature: str, now_ms: int, *, fresh_ms: int) -> bool:
    """Whether this signature was not used before; it is remembered for twice as long as it could be fresh."""
    connection.execute(sa.text(_FORGET), {"now": now_ms})
    values = {"hash": hashlib.sha256(signature.encode()).hexdigest(), "expires": now_ms + 2 * fresh_ms}
    return connection.execute(sa.text(_USE), values).first() is not None
