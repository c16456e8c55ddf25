"""/v1/settlements, /v1/suppliers, /v1/payouts: what suppliers are owed, for programs of finance. Guarantee: reads only.

Suppliers and batches are of all organisations: a key that is bound to one sees its settlements alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Final, Literal, get_args

import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.ledger.settlements import Settlement
from drawdown.server.api.described import operation
from drawdown.server.api.models import MOST_ROWS, Id, MostQuery
from drawdown.server.api.programs import Programs, Said, both_units, clean_id
from drawdown.server.http.errors import ApiError
from drawdown.worker.executions.lists import org_of_run
from drawdown.worker.settlements.lists import (
    SettlementFilter,
    list_batches,
    list_settlements,
    list_suppliers,
    show_settlement,
)

SCOPE: Final = "settlements:read"
State = Literal["hold", "eligible", "frozen", "released", "reversed"]


class SettlementsQuery(BaseModel):
    """Which settlements, the newest first."""

    model_config = ConfigDict(extra="forbid")

    supplier: Id | None = None
    state: list[State] = list(get_args(State))
    org: Id | None = None
    project: Id | None = None
    most: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 50


class PayoutsQuery(MostQuery):
    """Batches of one supplier, or of all, the newest first."""

    supplier: Id | None = None


class SettlementAnswer(BaseModel):
    """What a supplier is owed for one run. `net`: its share of what the run was charged (`gross`); `owed`: less what
    was `reversed` before its release."""

    run: str
    org_id: str
    project: str | None
    supplier: str
    state: State
    gross: float
    gross_micro: int
    share_ppm: int
    net: float
    net_micro: int
    owed: float
    owed_micro: int
    reversed: float
    reversed_micro: int
    clawed_back: float
    clawed_back_micro: int
    settled_ms: int
    hold_until_ms: int
    payout: str | None


class SettlementsAnswer(BaseModel):
    settlements: list[SettlementAnswer]


class ReversalAnswer(BaseModel):
    """A part that is not owed after all. `is_clawback`: it had been released before."""

    reversal: str
    amount: float
    amount_micro: int
    is_clawback: bool
    at_ms: int
    actor: str
    reason: str


class FreezeAnswer(BaseModel):
    """Since when nothing is released, of this settlement or (`whole`) of its supplier."""

    whole: bool
    from_ms: int
    actor: str
    reason: str
    ended_ms: int | None
    ended_by: str | None
    ended_reason: str | None


class ShownSettlementAnswer(SettlementAnswer):
    reversals: list[ReversalAnswer]
    freezes: list[FreezeAnswer]


class SupplierAnswer(BaseModel):
    """A supplier at its newest terms, and what it is owed. `net` is hold, eligible, frozen, released and reversed
    together; `carried`: what of claw-backs no batch has taken off yet."""

    supplier: str
    share_ppm: int
    hold_ms: int
    threshold: float
    threshold_micro: int
    takes_clawbacks: bool
    is_frozen: bool
    net: float
    net_micro: int
    hold: float
    hold_micro: int
    eligible: float
    eligible_micro: int
    frozen: float
    frozen_micro: int
    released: float
    released_micro: int
    reversed: float
    reversed_micro: int
    clawed_back: float
    clawed_back_micro: int
    carried: float
    carried_micro: int
    paid: float
    paid_micro: int
    unsettled: float
    unsettled_micro: int


class SuppliersAnswer(BaseModel):
    suppliers: list[SupplierAnswer]


class PayoutAnswer(BaseModel):
    """A batch: what was released, less (`carried`) what was clawed back; `total` is to be paid, elsewhere."""

    payout: str
    supplier: str
    period: str
    released: float
    released_micro: int
    carried: float
    carried_micro: int
    total: float
    total_micro: int
    lines: int
    at_ms: int
    actor: str
    reason: str


class PayoutsAnswer(BaseModel):
    payouts: list[PayoutAnswer]


class Settlements:
    """The routes. A run's key stands in the path percent-encoded."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        add, said = router.add_api_route, partial(operation, scope=SCOPE)
        known = (401, 403, 404, 422, 429, 500, 503)
        add("/v1/settlements", self.list_, methods=["GET"], **said(SettlementsAnswer, *known, query=SettlementsQuery))
        shown = said(ShownSettlementAnswer, *known, query=MostQuery)
        add("/v1/settlements/{run:id}", self.show, methods=["GET"], **shown)
        add("/v1/suppliers", self.suppliers, methods=["GET"], **said(SuppliersAnswer, *known, query=MostQuery))
        add("/v1/payouts", self.payouts, methods=["GET"], **said(PayoutsAnswer, *known, query=PayoutsQuery))
        return router

    async def list_(self, request: Request) -> JSONResponse:
        """List what suppliers are owed for runs, the newest first."""
        return await self._programs.ask(request, SCOPE, SettlementsQuery, _list)

    async def show(self, run: str, request: Request) -> JSONResponse:
        """Show what a supplier is owed for one run, what was taken back of it, and when it was frozen."""
        return await self._programs.ask(request, SCOPE, MostQuery, partial(_show, run=run))

    async def suppliers(self, request: Request) -> JSONResponse:
        """List the suppliers by name, and what each is owed by now."""
        return await self._programs.ask(request, SCOPE, MostQuery, _suppliers)

    async def payouts(self, request: Request) -> JSONResponse:
        """List the batches that were released, the newest first."""
        return await self._programs.ask(request, SCOPE, PayoutsQuery, _payouts)


def _list(connection: sa.Connection, query: SettlementsQuery, said: Said) -> Mapping[str, object]:
    org = query.org or said.key.org_id
    if said.key.org_id is not None and (query.supplier or query.project):
        raise _of_all(said)  # whether there is such a supplier, or another's project, is not for this key to know
    org = "" if org is None else said.require_org(org)
    chosen = SettlementFilter(tuple(query.state), query.supplier or "", org, query.project or "")
    found = list_settlements(connection, chosen, said.now_ms, query.most)
    return {"settlements": [_settlement(one) for one in found]}


def _show(connection: sa.Connection, query: MostQuery, said: Said, *, run: str) -> Mapping[str, object]:
    clean_id(run, "a run's key")
    if said.key.org_id is not None and org_of_run(connection, run) != said.key.org_id:
        raise ApiError(404, "unknown_settlement", f"{said.key.org_id} has no settlement of this run")
    found, reversals, freezes = show_settlement(connection, run, said.now_ms, query.most)
    taken = [_only(ReversalAnswer, both_units(vars(one))) for one in reversals]
    frozen = [_only(FreezeAnswer, {**vars(one), "whole": one.reservation is None}) for one in freezes]
    return {**_settlement(found), "reversals": taken, "freezes": frozen}


def _suppliers(connection: sa.Connection, query: MostQuery, said: Said) -> Mapping[str, object]:
    _require_unbound(said)
    found = list_suppliers(connection, said.now_ms, query.most)
    return {"suppliers": [_only(SupplierAnswer, both_units({**vars(one), **vars(one.sums)})) for one in found]}


def _payouts(connection: sa.Connection, query: PayoutsQuery, said: Said) -> Mapping[str, object]:
    _require_unbound(said)
    found = list_batches(connection, query.supplier or "", query.most)
    return {"payouts": [both_units(vars(one)) for one in found]}


def _require_unbound(said: Said) -> None:
    if said.key.org_id is not None:
        raise _of_all(said)


def _of_all(said: Said) -> ApiError:
    text = f"suppliers are of all organisations, and this key is bound to {said.key.org_id}: use another key"
    return ApiError(403, "foreign_org", text)


def _settlement(found: Settlement) -> dict[str, object]:
    values = {**vars(found), "run": found.reservation, "owed_micro": found.owed_micro}
    return _only(SettlementAnswer, both_units(values))


def _only(model: type[BaseModel], values: Mapping[str, object]) -> dict[str, object]:
    """What the description names, and nothing else."""
    return {name: values[name] for name in model.model_fields}
