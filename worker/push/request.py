"""The request of a push: to send it, or to look it up. Pure: the same row makes the same bytes (P2)."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities, PushRequest
from drawdown.schema.units import MINUTE_MS, OWN_MINUTES


def wire_key(key: str, capabilities: Capabilities) -> str:
    """What a push is known by over there: its key, or a stable hash of it where that is too long."""
    if capabilities.max_key_chars is None or len(key) <= capabilities.max_key_chars:
        return key
    return f"usage:{hashlib.sha256(key.encode()).hexdigest()}"


def dated(window_ms: int, revision: int) -> int:
    """The moment a push is dated at: within its window, in the middle of a minute, whatever sums take for its ends."""
    return window_ms + min(revision, OWN_MINUTES) * MINUTE_MS + MINUTE_MS // 2


def request_of(row: sa.Row[tuple[object, ...]], capabilities: Capabilities) -> PushRequest:
    """What is sent, or asked about, for a row of `pushes`."""
    key = row.wire_key or wire_key(row.key, capabilities)
    ts = dated(row.window_ms, row.revision)
    return PushRequest(key, row.customer_id, row.feature, row.sent_qty, ts, row.attempts)
