"""How much an event counts that states no quantity: by a value of its data, or as one."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from drawdown.events.cloudevents import EVENT, JSON, ReceivedEvent, parse_events
from drawdown.events.envelope import MAX_QUANTITY, Unfit
from drawdown.events.values import COUNT, MAX_PATH_CHARS, MAX_VALUE_DIGITS, MAX_VALUE_SCALE, SUM, EventValue
from drawdown.schema.errors import UsageError

NOW = 1_770_000_000_000
TOKENS = EventValue(SUM, "$.usage.tokens")


def read(item: object, value: EventValue | None, kind: str = EVENT) -> ReceivedEvent | Unfit:
    (found,) = parse_events(json.dumps(item).encode(), kind, {}, None, NOW)
    return found if isinstance(found, Unfit) else found.counted(value)


def cloud(data: object, **more: object) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": "e1",
        "source": "/web",
        "type": "model.run",
        "subject": "acme",
        "data": data,
        **more,
    }


@pytest.mark.parametrize(
    ("data", "value", "quantity"),
    [
        ({"usage": {"tokens": 40}}, TOKENS, 40),
        ({"usage": {"tokens": "40"}, "quantity": 7}, TOKENS, 40),
        ({"duration_ms": 40.0}, EventValue(SUM, "$.duration_ms"), 40),
        ({"duration_s": 0.123}, EventValue(SUM, "$.duration_s", 1_000), 123),
        ({"duration_s": "0.123"}, EventValue(SUM, "$.duration_s", 1_000), 123),
        ({"quantity": 7}, EventValue(COUNT), 1),
        (None, EventValue(COUNT), 1),
        ({"quantity": 7}, None, 7),
    ],
)
def test_event_value_is_counted_as_declared(data: object, value: EventValue | None, quantity: int) -> None:
    found = read(cloud(data), value)
    assert isinstance(found, ReceivedEvent) and found.event.quantity == quantity


@pytest.mark.parametrize(
    ("data", "value", "code", "at"),
    [
        ({"tokens": 40}, TOKENS, "missing", "data.usage.tokens"),
        ({"usage": 40}, TOKENS, "missing", "data.usage.tokens"),
        ({"usage": {"tokens": -1}}, TOKENS, "bad_quantity", "data.usage.tokens"),
        ({"usage": {"tokens": 1.5}}, TOKENS, "not_whole", "data.usage.tokens"),
        ({"usage": {"tokens": True}}, TOKENS, "wrong_type", "data.usage.tokens"),
        ({"usage": {"tokens": [1]}}, TOKENS, "wrong_type", "data.usage.tokens"),
        ({"s": 0.0001}, EventValue(SUM, "$.s", 1_000), "not_whole", "data.s"),
        ({"s": MAX_QUANTITY}, EventValue(SUM, "$.s", 2), "bad_quantity", "data.s"),
        (None, TOKENS, "missing", "data"),
        ({"duration_ms": 40}, None, "missing", "data.quantity"),
    ],
)
def test_event_value_invalid_is_rejected_with_place(data: object, value: EventValue | None, code: str, at: str) -> None:
    found = read(cloud(data), value)
    assert isinstance(found, Unfit) and (found.code, found.at) == (code, at)
    assert found.named == ("/web", "e1")


def test_event_without_value_error_names_options() -> None:
    found = read(cloud({"duration_ms": 40}), None)
    assert "--sum PATH or --count" in str(found)


@pytest.mark.parametrize("number", ["1e999999", "1e-999999", "1." + "0" * MAX_VALUE_DIGITS])
def test_event_value_with_many_digits_is_rejected(number: str) -> None:
    body = json.dumps(cloud({"s": 0})).replace('"s": 0', f'"s": {number}').encode()
    (found,) = parse_events(body, EVENT, {}, None, NOW)
    assert isinstance(found, ReceivedEvent)
    counted = found.counted(EventValue(SUM, "$.s", 1_000))
    assert isinstance(counted, Unfit) and counted.code == "bad_quantity"


def test_event_value_scale_is_exact() -> None:
    value = EventValue(SUM, "$.s", MAX_VALUE_SCALE)
    digits = "123.456789012"
    assert value.quantity({"s": Decimal(digits)}, "data") == 123_456_789_012


def test_event_data_are_stored_whole_and_labels_are_texts() -> None:
    data = {"usage": {"tokens": 4}, "quantity": 2, "project": {"name": "site"}, "plan": "pro"}
    found = read(cloud(data), TOKENS)
    assert isinstance(found, ReceivedEvent)
    assert (found.event.project, found.event.plan_key) == (None, "pro")
    assert found.event.properties == {"usage": {"tokens": 4}, "quantity": 2, "project": {"name": "site"}}
    assert isinstance(read(cloud(data), None), Unfit)


def test_envelope_without_quantity_uses_declared_value() -> None:
    own = {"source": "/web", "event_id": "e1", "event_type": "model.run", "org_id": "acme"}
    found = read({**own, "properties": {"usage": {"tokens": 4}}}, TOKENS, JSON)
    assert isinstance(found, ReceivedEvent) and found.event.quantity == 4
    found = read({**own, "quantity": 9, "properties": {"usage": {"tokens": 4}}}, TOKENS, JSON)
    assert isinstance(found, ReceivedEvent) and found.event.quantity == 9
    found = read(own, TOKENS, JSON)
    assert isinstance(found, Unfit) and found.at == "properties.usage.tokens"


@pytest.mark.parametrize(
    ("aggregation", "path", "scale"),
    [
        (COUNT, "$.a", 1),
        (COUNT, None, 2),
        (SUM, None, 1),
        (SUM, "a", 1),
        (SUM, "$.a[0]", 1),
        (SUM, "$." + "a" * MAX_PATH_CHARS, 1),
        (SUM, "$..a", 1),
        (SUM, "$.a", 0),
        (SUM, "$.a", MAX_VALUE_SCALE + 1),
        (SUM, "$" + ".a" * 8, 1),
        ("max", "$.a", 1),
    ],
)
def test_event_value_invalid_declaration_is_refused(aggregation: str, path: str | None, scale: int) -> None:
    with pytest.raises(UsageError):
        EventValue(aggregation, path, scale)
