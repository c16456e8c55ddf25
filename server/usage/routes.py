"""Serve GET /v1/usage: an organisation's usage, as in `drawdown usage`.

Guarantee: this route only reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Final, Literal

import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.ledger.calendar import start_of
from drawdown.schema.text import quote_value
from drawdown.server.api.models import MOST_ROWS, EpochMs
from drawdown.server.api.openapi import operation
from drawdown.server.api.programs import Caller, Programs
from drawdown.server.http.errors import bad_value
from drawdown.worker.catalog.mapping import MB_SECONDS, SECONDS, UNITS
from drawdown.worker.usage.lists import Place, UsageRow, until_now, usage_page

UNITS_THERE_ARE: Final = (SECONDS, MB_SECONDS, UNITS)
SCOPE: Final = "usage:read"


class UsageRoutes:
    """The route for usage."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        known = (401, 403, 404, 409, 422, 429, 500, 503)
        described = operation(UsageAnswer, *known, query=UsageQuery, scope=SCOPE)
        router.add_api_route("/v1/usage/{org_id:id}", self.usage, methods=["GET"], **described)
        return router

    async def usage(self, org_id: str, request: Request) -> JSONResponse:
        """Return an organisation's usage, by feature, day, sandbox, project or subject."""
        return await self._programs.ask(request, SCOPE, UsageQuery, partial(_usage, org_id=org_id))


def _usage(connection: sa.Connection, query: UsageQuery, said: Caller, *, org_id: str) -> Mapping[str, object]:
    from_ms = start_of(said.now_ms) if query.from_ms is None else query.from_ms
    to_ms = until_now(said.now_ms) if query.to_ms is None else query.to_ms
    after = None if query.after is None else _place(query.after)
    found, is_more = usage_page(
        connection, said.require_org(org_id), from_ms, to_ms, query.by, most=query.most, after=after
    )
    carried = [vars(one) for one in found.carried]
    more = _name(found.rows[-1]) if is_more else None
    return {**vars(found), "rows": [vars(row) for row in found.rows], "carried": carried, "next": more}


def _name(row: UsageRow) -> str:
    """Return the name of a row for the field `next`.

    A feature and a unit cannot contain a colon, so the name is unique.
    """
    return f"{row.feature}:{row.unit}:{row.group}"


def _place(name: str) -> Place:
    """Return the place after the row of this name. Errors: ApiError 422."""
    feature, _, rest = name.partition(":")
    unit, colon, group = rest.partition(":")
    if not colon or unit not in UNITS_THERE_ARE:
        raise bad_value(
            "after", f"invalid `after` {quote_value(name)}: expected `next` of a page. Omit `after` for the first page"
        )
    return Place(group, feature, unit)


FROM: Final = "The start of the first window. By default the first of this month, in UTC"
TO: Final = "The end of the last window. By default the end of the current one"


class UsageQuery(BaseModel):
    """The range of the usage, and the page to return.

    The range has the windows that start at `from_ms` or later, and before `to_ms`. `after`: `next` of the previous
    page.
    """

    model_config = ConfigDict(extra="forbid")

    from_ms: Annotated[EpochMs | None, Field(description=FROM)] = None
    to_ms: Annotated[EpochMs | None, Field(description=TO)] = None
    by: Literal["feature", "day", "sandbox", "project", "subject"] = "feature"
    most: Annotated[int, Field(ge=1, le=MOST_ROWS)] = MOST_ROWS
    after: Annotated[str, Field(max_length=300)] | None = None


class UsageRowAnswer(BaseModel):
    """Base units of a feature: seconds (`s`), MB-seconds (`mb_s`) or `units`.

    `group`: the day, sandbox, project or subject; empty if the group is unknown or pruned. `feature`: empty if the
    usage is not mapped to a feature yet. `sealed`: the sealed quantity; null if pushes do not distinguish the groups.
    """

    group: str
    feature: str
    unit: str
    used: int
    sealed: int | None


class CarriedAnswer(BaseModel):
    """Sealed base units that wait for a whole unit of their provider.

    `quantity` is negative if more was sent than is sealed.
    """

    provider: str
    customer_id: str
    feature: str
    quantity: int


USAGE_EXAMPLE: Final[JsonDict] = {
    "org_id": "acme",
    "by": "day",
    "from_ms": 1_770_076_800_000,
    "to_ms": 1_770_163_200_000,
    "pruned": False,
    "rows": [{"group": "2026-02-03", "feature": "render", "unit": "units", "used": 3, "sealed": 3}],
    "carried": [],
    "next": None,
}


class UsageAnswer(BaseModel):
    """An organisation's usage.

    `pruned`: True if samples at the start of the range were pruned. For these samples, `used` is the sealed quantity.
    `next`: the `after` of the next page; null on the last page.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [USAGE_EXAMPLE]})

    org_id: str
    by: str
    from_ms: int
    to_ms: int
    pruned: bool
    rows: list[UsageRowAnswer]
    carried: list[CarriedAnswer]
    next: str | None
