"""Deliveries of providers, proven genuine: each event counts once.

Guarantee: the content of an event is applied in the transaction that stores its id. An event that could not be fetched
is stored as failed, and may come again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import CustomerChanged, Notice
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.push.notices import apply_notices, orgs_of

log = structlog.get_logger()
SQL = queries(__file__)

KEPT_MS: Final = 30 * DAY_MS
"""Longer than any provider goes on sending the same event again."""


@dataclass(frozen=True)
class WebhookEvent:
    """One delivery, proven genuine."""

    provider: str
    event_id: str
    body_sha256: str


def is_taken(connection: sa.Connection, event: WebhookEvent) -> bool:
    """Whether it was taken before; one that failed was not."""
    values = {"provider": event.provider, "event_id": event.event_id}
    return SQL.run(connection, "taken", values).first() is not None


def store_failed(connection: sa.Connection, event: WebhookEvent, error: str, now_ms: int) -> None:
    """It is genuine, and what it names could not be fetched."""
    _store(connection, event, "failed", error, now_ms)


def take_event(
    connection: sa.Connection, event: WebhookEvent, notices: Sequence[Notice], now_ms: int
) -> list[str] | None:
    """Store and apply it; the organisations to read again, or None for a repeat."""
    if not _store(connection, event, "done" if notices else "ignored", None, now_ms):
        return None
    SQL.run(connection, "forget", {"before_ms": now_ms - KEPT_MS})
    for line in apply_notices(connection, event.provider, notices, now_ms):
        log.info("webhook_taken", provider=event.provider, webhook_event=event.event_id, done=line)
    orgs: list[str] = []
    for notice in notices:
        if isinstance(notice, CustomerChanged):
            orgs += orgs_of(connection, event.provider, notice.customer_id, now_ms)
    return orgs


def _store(connection: sa.Connection, event: WebhookEvent, state: str, error: str | None, now_ms: int) -> bool:
    """Whether it is new, or came again after it had failed."""
    values = {
        "provider": event.provider,
        "event_id": event.event_id,
        "received_ms": now_ms,
        "body_sha256": event.body_sha256,
        "state": state,
        "error": error,
    }
    return SQL.run(connection, "store", values).first() is not None
