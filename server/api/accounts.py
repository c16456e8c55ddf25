"""/v1/accounts: an organisation's wallet, its entries and its statement, for programs. /v1/balance and /v1/ledger are
short names of the same. Guarantee: reads only."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.ledger.pools import MOST_PAYERS
from drawdown.schema.units import in_credits
from drawdown.server.api import account_models
from drawdown.server.api import run_models as models
from drawdown.server.api.described import operation
from drawdown.server.api.programs import Programs, Said, both_units
from drawdown.worker.wallets.accounts import EntryRow, account_of, list_entries, list_lots, payer_of
from drawdown.worker.wallets.entries import forecast_of
from drawdown.worker.wallets.pools import PayerRow, list_payers
from drawdown.worker.wallets.statement import as_object, of_org, span_of

SCOPE: Final = "ledger:read"


class Accounts:
    """The routes."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        known = (401, 403, 404, 422, 429, 500, 503)
        entries = operation(models.EntriesAnswer, *known, query=models.EntriesQuery, scope=SCOPE)
        for path in ("/v1/accounts/{org:id}/ledger", "/v1/ledger/{org:id}"):
            router.add_api_route(path, self.entries, methods=["GET"], **entries)
        lots = operation(account_models.LotsAnswer, *known, query=models.MostQuery, scope=SCOPE)
        router.add_api_route("/v1/accounts/{org:id}/lots", self.lots, methods=["GET"], **lots)
        statement = operation(account_models.StatementAnswer, *known, query=account_models.StatementQuery, scope=SCOPE)
        router.add_api_route("/v1/accounts/{org:id}/statement", self.statement, methods=["GET"], **statement)
        account = operation(account_models.AccountAnswer, *known, scope=SCOPE)
        for path in ("/v1/accounts/{org:id}", "/v1/balance/{org:id}"):
            router.add_api_route(path, self.account, methods=["GET"], **account)
        return router

    async def entries(self, org: str, request: Request) -> JSONResponse:
        """What moved an organisation's wallet, the latest first, page by page."""
        return await self._programs.ask(request, SCOPE, models.EntriesQuery, partial(_entries, org=org))

    async def lots(self, org: str, request: Request) -> JSONResponse:
        """What credit an organisation's wallet was given, in the order of its use, and what became of it."""
        return await self._programs.ask(request, SCOPE, models.MostQuery, partial(_lots, org=org))

    async def statement(self, org: str, request: Request) -> JSONResponse:
        """What moved an organisation's wallet in a month, added up."""
        query = account_models.StatementQuery
        return await self._programs.ask(request, SCOPE, query, partial(_statement, org=org))

    async def account(self, org: str, request: Request) -> JSONResponse:
        """What an organisation's wallet has, and what of it is reserved."""
        return await self._programs.ask(request, SCOPE, models.NoQuery, partial(_account, org=org))


def _account(connection: sa.Connection, _query: models.NoQuery, said: Said, *, org: str) -> Mapping[str, object]:
    found = account_of(connection, payer_of(connection, said.require_org(org), said.now_ms), said.now_ms)
    ends = forecast_of(connection, found.customer_id, found.available_micro, said.now_ms)
    payers = [_payer(one) for one in list_payers(connection, "", org, said.now_ms, MOST_PAYERS) if one.allowed]
    return {"org_id": org, **both_units(vars(found)), "payers": payers, "forecast": ends.said()}


def _payer(row: PayerRow) -> dict[str, object]:
    amounts = {"limit": row.limit_micro, "spent": row.spent_micro}
    credits = {name: None if micro is None else in_credits(micro) for name, micro in amounts.items()}
    return {"payer": row.payer, **credits, **{f"{name}_micro": micro for name, micro in amounts.items()}}


def _entries(connection: sa.Connection, query: models.EntriesQuery, said: Said, *, org: str) -> Mapping[str, object]:
    customer = payer_of(connection, said.require_org(org), said.now_ms)
    found = list_entries(connection, customer, query.most + 1, query.after)
    page = found[: query.most]
    more = page[-1].key if len(found) > len(page) else None
    return {"org_id": org, "customer_id": customer, "entries": [_entry(row) for row in page], "next": more}


def _lots(connection: sa.Connection, query: models.MostQuery, said: Said, *, org: str) -> Mapping[str, object]:
    customer = payer_of(connection, said.require_org(org), said.now_ms)
    found = list_lots(connection, customer, said.now_ms)
    shown = [both_units(vars(row)) for row in found.lots[: query.most]]
    more = len(found.lots) - len(shown)
    whole = both_units({"owed_micro": found.owed_micro, "back_micro": found.back_micro})
    return {"org_id": org, "customer_id": customer, "order": found.order, "lots": shown, "more": more, **whole}


def _statement(
    connection: sa.Connection, query: account_models.StatementQuery, said: Said, *, org: str
) -> Mapping[str, object]:
    span = span_of(query.month, query.from_ms, query.to_ms)
    found = of_org(connection, said.require_org(org), span, said.now_ms, query.most)
    return {**as_object(found), "org_id": org}


def _entry(row: EntryRow) -> dict[str, object]:
    moved = {"moved": in_credits(row.moved_micro), "moved_micro": row.moved_micro}
    kept = {name: getattr(row, name) for name in ("key", "kind", "feature", "quantity", "actor", "reason")}
    return {**kept, **moved, "ts_ms": row.ts, "at_ms": row.at_ms}
