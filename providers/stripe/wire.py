"""Calls to Stripe as bytes, and the outcome that its responses prove for a push.

Guarantee: a push is accepted only if the response repeats our identifier. It is "not applied" only if Stripe refused
the call before it did anything. Every other response makes it unknown. A text from a response never shows a key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from urllib.parse import quote, unquote, urlencode

from drawdown.providers.http import PUSH_ANSWER_BYTES, READ_TIMEOUT_S, Answer, Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.kit.answers import KEY_WAIT_MS as KEY_WAIT_MS
from drawdown.providers.kit.answers import MAX_RETRY_MS as MAX_RETRY_MS
from drawdown.providers.kit.answers import MIN_RETRY_MS as MIN_RETRY_MS
from drawdown.providers.kit.answers import json_object as json_object
from drawdown.providers.kit.answers import path_of as path_of
from drawdown.providers.kit.answers import retry_after_ms
from drawdown.providers.protocol import (
    Accepted,
    Duplicate,
    Outcome,
    PushRequest,
    ReadFailed,
    Rejected,
    RetryAt,
    Unknown,
)
from drawdown.providers.stripe.settings import MAX_DIGITS, StripeSettings
from drawdown.schema.units import SECOND_MS

METER_EVENTS: Final = "/v1/billing/meter_events"
MAX_TEXT: Final = 200
"""Most characters of Stripe's text that a message quotes."""
MAX_IDEMPOTENCY_CHARS: Final = 255
"""Most characters of an idempotency key at Stripe."""
DUPLICATE: Final = "An event already exists with identifier"
TYPES: Final = frozenset({
    "api_error", "card_error", "idempotency_error", "invalid_request_error", "rate_limit", "temporary_session_expired",
})  # fmt: skip
"""Types of Stripe's errors (docs.stripe.com/api/errors). The last two are of v2 (stripe-python 15.6)."""
_LATER: Final = frozenset({"rate_limit", "lock_timeout"})
_SAFE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
_SECRETS: Final = re.compile(r"\b(sk|rk|pk|whsec)_[A-Za-z0-9_*+/=]+")
_ATTEMPT: Final = re.compile(r"(.+)\.([0-9]{1,9})", re.DOTALL)


@dataclass(frozen=True)
class StripeError:
    """The `error` of a response's body. A missing part is empty."""

    type: str
    code: str
    message: str


def get(settings: StripeSettings, path: str, params: Mapping[str, str] | None = None, context: str = "") -> Call:
    """Return a call that reads.

    `context`: the Stripe-Context in which a thin event must be fetched.
    """
    query = f"?{urlencode(params)}" if params else ""
    headers = common_headers(settings) | ({"Stripe-Context": context} if context else {})
    return Call("GET", f"{settings.url}{path}{query}", headers, timeout_s=READ_TIMEOUT_S)


def meter_event(settings: StripeSettings, push: PushRequest) -> Call:
    """Return the call that bills a push.

    The same push makes the same bytes, except for the Idempotency-Key.

    The identifier deduplicates. A new Idempotency-Key prevents Stripe from repeating a stored 500 forever.
    """
    meter = settings.meter_of(push.feature)
    form = {
        "event_name": meter.event_name,
        "payload[stripe_customer_id]": push.customer_id,
        "payload[value]": str(push.quantity // meter.unit),
        "identifier": push.key,
        "timestamp": str(push.ts // 1000),
    }
    return post(settings, METER_EVENTS, form, idempotency_key(push))


def post(settings: StripeSettings, path: str, form: Mapping[str, str], key: str | None = None) -> Call:
    """Return a call that writes, with or without an Idempotency-Key.

    Errors: ValueError for text that a form cannot carry.
    """
    headers = common_headers(settings) | {"Content-Type": "application/x-www-form-urlencoded"}
    if key is not None:
        headers["Idempotency-Key"] = key
    return Call("POST", settings.url + path, headers, urlencode(form).encode(), most_bytes=PUSH_ANSWER_BYTES)


def common_headers(settings: StripeSettings) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {settings.secret_key}",
        "Stripe-Version": settings.api_version,
        "User-Agent": "Drawdown",
    }


def idempotency_key(push: PushRequest) -> str:
    """Return the Idempotency-Key of a push, `{key}.{attempt}`.

    Stripe's later error reports name it, so it must lead back to the push. A key that a header cannot carry is
    percent-encoded. If the result is too long, it is hashed, and a report about it does not lead to the push.
    """
    return header_key(push.key, f".{push.attempt}")


def header_key(text: str, end: str = "") -> str:
    """Return a text as an Idempotency-Key.

    The text is percent-encoded, and hashed if the result is too long.
    """
    key = quote(text, safe=_SAFE)
    return key + end if len(key + end) <= MAX_IDEMPOTENCY_CHARS else sha256(key.encode()).hexdigest() + end


def key_of(idempotency: str) -> str:
    """Return the key of the push that was sent with an Idempotency-Key.

    A key of Drawdown never ends in a point and digits, so a key without an attempt is returned unchanged.
    """
    found = _ATTEMPT.fullmatch(idempotency)
    return unquote(found.group(1)) if found else idempotency


def never_sent(settings: StripeSettings, push: PushRequest) -> Rejected | None:
    """Return a rejection of a push that must not be sent; None if it can be sent."""
    meter = settings.meter_of(push.feature)
    other = settings.conflicting_feature(push.feature)
    if other is not None:
        return Rejected(f"{push.feature} shares the meter of {other}. Give it its own meter in DRAWDOWN_STRIPE_METERS")
    if push.quantity % meter.unit:
        return Rejected(f"{push.quantity} is not a whole number of units of {meter.unit} at meter {meter.event_name}")
    if abs(push.quantity // meter.unit) >= 10**MAX_DIGITS:
        return Rejected(f"{push.quantity // meter.unit} has more than the {MAX_DIGITS} digits that Stripe accepts")
    return None


def error_of(answer: Answer, untyped: Collection[str] = ()) -> StripeError | None:
    """Return the error in Stripe's response.

    Return None if the error lacks a type of Stripe, because another host may have sent it. `untyped`: codes of errors
    that Stripe sends without a type.
    """
    error = _error_in(answer)
    return error if error.type in TYPES or (not error.type and error.code in untyped) else None


def _error_in(answer: Answer) -> StripeError:
    """Return the error in a response of any sender."""
    found = (json_object(answer.body) or {}).get("error")
    parts = found if isinstance(found, dict) else {}
    return StripeError(
        *(text if isinstance(text := parts.get(name), str) else "" for name in ("type", "code", "message"))
    )


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Return another program's text as one short line without keys."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 10 * limit]).split())
    line = _SECRETS.sub(r"\1_…", line)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def described(answer: Answer) -> str:
    """Return a response as one line, with the request id for Stripe's support."""
    error = _error_in(answer)
    said = f": {error.code or error.type}: {error.message}" if error.code or error.type else ""
    request = request_id(answer)
    return clean(f"HTTP {answer.status}{said}") + (f" ({request})" if request else "")


def request_id(answer: Answer) -> str:
    """Return the Request-Id of Stripe's response; empty if it is missing."""
    found = re.match(r"req_[A-Za-z0-9]{1,60}", answer.headers.get("request-id", ""))
    return found.group() if found else ""


def outcome(result: HttpResult, push: PushRequest, now_ms: int) -> Outcome:
    """Return the outcome of one push."""
    if isinstance(result, NotSent):
        return RetryAt(now_ms + backoff_ms(push.attempt), clean(f"not sent: {result.reason}"))
    if isinstance(result, NoAnswer):
        return Unknown(clean(f"no response: {result.reason}"))
    if result.status == 200:
        return _judge_answer(result, push)
    if result.status in (401, 403) and error_of(result) is not None:
        # Stripe charged nothing. After a person fixes the key, a retry of the same push can succeed.
        return RetryAt(now_ms + KEY_WAIT_MS, f"Stripe refuses the key: {described(result)}", by_person=True)
    if result.status == 429:  # the call was not processed; for a lock_timeout, this is assumed
        return RetryAt(now_ms + wait_ms(result.headers, push.attempt, now_ms), described(result), too_many=True)
    if 400 <= result.status < 500:
        return _refused(result, push, now_ms)
    return Unknown(described(result))


def _judge_answer(answer: Answer, push: PushRequest) -> Outcome:
    body = json_object(answer.body) or {}
    if body.get("object") == "billing.meter_event" and body.get("identifier") == push.key:
        return Accepted()
    return Unknown("HTTP 200, but for another push")


def _refused(answer: Answer, push: PushRequest, now_ms: int) -> Outcome:
    """Return the outcome of a 4xx.

    Only an error in Stripe's own words proves that the push was not applied, because another host may also answer 400.
    """
    error = error_of(answer)
    if error is None or error.code == "idempotency_key_in_use":
        # Without an error of Stripe, another program may have answered. If the key is in use, a proxy may have sent
        # this push twice, and the other call may still succeed. So the outcome is unknown.
        return Unknown(described(answer))
    if error.type == "idempotency_error":
        # Our Idempotency-Key was used before, with different content. If this is the first attempt, our database lost
        # its history (rule R1). After Unknown, the next attempt would find a duplicate with another quantity, and
        # accept it for this push.
        return Duplicate() if push.attempt <= 1 else Unknown(described(answer))
    if error.code in _LATER:
        return RetryAt(now_ms + wait_ms(answer.headers, push.attempt, now_ms), described(answer))
    if answer.status == 409 or error.type != "invalid_request_error":
        # A 409 is a conflict with another call, which may be an earlier call of this push.
        return Unknown(described(answer))
    if answer.status == 400 and (error.message.startswith(DUPLICATE) or error.code == "duplicate_meter_event"):
        return Duplicate()
    if "already" in error.message:
        # The error may mean a duplicate. After a rejection, Drawdown would seal the usage again and bill it twice.
        return Unknown(described(answer))
    return Rejected(described(answer))


def wait_ms(headers: Mapping[str, str], attempt: int, now_ms: int) -> int:
    """Return the wait after a refused call, in milliseconds.

    The wait is from a second to a quarter of an hour. Retry-After decides, or else stripe-should-retry. Without both,
    the wait grows with each attempt.
    """
    asked_ms = retry_after_ms(headers, now_ms)
    if asked_ms is not None:
        return asked_ms
    hint = headers.get("stripe-should-retry", "").strip().lower()
    if hint == "false":
        return MAX_RETRY_MS  # an immediate retry would not help, and without a retry the money would be lost
    return MIN_RETRY_MS if hint == "true" and attempt <= 1 else backoff_ms(attempt)


def backoff_ms(attempt: int) -> int:
    return min(SECOND_MS << min(max(attempt, 1), 16), MAX_RETRY_MS)


def read_object(result: HttpResult) -> Mapping[str, object] | ReadFailed:
    """Return the JSON object of a read call; otherwise ReadFailed."""
    if not isinstance(result, Answer):
        return ReadFailed(clean(result.reason))
    if result.status != 200:
        return ReadFailed(described(result), too_many=result.status == 429)
    found = json_object(result.body)
    return ReadFailed("HTTP 200 without a JSON object") if found is None else found
