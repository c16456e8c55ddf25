"""Serve /v1/accounts: an organisation's wallet, its entries and its statement.

/v1/balance and /v1/ledger are short names of two of these routes.

Guarantee: these routes only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Final

import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.ledger.pools import MOST_PAYERS
from drawdown.schema.declare import answer_of
from drawdown.server.api import models
from drawdown.server.api.models import MOST_ROWS, EpochMs
from drawdown.server.api.openapi import operation
from drawdown.server.api.programs import Caller, Programs
from drawdown.worker.wallets.accounts import EntryRow, LotState, account_of, list_entries, list_lots, require_paying
from drawdown.worker.wallets.entries import ForecastState, forecast_of
from drawdown.worker.wallets.pools import PayerRow, list_payers
from drawdown.worker.wallets.statement import LINES, Section, as_object, of_customer, span_of

SCOPE: Final = "ledger:read"


class Accounts:
    """The routes of /v1/accounts."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        known = (401, 403, 404, 409, 422, 429, 500, 503)
        entries = operation(models.EntriesAnswer, *known, query=models.EntriesQuery, scope=SCOPE)
        for path in ("/v1/accounts/{org_id:id}/ledger", "/v1/ledger/{org_id:id}"):
            router.add_api_route(path, self.entries, methods=["GET"], **entries)
        lots = operation(LotsAnswer, *known, query=models.MostQuery, scope=SCOPE)
        router.add_api_route("/v1/accounts/{org_id:id}/lots", self.lots, methods=["GET"], **lots)
        statement = operation(StatementAnswer, *known, query=StatementQuery, scope=SCOPE)
        router.add_api_route("/v1/accounts/{org_id:id}/statement", self.statement, methods=["GET"], **statement)
        account = operation(AccountAnswer, *known, scope=SCOPE)
        for path in ("/v1/accounts/{org_id:id}", "/v1/balance/{org_id:id}"):
            router.add_api_route(path, self.account, methods=["GET"], **account)
        return router

    async def entries(self, org_id: str, request: Request) -> JSONResponse:
        """Return the entries of an organisation's wallet, newest first, page by page."""
        return await self._programs.ask(request, SCOPE, models.EntriesQuery, partial(_entries, org_id=org_id))

    async def lots(self, org_id: str, request: Request) -> JSONResponse:
        """Return the lots of an organisation's wallet.

        Lots in use come first, in their order of use. Future lots follow, and then ended lots, the latest end first.
        """
        return await self._programs.ask(request, SCOPE, models.MostQuery, partial(_lots, org_id=org_id))

    async def statement(self, org_id: str, request: Request) -> JSONResponse:
        """Return the statement of an organisation's wallet for a month or a time range."""
        query = StatementQuery
        return await self._programs.ask(request, SCOPE, query, partial(_statement, org_id=org_id))

    async def account(self, org_id: str, request: Request) -> JSONResponse:
        """Return the available and the reserved credit of an organisation's wallet."""
        return await self._programs.ask(request, SCOPE, models.NoQuery, partial(_account, org_id=org_id))


def _account(connection: sa.Connection, _query: models.NoQuery, said: Caller, *, org_id: str) -> Mapping[str, object]:
    customer = require_paying(connection, said.require_org(org_id), said.now_ms, past=False)
    found = account_of(connection, customer, said.now_ms)
    ends = forecast_of(connection, found.customer_id, found.available_micro, said.now_ms)
    payers = list_payers(connection, "", org_id, said.now_ms, MOST_PAYERS, ended=False)
    shown = {"payers": [_payer(one) for one in payers], "forecast": ends.to_json()}
    return {"org_id": org_id, **answer_of(vars(found)), **shown}


def _payer(row: PayerRow) -> dict[str, object]:
    found: dict[str, object] = answer_of(
        {"payer": row.payer, "limit_micro": row.limit_micro, "spent_micro": row.spent_micro}
    )
    return found


def _entries(
    connection: sa.Connection, query: models.EntriesQuery, said: Caller, *, org_id: str
) -> Mapping[str, object]:
    customer = require_paying(connection, said.require_org(org_id), said.now_ms, past=True)
    found = list_entries(connection, customer, query.most + 1, query.after)
    page = found[: query.most]
    more = page[-1].key if len(found) > len(page) else None
    return {"org_id": org_id, "customer_id": customer, "entries": [_entry(row) for row in page], "next": more}


def _lots(connection: sa.Connection, query: models.MostQuery, said: Caller, *, org_id: str) -> Mapping[str, object]:
    customer = require_paying(connection, said.require_org(org_id), said.now_ms, past=True)
    found = list_lots(connection, customer, said.now_ms)
    shown = [answer_of(row) for row in found.lots[: query.most]]
    more = len(found.lots) - len(shown)
    whole = answer_of({"owed_micro": found.owed_micro, "back_micro": found.back_micro})
    return {"org_id": org_id, "customer_id": customer, "order": found.order, "lots": shown, "more": more, **whole}


def _statement(connection: sa.Connection, query: StatementQuery, said: Caller, *, org_id: str) -> Mapping[str, object]:
    span = span_of(query.month, query.from_ms, query.to_ms)
    customer = require_paying(connection, said.require_org(org_id), said.now_ms, past=True)
    found = of_customer(connection, customer, span, said.now_ms, query.most)
    return {**as_object(found), "org_id": org_id}


def _entry(row: EntryRow) -> dict[str, object]:
    names = ("key", "kind", "feature", "quantity", "actor", "reason", "moved_micro")
    kept: dict[str, object] = answer_of({name: getattr(row, name) for name in names})
    return {**kept, "ts_ms": row.ts, "at_ms": row.at_ms}


class PayerAnswer(BaseModel):
    """A customer or pool that pays for executions that name it as `payer`.

    `limit`: the most credits that executions accepted under the present permission may reserve and cost in total; null
    means unlimited. `spent`: the credits that these executions reserve now, plus the credits that they cost. A changed
    limit is a new permission, so `spent` begins again at 0.
    """

    payer: str
    limit: float | None
    limit_micro: int | None
    spent: float
    spent_micro: int


class ForecastAnswer(BaseModel):
    """A forecast of when the available credit ends, at the rate of the last full days.

    `state`: `ends` (at `ends_ms`), `spent` (no credit is available), `lasts` (no foreseeable end), or `unknown` (fewer
    than three full days since the first use). `days`: the number of full days behind the rate. `from_ms`: the start of
    the first day. `used`: the credits used on these days. For fewer than three days, `from_ms` and `used` are null.
    """

    state: ForecastState
    ends_ms: int | None
    days: int
    from_ms: int | None
    used: float | None
    used_micro: int | None


class AccountAnswer(BaseModel):
    """The credit of an organisation's wallet, and the payers of its executions.

    The balance is the sum of available, reserved, unbilled and over. `available`: credit that you can still reserve.
    `unbilled`: used credit that the next ticks charge. `over`: the remaining credit of ended lots, which the next
    entries remove from the balance.

    `included` to `refund`: the remaining credit in lots of each kind. `owed`: used credit that lots do not cover, less
    refunds that pay for later use. `hold`: the part of the cost of charged executions that suppliers still wait for.
    The other figures do not include `hold`.
    """

    org_id: str
    customer_id: str
    plan: str | None
    available: float
    available_micro: int
    reserved: float
    reserved_micro: int
    unbilled: float
    unbilled_micro: int
    over: float
    over_micro: int
    balance: float
    balance_micro: int
    included: float
    included_micro: int
    bonus: float
    bonus_micro: int
    purchased: float
    purchased_micro: int
    sponsor: float
    sponsor_micro: int
    refund: float
    refund_micro: int
    owed: float
    owed_micro: int
    hold: float
    hold_micro: int
    payers: list[PayerAnswer]
    forecast: ForecastAnswer


class LotAnswer(BaseModel):
    """A lot of credit.

    `amount` is the sum of `remaining`, `waits`, `used`, `expired` and `taken_back`. `waits`: the credit of an ended lot
    that is not booked yet. `taken_back`: the credit that was taken back from the lot. It includes the lot's share of
    credit that was taken back without naming a lot. `place`: the position in the order of use, for a lot in use.
    `expires_ms`: null means never. `features`: null means that the lot pays for all features.
    """

    lot: str
    kind: str
    state: LotState
    place: int | None
    amount: float
    amount_micro: int
    remaining: float
    remaining_micro: int
    waits: float
    waits_micro: int
    used: float
    used_micro: int
    expired: float
    expired_micro: int
    taken_back: float
    taken_back_micro: int
    priority: int
    begins_ms: int
    expires_ms: int | None
    features: list[str] | None
    actor: str
    reason: str


class LotsAnswer(BaseModel):
    """The lots of a wallet.

    `order`: the order of use, in words. `more`: the number of lots that the response omits. `owed`: used credit that
    lots do not cover. `back`: refunded credit that pays for later use.
    """

    org_id: str
    customer_id: str
    order: str
    lots: list[LotAnswer]
    more: int
    owed: float
    owed_micro: int
    back: float
    back_micro: int


class StatementQuery(BaseModel):
    """The range of a statement: a month in UTC, or two times.

    Send either `month=2026-02`, or both `from_ms` and `to_ms`. The range begins at `from_ms` and ends before `to_ms`,
    in milliseconds. `most`: the largest number of lines in each of `usage`, `executions` and `held`. If there are more,
    one additional line sums the others. `most` does not limit `credits`.
    """

    model_config = ConfigDict(extra="forbid")

    month: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}$")] | None = None
    from_ms: EpochMs | None = None
    to_ms: EpochMs | None = None
    most: Annotated[int, Field(ge=1, le=MOST_ROWS)] = LINES


class ChangeAnswer(BaseModel):
    """The change of the balance by all lines of one section."""

    section: Section
    moved: float
    moved_micro: int


class CreditLineAnswer(ChangeAnswer):
    """Credit that was added, expired or taken back, by kind and currency.

    `what`: the kind of the lot or entry, `rolled over`, `allotted`, `returned` or `of no lot`. `entries`: the number of
    entries.
    `money_minor`: for top-ups, the paid money in minor units of `currency`; null for other credit.
    """

    what: str
    entries: int
    money_minor: int | None
    currency: str | None


class UsageLineAnswer(BaseModel):
    """The charges of a feature, by the month of use and the rate.

    `charged_micro` is `quantity * micro_credits / per_quantity`, rounded half away from zero, plus `rounding_micro`. If
    the charges do not match a rate, `micro_credits`, `per_quantity` and `rounding_micro` are null. `more`: the number
    of lines that this line sums. If it is not 0, `feature`, `month`, `quantity` and the rate are null.
    """

    feature: str | None
    month: str | None
    charges: int
    quantity: int | None
    micro_credits: int | None
    per_quantity: int | None
    rounding_micro: int | None
    charged: float
    charged_micro: int
    more: int


class ExecutionsLineAnswer(BaseModel):
    """The charges of executions of a project: drawn, settled and late.

    `drawn`: charged while the executions ran. `settled`: charged at their end. `late`: charged after their reservation
    expired. `charged` is the sum of the three, less `written_off`. `more`: the number of lines that this line sums.
    """

    project: str | None
    executions: int
    drawn: float
    drawn_micro: int
    settled: float
    settled_micro: int
    late: float
    late_micro: int
    written_off: float
    written_off_micro: int
    charged: float
    charged_micro: int
    more: int


class HeldLineAnswer(BaseModel):
    """An execution with reserved credit at the end of the range.

    Before the end of the range, the credit reserved now counts. `execution`: null in a line that sums others. `held`:
    the reserved credit. `more`: the number of lines that this line sums.
    """

    execution: str | None
    org_id: str | None
    project: str | None
    expires_ms: int | None
    held: float
    held_micro: int
    more: int


class StatementAnswer(BaseModel):
    """A statement: `opening` plus all changes equals `closing`.

    `is_final`: True from an hour after the end of the range. The entries then change only if a person books an entry in
    the range with `--at`. `reserved`: the part of the closing balance that executions reserve; before the end of the
    range, the part that they reserve now. `problems`: sums that do not agree.
    """

    customer_id: str
    from_ms: int
    to_ms: int
    is_final: bool
    opening: float
    opening_micro: int
    changes: list[ChangeAnswer]
    closing: float
    closing_micro: int
    credits: list[CreditLineAnswer]
    usage: list[UsageLineAnswer]
    executions: list[ExecutionsLineAnswer]
    reserved: float
    reserved_micro: int
    held: list[HeldLineAnswer]
    problems: list[str]
    org_id: str
