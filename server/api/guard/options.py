"""/v1/guard/{org}/options: the ways out of a block, which of them is open, and the call, link or command that takes it.

Guarantee: reads only. What is open is decided by the functions of the guard itself (`worker/commands/guard_options`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.schema.units import in_credits
from drawdown.server.api.described import operation
from drawdown.server.api.gate import iso
from drawdown.server.api.guard import models, overrides
from drawdown.server.api.programs import Programs, Said
from drawdown.server.services import Services
from drawdown.worker.commands.guard_facts import Wish
from drawdown.worker.commands.guard_options import Way, ways_out

PATH = "/v1/guard/{org:id}/options"
SCOPE = "guard"
CONSUME = "/v1/guard/consume"


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
    found = ways_out(connection, wish, said.now_ms)
    kept = {name: getattr(found.answer, name) for name in ("decision", "would", "rule", "reason", "metric", "amount")}
    ways = [_shown(way, wish, found.answer.payer or org, page) for way in found.ways]
    return {"org_id": org, **kept, "options": ways, "as_of": iso(found.answer.as_of_ms)}


def _shown(way: Way, wish: Wish, payer: str, page: str) -> dict[str, object]:
    """A `WayOut`."""
    call, command = _call(way, wish), _command(way, wish, payer)
    missing = None if way.missing_micro is None else in_credits(way.missing_micro)
    return {
        "option": way.option,
        "open": way.is_open,
        "code": way.code,
        "said": way.said,
        "call": call,
        "link": (page or None) if way.is_open and way.option in ("top_up", "request_override") else None,
        "command": command,
        "payers": list(way.payers),
        "at": way.at,
        "missing": missing,
        "missing_micro": way.missing_micro,
        "asked": way.asked,
    }


def _call(way: Way, wish: Wish) -> dict[str, object] | None:
    """What a program sends, besides a key of the use."""
    body: dict[str, str | int] = {"org": wish.org_id, "metric": wish.metric}
    if way.option == "sponsor" and way.payers:
        return {"method": "POST", "path": CONSUME, "body": {**body, "amount": wish.amount, "payer": way.payers[0]}}
    if way.option == "request_override" and way.override is not None:
        return {"method": "POST", "path": overrides.PATH, "body": {**body, **vars(way.override)}}
    return None


def _command(way: Way, wish: Wish, payer: str) -> str | None:
    """What an operator does."""
    if way.option == "top_up" and way.is_open and way.at is None:
        return shlex.join(("drawdown", "ledger", "grant", payer, "CREDITS"))
    if way.option == "sponsor" and way.code == "no_sponsor":
        return shlex.join(("drawdown", "payer", "allow", "PAYER", wish.org_id))
    if way.option == "request_override" and way.asked:
        return shlex.join(("drawdown", "override", "list", "--metric", wish.metric))
    return None
