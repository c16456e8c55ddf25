"""POST /v1/events, and the same as OpenMeter's clients send it: usage of any product, each event taken once.

Guarantee: what was answered `accepted` is committed. An event that says no time is dated when it first comes; sent
again it is the same event, and no conflict, also where both are under way at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from drawdown.events import cloudevents
from drawdown.events.cloudevents import Given
from drawdown.events.envelope import Named, Unfit, UsageEvent
from drawdown.server.api.described import operation
from drawdown.server.http.errors import SOON, ApiError
from drawdown.server.usage import intake_models as models
from drawdown.server.usage.intake import KEPT, Intake, Result, Sent, Taker, answer, result_of
from drawdown.worker.sources.events import store
from drawdown.worker.sources.events.store import Taken, names_of, take, times
from drawdown.worker.sources.events.types import Bringer

SCOPE: Final = "events:write"
MOST_SAID: Final = 20
"""Items of one refused batch that are named in its one error."""
MOST_TURNS: Final = 10
"""In which a batch is taken: each after the first, as others who sent some of the same events (which say no time) at
once were first, or as a floor was raised meanwhile."""
Key: TypeAlias = tuple[str, str]
"""An event's name, and its organisation."""


def _read(sent: Sent) -> Iterable[Given | Unfit]:
    key = sent.key
    return cloudevents.given(sent.body, sent.content_type, sent.headers, key.org_id, sent.now_ms, key.source)


def _store(connection: sa.Connection, found: Sequence[Given], sent: Sent) -> Sequence[Result]:
    """A key that is bound to an organisation speaks for that alone."""
    org_id = sent.key.org_id
    own = org_id is not None
    types_by = Bringer(org_id=org_id) if own else Bringer(key_name=sent.key.name, source=sent.key.source)
    timeless = [one.event for one in found if not one.has_time]
    # Keys are made for those alone: a batch whose events all have their times is what is taken most.
    asked = list(zip(found, _keys_of(found, own=own), strict=True)) if timeless else []
    known = times(connection, timeless, own=own) if timeless else {}
    for _ in range(MOST_TURNS):
        turn = connection.begin_nested()
        dated = [_dated(one, known.get(key)) for one, key in asked] if timeless else [one.event for one in found]
        taken = take(connection, dated, sent.now_ms, own=own, types_by=types_by)
        if not store.hold(connection, [(one.org_id, one.occurred_ms) for one in dated], taken, sent.now_ms):
            turn.rollback()  # what the floor was raised past is told so
            continue
        doubtful = _in_doubt(asked, taken) - known.keys() if timeless else set()
        others = times(connection, [one.event for one, key in asked if key in doubtful], own=own) if doubtful else {}
        if not others:
            return [result_of(one) for one in taken]
        turn.rollback()
        known |= others
    message = "others send the same events at this moment; nothing was taken: send it again"
    raise ApiError(503, "busy", message, headers=SOON)


def _keys_of(found: Sequence[Given], *, own: bool) -> list[Key]:
    events = [one.event for one in found]
    return [(name, one.org_id) for name, one in zip(names_of(events, own=own), events, strict=True)]


def _in_doubt(asked: Sequence[tuple[Given, Key]], taken: Sequence[Taken]) -> set[Key]:
    """Those without a time that are in conflict, maybe only since somebody else who sends them dated them first. Of one
    that went in here, it is another item of the same batch that says otherwise."""
    told = [(key, one.has_time, answer.status) for (one, key), answer in zip(asked, taken, strict=True)]
    in_conflict = {key for key, has_time, status in told if status == "conflict" and not has_time}
    return in_conflict - {key for key, _, status in told if status in ("accepted", "pending")}


def _dated(given: Given, then_ms: int | None) -> UsageEvent:
    return given.event if given.has_time or then_ms is None else replace(given.event, occurred_ms=then_ms)


def _named(given: Given) -> Named:
    return given.event.source, given.event.event_id


EVENTS: Final = Taker("events", SCOPE, cloudevents.TYPES, _read, lambda given: given.event.org_id, _named, _store)


class Events:
    """The routes."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        known = (400, 401, 403, 408, 413, 415, 429, 500, 503)
        also = models.OTHER_ANSWERS
        described = operation(models.TakenAnswer, *known, scope=SCOPE, bodies=models.EVENT_BODIES, also=also)
        router.add_api_route("/v1/events", self.take, methods=["POST"], **described)
        described = operation(None, *known, 422, scope=SCOPE, bodies=models.OPENMETER_BODIES, empty=True)
        router.add_api_route("/api/v1/events", self.take_as_openmeter, methods=["POST"], **described)
        return router

    async def take(self, request: Request) -> JSONResponse:
        """Take usage events: one, or up to 1,000. Each is answered for itself, in order; whoever lost the answer sends
        the same again."""
        return answer(await self._intake.take(request, EVENTS))

    async def take_as_openmeter(self, request: Request) -> Response:
        """Take CloudEvents as OpenMeter does: 204 where all are taken. Where some are not, the others are."""
        found = await self._intake.take(request, EVENTS)
        wrong = [{"item": at, **one.said()} for at, one in enumerate(found) if one.status not in KEPT]
        if wrong:
            message = f"{len(wrong)} of {len(found)} events were not taken: mend them; the others are in"
            raise ApiError(422, "bad_items", message, details={"results": wrong[:MOST_SAID]})
        return Response(status_code=204)
