"""The envelope as JSON, and its JSON Schema, for programs in other languages.

Guarantee: pure. The schema is made from the fields of `UsageEvent` and its bounds: `usage-event.schema.json` here is
what `envelope_schema` gives, which a test holds. What a schema cannot say (the bytes of `properties`, times far ahead)
is refused where the event is taken.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final, get_args, get_type_hints

from drawdown.events.envelope import MAX_PROPERTIES_BYTES, MAX_QUANTITY, UsageEvent
from drawdown.schema.units import MAX_ID_CHARS

TIME: Final = "occurred_ms"
TIME_SAID: Final = "occurred_at"
_UNCLEAN: Final = "[\\u0000-\\u001f\\u007f-\\u009f\\ud800-\\udfff\\ufffd-\\uffff]"
_MOMENT: Final = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$"
_SAYS: Final[Mapping[str, str]] = {
    "source": "Who sends it; with event_id, its key.",
    "event_id": "Its own, within its source: the same again is the same event.",
    "event_type": "What was done; a mapping makes a feature of it.",
    "org_id": "Who used it.",
    "quantity": "In base units: a sender scales what it counts in parts.",
    "subject": "A label of what or who used it within the organisation.",
    "project": "A label by which usage is listed.",
    "plan_key": "The plan as it was then; never looked up later.",
    "properties": f"Its own, {MAX_PROPERTIES_BYTES} bytes as JSON at most; not billed by.",
    TIME_SAID: "When: ISO 8601 with its offset, or milliseconds since 1970. Without it, the time of arrival.",
}


def as_json(event: UsageEvent) -> dict[str, Any]:
    """An event as it is sent: without what it does not say."""
    told = {field.name: getattr(event, field.name) for field in fields(event) if field.name != TIME}
    said = {name: value for name, value in told.items() if value not in (None, {})}
    moment = datetime.fromtimestamp(event.occurred_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return {**said, TIME_SAID: f"{moment}.{event.occurred_ms % 1000:03d}Z"}


def envelope_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one event."""
    hints = get_type_hints(UsageEvent)
    said = {(TIME_SAID if name == TIME else name): _field(name, hint) for name, hint in hints.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "UsageEvent",
        "description": "One act of use. The same key with the same content is one event, however often it is sent.",
        "type": "object",
        "properties": {name: {"description": _SAYS[name], **rules} for name, rules in said.items()},
        "required": [name for name, hint in hints.items() if hint in (str, int) and name != TIME],
        "additionalProperties": False,
    }


def _field(name: str, hint: object) -> dict[str, Any]:
    if name == TIME:
        return {"anyOf": [{"type": "string", "pattern": _MOMENT}, {"type": "integer", "minimum": 0}]}
    text = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS, "not": {"pattern": _UNCLEAN}}
    if hint is str:
        return text
    if hint is int:
        return {"type": "integer", "minimum": 0, "maximum": MAX_QUANTITY}
    if str in get_args(hint) and types.NoneType in get_args(hint):
        return {"anyOf": [text, {"type": "null"}]}
    return {"type": "object"}
