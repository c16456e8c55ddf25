"""Serve POST /v1/events and POST /v1/samples: usage of programs and hosts.

/api/v1/events takes events as OpenMeter's clients send them.

Guarantee: an `accepted` item is committed once. An event without a time gets the time of its first receipt. A repeat is
a duplicate, not a conflict, even if both arrive at the same time. Drawdown handles a sample from HTTP as it handles a
sample from a file. A key that is bound to a cell writes samples of that cell only. The models describe bodies and
answers. The routes validate items one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from drawdown.events import body_items, cloudevents
from drawdown.events.body_items import drop_traceback
from drawdown.events.cloudevents import JSON, LINES, ReceivedEvent, items
from drawdown.events.envelope import MAX_QUANTITY, Named, Unfit, UsageEvent, named_in
from drawdown.events.fields import MOMENT_SCHEMA
from drawdown.schema.ids import ID_SCHEMA
from drawdown.schema.text import clean, counted, quote_value
from drawdown.server.api.models import ErrorBody
from drawdown.server.api.openapi import operation
from drawdown.server.api.programs import for_programs
from drawdown.server.http.errors import SOON, ApiError
from drawdown.server.usage.intake import KEPT, Intake, ReceivedBody, Result, Taker, answer, result_of, unfit
from drawdown.worker.sources.events import store, types
from drawdown.worker.sources.events.store import EventResult, names_of, take, times
from drawdown.worker.sources.events.types import Bringer
from drawdown.worker.sources.samples.rows import SAMPLE_FIELDS, Sample, sample_of
from drawdown.worker.usage.host_samples import take_samples

EVENTS_SCOPE: Final = "events:write"
MOST_SAID: Final = 20
"""Items that the error of one refused batch names."""
MOST_TURNS: Final = 10
"""Attempts to store a batch.

An attempt fails if another request dates some of its events first, or if a floor rises meanwhile.
"""
Key: TypeAlias = tuple[str, str]
"""An event's name and its organisation."""


def _read_events(sent: ReceivedBody) -> Iterable[ReceivedEvent | Unfit]:
    key = sent.key
    return cloudevents.parse_events(sent.body, sent.content_type, sent.headers, key.org_id, sent.now_ms, key.source)


def _store_events(connection: sa.Connection, given: Sequence[ReceivedEvent], sent: ReceivedBody) -> Sequence[Result]:
    """Store events, each with the value that its type declares, if any."""
    named = {one.event.event_type for one in given}
    values = types.values(connection, named)
    if not values and not any(one.wrong for one in given):
        stored = _store_counted(connection, given, sent)
    else:
        counted = [one.counted(values.get(one.event.event_type)) for one in given]
        fit = [one for one in counted if not isinstance(one, Unfit)]
        answers = iter(_store_counted(connection, fit, sent) if fit else ())
        stored = [unfit(one) if isinstance(one, Unfit) else next(answers) for one in counted]
    types.require_values(connection, named, values)
    return [_with_payer(one, found) for one, found in zip(given, stored, strict=True)]


LABEL: Final = "subject_is_label"


def _with_payer(given: ReceivedEvent, found: Result) -> Result:
    """Return the outcome, with a note if the subject is not the payer.

    If a key is bound to an organisation, that organisation pays for events of any subject.
    """
    if not given.other_subject or found.code is not None:
        return found
    org, subject = given.event.org_id, clean(given.event.subject or "")
    text = f"{org} pays, because the key is bound to it. The subject {subject} is only a label"
    return replace(found, code=LABEL, message=text)


def _store_counted(connection: sa.Connection, found: Sequence[ReceivedEvent], sent: ReceivedBody) -> Sequence[Result]:
    """Store events, each with its organisation.

    A key that is bound to an organisation adds event types for that organisation only. Errors: ApiError 503 if
    concurrent requests send the same events.
    """
    org_id = sent.key.org_id
    own = org_id is not None
    types_by = Bringer(org_id=org_id) if own else Bringer(key_name=sent.key.name, source=sent.key.source)
    timeless = [one.event for one in found if not one.has_time]
    # Most batches have only events with a time, which need no keys.
    asked = list(zip(found, _keys_of(found, own=own), strict=True)) if timeless else []
    known = times(connection, timeless, own=own) if timeless else {}
    for _ in range(MOST_TURNS):
        turn = connection.begin_nested()
        dated = [_dated(one, known.get(key)) for one, key in asked] if timeless else [one.event for one in found]
        taken = take(connection, dated, sent.now_ms, own=own, types_by=types_by)
        if not store.hold(connection, [(one.org_id, one.occurred_ms) for one in dated], taken, sent.now_ms):
            turn.rollback()  # the floor rose, so the next attempt refuses items below it
            continue
        doubtful = _in_doubt(asked, taken) - known.keys() if timeless else set()
        others = times(connection, [one.event for one, key in asked if key in doubtful], own=own) if doubtful else {}
        if not others:
            return [result_of(_for_programs(one)) for one in taken]
        turn.rollback()
        known |= others
    message = "a concurrent request sends the same events. No item was stored. Send the request again"
    raise ApiError(503, "busy", message, headers=SOON)


def _keys_of(found: Sequence[ReceivedEvent], *, own: bool) -> list[Key]:
    events = [one.event for one in found]
    return [(name, one.org_id) for name, one in zip(names_of(events, own=own), events, strict=True)]


def _for_programs(taken: EventResult) -> EventResult:
    return taken if taken.message is None else replace(taken, message=for_programs(taken.message))


def _in_doubt(asked: Sequence[tuple[ReceivedEvent, Key]], taken: Sequence[EventResult]) -> set[Key]:
    """Return events without a time that are in conflict.

    Another request may have dated these events first. The result excludes an event that this batch stored, because its
    conflict is with another item of the batch.
    """
    told = [(key, one.has_time, answer.status) for (one, key), answer in zip(asked, taken, strict=True)]
    in_conflict = {key for key, has_time, status in told if status == "conflict" and not has_time}
    return in_conflict - {key for key, _, status in told if status in ("accepted", "pending")}


def _dated(given: ReceivedEvent, then_ms: int | None) -> UsageEvent:
    return given.event if given.has_time or then_ms is None else replace(given.event, occurred_ms=then_ms)


def _named(given: ReceivedEvent) -> Named:
    return given.event.source, given.event.event_id


EVENTS: Final = Taker(
    "events", EVENTS_SCOPE, cloudevents.TYPES, _read_events, lambda given: given.event.org_id, _named, _store_events
)


class Events:
    """The routes for events."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        known = (400, 401, 403, 408, 413, 415, 429, 500, 503)
        also = OTHER_ANSWERS
        described = operation(TakenAnswer, *known, scope=EVENTS_SCOPE, bodies=EVENT_BODIES, also=also)
        router.add_api_route("/v1/events", self.take, methods=["POST"], **described)
        described = operation(None, *known, 422, scope=EVENTS_SCOPE, bodies=OPENMETER_BODIES, empty=True)
        router.add_api_route("/api/v1/events", self.take_as_openmeter, methods=["POST"], **described)
        return router

    async def take(self, request: Request) -> JSONResponse:
        """Take 1 to 1,000 usage events, and return the outcome of each event, in order.

        If the response is lost, send the same events again.
        """
        return answer(await self._intake.take(request, EVENTS))

    async def take_as_openmeter(self, request: Request) -> Response:
        """Take CloudEvents like OpenMeter, and answer 204 if all events are stored.

        If Drawdown rejects some events, it stores the others, and answers 422.
        """
        found = await self._intake.take(request, EVENTS)
        wrong = [{"item": at, **one.to_json()} for at, one in enumerate(found) if one.status not in KEPT]
        if wrong:
            message = (
                f"Drawdown refused {len(wrong)} of {counted(len(found), 'event')}, and stored the others. Fix the "
                "refused events, and send them again"
            )
            raise ApiError(422, "bad_items", message, details={"results": wrong[:MOST_SAID]})
        return Response(status_code=204)


SAMPLES_SCOPE: Final = "samples:write"


def _read_samples(sent: ReceivedBody) -> Iterator[Sample | Unfit]:
    """Read the samples of a body.

    If a key has an organisation and a source, its samples' ids must begin with the source and a colon. So one key
    cannot use the ids of another key.
    """
    key = sent.key
    begins = f"{key.source}:" if key.org_id is not None and key.source is not None else ""
    for item in items(sent.body, sent.content_type):
        if isinstance(item, Unfit):
            yield item
            continue
        try:
            sample = sample_of(item, key.org_id, key.cell_id, sent.now_ms)
            if not sample[0].startswith(begins):
                raise Unfit(
                    "foreign_source",
                    f"invalid id {quote_value(sample[0])}: expected an id that begins with {begins}, for the key's "
                    "source",
                    "id",
                )
            yield sample
        except Unfit as error:
            error.named = named_in(item, "cell_id", "id")
            yield drop_traceback(error)


def _store_samples(connection: sa.Connection, found: Sequence[Sample], sent: ReceivedBody) -> Sequence[Result]:
    return [result_of(one) for one in take_samples(connection, found, f"http:{sent.key.name}", sent.now_ms)]


SAMPLES: Final = Taker(
    "samples",
    SAMPLES_SCOPE,
    (JSON, LINES),
    _read_samples,
    lambda sample: sample[1],
    lambda sample: (sample[3], sample[0]),
    _store_samples,
)


class Samples:
    """The route for samples."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        known = (400, 401, 403, 408, 413, 415, 429, 500, 503)
        also = OTHER_ANSWERS
        described = operation(TakenAnswer, *known, scope=SAMPLES_SCOPE, bodies=SAMPLE_BODIES, also=also)
        router.add_api_route("/v1/samples", self.take, methods=["POST"], **described)
        return router

    async def take(self, request: Request) -> JSONResponse:
        """Take 1 to 1,000 samples, and return the outcome of each sample, in order.

        If the response is lost, send the same samples again.
        """
        return answer(await self._intake.take(request, SAMPLES))


Schema = Mapping[str, object]


class ItemAnswer(BaseModel):
    """The outcome of one item.

    `accepted`: Drawdown stored the item. `duplicate`: Drawdown stored it before. `pending`: Drawdown stored it, and
    bills it after the fault in `code` is fixed. `conflict`: its id was used with different content. `invalid`: Drawdown
    rejected it; `at` is the place of the fault. `id`: the item's own id, if it can be read.
    """

    status: Literal["accepted", "duplicate", "pending", "conflict", "invalid"]
    id: str | None = None
    code: str | None = None
    message: str | None = None
    at: str | None = None


class TakenAnswer(BaseModel):
    """The outcomes of the items, in order.

    The status is 200 if the server stored all items, 207 if it stored some items, and 422 if it rejected all items.
    """

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
    """The response to a body without any stored item."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "code": "bad_items",
                        "message": "Drawdown did not keep the item. `results` has the reason",
                    },
                    "results": [{"status": "invalid", "code": "not_whole", "message": "…", "at": "data.quantity"}],
                }
            ]
        }
    )

    error: ErrorBody


OTHER_ANSWERS: Final[Mapping[int, type[BaseModel]]] = {207: TakenAnswer, 422: UntakenAnswer}


_QUANTITY: Final[JsonDict] = {
    "description": "A whole number of base units, as a number or as text",
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
    "description": "A CloudEvent. The organisation is the subject. If the key is bound to an organisation, the "
    "subject is "
    "a label. If the key is bound to a source, you may omit `source`. Without a time, the event has the time of its "
    "first arrival. Drawdown does not keep extension attributes.",
    "required": ["specversion", "id", "type"],
    "properties": {
        "specversion": {"const": cloudevents.VERSION},
        **dict.fromkeys(("id", "source", "type", "subject"), ID_SCHEMA),
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"type": "string"},
        "data": {
            "type": "object",
            "description": "The quantity, project and plan. Drawdown also keeps other fields. If an "
            "operator declared a value for the type, Drawdown bills that value, and you may omit the quantity.",
            "properties": {"quantity": _QUANTITY, "project": ID_SCHEMA, "plan": ID_SCHEMA},
        },
    },
}
PROPERTIES: Final[JsonDict] = {
    **dict.fromkeys(("source", "event_id", "event_type", "org_id", "subject", "project", "plan_key"), ID_SCHEMA),
    "quantity": _QUANTITY,
    "occurred_at": MOMENT_SCHEMA,
    "recorded_at": {
        **MOMENT_SCHEMA,
        "description": "Time of the record, for an event without occurred_at. An event that "
        "is recorded again is the same event",
    },
    "properties": {"type": "object"},
}
OWN: Final[Schema] = {
    "type": "object",
    "description": "An event with the field names of the envelope. You may omit `org_id` and `source` if the key "
    "is bound "
    "to them.",
    "required": ["event_id", "event_type"],
    "additionalProperties": False,
    "properties": PROPERTIES,
}
SAMPLE: Final[Schema] = {
    "type": "object",
    "description": "A sample. You may omit `org_id` and `cell_id` if the key is bound to them.",
    "required": ["id", "sandbox_id", "memory_mb", "interval_s", "ts"],
    "additionalProperties": False,
    "properties": {name: one.schema for name, one in SAMPLE_FIELDS.items()},
}


def _many(schema: Schema) -> Schema:
    return {"type": "array", "maxItems": body_items.MOST_ITEMS, "items": schema}


EITHER: Final[Schema] = {"oneOf": [EVENT, OWN]}


def _lines_schema(what: str, example: Schema) -> Schema:
    schema = {"type": "string", "description": f"One {what} on each line"}
    return {"schema": schema, "example": f"{json.dumps(example)}\n"}


EVENT_BODIES: Final[Mapping[str, Schema]] = {
    cloudevents.JSON: {"schema": {"oneOf": [*EITHER["oneOf"], _many(EITHER)]}, "example": OWN_EXAMPLE},  # type: ignore[misc]
    cloudevents.EVENT: {"schema": EVENT, "example": EXAMPLE},
    cloudevents.BATCH: {"schema": _many(EVENT), "example": [EXAMPLE]},
    cloudevents.LINES: _lines_schema("event", OWN_EXAMPLE),
}
OPENMETER_BODIES: Final = {
    name: EVENT_BODIES[name] for name in (cloudevents.EVENT, cloudevents.BATCH, cloudevents.JSON)
}
SAMPLE_BODIES: Final[Mapping[str, Schema]] = {
    cloudevents.JSON: {"schema": {"oneOf": [SAMPLE, _many(SAMPLE)]}, "example": SAMPLE_EXAMPLE},
    cloudevents.LINES: _lines_schema("sample", SAMPLE_EXAMPLE),
}
