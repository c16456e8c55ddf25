"""Stripe's meter event stream (v2).

A call has up to MAX_STREAM_EVENTS pushes, and the token of a session.

Guarantee: a push is accepted only if the response has the documented form and Stripe's Request-Id. It is "not applied"
only if the call never left, or Stripe itself refused it. The event's identifier is the push's key, as in v1, and is
unique for 24 hours. Stripe checks events after its response. Stripe's error reports (`webhooks`) quote only some of the
errors, and reconcile finds the others. Sources: docs.stripe.com (usage-based/recording-usage-api,
api/v2/billing/meter-event-stream, meter-event-session) and stripe-python 15.6. This module was not tried against Stripe
itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from drawdown.providers.http import PUSH_ANSWER_BYTES, Answer, Call, Http, HttpResult, NoAnswer, NotSent
from drawdown.providers.protocol import Accepted, Outcome, PushRequest, Rejected, RetryAt, Unknown
from drawdown.providers.stripe.settings import StripeSettings
from drawdown.providers.stripe.wire import (
    KEY_WAIT_MS,
    MIN_RETRY_MS,
    StripeError,
    backoff_ms,
    clean,
    common_headers,
    described,
    error_of,
    json_object,
    request_id,
    wait_ms,
)
from drawdown.schema.clock import Clock
from drawdown.schema.units import MINUTE_MS

SESSIONS: Final = "/v2/billing/meter_event_session"
EVENTS: Final = "/v2/billing/meter_event_stream"
RENEWED_MS: Final = MINUTE_MS
"""Milliseconds before its end at which Drawdown stops using a session."""
MAX_CALLS: Final = 32
"""Calls to Stripe's event stream for one batch. One invalid event in a hundred takes fifteen calls."""
EXPIRED: Final = frozenset({"billing_meter_event_session_expired", "temporary_session_expired"})
UNTYPED: Final = frozenset({"invalid_fields", *EXPIRED})
"""Codes of the stream's errors without a type (source of stripe-node)."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,4096}")


@dataclass(frozen=True)
class Session:
    """A session of the stream.

    `until_ms`: the time by our clock until which Drawdown uses it, RENEWED_MS before its end. Only the duration that
    Stripe sends counts, because its clock can differ from ours.
    """

    token: str = field(repr=False)
    until_ms: int


@dataclass(frozen=True)
class NoSession:
    """The result if a session could not be opened, so the pushes were not sent.

    `why`: the reason, in one line. `refused`: True if the key may not open a session. `headers`: those of the response,
    which may show when to retry.
    """

    why: str
    refused: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


class Stream:
    """The present session of the stream, and calls under it."""

    def __init__(self, settings: StripeSettings, http: Http, clock: Clock) -> None:
        self._settings = settings
        self._http = http
        self._clock = clock
        self._session: Session | None = None

    async def send(self, batch: Sequence[PushRequest]) -> list[Outcome]:
        """Send a batch, and return one outcome for each push, in order.

        If Stripe refuses a whole call, each half is sent, so that one invalid event does not reject the others. After
        MAX_CALLS, the remaining pushes are sent again later.
        """
        parts, came = [tuple(batch)], dict[str, Outcome]()
        for _ in range(MAX_CALLS):
            if not parts:
                break
            part = parts.pop()
            session = await self.session()
            if isinstance(session, NoSession):
                came |= {push.key: self._unsent(push, session) for push in part}
                continue
            result = _without(session.token, await self._http.send(meter_events(self._settings, session, part)))
            if _expired(result):
                self._session = None
            if len(part) > 1 and _refused(result):
                half = len(part) // 2
                parts += [part[half:], part[:half]]
                continue
            now_ms = self._clock.now_ms()
            came |= {push.key: outcome(result, push, now_ms) for push in part}
        later = RetryAt(
            self._clock.now_ms() + MIN_RETRY_MS, "not sent: Stripe refused too many earlier pushes of its batch"
        )
        return [came.get(push.key, later) for push in batch]

    async def session(self) -> Session | NoSession:
        """Return the present session, or open a new session.

        Concurrent calls may each open a session, and each is valid.
        """
        now_ms = self._clock.now_ms()
        if self._session is None or self._session.until_ms <= now_ms:
            made = _session(await self._http.send(new_session(self._settings)), now_ms)
            if isinstance(made, NoSession):
                return made
            self._session = made
        return self._session

    def _unsent(self, push: PushRequest, session: NoSession) -> Outcome:
        now_ms = self._clock.now_ms()
        wait = KEY_WAIT_MS if session.refused else wait_ms(session.headers, push.attempt, now_ms)
        return RetryAt(now_ms + wait, session.why, by_person=session.refused)


def new_session(settings: StripeSettings) -> Call:
    headers = common_headers(settings) | {"Content-Type": "application/json"}
    return Call("POST", settings.url + SESSIONS, headers, b"{}", most_bytes=PUSH_ANSWER_BYTES)


def meter_events(settings: StripeSettings, session: Session, batch: Sequence[PushRequest]) -> Call:
    """Return the call that bills. The same pushes make the same bytes at each attempt.

    The call does not have an Idempotency-Key, because a retry in another batch would be another request under the same
    key. The identifiers of the events deduplicate.
    """
    headers = common_headers(settings) | {
        "Authorization": f"Bearer {session.token}",
        "Content-Type": "application/json",
    }
    body = json.dumps({"events": [_event(settings, push) for push in batch]}).encode()
    return Call("POST", settings.stream_url + EVENTS, headers, body, most_bytes=PUSH_ANSWER_BYTES)


def _event(settings: StripeSettings, push: PushRequest) -> dict[str, object]:
    meter = settings.meter_of(push.feature)
    dated = datetime.fromtimestamp(push.ts // 1000, UTC)
    return {
        "event_name": meter.event_name,
        "identifier": push.key,
        "payload": {"stripe_customer_id": push.customer_id, "value": str(push.quantity // meter.unit)},
        "timestamp": dated.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _session(result: HttpResult, now_ms: int) -> Session | NoSession:
    if not isinstance(result, Answer):
        return NoSession(clean(f"the stream does not have a session: {result.reason}"))
    if result.status != 200:
        refused = result.status in (401, 403)
        return NoSession(
            f"Stripe did not create a session for the stream: {described(result)}", refused, result.headers
        )
    body = json_object(result.body) or {}
    token, lasts_ms = body.get("authentication_token"), _lasts_ms(body.get("created"), body.get("expires_at"))
    if not isinstance(token, str) or not _TOKEN.fullmatch(token) or lasts_ms is None:
        return NoSession("HTTP 200 without a session for the stream")
    return Session(token, now_ms + max(lasts_ms - RENEWED_MS, 0))


def _lasts_ms(created: object, expires: object) -> int | None:
    """Return the milliseconds between two RFC 3339 times; None if one is invalid."""
    try:
        begun, ended = (datetime.fromisoformat(str(text)[:40]) for text in (created, expires))
        return int((ended - begun).total_seconds() * 1000)
    except (ValueError, TypeError, OverflowError):
        return None


def _without(token: str, result: HttpResult) -> HttpResult:
    """Return the response with the token replaced, in case it repeats the token."""
    if not isinstance(result, Answer):
        return result
    body = json_object(result.body)
    if body is None or token not in (text := json.dumps(body, default=str)):
        return result
    return replace(result, body=text.replace(token, "...").encode())


def _expired(result: HttpResult) -> bool:
    """Return True if the token may be invalid, so the next call opens a session."""
    return isinstance(result, Answer) and (result.status in (401, 403) or _is_over(_error_of(result)))


def _error_of(answer: Answer) -> StripeError | None:
    return error_of(answer, UNTYPED)


def _is_over(error: StripeError | None) -> bool:
    return error is not None and not EXPIRED.isdisjoint((error.code, error.type))


def _refused(result: HttpResult) -> bool:
    """Return True if Stripe refused the whole call as invalid.

    Then Stripe did not accept any event of the call.

    A host between Drawdown and Stripe may also answer 400. The Request-Id shows that the response is Stripe's.
    """
    if not isinstance(result, Answer) or result.status not in (400, 413, 422) or not request_id(result):
        return False
    error = _error_of(result)
    return error is not None and not _is_over(error)


def outcome(result: HttpResult, push: PushRequest, now_ms: int) -> Outcome:
    """Return the outcome of a push, by the response to its call."""
    if isinstance(result, NotSent):
        return RetryAt(now_ms + backoff_ms(push.attempt), clean(f"not sent: {result.reason}"))
    if isinstance(result, NoAnswer):
        return Unknown(clean(f"no response: {result.reason}"))
    if result.status == 200:
        return _judge_answer(result)
    error = _error_of(result)
    if _is_over(error):
        return RetryAt(now_ms + MIN_RETRY_MS, f"the session of the stream expired: {described(result)}")
    if result.status in (401, 403, 404) and error is not None:
        return RetryAt(now_ms + KEY_WAIT_MS, f"Stripe does not have a stream for this session: {described(result)}")
    if result.status == 429:
        return RetryAt(now_ms + wait_ms(result.headers, push.attempt, now_ms), described(result), too_many=True)
    if not _refused(result) or (error is not None and "already" in error.message):
        # The push may have arrived, or be a duplicate. After a rejection, Drawdown would seal its usage again and bill
        # it twice.
        return Unknown(described(result))
    return Rejected(described(result))


def _judge_answer(answer: Answer) -> Outcome:
    """Return the outcome of a 200. An empty object with a Request-Id is acceptance.

    A host between Drawdown and Stripe could also answer an empty object. The Request-Id shows that the response is
    Stripe's.
    """
    body = json_object(answer.body)
    if body is None or "error" in body or "object" in body or not request_id(answer):
        return Unknown("HTTP 200, but not a response of Stripe's stream")
    return Accepted()
