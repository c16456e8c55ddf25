"""What events and samples look like, for the description of the routes; the routes themselves read them one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from drawdown.events import cloudevents, reading
from drawdown.events.envelope import MAX_QUANTITY
from drawdown.schema.units import MAX_ID_CHARS, MAX_INTERVAL_S, MAX_MEMORY_MB
from drawdown.server.api.models import ErrorBody

Schema = Mapping[str, object]


class ItemAnswer(BaseModel):
    """What became of one item. `accepted`: it is kept. `duplicate`: it was kept before. `pending`: it is kept, and
    billed once what `code` names is mended. `conflict`: its id was kept with other content. `invalid`: it is not kept;
    `at` says where it is wrong. `id`: the item's own, where it has one that can be read."""

    status: Literal["accepted", "duplicate", "pending", "conflict", "invalid"]
    id: str | None = None
    code: str | None = None
    message: str | None = None
    at: str | None = None


class TakenAnswer(BaseModel):
    """One result for each item, in their order. 200: the server has each. 207: it has some. 422: it has none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "results": [
                        {"status": "accepted", "id": "render-1"},
                        {
                            "status": "invalid",
                            "id": "render-2",
                            "code": "not_whole",
                            "message": "…",
                            "at": "data.quantity",
                        },
                    ]
                }
            ]
        }
    )

    results: list[ItemAnswer]


class UntakenAnswer(TakenAnswer):
    """Of a body of which nothing was kept."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {"code": "bad_items", "message": "the item was not kept: the results say why"},
                    "results": [{"status": "invalid", "code": "not_whole", "message": "…", "at": "data.quantity"}],
                }
            ]
        }
    )

    error: ErrorBody


OTHER_ANSWERS: Final[Mapping[int, type[BaseModel]]] = {207: TakenAnswer, 422: UntakenAnswer}


_ID: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS}
_MOMENT: Final[Schema] = {
    "oneOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "description": "Milliseconds since 1970"}]
}
_QUANTITY: Final[Schema] = {
    "description": "A whole number of base units; also as the text of one",
    "oneOf": [{"type": "integer", "minimum": 0, "maximum": MAX_QUANTITY}, {"type": "string", "pattern": "^[0-9]+$"}],
}
EXAMPLE: Final[Schema] = {
    "specversion": "1.0", "id": "render-1", "source": "/web", "type": "page.render", "subject": "acme",
    "time": "2026-02-03T04:05:06Z", "data": {"quantity": 3, "project": "site", "model": "small"},
}  # fmt: skip
OWN_EXAMPLE: Final[Schema] = {
    "source": "/web", "event_id": "render-2", "event_type": "page.render", "org_id": "acme", "quantity": 3,
    "occurred_at": "2026-02-03T04:05:06Z", "project": "site", "properties": {"model": "small"},
}  # fmt: skip
SAMPLE_EXAMPLE: Final[Schema] = {
    "id": "cell-1:1767225600", "org_id": "acme", "sandbox_id": "sb-1", "cell_id": "cell-1", "memory_mb": 1024,
    "cpu_count": 2, "interval_s": 60, "ts": "2026-02-03T04:05:06Z",
}  # fmt: skip
EVENT: Final[Schema] = {
    "type": "object",
    "description": "A CloudEvent. The organisation is the subject, unless the key is bound to one: then the subject is "
    "a label. Without a time, it is dated when it first comes. Extension attributes are not kept.",
    "required": ["specversion", "id", "source", "type", "data"],
    "properties": {
        "specversion": {"const": cloudevents.VERSION},
        **dict.fromkeys(("id", "source", "type", "subject"), _ID),
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"type": "string"},
        "data": {
            "type": "object",
            "description": "The quantity, the project, the plan; whatever else is there is kept beside them.",
            "required": ["quantity"],
            "properties": {"quantity": _QUANTITY, "project": _ID, "plan": _ID},
        },
    },
}
OWN: Final[Schema] = {
    "type": "object",
    "description": "An event by the names of the envelope. `org_id` may be missing where the key is bound to one.",
    "required": ["source", "event_id", "event_type", "quantity"],
    "additionalProperties": False,
    "properties": {
        **dict.fromkeys(("source", "event_id", "event_type", "org_id", "subject", "project", "plan_key"), _ID),
        "quantity": _QUANTITY,
        "occurred_at": _MOMENT,
        "recorded_at": {
            **_MOMENT,
            "description": "When it was recorded, of an event without occurred_at: one that is "
            "recorded again is the same event",
        },
        "properties": {"type": "object"},
    },
}
SAMPLE: Final[Schema] = {
    "type": "object",
    "description": "A sample. `org_id` and `cell_id` may be missing where the key is bound to one.",
    "required": ["id", "sandbox_id", "memory_mb", "interval_s", "ts"],
    "additionalProperties": False,
    "properties": {
        **dict.fromkeys(("id", "org_id", "sandbox_id", "cell_id"), _ID),
        "memory_mb": {"type": "integer", "minimum": 0, "maximum": MAX_MEMORY_MB},
        "cpu_count": {"type": ["number", "null"], "minimum": 0},
        "interval_s": {"type": "integer", "minimum": 0, "maximum": MAX_INTERVAL_S},
        "ts": _MOMENT,
    },
}


def _many(schema: Schema) -> Schema:
    return {"type": "array", "maxItems": reading.MOST_ITEMS, "items": schema}


EITHER: Final[Schema] = {"oneOf": [EVENT, OWN]}


def _lines(what: str, example: Schema) -> Schema:
    schema = {"type": "string", "description": f"One {what} on each line"}
    return {"schema": schema, "example": f"{json.dumps(example)}\n"}


EVENT_BODIES: Final[Mapping[str, Schema]] = {
    cloudevents.JSON: {"schema": {"oneOf": [*EITHER["oneOf"], _many(EITHER)]}, "example": OWN_EXAMPLE},  # type: ignore[misc]
    cloudevents.EVENT: {"schema": EVENT, "example": EXAMPLE},
    cloudevents.BATCH: {"schema": _many(EVENT), "example": [EXAMPLE]},
    cloudevents.LINES: _lines("event", OWN_EXAMPLE),
}
OPENMETER_BODIES: Final = {
    name: EVENT_BODIES[name] for name in (cloudevents.EVENT, cloudevents.BATCH, cloudevents.JSON)
}
SAMPLE_BODIES: Final[Mapping[str, Schema]] = {
    cloudevents.JSON: {"schema": {"oneOf": [SAMPLE, _many(SAMPLE)]}, "example": SAMPLE_EXAMPLE},
    cloudevents.LINES: _lines("sample", SAMPLE_EXAMPLE),
}
