"""Serve POST /webhooks/{provider}: events that providers send.

Guarantee: before Drawdown stores or does anything, the provider's own scheme must prove that the body is genuine and
fresh. Drawdown applies the content in the same transaction that stores the event's id, so each event counts once. If
Drawdown fails, it answers 5xx, and the provider sends the event again. Drawdown does not use the amounts in an event.
It reads the customer immediately, and again seconds later, because the first response may be stale.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from drawdown.providers.protocol import Notice, Provider, ReadFailed, WebhookRefused
from drawdown.schema.text import quote_value
from drawdown.schema.units import SECOND_MS
from drawdown.server.http.errors import ApiError
from drawdown.server.http.threads import Threads
from drawdown.server.services import Services
from drawdown.server.step_threads import StepThreads
from drawdown.worker.push.webhooks import WebhookEvent, is_taken, store_failed, take_event
from drawdown.worker.verdict.refresh_requests import SECOND_READ_MS

log = structlog.get_logger()

MAX_BYTES: Final = 1_000_000
"""Largest body of a webhook, in bytes."""
END: Final = {"Connection": "close"}
"""Header that ends a connection with an unread body.

Otherwise the body would be read as the next request.
"""
ID_HEADERS: Final = ("svix-id", "webhook-id")
_ID: Final = re.compile(r"[!-~]{1,200}")


def require_worth_reading(services: Services, name: str, headers: Mapping[str, str]) -> None:
    """Check the provider and the headers before the body is read. Errors: ApiError."""
    provider = services.unasked.get(name)
    if provider is None or name not in services.providers:
        if name in services.broken:
            message = (
                f"provider {name} has invalid settings on this server. Fix the settings that `drawdown provider list` "
                "reports, then send the webhook again"
            )
            raise ApiError(503, "provider_broken", message, headers=END)
        raise ApiError(
            404, "not_found", f"unknown provider {quote_value(name)}. Check the path of the webhook", headers=END
        )
    wanted = provider.capabilities.webhook_headers
    if wanted and not any(headers.get(header) for header in wanted):
        raise ApiError(
            400,
            "webhook_refused",
            f"missing header {' or '.join(wanted)}. Send the webhook with this header",
            headers=END,
        )


async def take(
    services: Services, threads: Threads, step_threads: StepThreads, name: str, headers: Mapping[str, str], body: bytes
) -> str:
    """Take a webhook, and return its outcome: `done`, `ignored` or `repeated`.

    Errors: ApiError; DrawdownError.
    """
    provider, unasked = services.providers[name], services.unasked[name]
    now = services.clock.now_ms()
    proven = await _notices(services, unasked, headers, body, now)
    event = WebhookEvent(name, await _event_id(unasked, headers, body, now), hashlib.sha256(body).hexdigest())
    if await threads.read(lambda connection: is_taken(connection, event)):
        return "repeated"
    if isinstance(proven, ReadFailed):  # the webhook is genuine, and Drawdown must fetch its object
        proven = await _notices(services, provider, headers, body, now)
    if isinstance(proven, ReadFailed):
        reason = proven.reason
        await threads.write(lambda connection: store_failed(connection, event, reason, now))
        log.warning("webhook_not_fetched", provider=name, webhook_event=event.event_id, reason=reason)
        raise ApiError(
            503,
            "not_fetched",
            "the webhook is genuine, but Drawdown could not fetch its object. Send the webhook again",
        )
    notices = list(proven)
    changed = await threads.write(lambda connection: take_event(connection, event, notices, now))
    if changed is None:
        return "repeated"
    for org in changed:
        _read_twice(step_threads, org, name)
    return "done" if notices else "ignored"


def _read_twice(step_threads: StepThreads, org_id: str, provider: str) -> None:
    """Read a customer now, and again after SECOND_READ_MS.

    The database stores the second read. So if this process ends first, the watch or the next tick makes that read.
    """
    loop = asyncio.get_running_loop()

    def read_again() -> None:
        if not step_threads.stopping.is_set():
            step_threads.read_again(org_id, provider)

    def schedule_read(_first: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be closed
            loop.call_soon_threadsafe(loop.call_later, SECOND_READ_MS / SECOND_MS, read_again)

    first = step_threads.read_again(org_id, provider)
    if first is not None:
        first.add_done_callback(schedule_read)


async def _notices(
    services: Services, provider: Provider, headers: Mapping[str, str], body: bytes, now_ms: int
) -> Sequence[Notice] | ReadFailed:
    try:
        return await provider.notices(headers, body, now_ms)
    except WebhookRefused as error:
        passed_over = services.log_throttle.passed_over(now_ms, "webhook_refused", provider.name, str(error))
        if passed_over is not None:
            log.info("webhook_refused", provider=provider.name, reason=str(error), passed_over=passed_over)
        raise ApiError(400, "webhook_refused", str(error)) from None


async def _event_id(provider: Provider, headers: Mapping[str, str], body: bytes, now_ms: int) -> str:
    """Return the provider's id of the event, from a part that the signature covers.

    The part is Svix's header, or the body's `id`. Without either, the id is a hash of the body.
    """
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
    """Return True if the provider's signature covers a header.

    A changed value then makes the signature invalid. If Drawdown used an unsigned header, anyone could turn the
    delivery into another event.
    """
    try:
        await provider.notices({**headers, name: f"{headers[name]}x"}, body, now_ms)
    except WebhookRefused:
        return True
    return False
