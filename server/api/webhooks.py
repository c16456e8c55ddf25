"""POST /webhooks/{provider}: what a provider says of its own accord.

Guarantee: nothing is stored or done before the provider's own scheme has proven the body genuine and fresh. What it
says is applied in the same transaction that stores its event id, so each event counts once; whatever fails here
answers 5xx, and the provider sends it again. Figures in it are never believed: its customer is read again at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.providers.protocol import CustomerChanged, Notice, Provider, ReadFailed, WebhookRefused
from drawdown.schema.units import DAY_MS
from drawdown.server.http.errors import ApiError
from drawdown.server.http.threads import Threads
from drawdown.server.services import Services
from drawdown.server.step_threads import Crew
from drawdown.worker.push.notices import apply_notices, orgs_of

log = structlog.get_logger()

MAX_BYTES: Final = 1_000_000
KEPT_MS: Final = 30 * DAY_MS
"""Longer than any provider goes on sending the same event again."""
END: Final = {"Connection": "close"}
"""What was not read cannot be told from a next request."""
ID_HEADERS: Final = ("svix-id", "webhook-id")
_ID: Final = re.compile(r"[!-~]{1,200}")

KNOWN = "SELECT state FROM webhooks WHERE provider = :provider AND event_id = :event AND state <> 'failed'"
STORE = """
INSERT INTO webhooks (provider, event_id, received_ms, body_sha256, state, attempts, error)
VALUES (:provider, :event, :now, :hash, :state, 1, :error)
ON CONFLICT (provider, event_id) DO UPDATE SET state = :state, attempts = webhooks.attempts + 1, error = :error
WHERE webhooks.state = 'failed' RETURNING attempts
"""
FORGET = "DELETE FROM webhooks WHERE received_ms < :before"


@dataclass(frozen=True)
class Event:
    """One delivery, proven genuine."""

    provider: str
    event_id: str
    body_sha256: str


def require_worth_reading(services: Services, name: str, headers: Mapping[str, str]) -> None:
    """Judge what can be judged before a body is read. Errors: ApiError."""
    provider = services.unasked.get(name)
    if provider is None or name not in services.providers:
        if name in services.broken:
            message = f"the provider {name} cannot be used here at this moment"
            raise ApiError(503, "provider_broken", message, headers=END)
        raise ApiError(404, "not_found", "there is no such provider", headers=END)
    wanted = provider.capabilities.webhook_headers
    if wanted and not any(headers.get(one) for one in wanted):
        raise ApiError(400, "webhook_refused", f"there is no header {' or '.join(wanted)}", headers=END)


async def take(
    services: Services, threads: Threads, crew: Crew, name: str, headers: Mapping[str, str], body: bytes
) -> str:
    """Take one webhook that is worth reading; returns what became of it. Errors: ApiError, DrawdownError."""
    provider, unasked = services.providers[name], services.unasked[name]
    now = services.clock.now_ms()
    proven = await _notices(unasked, headers, body, now)
    event = Event(name, await _event_id(unasked, headers, body, now), hashlib.sha256(body).hexdigest())
    if await threads.read(lambda connection: _known(connection, event)):
        return "repeated"
    if isinstance(proven, ReadFailed):  # it is genuine, and what it names has to be fetched
        proven = await _notices(provider, headers, body, now)
    if isinstance(proven, ReadFailed):
        reason = proven.reason
        await threads.write(lambda connection: _store(connection, event, "failed", reason, now))
        log.warning("webhook_not_fetched", provider=name, webhook_event=event.event_id, reason=reason)
        raise ApiError(503, "not_fetched", "it is genuine, and what it names could not be fetched; send it again")
    notices = list(proven)
    changed = await threads.write(lambda connection: _apply(connection, event, notices, now))
    if changed is None:
        return "repeated"
    for org in changed:
        crew.read_again(org, name)
    return "done" if notices else "ignored"


async def _notices(
    provider: Provider, headers: Mapping[str, str], body: bytes, now_ms: int
) -> Sequence[Notice] | ReadFailed:
    try:
        return await provider.notices(headers, body, now_ms)
    except WebhookRefused as error:
        log.info("webhook_refused", provider=provider.name, reason=str(error))
        raise ApiError(400, "webhook_refused", str(error)) from None


async def _event_id(provider: Provider, headers: Mapping[str, str], body: bytes, now_ms: int) -> str:
    """The provider's own id of the event, from a part that its signature covers: Svix's header, or the body's `id`."""
    for name in ID_HEADERS:
        given = headers.get(name, "")
        if _ID.fullmatch(given) and await _covers(provider, headers, name, body, now_ms):
            return given
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    found = told.get("id") if isinstance(told, dict) else None
    if isinstance(found, str) and _ID.fullmatch(found):
        return found
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


async def _covers(provider: Provider, headers: Mapping[str, str], name: str, body: bytes, now_ms: int) -> bool:
    """Whether the provider's signature covers a header: then it refuses the same delivery with another one. Anybody may
    add a header to a delivery, and would make another event of it."""
    try:
        await provider.notices({**headers, name: f"{headers[name]}x"}, body, now_ms)
    except WebhookRefused:
        return True
    return False


def _known(connection: sa.Connection, event: Event) -> bool:
    return connection.execute(sa.text(KNOWN), {"provider": event.provider, "event": event.event_id}).first() is not None


def _store(connection: sa.Connection, event: Event, state: str, error: str | None, now_ms: int) -> bool:
    """Whether it is new, or came again after it had failed."""
    values = {
        "provider": event.provider, "event": event.event_id, "now": now_ms, "hash": event.body_sha256,
        "state": state, "error": error,
    }  # fmt: skip
    return connection.execute(sa.text(STORE), values).first() is not None


def _apply(connection: sa.Connection, event: Event, notices: Sequence[Notice], now_ms: int) -> list[str] | None:
    """Store and apply it; the organisations to read again, or None for a repeat."""
    if not _store(connection, event, "done" if notices else "ignored", None, now_ms):
        return None
    connection.execute(sa.text(FORGET), {"before": now_ms - KEPT_MS})
    for line in apply_notices(connection, event.provider, notices, now_ms):
        log.info("webhook_taken", provider=event.provider, webhook_event=event.event_id, done=line)
    orgs: list[str] = []
    for notice in notices:
        if isinstance(notice, CustomerChanged):
            orgs += orgs_of(connection, event.provider, notice.customer_id, now_ms)
    return orgs
