"""Read usage events as they are sent.

They are CloudEvents 1.0, or objects with the field names of Drawdown's envelope.

Guarantee: this module is pure. Each item becomes one usage event, or one `Unfit` with a code and a place. If a sender
repeats an event, the result is the same event. Extension attributes, which a tracing library changes with each attempt,
are dropped. This module does not use the official `cloudevents` package. That package accepts repeated names and
numbers that JSON does not allow, reads all numbers as floats, and rejects a batch for one invalid event.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final
from urllib.parse import unquote

from drawdown.events import body_items
from drawdown.events.body_items import Item
from drawdown.events.envelope import Unfit, UsageEvent, named_in
from drawdown.events.fields import moment_of, optional_text, properties_of, quantity_of, text_of
from drawdown.events.values import COUNT, EventValue
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import clean, quote_value

JSON: Final = "application/json"
EVENT: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
LINES: Final = "application/x-ndjson"
TYPES: Final = (JSON, EVENT, BATCH, LINES)
"""Content types of bodies that Drawdown reads."""
VERSION: Final = "1.0"

OWN: Final = frozenset(
    {"source", "event_id", "event_type", "org_id", "subject", "project", "plan_key", "quantity", "occurred_at",
     "recorded_at", "properties"}
)  # fmt: skip
"""The field names of the envelope.

Other names are rejected, because they are probably mistyped.
"""

_PLACES: Final = {
    "event_id": "id", "event_type": "type", "org_id": "subject", "project": "data.project", "plan_key": "data.plan",
    "properties": "data",
}  # fmt: skip
"""The CloudEvents names of the envelope's fields, for error messages."""
_COUNTED: Final = ("data", "data.quantity", "data.project", "data.plan")
"""Places with faults that the value of the event's type may remove."""
_OWN_PLACES: Final = {"time": "occurred_at"}
_HEADER: Final = "ce-"
_JSON_DATA: Final = re.compile(r"(?:application|text)/(?:[a-z0-9.-]+\+)?json", re.IGNORECASE)


@dataclass(frozen=True)
class ReceivedEvent:
    """An event as it was sent.

    `has_time`: True if the sender stated when the use occurred. If False, the time is that at which the sender recorded
    the event, or that of its arrival. If the sender repeats such an event, Drawdown uses the time of the first arrival.
    `wrong`: a fault that the value of its type may remove, such as a missing quantity (None: no such fault). The
    quantity is then 0 until `counted` sets it. `again`: reads the event again, with the value of its type.
    """

    event: UsageEvent
    has_time: bool
    wrong: Unfit | None = field(default=None, compare=False)
    again: Again | None = field(default=None, compare=False, repr=False)
    other_subject: bool = False
    """True if a CloudEvent's subject differs from the organisation that its sender is bound to.

    False for an unbound sender, because the subject then is the organisation.
    """

    def counted(self, value: EventValue | None) -> ReceivedEvent | Unfit:
        """Return the event with its quantity, by the value of its type.

        `value` None: the type does not have a value. An event without a quantity is then Unfit.
        """
        if value is not None and self.again is not None:
            return self.again(value)
        if self.wrong is None or self.wrong.code != "missing":
            return self.wrong or self
        hint = (
            f"If {clean(self.event.event_type)} does not have events yet, you can run `drawdown feature map-event` "
            "with --sum PATH or --count"
        )
        found = Unfit("missing", f"{self.wrong}. {hint}", self.wrong.at)
        found.named = self.wrong.named
        return found


Again = Callable[[EventValue | None], ReceivedEvent | Unfit]


def parse_events(
    body: bytes,
    content_type: str,
    headers: Mapping[str, str],
    org_id: str | None,
    now_ms: int,
    source: str | None = None,
) -> Iterator[ReceivedEvent | Unfit]:
    """Yield the events of a body, in order.

    `headers`: names in lower case; a repeated header occurs twice. `org_id`, `source`: the organisation and source that
    the sender is bound to, if any. An event without a source has that source. Errors: Unreadable, even after some
    events. Then also reject those events.
    """
    for one in _each(body, content_type, headers, org_id, now_ms, source):
        if isinstance(one, ReceivedEvent) and source is not None and one.event.source != source:
            yield _foreign(one, source)
        else:
            yield one


def _foreign(one: ReceivedEvent, source: str) -> Unfit:
    text = f"this key is bound to the source {source}. Use that source, or another key"
    error = Unfit("foreign_source", text, "source")
    error.named = one.event.source, one.event.event_id
    return body_items.drop_traceback(error)


def _each(
    body: bytes, content_type: str, headers: Mapping[str, str], org_id: str | None, now_ms: int, source: str | None
) -> Iterator[ReceivedEvent | Unfit]:
    kind = type_of(content_type)
    if kind == JSON and is_binary(headers):
        found = _binary(body, headers)
        yield found if isinstance(found, Unfit) else _read(_sourced(found, source), EVENT, org_id, now_ms)
        return
    for item in items(body, content_type):
        yield item if isinstance(item, Unfit) else _read(_sourced(item, source), kind, org_id, now_ms)


def _sourced(item: Item, source: str | None) -> Item:
    """Return an item with the source of its sender, if it has no source."""
    return item if source is None or item.get("source") is not None else {**item, "source": source}


def of_use(item: Item, org_id: str, now_ms: int, source: str | None) -> ReceivedEvent:
    """Return the event that a use emits, by the field names of the envelope.

    `source`: as in `parse_events`. Errors: Unfit.
    """
    found = _by_value(item, False, org_id, now_ms, None)
    if isinstance(found, ReceivedEvent) and source is not None and found.event.source != source:
        found = _foreign(found, source)
    if isinstance(found, Unfit):
        raise found
    return found


def is_binary(headers: Mapping[str, str]) -> bool:
    """Return True if an event's attributes are in the headers.

    Its data are JSON, even without a Content-Type.
    """
    return f"{_HEADER}specversion" in headers


def type_of(content_type: str) -> str:
    """Return a Content-Type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def items(body: bytes, content_type: str) -> Iterator[Item | Unfit]:
    """Return the items of a body of this type. Errors: Unreadable."""
    kind = type_of(content_type)
    if kind == LINES:
        return body_items.read_lines(body)
    if kind == BATCH or (kind == JSON and body_items.is_array(body)):
        return body_items.array(body)
    return iter([body_items.one(body)])


def _binary(body: bytes, headers: Mapping[str, str]) -> Item | Unfit:
    """Read an event in binary mode.

    Its attributes are in headers, percent-encoded. Its data is the body.
    """
    data = body_items.one(body)
    if isinstance(data, Unfit):
        return data
    pairs = [(name.removeprefix(_HEADER), _header(text)) for name, text in headers.items() if name.startswith(_HEADER)]
    given = dict(pairs)
    if len(given) != len(pairs):
        return Unfit("duplicate_keys", "an attribute occurs in two headers. Keep one of them")
    return {**given, "data": data}


def _header(text: str) -> str:
    """Return the text of a header.

    A header is read byte by byte, because some senders write UTF-8 into it without encoding.
    """
    try:
        return unquote(text.encode("latin-1").decode())
    except ValueError:
        return unquote(text)


def _read(item: Item, kind: str, org_id: str | None, now_ms: int) -> ReceivedEvent | Unfit:
    """Read an event.

    If the event does not state a quantity, read it with 0, because the value of its type is unknown here.
    """
    is_cloudevent = kind in (EVENT, BATCH) or "specversion" in item
    again = partial(_by_value, item, is_cloudevent, org_id, now_ms)
    found = again(None, again)
    if not isinstance(found, Unfit):
        return found
    if found.at not in (_COUNTED if is_cloudevent else ("quantity",)) or (
        found.code != "missing" and not is_cloudevent
    ):
        return found
    stated: Item = {**item, "data": {"quantity": 0}} if is_cloudevent else {**item, "quantity": 0}
    empty = _by_value(stated, is_cloudevent, org_id, now_ms, None)
    return found if isinstance(empty, Unfit) else replace(empty, wrong=found, again=again)


def _by_value(
    item: Item,
    is_cloudevent: bool,
    org_id: str | None,
    now_ms: int,
    value: EventValue | None,
    again: Again | None = None,
) -> ReceivedEvent | Unfit:
    try:
        found = (_of_cloudevent if is_cloudevent else _of_envelope)(item, org_id, now_ms, value, again)
        found.event.require_time(now_ms)
    except Unfit as error:
        error.at = (_PLACES if is_cloudevent else _OWN_PLACES).get(error.at, error.at)
        error.named = named_in(item, "source", "id" if is_cloudevent else "event_id")
        return body_items.drop_traceback(error)
    return found


def _of_cloudevent(
    item: Item, org_id: str | None, now_ms: int, value: EventValue | None, again: Again | None
) -> ReceivedEvent:
    """Read a CloudEvent. Errors: Unfit.

    The organisation is the subject. If the sender is bound to an organisation, the subject is a label.
    """
    if text_of(item, "specversion", "specversion") != VERSION:
        raise Unfit(
            "bad_specversion",
            f"invalid specversion {quote_value(item['specversion'])}: expected {VERSION}",
            "specversion",
        )
    source, event_id, event_type = (text_of(item, name, name) for name in ("source", "id", "type"))
    subject = optional_text(item, "subject", "subject") if org_id else text_of(item, "subject", "subject")
    data = _data_of(item, value)
    project, plan = _label(data, "project", value), _label(data, "plan", value)
    labels = {"project": project, "plan": plan}
    own = {"quantity", *labels} if value is None else {name for name, label in labels.items() if label is not None}
    rest = {name: found for name, found in data.items() if name not in own}
    when = item.get("time")
    event = UsageEvent(
        source=source,
        event_id=event_id,
        event_type=event_type,
        org_id=org_id or subject or "",
        quantity=value.quantity(data, "data") if value else quantity_of(data.get("quantity"), "data.quantity"),
        occurred_ms=now_ms if when is None else moment_of(text_of(item, "time", "time"), "time"),
        subject=subject if org_id else None,
        project=project,
        plan_key=plan,
        properties=properties_of(rest, "data"),
    )
    other = event.subject not in (None, org_id)
    return ReceivedEvent(event, has_time=when is not None, again=again, other_subject=other)


def _label(data: Item, name: str, value: EventValue | None) -> str | None:
    """Return the label of a name in the data; None if there is none. Errors: Unfit.

    If the type has a value, the data are a product's own, so the name can mean something else. In that case, only a
    valid id counts.
    """
    if value is not None and not (isinstance(found := data.get(name), str) and is_clean_id(found)):
        return None
    return optional_text(data, name, f"data.{name}")


def _data_of(item: Item, value: EventValue | None) -> Item:
    """Return the data of a CloudEvent. Errors: Unfit `bad_data`, `missing`."""
    kind = optional_text(item, "datacontenttype", "datacontenttype")
    if "data_base64" in item or (kind is not None and not _JSON_DATA.fullmatch(kind.partition(";")[0].strip())):
        raise Unfit("bad_data", "invalid data: expected a JSON object, with datacontenttype application/json", "data")
    data = item.get("data")
    if data is None and value is not None and value.aggregation == COUNT:
        return {}
    if data is None:
        raise Unfit("missing", "missing data: expected a JSON object with the quantity", "data")
    if not isinstance(data, dict):
        raise Unfit("bad_data", "invalid data: expected a JSON object", "data")
    return data


def _of_envelope(
    item: Item, org_id: str | None, now_ms: int, value: EventValue | None, again: Again | None
) -> ReceivedEvent:
    """Read an event of the envelope.

    A stated quantity counts, even if its type has a value. Errors: Unfit.
    """
    if not item.keys() <= OWN:
        name = next(name for name in item if name not in OWN)
        cloud = (
            "For a CloudEvent, add specversion. For your own event, use"
            if again is not None and name in ("id", "type", "time", "data")
            else "Use"
        )
        raise Unfit(
            "unknown_field", f"unknown field {quote_value(name)}. {cloud} one of: {', '.join(sorted(OWN))}", name
        )
    named = optional_text(item, "org_id", "org_id")
    if org_id is not None and named not in (None, org_id):
        raise Unfit("foreign_org", f"this key or use is for {org_id}. Use that organisation, or another key", "org_id")
    found = item.get("properties")
    if found is not None and not isinstance(found, dict):
        raise Unfit("wrong_type", "invalid properties: expected a JSON object", "properties")
    when, at = item.get("occurred_at"), "occurred_at"
    has_time = when is not None
    if when is None:
        when, at = item.get("recorded_at"), "recorded_at"
    event = UsageEvent(
        source=text_of(item, "source", "source"),
        event_id=text_of(item, "event_id", "event_id"),
        event_type=text_of(item, "event_type", "event_type"),
        org_id=org_id or text_of(item, "org_id", "org_id"),
        quantity=quantity_of(item.get("quantity"), "quantity")
        if value is None or item.get("quantity") is not None
        else value.quantity(found or {}, "properties"),
        occurred_ms=now_ms if when is None else moment_of(when, at),
        subject=optional_text(item, "subject", "subject"),
        project=optional_text(item, "project", "project"),
        plan_key=optional_text(item, "plan_key", "plan_key"),
        properties=properties_of(found or {}, "properties"),
    )
    return ReceivedEvent(event, has_time=has_time, again=again)
