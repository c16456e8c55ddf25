"""POST /v1/samples: what hosts observed, for hosts that have no way to the database.

Guarantee: a sample that comes so is judged, stored and told apart from a second one as a sample of a file is. A key
that is bound to a cell writes samples of no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.events.cloudevents import JSON, LINES, items
from drawdown.events.envelope import Unfit, named_in
from drawdown.events.reading import told
from drawdown.server.api.described import operation
from drawdown.server.usage import intake_models as models
from drawdown.server.usage.intake import Intake, Result, Sent, Taker, answer, result_of
from drawdown.worker.sources.samples.rows import Sample, sample_of
from drawdown.worker.usage.host_samples import take_samples

SCOPE: Final = "samples:write"


def _read(sent: Sent) -> Iterator[Sample | Unfit]:
    for item in items(sent.body, sent.content_type):
        if isinstance(item, Unfit):
            yield item
            continue
        try:
            yield sample_of(item, sent.key.org_id, sent.key.cell_id, sent.now_ms)
        except Unfit as error:
            error.named = named_in(item, "cell_id", "id")
            yield told(error)


def _store(connection: sa.Connection, found: Sequence[Sample], sent: Sent) -> Sequence[Result]:
    return [result_of(one) for one in take_samples(connection, found, f"http:{sent.key.name}", sent.now_ms)]


SAMPLES: Final = Taker(
    "samples", SCOPE, (JSON, LINES), _read, lambda sample: sample[1], lambda sample: (sample[3], sample[0]), _store
)


class Samples:
    """The route."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        known = (400, 401, 403, 408, 413, 415, 429, 500, 503)
        also = models.OTHER_ANSWERS
        described = operation(models.TakenAnswer, *known, scope=SCOPE, bodies=models.SAMPLE_BODIES, also=also)
        router.add_api_route("/v1/samples", self.take, methods=["POST"], **described)
        return router

    async def take(self, request: Request) -> JSONResponse:
        """Take samples: one, or up to 1,000. Each is answered for itself, in order; whoever lost the answer sends the
        same again."""
        return answer(await self._intake.take(request, SAMPLES))
