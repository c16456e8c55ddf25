"""Apply webhooks of providers, each event once.

Guarantee: each webhook was authenticated. One transaction applies the content of an event and stores its id. An event
with content that could not be fetched is stored as failed, and may come again. Drawdown does not use the figures in a
notice. It reads a changed customer again, twice. A refused push becomes rejected, and a person or `push retry` decides.
If another of its attempts may have been charged, the push is in doubt, and looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import CustomerChanged, Notice, PushRefused
from drawdown.schema.audit import By, record
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.push.rows import find_pushes
from drawdown.worker.push.void import refuse_late
from drawdown.worker.verdict.refresh_requests import mark_for_projection, mark_for_two_reads

log = structlog.get_logger()

SQL = queries(__file__)

KEPT_MS: Final = 30 * DAY_MS
"""Milliseconds for which Drawdown keeps a webhook's id.

Providers repeat an event for a shorter time.
"""


@dataclass(frozen=True)
class WebhookEvent:
    """An authenticated webhook. `body_sha256`: the hash of its body."""

    provider: str
    event_id: str
    body_sha256: str


def is_taken(connection: sa.Connection, event: WebhookEvent) -> bool:
    """Return True if the event was applied or ignored before.

    False: it is new, or failed before.
    """
    values = {"provider": event.provider, "event_id": event.event_id}
    return SQL.run(connection, "taken", values).first() is not None


def store_failed(connection: sa.Connection, event: WebhookEvent, error: str, now_ms: int) -> None:
    """Store an event after its content could not be fetched from the provider."""
    _store(connection, event, "failed", error, now_ms)


def take_event(
    connection: sa.Connection, event: WebhookEvent, notices: Sequence[Notice], now_ms: int
) -> list[str] | None:
    """Store and apply an event, and return the organisations to read again.

    None: the event is a repeat, and is not applied.
    """
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
    """Store an event; return True if it is new, or came again after a failure."""
    values = {
        "provider": event.provider,
        "event_id": event.event_id,
        "received_ms": now_ms,
        "body_sha256": event.body_sha256,
        "state": state,
        "error": error,
    }
    return SQL.run(connection, "store", values).first() is not None


_SHOWN = {"rejected": "rejected", "in_doubt": "in doubt"}


def apply_notices(connection: sa.Connection, provider: str, notices: Sequence[Notice], now_ms: int) -> list[str]:
    """Apply authenticated notices of a provider, and return a line about each.

    A notice of an unknown customer or push is valid and also gets a line, because the provider may serve other systems.
    """
    rejected: list[str] = []
    lines = [_apply(connection, provider, notice, now_ms, rejected) for notice in notices]
    if rejected:  # lock organisations after pushes and the audit chain; only a draw that is given back locks earlier
        mark_for_projection(connection, rejected, now_ms)
    return lines


def _apply(connection: sa.Connection, provider: str, notice: Notice, now_ms: int, rejected: list[str]) -> str:
    """Apply a notice.

    If it rejects a push, the push's organisation is added to `rejected`.
    """
    match notice:
        case CustomerChanged(customer_id):
            orgs = orgs_of(connection, provider, customer_id, now_ms)
            mark_for_two_reads(connection, orgs, now_ms)
            return f"{customer_id}: {'the next tick reads it again' if orgs else 'it is not a customer here'}"
        case PushRefused(key, reason) if _is_storable(key):
            reason = reason if _is_storable(reason) else repr(reason)
            return _refused(connection, provider, key, reason, now_ms, rejected)
    return "the webhook names a push key that this database cannot store"


def orgs_of(connection: sa.Connection, provider: str, customer_id: str, now_ms: int) -> list[str]:
    """Return the organisations that are billed as this customer now."""
    values = {"provider": provider, "customer_id": customer_id, "now_ms": now_ms}
    return list(SQL.run(connection, "billed_as", values).scalars()) if _is_storable(customer_id) else []


def _is_storable(text: str) -> bool:
    """Return True if PostgreSQL can store and compare the text.

    PostgreSQL cannot store a text with a NUL or half of a surrogate pair.
    """
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _refused(connection: sa.Connection, provider: str, key: str, reason: str, now_ms: int, rejected: list[str]) -> str:
    ours = SQL.run(connection, "key_of_wire_key", {"wire_key": key, "provider": provider}).scalar_one_or_none() or key
    push = find_pushes(connection, [ours], hold=True).get(ours)  # locked until the end of this transaction
    if push is None:
        # Another program sent the push, or a restore lost its history (R1).
        return f"unknown push {ours}: this database does not have it"
    if push.provider != provider or push.state not in ("accepted", "queued", "due", "in_doubt"):
        return f"{ours} stays {push.state} at {push.provider}"
    state = refuse_late(connection, push, reason, now_ms)
    details = {"was": push.state, "is": state, "provider": provider}
    record(connection, "push_refused_late", ours, details, By(now_ms, provider, reason, "webhook"))
    if state == "rejected":  # rejected usage may exceed the balance now
        rejected.append(str(push.org_id))
    log.error("push_refused_late", key=ours, provider=provider, was=push.state, reason=reason)
    return f"{ours} changed from {push.state} to {_SHOWN[state]}: {reason}"
