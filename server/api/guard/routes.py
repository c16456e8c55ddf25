"""/v1/guard: may it be used now, and what became of it, by the functions of `drawdown guard`.

Guarantee: each call is one transaction of the same function that the command line calls, under the caller's own key:
whoever lost the answer sends the same again. What is blocked is an answer, and no error. A check writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.schema.units import in_credits
from drawdown.server.api.described import operation
from drawdown.server.api.gate import iso
from drawdown.server.api.guard import models, overrides
from drawdown.server.api.guard.dark import Dark, Use
from drawdown.server.api.programs import Programs, Said
from drawdown.server.http.errors import ApiError
from drawdown.worker.commands import guard, guard_holds
from drawdown.worker.commands.api_keys import ApiKey
from drawdown.worker.commands.guard import Answer, Wish
from drawdown.worker.commands.guard_counts import State
from drawdown.worker.views.guard import org_of_use

ROOT: Final = "/v1/guard"
SCOPE: Final = "guard"
E = TypeVar("E", models.SettleUseOrder, models.ReleaseUseOrder, models.ExtendUseOrder)


class Guard:
    """The routes."""

    def __init__(self, programs: Programs, dark: Dark) -> None:
        self._programs = programs
        self._dark = dark

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        sent = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503)
        for name, work, body, more in (
            ("check", self.check, models.CheckOrder, ()),
            ("consume", self.consume, models.ConsumeOrder, (409,)),
            ("reserve", self.reserve, models.ReserveOrder, (409,)),
            ("settle", self.settle, models.SettleUseOrder, (409,)),
            ("release", self.release, models.ReleaseUseOrder, (409,)),
            ("extend", self.extend, models.ExtendUseOrder, (402, 409)),
        ):
            described = operation(models.GuardAnswer, 404, *more, *sent, body=body, scope=SCOPE)
            router.add_api_route(f"{ROOT}/{name}", work, methods=["POST"], **described)
        return router

    async def check(self, request: Request) -> JSONResponse:
        """Whether so much of a metric may be used now. Changes nothing."""

        async def do(order: models.CheckOrder, key: ApiKey) -> Mapping[str, object]:
            said = self._programs.now(key)
            wish = Wish(said.require_org(order.org), order.metric, order.amount, payer=order.payer)
            use = Use(wish, said.by("not given"))
            return shown(await self._dark.ask(use, self._within(said, lambda c, now: guard.check(c, wish, now))))

        return await self._programs.act_by(request, SCOPE, models.CheckOrder, do, self._dark.find)

    async def consume(self, request: Request) -> JSONResponse:
        """Use so much at once, where it may be used: it is counted, and charged."""

        async def do(order: models.ConsumeOrder, key: ApiKey) -> Mapping[str, object]:
            return await self._use(order, key, "used", None)

        return await self._programs.act_by(request, SCOPE, models.ConsumeOrder, do, self._dark.find)

    async def reserve(self, request: Request) -> JSONResponse:
        """Hold so much to be used, where it may be used, before it is known how much it will be."""

        async def do(order: models.ReserveOrder, key: ApiKey) -> Mapping[str, object]:
            return await self._use(order, key, "held", order.for_ms)

        return await self._programs.act_by(request, SCOPE, models.ReserveOrder, do, self._dark.find)

    async def _use(
        self, order: models.ConsumeOrder, key: ApiKey, state: State, for_ms: int | None
    ) -> Mapping[str, object]:
        said = self._programs.now(key)
        org = said.require_org(order.org)
        wish = Wish(org, order.metric, order.amount, for_ms, order.project, order.subject, order.payer)
        use = Use(wish, said.by(order.reason), state, order.key)

        def work(connection: sa.Connection, now_ms: int) -> Answer:
            by = replace(use.by, now_ms=now_ms)
            if order.let_through:
                return guard.let_through(connection, order.key, wish, by, state)
            take = guard.consume if state == "used" else guard_holds.reserve
            return take(connection, order.key, wish, by)

        return shown(await self._dark.ask(use, self._within(said, work)))

    def _within(self, said: Said, work: Callable[[sa.Connection, int], Answer]) -> Callable[[sa.Connection], Answer]:
        """The time is taken in the transaction; a key that is bound is told no names."""
        return lambda c: work(c, self._programs.said(said.key, c).now_ms)

    async def settle(self, request: Request) -> JSONResponse:
        """End what is held with what was used in all, also after its hold was over."""
        return await self._ended(request, models.SettleUseOrder, _settle)

    async def release(self, request: Request) -> JSONResponse:
        """Give up what is held; what was used all the same counts, and is charged."""
        return await self._ended(request, models.ReleaseUseOrder, _release)

    async def extend(self, request: Request) -> JSONResponse:
        """Say that what is held goes on; it may grow."""
        return await self._ended(request, models.ExtendUseOrder, _extend)

    async def _ended(
        self, request: Request, model: type[E], work: Callable[[sa.Connection, E, Said], Mapping[str, object]]
    ) -> JSONResponse:
        """Of a use that was let through in the dark, that is written down first."""

        async def do(order: E, key: ApiKey) -> Mapping[str, object]:
            await self._dark.before(order.key)
            return await self._programs.threads.write(lambda c: work(c, order, self._programs.said(key, c)))

        return await self._programs.act_by(request, SCOPE, model, do, self._dark.find)


def _settle(connection: sa.Connection, order: models.SettleUseOrder, said: Said) -> Mapping[str, object]:
    settle = partial(guard_holds.settle, connection, _own(connection, order.key, said))
    return shown(settle(order.actual, said.by(order.reason)))


def _release(connection: sa.Connection, order: models.ReleaseUseOrder, said: Said) -> Mapping[str, object]:
    release = partial(guard_holds.release, connection, _own(connection, order.key, said))
    return shown(release(order.incurred, said.by(order.reason)))


def _extend(connection: sa.Connection, order: models.ExtendUseOrder, said: Said) -> Mapping[str, object]:
    extend = partial(guard_holds.extend, connection, _own(connection, order.key, said))
    return shown(extend(order.to, order.for_ms, said.by(order.reason)))


def _own(connection: sa.Connection, key: str, said: Said) -> str:
    """A use's key. To a key that is bound to an organisation, another's use is none. Errors: ApiError 404."""
    if said.key.org_id is not None and org_of_use(connection, key) != said.key.org_id:
        raise ApiError(404, "unknown_use", f"{said.key.org_id} has no use of this key")
    return key


def shown(found: Answer) -> dict[str, object]:
    """A `GuardAnswer`."""
    kept = {name: value for name, value in vars(found).items() if name not in ("resets_ms", "as_of_ms")}
    micro = {"price": found.price_micro, "charged": found.charged_micro, "balance": found.balance_micro}
    return {
        **kept,
        **{name: None if value is None else in_credits(value) for name, value in micro.items()},
        "links": {"request_override": overrides.PATH} if "request_override" in found.options else {},
        "resets_at": None if found.resets_ms is None else iso(found.resets_ms),
        "as_of": iso(found.as_of_ms),
    }
