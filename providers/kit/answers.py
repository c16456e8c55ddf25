"""The facts that HTTP alone proves, in the response of any service.

Guarantee: this module is pure. Only `NotSent`, and a 429, which comes before the service does anything, count as "not
applied". Numbers stay exact, because a fraction is a Decimal, and NaN is not JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Final, NoReturn
from urllib.parse import quote

from drawdown.providers.http import Answer, HttpResult, NoAnswer, NotSent
from drawdown.providers.protocol import Outcome, ReadFailed, RetryAt, Unknown
from drawdown.schema.text import clean
from drawdown.schema.units import MINUTE_MS, SECOND_MS

FIRST_BACKOFF_MS: Final = 5 * SECOND_MS
"""First wait before Drawdown retries a call to a provider, in milliseconds."""
MIN_RETRY_MS: Final = SECOND_MS
"""Shortest wait before Drawdown retries a call to a service, in milliseconds."""
MAX_RETRY_MS: Final = 15 * MINUTE_MS
"""Longest wait before Drawdown retries a call to a service, in milliseconds.

A service cannot request a longer wait by Retry-After.
"""
KEY_WAIT_MS: Final = 5 * MINUTE_MS
"""Milliseconds before a retry after a service refused a key. A person must replace the key."""
PROBE: Final = "drawdown-check"
"""The customer that a check reads to test the key.

The service answers that the customer does not exist.
"""
LARGEST: Final = Decimal(10**30)
"""Largest number that Drawdown reads from a service."""
MAX_QUOTED_CHARS: Final = 200
"""Most characters of a service's message that Drawdown quotes in a reason."""


def bearer(key: str) -> dict[str, str]:
    """Return the headers of a call with a bearer key and a JSON body."""
    return {"authorization": f"Bearer {key}", "content-type": "application/json"}


def path_of(*parts: str) -> str:
    """Return a URL path with percent-encoded parts. A part must not be `.` or `..`."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def json_object(body: bytes) -> Mapping[str, object] | None:
    """Return a JSON object with exact numbers (int or Decimal); None for other texts."""
    try:
        found = _DECODER.decode(body.decode())
    except (ValueError, RecursionError, InvalidOperation):
        return None
    return found if isinstance(found, dict) else None


def number(value: object) -> Decimal | None:
    """Return an exact number from JSON or a text such as "12.50"; otherwise None.

    A number beyond LARGEST is None, because its conversion to an integer could take minutes.
    """
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    found = Decimal(value)
    return found if found.is_finite() and found.copy_abs() <= LARGEST else None


def iso(at_ms: int) -> str:
    """Return a moment as RFC 3339 in UTC, to the millisecond.

    Errors: OverflowError beyond the year 9999.
    """
    return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")


def moment_ms(value: object) -> int | None:
    """Return the milliseconds of an RFC 3339 time with its zone; otherwise None."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if moment is None or moment.tzinfo is None else (moment - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        return None


def whole(value: object) -> int | None:
    """Return a whole number from JSON or a text; None for anything else."""
    found = number(value)
    return int(found) if found is not None and found == found.to_integral_value() else None


def retry_after_ms(headers: Mapping[str, str], now_ms: int) -> int | None:
    """Return the wait in milliseconds that Retry-After requests.

    Return None if the header is missing or invalid.

    Retry-After is in seconds, or a date. The wait is at least MIN_RETRY_MS and at most MAX_RETRY_MS.
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return _clamped(int(Decimal(text[:12]) * SECOND_MS))
    try:
        moment = parsedate_to_datetime(text[:100])
        at_ms = int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * SECOND_MS)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return _clamped(at_ms - now_ms)


def _clamped(wait_ms: int) -> int:
    return max(MIN_RETRY_MS, min(wait_ms, MAX_RETRY_MS))


def backoff_ms(attempt: int) -> int:
    """Return the wait after an attempt, in milliseconds.

    It doubles with each attempt (1 is the first), up to MAX_RETRY_MS.
    """
    return min(FIRST_BACKOFF_MS << min(max(attempt, 1) - 1, 16), MAX_RETRY_MS)


def shared_outcome(result: HttpResult, attempt: int, now_ms: int) -> Outcome | Answer:
    """Return the outcome of a push if the result means the same at every service.

    Otherwise return the response, and your provider must judge it.
    """
    match result:
        case NotSent(reason):
            return RetryAt(now_ms + backoff_ms(attempt), f"not sent: {reason}")
        case NoAnswer(reason):
            return Unknown(f"no response: {reason}")
        case Answer(status=429):
            wait_ms = retry_after_ms(result.headers, now_ms) or backoff_ms(attempt)
            return RetryAt(now_ms + wait_ms, "HTTP 429: too many calls", too_many=True)
    return result


def read_object(result: HttpResult) -> Mapping[str, object] | ReadFailed:
    """Return the JSON object of a read call with status 200; otherwise ReadFailed."""
    if not isinstance(result, Answer):
        return ReadFailed(result.reason)
    if result.status != 200:
        too_many = result.status == 429
        return ReadFailed(f"HTTP {result.status}{': too many calls' if too_many else ''}", too_many=too_many)
    found = json_object(result.body)
    return ReadFailed("HTTP 200 without a JSON object") if found is None else found


def quoted(message: object, *secrets: str | None) -> str:
    """Return a service's message as one short line without these secrets."""
    text = str(message)
    for secret in filter(None, secrets):
        text = text.replace(secret, "…")
    return clean(text, MAX_QUOTED_CHARS)


def _refused(constant: str) -> NoReturn:
    raise ValueError(constant)


_DECODER: Final = json.JSONDecoder(parse_float=Decimal, parse_constant=_refused)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER: Final = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")
