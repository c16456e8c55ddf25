"""CloudEvents, and objects with our own names, as usage events."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import pytest
from starlette.datastructures import Headers

from drawdown.events import cloudevents
from drawdown.events.body_items import MAX_DEPTH
from drawdown.events.cloudevents import BATCH, EVENT, JSON, LINES, ReceivedEvent
from drawdown.events.envelope import MAX_PROPERTIES_BYTES, MAX_QUANTITY, Unfit, UsageEvent
from drawdown.events.fields import MOST_VALUES, moment_of, quantity_of
from tests.cases import cases

NOW: Final = 1_770_091_506_789
TIME: Final = "2026-02-03T04:05:06.789Z"


def event(**changes: Any) -> dict[str, Any]:
    """A CloudEvent; `…` takes a name away."""
    whole = {"specversion": "1.0", "id": "e1", "source": "/web", "type": "page.render", "subject": "acme", "time": TIME,
             "data": {"quantity": 3, "project": "site", "plan": "pro", "model": "small"}, **changes}  # fmt: skip
    return {name: value for name, value in whole.items() if value is not ...}


def own(**changes: Any) -> dict[str, Any]:
    whole = {"event_id": "e1", "source": "/web", "event_type": "page.render", "org_id": "acme", "occurred_at": TIME,
             "quantity": 3, "project": "site", "plan_key": "pro", "properties": {"model": "small"},
             **changes}  # fmt: skip
    return {name: value for name, value in whole.items() if value is not ...}


def read(item: Any, kind: str = JSON, org: str | None = None, **headers: str) -> ReceivedEvent | Unfit:
    body = item if isinstance(item, bytes) else json.dumps(item).encode()
    (found,) = cloudevents.parse_events(body, kind, headers, org, NOW)
    return stated(found)


def stated(found: ReceivedEvent | Unfit) -> ReceivedEvent | Unfit:
    """As an event is taken whose type has no value of its own."""
    return found if isinstance(found, Unfit) else found.counted(None)


EXPECTED: Final = UsageEvent("/web", "e1", "page.render", "acme", 3, NOW, None, "site", "pro", {"model": "small"})


def test_cloudevent_in_each_format_is_same_event() -> None:
    binary = {f"ce-{name}": str(value) for name, value in event().items() if name != "data"}
    for found in (
        read(event()),
        read(event(), EVENT),
        read(event(), "Application/CloudEvents+JSON; charset=utf-8"),
        read([event()]),
        read([event()], BATCH),
        read(json.dumps(event()).encode() + b"\n", LINES),
        read(event()["data"], JSON, **binary),
        read(own()),
        read(own(occurred_at=NOW)),
        read([own()]),
        read(own(), LINES),
    ):
        assert found == ReceivedEvent(EXPECTED, has_time=True)


def test_cloudevent_headers_are_percent_decoded() -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "a%20%22b%22", "ce-source": "/%E2%82%AC", "ce-type": "t",
               "ce-subject": "acme", "ce-traceparent": "x"}  # fmt: skip
    found = read({"quantity": 1}, JSON, **headers)
    assert isinstance(found, ReceivedEvent) and (found.event.event_id, found.event.source) == ('a "b"', "/€")
    assert not found.has_time and found.event.occurred_ms == NOW
    assert read(b'{"quantity": 1, "quantity": 1}', JSON, **headers).code == "duplicate_keys"  # type: ignore[union-attr]


def test_cloudevent_repeated_header_is_rejected() -> None:
    sent = {"ce-specversion": "1.0", "ce-id": "a", "ce-source": "/s", "ce-type": "t", "ce-subject": "acme"}
    double = Headers(raw=[(name.encode(), text.encode()) for name, text in (*sent.items(), ("ce-id", "b"))])
    (found,) = cloudevents.parse_events(b'{"quantity": 1}', JSON, double, None, NOW)
    assert isinstance(found, Unfit) and found.code == "duplicate_keys"


def test_cloudevent_headers_in_plain_utf_8_are_decoded() -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "é".encode().decode("latin-1"), "ce-source": "/\xe9", "ce-type": "t",
               "ce-subject": "acme"}  # fmt: skip
    found = read({"quantity": 1}, JSON, **headers)
    assert isinstance(found, ReceivedEvent) and (found.event.event_id, found.event.source) == ("é", "/é")


def test_cloudevent_org_is_subject_unless_key_is_bound() -> None:
    free, bound = read(event()), read(event(subject="page/7"), org="globex")
    assert isinstance(free, ReceivedEvent) and (free.event.org_id, free.event.subject) == ("acme", None)
    assert isinstance(bound, ReceivedEvent) and (bound.event.org_id, bound.event.subject) == ("globex", "page/7")
    without = read(event(subject=...), org="globex")
    assert isinstance(without, ReceivedEvent) and (without.event.org_id, without.event.subject) == ("globex", None)
    named = read(own(org_id=..., subject="page/7"), org="acme")
    assert isinstance(named, ReceivedEvent) and (named.event.org_id, named.event.subject) == ("acme", "page/7")
    foreign = read(own(), org="globex")
    assert isinstance(foreign, Unfit) and foreign.code == "foreign_org" and "acme" not in str(foreign)


def test_cloudevent_tracing_attributes_are_ignored() -> None:
    assert read(event(traceparent="00-1", tracestate={"a": 1}, dataschema="x")) == read(event(traceparent="00-2"))


@cases("quantity", [3, 3.0, "3", "3.00", "0003", b"3e0", b"30E-1", b"3.000000000000000000000"])
def test_event_whole_quantity_in_any_notation_is_accepted(quantity: Any) -> None:
    text = quantity.decode() if isinstance(quantity, bytes) else json.dumps(quantity)
    assert read(json.dumps(event()).replace('"quantity": 3', f'"quantity": {text}').encode()) == read(event())


NO_QUANTITY: Final[list[tuple[str, str]]] = [
    ("1.5", "not_whole"), ('"1.5"', "not_whole"), ("1e-999999", "not_whole"), ("0.1", "not_whole"),
    ("-1", "bad_quantity"), ('"-1"', "bad_quantity"), (str(10**30), "bad_quantity"), ("1e400", "bad_quantity"),
    ("1e999999", "bad_quantity"), (str(MAX_QUANTITY + 1), "bad_quantity"), ('"' + "9" * 40 + '"', "bad_quantity"),
    ("true", "wrong_type"), ("false", "wrong_type"), ("[3]", "wrong_type"), ('{"n": 3}', "wrong_type"),
    ('""', "wrong_type"), ('"three"', "wrong_type"), ('"٣"', "wrong_type"), ('" 3"', "wrong_type"),
    ('"1e3"', "wrong_type"), ('"' + "9" * 41 + '"', "wrong_type"), ("null", "missing"), ("NaN", "not_json"),
    ('"NaN"', "wrong_type"), ("Infinity", "not_json"), ("0x3", "not_json"), ("03", "not_json"),
]  # fmt: skip


@cases(("text", "code"), NO_QUANTITY)
def test_event_invalid_quantity_is_rejected_with_code(text: str, code: str) -> None:
    item = json.dumps(event()).replace('"quantity": 3', f'"quantity": {text}').encode()
    found = stated(*cloudevents.parse_events(b"[" + item + b"]", JSON, {}, None, NOW))
    assert isinstance(found, Unfit) and found.code == code, found
    assert code == "not_json" or found.at == "data.quantity"
    assert quantity_of(MAX_QUANTITY, "q") == MAX_QUANTITY and quantity_of(0, "q") == 0


WRONG: Final[list[tuple[dict[str, Any], str, str]]] = [
    ({"specversion": "0.3"}, "bad_specversion", "specversion"),
    ({"specversion": 1.0}, "wrong_type", "specversion"),
    ({"id": ...}, "missing", "id"), ({"id": None}, "missing", "id"), ({"id": 7}, "wrong_type", "id"),
    ({"id": ""}, "bad_id", "id"), ({"id": "x" * 201}, "bad_id", "id"),
    ({"id": "a\nb"}, "bad_id", "id"),
    ({"source": ...}, "missing", "source"), ({"source": "\ud800"}, "bad_id", "source"),
    ({"type": ...}, "missing", "type"), ({"type": ["t"]}, "wrong_type", "type"),
    ({"type": "\x00"}, "bad_id", "type"),
    ({"subject": ...}, "missing", "subject"), ({"subject": 3}, "wrong_type", "subject"),
    ({"subject": ""}, "bad_id", "subject"),
    ({"time": "yesterday"}, "bad_time", "time"), ({"time": "2026-02-03"}, "bad_time", "time"),
    ({"time": "2026-02-03T04:05:06"}, "bad_time", "time"), ({"time": "2026-02-30T04:05:06Z"}, "bad_time", "time"),
    ({"time": NOW}, "wrong_type", "time"), ({"time": "1999-12-31T23:59:59Z"}, "too_old", "time"),
    ({"time": "2026-02-03T04:11:00Z"}, "in_the_future", "time"),
    ({"time": "9999-12-31T23:59:59Z"}, "in_the_future", "time"),
    ({"data": ...}, "missing", "data"), ({"data": []}, "bad_data", "data"), ({"data": "3"}, "bad_data", "data"),
    ({"data_base64": "e30="}, "bad_data", "data"), ({"datacontenttype": "text/xml"}, "bad_data", "data"),
    ({"data": {}}, "missing", "data.quantity"),
    ({"data": {"quantity": 1, "project": 3}}, "wrong_type", "data.project"),
    ({"data": {"quantity": 1, "project": ""}}, "bad_id", "data.project"),
    ({"data": {"quantity": 1, "plan": "x" * 201}}, "bad_id", "data.plan"),
    ({"data": {"quantity": 1, "x": "\ud800"}}, "bad_text", "data.x"),
    ({"data": {"quantity": 1, "x": "a\x00"}}, "bad_text", "data.x"),
    ({"data": {"quantity": 1, "\ud800": 1}}, "bad_text", "data"),
    ({"data": {"quantity": 1, "x": "y" * MAX_PROPERTIES_BYTES}}, "properties_too_large", "data"),
    ({"data": {"quantity": 1, "x": [0] * MOST_VALUES}}, "properties_too_large", "data"),
]  # fmt: skip


@cases(("changes", "code", "at"), WRONG)
def test_cloudevent_invalid_attribute_is_rejected_with_code_and_place(
    changes: dict[str, Any], code: str, at: str
) -> None:
    found = read(event(**changes))
    assert isinstance(found, Unfit) and (found.code, found.at) == (code, at), found


OWN_WRONG: Final[list[tuple[dict[str, Any], str, str]]] = [
    ({"quantitiy": 3}, "unknown_field", "quantitiy"), ({"event_id": ...}, "missing", "event_id"),
    ({"org_id": ...}, "missing", "org_id"), ({"properties": []}, "wrong_type", "properties"),
    ({"occurred_at": True}, "bad_time", "occurred_at"), ({"occurred_at": -1}, "bad_time", "occurred_at"),
    ({"occurred_at": NOW // 1000}, "too_old", "occurred_at"), ({"occurred_at": 1.5}, "bad_time", "occurred_at"),
    ({"occurred_at": 10**15}, "bad_time", "occurred_at"), ({"plan_key": 1}, "wrong_type", "plan_key"),
]  # fmt: skip


@cases(("changes", "code", "at"), OWN_WRONG)
def test_envelope_invalid_field_is_rejected_with_code_and_place(changes: dict[str, Any], code: str, at: str) -> None:
    found = read(own(**changes))
    assert isinstance(found, Unfit) and (found.code, found.at) == (code, at), found


def test_cloudevents_body_with_other_envelope_is_rejected() -> None:
    for kind in (EVENT, BATCH):
        found = read([own()] if kind == BATCH else own(), kind)
        assert isinstance(found, Unfit) and (found.code, found.at) == ("missing", "specversion")


def test_event_properties_too_deep_are_rejected() -> None:
    def nested(levels: int) -> dict[str, Any]:
        found: Any = 1
        for _ in range(levels):
            found = {"a": found}
        return event(data={"quantity": 1, "x": found})

    assert isinstance(read(nested(MAX_DEPTH - 2)), ReceivedEvent)
    found = read(nested(MAX_DEPTH - 1))
    assert isinstance(found, Unfit) and found.code == "too_deep"


def test_event_properties_are_stored_as_sent() -> None:
    text = b'{"quantity": 1, "a": 0.1, "b": 2.0, "c": [1, null, true], "d": {"e": "x"}, "f": 123456789012345678901}'
    item = json.dumps(event()).encode().replace(json.dumps(event()["data"]).encode(), text)
    found = read(item)
    assert isinstance(found, ReceivedEvent)
    expected = {"a": 0.1, "b": 2.0, "c": [1, None, True], "d": {"e": "x"}, "f": 123456789012345678901}
    assert found.event.properties == expected and json.loads(found.event.properties_json) == expected
    for number in (b"1e400", b"-1e9999"):
        wrong = read(item.replace(b"0.1", number))
        assert isinstance(wrong, Unfit) and (wrong.code, wrong.at) == ("bad_number", "data.a")


@cases(
    ("text", "ms"),
    [
        ("2026-02-03T04:05:06Z", 0), ("2026-02-03t04:05:06z", 0), ("2026-02-03 04:05:06Z", 0),
        ("2026-02-03T05:05:06+01:00", 0), ("2026-02-02T20:05:06-0800", 0), ("2026-02-03T04:05:06.7Z", 700),
        ("2026-02-03T04:05:06.789999999Z", 789), ("2026-02-03T04:05:06,001Z", 1),
    ],
)  # fmt: skip
def test_event_time_is_exact_to_millisecond(text: str, ms: int) -> None:
    assert moment_of(text, "time") == 1_770_091_506_000 + ms


def test_event_leap_second_is_end_of_its_minute() -> None:
    assert moment_of("2016-12-31T23:59:60Z", "time") == moment_of("2016-12-31T23:59:59.999Z", "time")


def test_event_hostile_field_name_is_rejected() -> None:
    for kind, item in ((JSON, own(**{"\ud800" * 5000: 1})), (JSON, own(**{"a\x1b[2J": 1}))):
        found = read(item, kind)
        assert isinstance(found, Unfit) and found.code in ("unknown_field", "too_large")


def test_events_in_array_are_answered_in_order() -> None:
    wrong: list[Callable[[], Any]] = [lambda: event(id=7), lambda: 3, lambda: event(data={"quantity": 1.5})]
    items = [event(id=f"e{n}") if n % 2 else wrong[n % 3]() for n in range(1_000)]
    found = [stated(one) for one in cloudevents.parse_events(json.dumps(items).encode(), JSON, {}, None, NOW)]
    assert [isinstance(one, ReceivedEvent) for one in found] == [bool(n % 2) for n in range(1_000)]
    assert [one.event.event_id for one in found if isinstance(one, ReceivedEvent)] == [
        f"e{n}" for n in range(1, 1_000, 2)
    ]


RECORDED: Final = {
    "structured": (
        {"content-type": "application/cloudevents+json"},
        b'{"id": "c2-1", "source": "/web", "type": "page.render", "specversion": "1.0", "subject": "acme", '
        b'"time": "2026-01-01T00:00:01Z", "datacontenttype": "application/json", "data": {"quantity": 3}}',
    ),
    "binary": (
        {"ce-id": "c2-1", "ce-source": "/web", "ce-type": "page.render", "ce-specversion": "1.0",
         "ce-subject": "acme", "ce-time": "2026-01-01T00:00:01Z", "content-type": "application/json"},
        b'{"quantity": 3}',
    ),
}  # fmt: skip
"""What `to_structured_event` and `to_binary_event` of the official package cloudevents 2.2.0 write of one event. It and
version 1, which `tests/contract/test_senders.py` sends with, cannot be installed together."""


@pytest.mark.parametrize("way", RECORDED)
def test_event_of_official_package_version_2_is_accepted(way: str) -> None:
    headers, body = RECORDED[way]
    found = stated(*cloudevents.parse_events(body, headers["content-type"], headers, None, NOW))
    assert isinstance(found, ReceivedEvent)
    event = found.event
    assert (event.source, event.event_id, event.event_type, event.org_id) == ("/web", "c2-1", "page.render", "acme")
    assert (event.quantity, event.occurred_ms, found.has_time) == (3, 1_767_225_601_000, True)
