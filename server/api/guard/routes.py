"""/v1/guard: may it be used now, and what became of it, by the functions of `drawdown guard`.

Guarantee: each call is decided by the same function that the command line calls, under the caller's own key: whoever
lost the answer sends the same again. Uses of one metric of an organisation that come at once share a transaction
(`together`), and so do all checks. What is blocked is an answer, and no error. A check writes nothing, waits for no
writer, and is answered by the transaction that found its key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias, TypeVar

import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.schema.errors import DrawdownError
from drawdown.schema.units import in_credits
from drawdown.server.api import makers
from drawdown.server.api.described import operation
from drawdown.server.api.gate import iso
from drawdown.server.api.guard import models, overrides
from drawdown.server.api.guard.dark import Dark
from drawdown.server.api.programs import Programs, Said
from drawdown.server.api.together import Way
from drawdown.server.http.errors import ApiError, unauthorized
from drawdown.server.metrics.process import GuardCalls
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.counters import State
from drawdown.worker.guard.use import Answer, Ask, Wish

ROOT: Final = "/v1/guard"
SCOPE: Final = "guard"
M = TypeVar("M", bound=BaseModel)
E = TypeVar("E", models.SettleUseOrder, models.ReleaseUseOrder, models.ExtendUseOrder)


def _take_all(connection: sa.Connection, asked: Sequence[Ask], now_ms: int) -> Sequence[Answer | DrawdownError]:
    return guard.take_all(connection, [one.at(now_ms) for one in asked])


def _take(connection: sa.Connection, asked: Ask, now_ms: int) -> Answer:
    return guard.take(connection, asked.at(now_ms))


WAY: Final = Way[Ask, Answer](
    lambda asked: (asked.wish.org_id, asked.wish.metric, asked.wish.payer),
    _take_all,
    _take,
    lambda asked: not asked.own,
)
"""A counter that many use is locked once for all of them, and with it the wallet of whoever pays."""


@dataclass(frozen=True)
class Question:
    """What is checked, and whose key it was that asks."""

    wish: Wish
    key: ApiKey


Checked: TypeAlias = tuple[ApiKey | None, Answer | None]
"""The key as it is now, and what it is told; neither where it is over."""


def _check_all(connection: sa.Connection, asked: Sequence[Question], now_ms: int) -> Sequence[Checked | DrawdownError]:
    proofs, wishes = [one.key.proof for one in asked], [one.wish for one in asked]
    keys, found = guard.check_by_keys(connection, proofs, wishes, now_ms)
    return [
        (None, None) if key is None else answer if isinstance(answer, DrawdownError) else (key, answer)
        for key, answer in zip((keys.get(one.key.proof) for one in asked), found, strict=True)
    ]


def _check(connection: sa.Connection, asked: Question, now_ms: int) -> Checked:
    (found,) = _check_all(connection, [asked], now_ms)
    if isinstance(found, DrawdownError):
        raise found
    return found


CHECKING: Final = Way[Question, Checked](
    lambda _asked: None, _check_all, _check, lambda asked: asked.key.org_id is None, reads=True
)
"""Whoever asks while others are answered is answered with the next: one transaction, and one statement, for all."""


class Guard:
    """The routes. `calls`: what was decided, and how long it took."""

    def __init__(self, programs: Programs, dark: Dark) -> None:
        self._programs = programs
        self._dark = dark
        self._taking = programs.together(WAY)
        self._checking = programs.together(CHECKING)
        self.calls = GuardCalls()

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
        return await self._answer("check", request, models.CheckOrder, self._look, checks=True)

    async def _look(self, order: models.CheckOrder, said: Said) -> Mapping[str, object]:
        try:
            org = said.require_org(order.org)
        except ApiError:
            await self._dark.again(said.key)  # a key that is over is told that, and no more
            raise
        wish = Wish(org, order.metric, order.amount, payer=order.payer)
        question = Question(wish, said.key)

        async def work() -> Answer:
            key, answer = await self._checking.ask(question)
            self._dark.remember(said.key.proof, key, said.now_ms)
            if key is None or answer is None:
                raise unauthorized()
            return answer

        return shown(await self._dark.ask(Ask("", wish, said.by("not given")), work, uses=False))

    async def consume(self, request: Request) -> JSONResponse:
        """Use so much at once, where it may be used: it is counted, and charged."""

        async def use(order: models.ConsumeOrder, said: Said) -> Mapping[str, object]:
            return await self._use(_ask(order, said, None, "used"), said.key)

        return await self._answer("consume", request, models.ConsumeOrder, use)

    async def reserve(self, request: Request) -> JSONResponse:
        """Hold so much to be used, where it may be used, before it is known how much it will be."""

        async def hold(order: models.ReserveOrder, said: Said) -> Mapping[str, object]:
            return await self._use(_ask(order, said, order.for_ms, "held"), said.key)

        return await self._answer("reserve", request, models.ReserveOrder, hold)

    async def _use(self, asked: Ask, key: ApiKey) -> Mapping[str, object]:
        """A key that was recalled shares no transaction: it is found again in its own."""

        def take(connection: sa.Connection) -> Answer:
            return guard.take(connection, asked.at(self._programs.said(key, connection).now_ms))

        async def work() -> Answer:
            return await (self._programs.threads.write(take) if key.recalled else self._taking.ask(asked))

        return shown(await self._dark.ask(asked, work))

    async def settle(self, request: Request) -> JSONResponse:
        """End what is held with what was used in all, also after its hold was over."""
        return await self._answer("settle", request, models.SettleUseOrder, partial(self._on, _settle))

    async def release(self, request: Request) -> JSONResponse:
        """Give up what is held; what was used all the same counts, and is charged."""
        return await self._answer("release", request, models.ReleaseUseOrder, partial(self._on, _release))

    async def extend(self, request: Request) -> JSONResponse:
        """Say that what is held goes on; it may grow."""
        return await self._answer("extend", request, models.ExtendUseOrder, partial(self._on, _extend))

    async def _on(
        self, work: Callable[[sa.Connection, E, Said], Mapping[str, object]], order: E, said: Said
    ) -> Mapping[str, object]:
        """Of a use that was let through in the dark, that is written down first."""
        await self._dark.before(order.key)
        return await self._programs.threads.write(lambda c: work(c, order, self._programs.said(said.key, c)))

    async def _answer(
        self,
        call: str,
        request: Request,
        model: type[M],
        do: Callable[[M, Said], Awaitable[Mapping[str, object]]],
        *,
        checks: bool = False,
    ) -> JSONResponse:
        """What is answered, and not refused, is counted, and how long it took. `checks`: it finds the key again."""
        now = asyncio.get_running_loop().time
        began = now()

        async def counted(order: M, said: Said) -> Mapping[str, object]:
            found = await do(order, said)
            self.calls.answered(call, found)
            return found

        find, again = (self._dark.recall, self._dark.again) if checks else (self._dark.find, None)
        answer = await self._programs.act_by(request, SCOPE, model, counted, find, again)
        self.calls.timed(call, now() - began)
        return answer


def _settle(connection: sa.Connection, order: models.SettleUseOrder, said: Said) -> Mapping[str, object]:
    settle = partial(guard.settle, connection, _own(connection, order.key, said))
    return shown(settle(order.actual, said.by(order.reason)))


def _release(connection: sa.Connection, order: models.ReleaseUseOrder, said: Said) -> Mapping[str, object]:
    release = partial(guard.release, connection, _own(connection, order.key, said))
    return shown(release(order.incurred, said.by(order.reason)))


def _extend(connection: sa.Connection, order: models.ExtendUseOrder, said: Said) -> Mapping[str, object]:
    extend = partial(guard.extend, connection, _own(connection, order.key, said))
    return shown(extend(order.to, order.for_ms, said.by(order.reason)))


def _ask(order: models.ConsumeOrder, said: Said, for_ms: int | None, state: State) -> Ask:
    org = said.require_org(order.org)
    wish = Wish(org, order.metric, order.amount, for_ms, order.project, order.subject, order.payer)
    own = said.key.org_id is not None
    dark = order.let_through and not own  # a tenant's word passes no limit: it is decided like any other
    return Ask(order.key, wish, said.by(order.reason), state, own=own, dark=dark)


def _own(connection: sa.Connection, key: str, said: Said) -> str:
    """The name of a use that is to change. To a key that is bound to an organisation, another's use is none. Errors:
    ApiError 404, 403."""
    if said.key.org_id is None:
        return key
    use = guard.use_of(connection, said.key.org_id, key)
    if use is None:
        raise ApiError(404, "unknown_use", f"{said.key.org_id} has no use of this key")
    makers.require_maker(said.key, use.actor, "this use")
    return use.use_key


def shown(found: Answer) -> dict[str, object]:
    """A `GuardAnswer`."""
    apart = ("resets_ms", "as_of_ms", "charged_before_micro")
    kept = {name: value for name, value in vars(found).items() if name not in apart}
    micro = {"price": found.price_micro, "charged": found.charged_micro, "balance": found.balance_micro}
    return {
        **kept,
        **{name: None if value is None else in_credits(value) for name, value in micro.items()},
        "links": {"request_override": overrides.PATH} if "request_override" in found.options else {},
        "resets_at": None if found.resets_ms is None else iso(found.resets_ms),
        "as_of": iso(found.as_of_ms),
    }
