"""GET /v1/usage: what an organisation used, as `drawdown usage` says it. Guarantee: reads only."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.server.api.described import operation
from drawdown.server.api.programs import Programs, Said
from drawdown.server.http.errors import bad_value
from drawdown.server.usage import usage_models as models
from drawdown.worker.catalog.mapping import MB_SECONDS, SECONDS, UNITS
from drawdown.worker.usage.lists import Place, UsageRow, until_now, usage_page

UNITS_THERE_ARE: Final = (SECONDS, MB_SECONDS, UNITS)
SCOPE: Final = "usage:read"


class UsageRoutes:
    """The route."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        known = (401, 403, 404, 409, 422, 429, 500, 503)
        described = operation(models.UsageAnswer, *known, query=models.UsageQuery, scope=SCOPE)
        router.add_api_route("/v1/usage/{org:id}", self.usage, methods=["GET"], **described)
        return router

    async def usage(self, org: str, request: Request) -> JSONResponse:
        """What an organisation used, and what of it is sealed, by feature, day, sandbox, project or subject."""
        return await self._programs.ask(request, SCOPE, models.UsageQuery, partial(_usage, org=org))


def _usage(connection: sa.Connection, query: models.UsageQuery, said: Said, *, org: str) -> Mapping[str, object]:
    to_ms = until_now(said.now_ms) if query.to_ms is None else query.to_ms
    after = None if query.after is None else _place(query.after)
    found, is_more = usage_page(
        connection, said.require_org(org), query.from_ms, to_ms, query.by, most=query.most, after=after
    )
    carried = [vars(one) for one in found.carried]
    more = _name(found.rows[-1]) if is_more else None
    return {**vars(found), "rows": [vars(row) for row in found.rows], "carried": carried, "next": more}


def _name(row: UsageRow) -> str:
    """No feature has a colon in its name, and no unit."""
    return f"{row.feature}:{row.unit}:{row.what}"


def _place(name: str) -> Place:
    """Where the page after the row of this name begins. Errors: ApiError 422."""
    feature, _, rest = name.partition(":")
    unit, colon, what = rest.partition(":")
    if not colon or unit not in UNITS_THERE_ARE:
        raise bad_value("after", "`after` is `next` of a page: begin anew without it")
    return Place(what, feature, unit)
