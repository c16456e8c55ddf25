"""POST /v1/events, and the same as OpenMeter's clients send it: usage of any product, each event taken once.

Guarantee: what was answered `accepted` is committed. An event that says no time is dated when it first comes; sent
again it is the same event, and no conflict, also where both are under way at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from drawdown.events import cloudevents
from drawdown.events.cloudevents import Given
from drawdown.events.envelope import Unfit, UsageEvent
from drawdown.server.api.described import operation
from drawdown.server.http.errors import ApiError
from drawdown.server.usage import intake_models as models
from drawdown.server.usage.intake import Intake, Result, Sent, Taker, result_of
from drawdown.worker.sources.events.store import names_of, take, times

SCOPE: Final = "events:write"
MOST_SAID: Final = 20
"""Items of one refused batch that are named in its one error."""
_WELL: Final = ("accepted", "duplicate", "pending")


def _read(sent: Sent) -> Iterable[Given | Unfit]:
    return cloudevents.given(sent.body, sent.content_type, sent.headers, sent.key.org_id, sent.now_ms)


def _store(connection: sa.Connection, found: Sequence[Given], sent: Sent) -> Sequence[Result]:
    """A key that is bound to an organisation speaks for that alone."""
    org_id = sent.key.org_id
    own = org_id is not None
    timeless = [one.event for one in found if not one.has_time]
    if not timeless:
        taken = take(connection, [one.event for one in found], sent.now_ms, own=own, types_of=org_id)
    for _ in timeless:  # somebody else may send some of them at once, and date them first: each turn knows of one more
        known = times(connection, timeless, own=own)
        again = connection.begin_nested()
        names = names_of([one.event for one in found], own=own)
        dated = [_dated(one, known.get((name, one.event.org_id))) for one, name in zip(found, names, strict=True)]
        taken = take(connection, dated, sent.now_ms, own=own, types_of=org_id)
        if (
            all(one.status != "conflict" for one in taken)
            or times(connection, timeless, own=own).keys() == known.keys()
        ):
            break
        again.rollback()
    return [result_of(one) for one in taken]


def _dated(given: Given, then_ms: int | None) -> UsageEvent:
    return given.event if given.has_time or then_ms is None else replace(given.event, occurred_ms=then_ms)


EVENTS: Final = Taker("events", SCOPE, cloudevents.TYPES, _read, lambda given: given.event.org_id, _store)


class Events:
    """The routes."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        known = (400, 401, 403, 408, 413, 415, 429, 500, 503)
        described = operation(models.TakenAnswer, *known, scope=SCOPE, bodies=models.EVENT_BODIES)
        router.add_api_route("/v1/events", self.take, methods=["POST"], **described)
        described = operation(None, *known, 422, scope=SCOPE, bodies=models.OPENMETER_BODIES, empty=True)
        router.add_api_route("/api/v1/events", self.take_as_openmeter, methods=["POST"], **described)
        return router

    async def take(self, request: Request) -> JSONResponse:
        """Take usage events: one, or up to 1,000. Each is answered for itself, in order; whoever lost the answer sends
        the same again."""
        found = await self._intake.take(request, EVENTS)
        return JSONResponse({"results": [one.said() for one in found]})

    async def take_as_openmeter(self, request: Request) -> Response:
        """Take CloudEvents as OpenMeter does: 204 where all are taken. Where some are not, the others are."""
        found = await self._intake.take(request, EVENTS)
        wrong = [{"item": at, **one.said()} for at, one in enumerate(found) if one.status not in _WELL]
        if wrong:
            message = f"{len(wrong)} of {len(found)} events were not taken: mend them; the others are in"
            raise ApiError(422, "bad_items", message, details={"results": wrong[:MOST_SAID]})
        return Response(status_code=204)
