"""/v1/guard/{org}/options: the ways out of a block, which of them is open, and the call, link or command that takes it.

Guarantee: reads only. It is the same as `drawdown guard options` shows (`worker/guard/ways`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.server.api.described import operation
from drawdown.server.api.gate import iso
from drawdown.server.api.guard import models
from drawdown.server.api.programs import Programs, Said
from drawdown.server.services import Services
from drawdown.worker.guard.terms import Wish
from drawdown.worker.guard.ways import told

PATH = "/v1/guard/{org:id}/options"
SCOPE = "guard"


class Options:
    """The route."""

    def __init__(self, services: Services, programs: Programs) -> None:
        self._services = services
        self._programs = programs

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        known = (401, 403, 404, 422, 429, 500, 503)
        described = operation(models.OptionsAnswer, *known, query=models.OptionsQuery, scope=SCOPE)
        router.add_api_route(PATH, self.options, methods=["GET"], **described)
        return router

    async def options(self, org: str, request: Request) -> JSONResponse:
        """What an organisation can do where the guard blocks it: top up, sponsor, request an override, run locally."""
        work = partial(_options, org=org, page=self._services.settings.my_page)
        return await self._programs.ask(request, SCOPE, models.OptionsQuery, work)


def _options(
    connection: sa.Connection, query: models.OptionsQuery, said: Said, *, org: str, page: str
) -> Mapping[str, object]:
    wish = Wish(said.require_org(org), query.metric, query.amount, payer=query.payer)
    found = told(connection, wish, page, said.now_ms)
    return {**vars(found), "options": [vars(way) for way in found.options], "as_of": iso(found.as_of_ms)}
