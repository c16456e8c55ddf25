"""/v1/guard/overrides: programs ask for more than a plan allows, and see what became of it. /admin/overrides: a
person's word on it, by a signed request. The functions of `drawdown override`.

Guarantee: a program asks for an organisation alone, and nothing counts before a person approved it. The same again asks
for nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.schema.audit import By
from drawdown.server.api.admin import Signed
from drawdown.server.api.described import operation
from drawdown.server.api.guard import models
from drawdown.server.api.models import DecideOrder
from drawdown.server.api.programs import Programs, Said
from drawdown.server.http.errors import ApiError
from drawdown.server.http.threads import Threads
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard.overrides import OverrideRow, Terms, Word

PATH = "/v1/guard/overrides"
SCOPE = "guard"
WORDS: Mapping[str, Word] = {"approve": "approve", "refuse": "refuse", "end": "end"}


class Overrides:
    """The routes of programs."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        asked = operation(
            models.OverrideShown, 400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503,
            body=models.OverrideAsk, scope=SCOPE,
        )  # fmt: skip
        router.add_api_route(PATH, self.ask, methods=["POST"], **asked)
        listed = operation(
            models.OverridesAnswer, 401, 403, 404, 422, 429, 500, 503, query=models.OverridesQuery, scope=SCOPE
        )
        router.add_api_route(PATH, self.list, methods=["GET"], **listed)
        return router

    async def ask(self, request: Request) -> JSONResponse:
        """Ask that an organisation may use more of a metric for a while: it counts once a person approves it."""
        return await self._programs.act(request, SCOPE, models.OverrideAsk, _ask)

    async def list(self, request: Request) -> JSONResponse:
        """What was asked for or made for an organisation itself: what waits first, then what is in force."""
        return await self._programs.ask(request, SCOPE, models.OverridesQuery, _list)


async def decide(
    threads: Threads, now_ms: int, number: str, word: str, signed: Signed[DecideOrder]
) -> Mapping[str, object]:
    """Approve, refuse or end an override. Errors: ApiError, DrawdownError."""
    if word not in WORDS or not (number.isascii() and number.isdecimal() and len(number) <= models.NUMBER_DIGITS):
        raise ApiError(404, "unknown_override", "POST /admin/overrides/NUMBER/approve, refuse or end")
    by = By(now_ms, signed.order.actor, signed.order.reason, "http")

    def work(connection: sa.Connection) -> OverrideRow:
        signed.use_up(connection)
        row, _ = guard_overrides.decide(connection, int(number), WORDS[word], by)
        return row

    return shown(await threads.write(work), now_ms)


def _ask(connection: sa.Connection, order: models.OverrideAsk, said: Said) -> Mapping[str, object]:
    terms = Terms(order.metric, "org", said.require_org(order.org), order.period, order.amount, order.ends_ms)
    row, _ = guard_overrides.add(connection, terms, said.by(order.reason), asked=True)
    return shown(row, said.now_ms)


def _list(connection: sa.Connection, query: models.OverridesQuery, said: Said) -> Mapping[str, object]:
    org = said.require_org(query.org)
    rows = guard_overrides.list_overrides(
        connection, query.metric or "", said.now_ms, query.most, everything=query.all, org_id=org
    )
    return {"overrides": [shown(row, said.now_ms) for row in rows]}


def shown(row: OverrideRow, now_ms: int) -> dict[str, object]:
    """An `OverrideShown`."""
    return {**vars(row), "state": "over" if row.is_over(now_ms) else row.state}
