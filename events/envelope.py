"""The envelope of usage events, its JSON and its JSON Schema.

The envelope has the fields of every usage event, from any product.

Guarantee: this module is pure. The database accepts every event that is made here. Any other item has a fault with a
code and a place, which do not contain the wrong value. Its message may quote the start of the value. Numbers are
integers of base units, so an adapter scales the fractions of its product. The schema is derived from the fields of
`UsageEvent` and its bounds. A test checks that `usage-event.schema.json` here is the result of `envelope_schema`.
Faults that a schema cannot express (the bytes of `properties`, times far in the future) are rejected when the event
arrives.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, TypeAlias, get_args, get_type_hints

from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import quote_value
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS, MAX_ID_CHARS

MAX_QUANTITY: Final = 10**12
"""Most base units of one event.

Nine million such events in a window still fit in 64 bits.
"""
MAX_PROPERTIES_BYTES: Final = 4_096
"""Most bytes of the properties of one usage event, as JSON."""

_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

Named: TypeAlias = tuple[str | None, str | None]
"""The source and id that an item states, if they are valid ids."""


class Unfit(UsageError):
    """Raised for an item that is not a usage event.

    `code`: the fault. `at`: its place in the item (a path; empty: the whole item). `named`: the source and id that the
    item states.
    """

    at: str

    def __init__(self, code: str, text: str, at: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.at = at
        self.named: Named = (None, None)


def named_in(item: Mapping[str, object], source: str, name: str) -> Named:
    """Return the source and the id in an item's fields of these names.

    Each is None if it is not a valid id.
    """
    first, second = (
        found if isinstance(found, str) and is_clean_id(found) else None for found in (item.get(source), item.get(name))
    )
    return first, second


@dataclass(frozen=True)
class UsageEvent:
    """An act of use that a product reports.

    `source` and `event_id` together are its key. `quantity`: base units of its type. `occurred_ms`: milliseconds since
    1970. `subject`, `project` and `plan_key`: labels at the time of the event, never looked up again. Errors: Unfit,
    for contents that are never valid (`require_time` checks the time).
    """

    source: str
    event_id: str
    event_type: str
    org_id: str
    quantity: int
    occurred_ms: int
    subject: str | None = None
    project: str | None = None
    plan_key: str | None = None
    properties: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = (self.source, self.event_id, self.event_type, self.org_id)
        labels = (one for one in (self.subject, self.project, self.plan_key) if one is not None)
        if not all(map(is_clean_id, (*ids, *labels))):
            self._refuse_ids()
        if not 0 <= self.quantity <= MAX_QUANTITY:
            raise Unfit(
                "bad_quantity",
                f"invalid quantity {quote_value(self.quantity)}: expected a whole number from 0 to {MAX_QUANTITY:,}",
                "quantity",
            )
        try:
            size = len(self.properties_json.encode())
        except (TypeError, ValueError, RecursionError):
            raise Unfit(
                "bad_properties", "invalid properties: expected values of JSON in valid UTF-8", "properties"
            ) from None
        if size > MAX_PROPERTIES_BYTES:
            raise Unfit(
                "properties_too_large",
                f"properties too large: at most {MAX_PROPERTIES_BYTES:,} bytes are allowed. Send fewer properties",
                "properties",
            )

    @cached_property
    def properties_json(self) -> str:
        """Return the properties as stored JSON, always the same text for the same content."""
        return _ENCODER.encode(self.properties) if self.properties else "{}"

    def require_time(self, now_ms: int) -> None:
        """Reject an event with an impossible time.

        Errors: Unfit `too_old` (before 2000, so probably in a wrong unit), `in_the_future` (more than five minutes from
        now).
        """
        if self.occurred_ms < EARLIEST_TS:
            raise Unfit(
                "too_old",
                f"invalid time {quote_value(self.occurred_ms)}: it is before 2000. Check the time and its unit",
                "time",
            )
        if self.occurred_ms > now_ms + FUTURE_SLACK_MS:
            raise Unfit(
                "in_the_future",
                f"invalid time {quote_value(self.occurred_ms)}: it is over five minutes ahead. Check the clock of the "
                "sender",
                "time",
            )

    def _refuse_ids(self) -> None:
        for name in ("source", "event_id", "event_type", "org_id", "subject", "project", "plan_key"):
            text = getattr(self, name)
            if text is not None and not is_clean_id(text):
                raise Unfit(
                    "bad_id",
                    f"invalid {name} {quote_value(text)}: expected 1 to 200 characters, without control characters and "
                    "U+FFFD to U+FFFF",
                    name,
                )


TIME: Final = "occurred_ms"
TIME_SAID: Final = "occurred_at"
_UNCLEAN: Final = "[\\u0000-\\u001f\\u007f-\\u009f\\ud800-\\udfff\\ufffd-\\uffff]"
_MOMENT: Final = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$"
_SAYS: Final[Mapping[str, str]] = {
    "source": "Sender of the event. Source and event_id together identify the event.",
    "event_id": "Id of the event within its source. A repeat with this id is the same event.",
    "event_type": "Type of the act. A mapping gives each type a feature.",
    "org_id": "Organisation to which the usage belongs.",
    "quantity": "Quantity in whole base units. To send fractions, count in a smaller unit.",
    "subject": "Label for the user or part of the organisation.",
    "project": "Label by which Drawdown lists usage.",
    "plan_key": "Plan at the time of use, as the sender knows it.",
    "properties": f"Your own properties, at most {MAX_PROPERTIES_BYTES} bytes as JSON. They do not change the bill.",
    TIME_SAID: "Time of use: ISO 8601 with its offset, or milliseconds since 1970. The time of arrival if omitted.",
}


def as_json(event: UsageEvent) -> dict[str, Any]:
    """Return an event as it is sent, without its empty fields."""
    told = {field.name: getattr(event, field.name) for field in fields(event) if field.name != TIME}
    said = {name: value for name, value in told.items() if value not in (None, {})}
    moment = datetime.fromtimestamp(event.occurred_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return {**said, TIME_SAID: f"{moment}.{event.occurred_ms % 1000:03d}Z"}


def envelope_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of one event."""
    hints = get_type_hints(UsageEvent)
    said = {(TIME_SAID if name == TIME else name): _field(name, hint) for name, hint in hints.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "UsageEvent",
        "description": "One act of use. A repeat with the same key and content is the same event.",
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
