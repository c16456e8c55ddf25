"""The envelope: what an event says, and what no event can say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from drawdown.events.envelope import MAX_PROPERTIES_BYTES, MAX_QUANTITY, Unfit, UsageEvent
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS, MAX_EVENT_TYPES, MAX_MEMORY_MB, MAX_METER, MAX_METERS
from tests.cases import cases

GOOD: dict[str, Any] = {
    "source": "app", "event_id": "e-1", "event_type": "page.render", "org_id": "acme", "quantity": 1,
    "occurred_ms": EARLIEST_TS, "subject": "u", "project": "p", "plan_key": "pro", "properties": {"a": 1},
}  # fmt: skip
DEEP: dict[str, Any] = {}
for _ in range(100_000):
    DEEP = {"a": DEEP}


@cases(
    ("field", "value", "code"),
    [
        *((name, text, "bad_id") for name in list(GOOD)[:4] for text in ("", "x" * 201, "a\0b", "\ud800", "\ufffd")),
        *((name, "a\uffff", "bad_id") for name in list(GOOD)[:4]),
        *((name, "", "bad_id") for name in ("subject", "project", "plan_key")),
        ("quantity", -1, "bad_quantity"),
        ("quantity", MAX_QUANTITY + 1, "bad_quantity"),
        ("properties", {"a": "x" * (MAX_PROPERTIES_BYTES - 7)}, "properties_too_large"),
        ("properties", {"a": "ü" * (MAX_PROPERTIES_BYTES // 2)}, "properties_too_large"),
        ("properties", {"a": math.nan}, "bad_properties"),
        ("properties", {"a": math.inf}, "bad_properties"),
        ("properties", {"a": "\ud800"}, "bad_properties"),
        ("properties", {"a": {1, 2}}, "bad_properties"),
        ("properties", DEEP, "bad_properties"),
    ],
)
def test_envelope_invalid_value_is_refused_with_code_and_field(field: str, value: object, code: str) -> None:
    UsageEvent(**GOOD)
    UsageEvent(**{**GOOD, "quantity": MAX_QUANTITY, "properties": {"a": "x" * (MAX_PROPERTIES_BYTES - 8)}})
    with pytest.raises(Unfit) as caught:
        UsageEvent(**{**GOOD, field: value})
    assert (caught.value.code, caught.value.at) == (code, field)


def test_envelope_time_bounds_are_inclusive() -> None:
    event = UsageEvent(**GOOD)
    event.require_time(EARLIEST_TS - FUTURE_SLACK_MS)
    for other, now, code in (
        (GOOD, EARLIEST_TS - FUTURE_SLACK_MS - 1, "in_the_future"),
        ({**GOOD, "occurred_ms": EARLIEST_TS - 1}, EARLIEST_TS, "too_old"),
    ):
        with pytest.raises(Unfit) as caught:
            UsageEvent(**other).require_time(now)
        assert caught.value.code == code


def test_envelope_equal_properties_have_equal_json() -> None:
    one, other = (UsageEvent(**{**GOOD, "properties": said}) for said in ({"a": 1, "b": [2]}, {"b": [2], "a": 1}))
    assert one.properties_json == other.properties_json == '{"a":1,"b":[2]}'


def test_meters_are_above_memory_sizes() -> None:
    assert MAX_METER - MAX_MEMORY_MB == MAX_METERS >= MAX_EVENT_TYPES
