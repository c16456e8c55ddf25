"""What Stripe checks and refuses, and how it sums up: the rules of the emulator that need no state.

Guarantee: pure but for the seeded fault plan that is passed in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from drawdown.providers.http import Answer, HttpResult, NoAnswer, NotSent
from drawdown.providers.kit.emulator import FaultPlan
from tests.emulators.stripe_shapes import Refusal

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
OLDEST_MS = 35 * DAY_MS
AHEAD_MS = 300_000
MINUTE_S = 60
GROUPS_S = {"hour": 3600, "day": 86_400}


@dataclass
class Charge:
    """One event that counts, in units of the meter."""

    timestamp_s: int
    value: Decimal
    visible_ms: int


def struck_before(fault: str | None, faults: FaultPlan) -> HttpResult | None:
    """Faults that strike before Stripe sees the call."""
    if fault == "connection_refused":
        return NotSent("connection refused")
    if fault == "request_lost":
        return NoAnswer("the connection was cut")
    if fault == "nonsense" and faults.rng.random() < 0.5:
        return odd(faults, Answer(200, {"content-type": "application/json"}, b'{"object": "billing.meter_event"}'))
    if fault == "reads_fail":
        failed: list[HttpResult] = [NoAnswer("timed out"), broken().answer(), Answer(200, {}, b"<html>")]
        return faults.rng.choice(failed)
    return None


def odd(faults: FaultPlan, answer: Answer) -> Answer:
    """What comes back when something between answers in Stripe's place, or cuts its answer short."""
    return faults.rng.choice(
        [
            Answer(200, {"content-type": "text/html"}, b"<html>It works!</html>"),
            Answer(200, answer.headers, answer.body[: len(answer.body) // 2]),
            Answer(200, answer.headers, b'{"object": "billing.meter_event", "identifier": "of another"}'),
            Answer(204, {}, b""),
            Answer(302, {"location": "https://example.com/"}, b""),
            Answer(400, {"content-type": "text/html"}, b"<h1>Bad request</h1>"),
        ]
    )


def rate_limited(headers: Mapping[str, str]) -> Refusal:
    return Refusal(429, "Request rate limit exceeded.", code="rate_limit", headers=headers)


def broken() -> Refusal:
    text = "Sorry! There was an error while talking to one of our backends."
    return Refusal(500, text, kind="api_error", headers={"stripe-should-retry": "false"})


def misused(key: str) -> Refusal:
    text = (
        "Keys for idempotent requests can only be used with the same parameters they were first used with. "
        f"Try using a key other than '{key}' if you meant to execute a different request."
    )
    return Refusal(400, text, kind="idempotency_error")


def unrecognized(method: str, path: str) -> Refusal:
    return Refusal(404, f"Unrecognized request URL ({method}: {path}).")


def required(form: Mapping[str, str], name: str) -> str:
    if not form.get(name):
        raise Refusal(400, f"Missing required param: {name}.", code="parameter_missing", param=name)
    return form[name]


def timestamp_of(text: str | None, now_ms: int) -> int:
    if text is None:
        return now_ms // 1000
    if not re.fullmatch(r"-?[0-9]{1,12}", text):
        raise Refusal(400, f"Invalid integer: {text}", code="parameter_invalid_integer", param="timestamp")
    stamp_ms = int(text) * 1000
    if stamp_ms < now_ms - OLDEST_MS:
        raise Refusal(400, "The timestamp is too far in the past.", code="timestamp_too_far_in_past", param="timestamp")
    if stamp_ms > now_ms + AHEAD_MS:
        raise Refusal(400, "The timestamp is in the future.", code="timestamp_in_future", param="timestamp")
    return int(text)


def value_of(text: str | None) -> Decimal:
    try:
        value = Decimal(text or "")
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite():
        raise Refusal(400, "Invalid value for a meter event.", code="meter_event_invalid_value", param="payload")
    if len(value.normalize().as_tuple().digits) > 15:
        text = "The value has too many digits."
        raise Refusal(400, text, code="meter_event_value_too_many_digits", param="payload")
    return value


def range_of(query: Mapping[str, str]) -> tuple[int, int, int]:
    """Start, end and step, in seconds."""
    window = query.get("value_grouping_window")
    if window is not None and window not in GROUPS_S:
        raise Refusal(400, "Invalid value_grouping_window: must be one of day or hour", param="value_grouping_window")
    unit = GROUPS_S[window] if window else MINUTE_S
    times = []
    for name in ("start_time", "end_time"):
        text = required(query, name)
        if not text.isdigit() or int(text) % unit:
            raise Refusal(400, f"{name} must be aligned with {window or 'minute'} boundaries.", param=name)
        times.append(int(text))
    start, end = times
    if end <= start:
        raise Refusal(400, "end_time must be after start_time.", param="end_time")
    return start, end, unit if window else end - start


def between(minutes: Mapping[int, list[Charge]], start: int, end: int) -> Iterator[Charge]:
    if end - start == MINUTE_S:
        yield from minutes.get(start, [])
        return
    for minute, found in minutes.items():
        if start <= minute < end:
            yield from found


def aggregated(formula: str, seen: Sequence[Charge]) -> float:
    if formula == "count":
        return float(len(seen))
    if formula == "last":
        return float(max(seen, key=lambda one: one.timestamp_s).value) if seen else 0.0
    return float(sum((one.value for one in seen), Decimal(0)))
