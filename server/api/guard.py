"""Serve /v1/guard: checks, uses, ways out of a block, and limit overrides.

The routes call the functions of `drawdown guard` and `drawdown override`. A person decides a limit override with a
signed request to /admin/overrides.

Guarantee: the same function decides a call here and on the command line. The caller chooses the key of a use. So the
caller may repeat a call if the response is lost. Concurrent uses and ends of uses share a transaction
(`payment_calls`). Other uses share a transaction with uses of the same metric, organisation and payer
(`request_batching`). All checks share transactions, too. A block is a response, not an error. A check only reads, and
does not wait for a writer. One transaction finds the API key of a check, and decides the check. A program requests a
limit override only for an organisation. The limit override takes effect when a person approves it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.events.cloudevents import of_use
from drawdown.events.envelope import Unfit
from drawdown.guard.decide import Decision, Reach
from drawdown.guard.periods import Period
from drawdown.ledger.reservations import NotTogether
from drawdown.schema.audit import By
from drawdown.schema.errors import DrawdownError
from drawdown.schema.text import quote_value
from drawdown.schema.units import in_credits
from drawdown.server.api.admin import Signed
from drawdown.server.api.fail_open import FailOpen
from drawdown.server.api.gate import iso
from drawdown.server.api.models import MOST_ROWS, DecideRequest, EpochMs, Id, LifeMs, Why
from drawdown.server.api.openapi import operation
from drawdown.server.api.payment_calls import PaymentCalls
from drawdown.server.api.programs import Caller, Programs, for_programs, require_maker, require_scope
from drawdown.server.api.request_batching import Way
from drawdown.server.http.errors import ApiError, bad_value, unauthorized
from drawdown.server.http.threads import Threads
from drawdown.server.process_metrics import GuardCalls
from drawdown.server.services import Services
from drawdown.server.usage.items import EVENTS_SCOPE, PROPERTIES
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.guard import emission
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.counters import State
from drawdown.worker.guard.emission import Emission
from drawdown.worker.guard.grouped import Call, End
from drawdown.worker.guard.options import describe_ways
from drawdown.worker.guard.overrides import OverrideRow, OverrideState, Terms, Word
from drawdown.worker.guard.terms import MAX_UNITS, Wish
from drawdown.worker.guard.use import Answer, Ask, Option
from drawdown.worker.sources.events.types import Bringer

Units = Annotated[int, Field(ge=1, le=MAX_UNITS)]
SOURCE: Final = "/guard"
"""Source of an event that a use emits, if the key is not bound to a source."""
NUMBER_DIGITS: Final = 18
"""Digits of a limit override's number in a path."""
UsedUnits = Annotated[int, Field(ge=0, le=MAX_UNITS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CheckRequest(_Body):
    """The parameters of `drawdown guard check`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"org_id": "acme", "metric": "idea.create"}]})

    org_id: Id | None = None
    """Organisation of the use. A key that is bound to an organisation may omit it."""
    metric: Id
    quantity: Units = 1
    payer: Id | None = None


class UseRequest(CheckRequest):
    """A use of a metric.

    You choose the key. After an allowed use, a repeat with the same key returns the first decision and the present
    state of the use. A block does not store its key, so Drawdown decides a repeat again.
    """

    key: Id
    project: Id | None = None
    subject: Id | None = None
    reason: Why = "not given"
    let_through: bool = False
    """True if your program allowed the use while the server did not answer.

    Drawdown then counts the use at any limit, if the metric fails open. It ignores the field if the API key is bound to
    an organisation.
    """


EMITTED: Final[JsonDict] = {
    "type": "object",
    "description": "The usage event that this use emits if it is allowed, in the same transaction: the use is counted, "
    "and the event is billed. This also needs the scope `events:write`. By default, its `event_id` is the `key`, its "
    "`source` that of the API key or `/guard`, and its `quantity`, `subject` and `project` those of the use.",
    "required": ["event_type"],
    "additionalProperties": False,
    "properties": {name: one for name, one in PROPERTIES.items() if name != "org_id"},
}


class ConsumeRequest(UseRequest):
    """The parameters of `drawdown guard consume`.

    `event`: the event that the use emits.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"key": "idea-1", "org_id": "acme", "metric": "idea.create", "subject": "ann"}]}
    )

    event: Annotated[dict[str, object], WithJsonSchema(EMITTED)] | None = None


class ReserveRequest(UseRequest):
    """The parameters of `drawdown guard reserve`.

    `quantity` is the estimate. Drawdown reserves this quantity for an hour, or for `for_ms` milliseconds.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"key": "copy-1", "org_id": "acme", "metric": "bandwidth", "quantity": 50_000_000}]
        }
    )

    for_ms: LifeMs | None = None


class SettleUseRequest(_Body):
    """The parameters of `drawdown guard settle`. `actual`: the total used quantity."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"key": "copy-1", "actual": 31_250_000}]})

    key: Id
    actual: UsedUnits
    reason: Why = "not given"


class ReleaseUseRequest(_Body):
    """The parameters of `drawdown guard release`. `incurred`: the used quantity."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"key": "copy-2", "reason": "cancelled"}]})

    key: Id
    incurred: UsedUnits = 0
    reason: Why = "not given"


class ExtendUseRequest(_Body):
    """The parameters of `drawdown guard extend`.

    `to`: the total quantity to reserve; null keeps it. `for_ms`: milliseconds from now until the reservation ends; null
    means an hour. The call never reduces or shortens the reservation.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"key": "copy-1", "to": 75_000_000}]})

    key: Id
    to: Units | None = None
    for_ms: LifeMs | None = None
    reason: Why = "not given"


class OverrideAsk(_Body):
    """The parameters of `drawdown override ask --org`.

    `amount`: the base units of the metric in a period; null means unlimited. `ends_ms`: at most 90 days from now.
    """

    org_id: Id | None = None
    metric: Id
    amount: Annotated[int, Field(ge=0, le=MAX_UNITS)] | None
    period: Period = "month"
    ends_ms: EpochMs
    reason: Why = "not given"


class OverridesQuery(BaseModel):
    """The filter of a list of limit overrides.

    `all`: also refused, ended and expired limit overrides.
    """

    model_config = ConfigDict(extra="forbid")

    org_id: Id | None = None
    metric: Id | None = None
    all: bool = False
    most: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 50


class LimitOverride(BaseModel):
    """A limit override: requested, in force, refused, ended or expired.

    `state`: `asked` means requested, and `over` means expired. `target` by `reach`: an organisation, a pattern or a
    plan. `ends_ms`: null means permanent. `actor`: the person or key that requested or made it. `decided_by`: the actor
    who decided.
    """

    number: int
    metric: str
    reach: Reach
    target: str
    period: Period
    amount: int | None
    ends_ms: int | None
    state: Literal[OverrideState, "over"]
    at_ms: int
    actor: str
    reason: str
    decided_ms: int | None
    decided_by: str | None
    decided_reason: str | None


class OverridesAnswer(BaseModel):
    overrides: list[LimitOverride]


class EmittedEvent(BaseModel):
    """The outcome and the key of the event that a use emits.

    `accepted`: Drawdown stored the event. `pending`: Drawdown stored it, and bills it after the fault in `code` is
    fixed. `duplicate`: Drawdown stored it before. `message`: the fault in words.
    """

    status: Literal["accepted", "duplicate", "pending"]
    source: str
    event_id: str
    code: str | None
    message: str | None


class GuardAnswer(BaseModel):
    """The guard's decision on a check, a use, or a change of a use.

    `decision`: the decision in force. `would`: the decision in phase 3. `enforced`: True if the phase enforces the
    decision. `rule` and `reason`: the rule that decided, and why.

    `period`, `limit`, `used`, `remaining` and `resets_at` are of the nearest limit; null if all are unlimited. `used`:
    the base units used before this use. `remaining`: the base units left after this use, or without it if it is
    blocked. If an earlier call decided the use, `used` and `remaining` are null.

    `price`: the cost in credits. `charged`: the credits that this call charged, 0 if `repeated`. `drawdown guard uses`
    shows the whole charge of a use. `payer`: the payer; null if the use is free. If a limit or an operator blocks a
    use, `price` is 0 and `payer` is null, except in a check. If the payer was not charged, later calls about the use
    return null as `payer`.

    `balance`: the payer's available credit, if the payer is the organisation and its balance was read. `options` and
    `links`: the ways out of a block. `degraded`: True if the credit was unknown, or if the use was allowed without the
    server or its database. `as_of`: the time of the decision. `state`: the state of the use; null for a check, or if a
    new use is blocked. `expires_ms`: the end of a reservation. `event`: the outcome of the event that the use emits.
    """

    decision: Decision
    would: Decision
    enforced: bool
    rule: str
    reason: str
    metric: str
    quantity: int
    period: Period | None
    limit: int | None
    used: int | None
    remaining: int | None
    resets_at: str | None
    price: float
    price_micro: int
    charged: float
    charged_micro: int
    payer: str | None
    balance: float | None
    balance_micro: int | None
    options: list[Option]
    links: dict[Literal["request_override"], str]
    degraded: bool
    as_of: str
    repeated: bool
    state: State | None
    expires_ms: int | None
    event: EmittedEvent | None


class OptionsQuery(BaseModel):
    """A use, with the parameters of a check. The guard may block or allow it."""

    model_config = ConfigDict(extra="forbid")

    metric: Id
    quantity: Units = 1
    payer: Id | None = None


class WayCall(BaseModel):
    """A call of this API that your program can send with the same API key.

    If `path` is `/v1/guard/consume`, add a use key (`key`) to `body`.
    """

    method: Literal["POST"]
    path: str
    body: dict[str, str | int]


class WayOut(BaseModel):
    """A way out of a block, open or closed.

    `option`: its name. `open`: True if it can be used now. `code`: the reason why it is closed; null if it is open.
    `description`: the way out, or the reason why it is closed, in words. `payers`: customers or pools that could pay.
    `pending_requests`: the number of requests for a limit override that wait for a decision.

    These fields are null if they do not apply. `call`: the API call that a program can send. `link`: the page for the
    organisation's own people. `command`: the operator's command. `at`: the provider that sells the credit, if it is not
    the embedded ledger. `missing`: the missing credits; also null if they are unknown.
    """

    option: Option
    open: bool
    code: str | None
    description: str
    call: WayCall | None
    link: str | None
    command: str | None
    payers: list[str]
    at: str | None
    missing: float | None
    missing_micro: int | None
    pending_requests: int


class OptionsAnswer(BaseModel):
    """The guard's current decision on the use, and the four ways out of a block.

    `decision` to `reason`: as in a `GuardAnswer`. `options`: the ways out, open or closed. `as_of_ms`: the time of the
    response.
    """

    org_id: str
    metric: str
    quantity: int
    decision: Decision
    would: Decision
    rule: str
    reason: str
    options: list[WayOut]
    as_of_ms: int
    as_of: str


ROOT: Final = "/v1/guard"
SCOPE: Final = "guard"
M = TypeVar("M", bound=BaseModel)
E = TypeVar("E", SettleUseRequest, ReleaseUseRequest, ExtendUseRequest)
X = TypeVar("X", SettleUseRequest, ReleaseUseRequest)


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
"""The batching of uses.

Uses of one counter share a transaction, so Drawdown locks the counter and the paying wallet once.
"""


@dataclass(frozen=True)
class Question:
    """A check, and the key of its caller."""

    wish: Wish
    key: ApiKey


Checked: TypeAlias = tuple[ApiKey | None, Answer | None]
"""The key as read again, and the result of its check. Both are None if the key expired or was revoked."""


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
"""The batching of checks.

All checks share transactions and statements. A check that arrives during a transaction is in the next transaction.
"""


class Guard:
    """The routes of the guard. `calls`: the number of decisions and their durations."""

    def __init__(self, programs: Programs, fail_open: FailOpen, money: PaymentCalls) -> None:
        self._programs = programs
        self._fail_open = fail_open
        self._money = money
        self._taking = programs.batch_requests(WAY)
        self._checking = programs.batch_requests(CHECKING)
        self.calls = GuardCalls()

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        sent = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503)
        for name, work, body, more in (
            ("check", self.check, CheckRequest, ()),
            ("consume", self.consume, ConsumeRequest, (409,)),
            ("reserve", self.reserve, ReserveRequest, (409,)),
            ("settle", self.settle, SettleUseRequest, (409,)),
            ("release", self.release, ReleaseUseRequest, (409,)),
            ("extend", self.extend, ExtendUseRequest, (402, 409)),
        ):
            described = operation(GuardAnswer, 404, *more, *sent, body=body, scope=SCOPE)
            router.add_api_route(f"{ROOT}/{name}", work, methods=["POST"], **described)
        return router

    async def check(self, request: Request) -> JSONResponse:
        """Check whether a quantity of a metric may be used now, without any change."""
        return await self._answer("check", request, CheckRequest, self._look)

    async def _look(self, order: CheckRequest, said: Caller) -> Mapping[str, object]:
        org = await self._org(order.org_id, said)
        wish = Wish(org, order.metric, order.quantity, payer=order.payer)
        question = Question(wish, said.key)

        async def work() -> Answer:
            key, answer = await self._checking.ask(question)
            self._fail_open.remember_key(said.key.proof, key, said.now_ms)
            if key is None or answer is None:
                raise unauthorized()
            return answer

        return answer_shown(await self._fail_open.ask(Ask("", wish, said.by("not given")), work, uses=False))

    async def _org(self, named: str | None, said: Caller) -> str:
        """Return the organisation of a request.

        Errors: ApiError 401 if the key expired or was revoked, before any other error; 403, 422.
        """
        try:
            return said.require_org(named)
        except ApiError:
            await self._fail_open.confirm_key(said.key)
            raise

    async def consume(self, request: Request) -> JSONResponse:
        """Use a quantity at once, if the guard allows it. Drawdown counts and charges it."""

        async def use(order: ConsumeRequest, said: Caller) -> Mapping[str, object]:
            return await self._use(_ask(order, await self._org(order.org_id, said), said, None, "used"), said)

        return await self._answer("consume", request, ConsumeRequest, use)

    async def reserve(self, request: Request) -> JSONResponse:
        """Reserve a quantity if the guard allows it, before you know the used quantity."""

        async def hold(order: ReserveRequest, said: Caller) -> Mapping[str, object]:
            return await self._use(_ask(order, await self._org(order.org_id, said), said, order.for_ms, "held"), said)

        return await self._answer("reserve", request, ReserveRequest, hold)

    async def _use(self, asked: Ask, said: Caller) -> Mapping[str, object]:
        """Return the response to a use.

        A key from the fail-open memory gets its own transaction, which reads the key again.
        """

        async def work() -> Answer:
            found, by = await self._shared(asked, said)
            if found is not None:
                return found
            if not by.key.recalled:
                return await self._taking.ask(asked)
            identify = partial(self._programs.identify, by.key)
            return await self._programs.threads.write(lambda c: guard.take(c, asked.at(identify(c).now_ms)))

        return answer_shown(await self._fail_open.ask(asked, work))

    async def _shared(self, call: Call, said: Caller) -> tuple[Answer | None, Caller]:
        """Return the result of a call that shares a transaction, and the caller.

        The result is None if the call must have its own transaction. The caller then has the confirmed key, which can
        be from the fail-open memory. Errors: the errors of `PaymentCalls.ask`; ApiError 401.
        """
        try:
            return await self._money.ask(said.key, call, partial(self._remember_key, said)), said
        except NotTogether:
            return None, replace(said, key=await self._fail_open.confirm_key(said.key))

    def _remember_key(self, said: Caller, found: ApiKey) -> None:
        self._fail_open.remember_key(said.key.proof, found, said.now_ms)

    async def settle(self, request: Request) -> JSONResponse:
        """Settle a reserved use with its total quantity, even if the reservation expired."""
        return await self._answer("settle", request, SettleUseRequest, partial(self._end, "settled", _settle))

    async def release(self, request: Request) -> JSONResponse:
        """Release a reserved use, and charge the quantity that was used."""
        return await self._answer("release", request, ReleaseUseRequest, partial(self._end, "released", _release))

    async def extend(self, request: Request) -> JSONResponse:
        """Extend a reserved use. Its quantity may increase."""
        return await self._answer("extend", request, ExtendUseRequest, partial(self._on, _extend), recalls=False)

    async def _end(
        self,
        state: Literal["settled", "released"],
        work: Callable[[sa.Connection, X, Caller], Mapping[str, object]],
        order: X,
        said: Caller,
    ) -> Mapping[str, object]:
        amount = order.actual if isinstance(order, SettleUseRequest) else order.incurred
        await self._fail_open.before(order.key)
        end = End(order.key, state, amount, said.key.actor, order.reason, said.key.org_id)
        found, by = await self._shared(end, said)
        return await self._on(work, order, by) if found is None else answer_shown(found)

    async def _on(
        self, work: Callable[[sa.Connection, E, Caller], Mapping[str, object]], order: E, said: Caller
    ) -> Mapping[str, object]:
        """Change a use.

        If Drawdown allowed the use without the database, this method records the use first.
        """
        await self._fail_open.before(order.key)
        return await self._programs.threads.write(lambda c: work(c, order, self._programs.identify(said.key, c)))

    async def _answer(
        self,
        call: str,
        request: Request,
        model: type[M],
        do: Callable[[M, Caller], Awaitable[Mapping[str, object]]],
        *,
        recalls: bool = True,
    ) -> JSONResponse:
        """Answer a call.

        Drawdown counts each response that is not an error, with its duration. `recalls`: True if the work reads the key
        again in its transaction.
        """
        now = asyncio.get_running_loop().time
        began = now()

        async def counted(order: M, said: Caller) -> Mapping[str, object]:
            found = await do(order, said)
            self.calls.answered(call, found)
            return found

        find, again = (
            (self._fail_open.recall_key, self._fail_open.confirm_key) if recalls else (self._fail_open.find, None)
        )
        answer = await self._programs.act_by(request, SCOPE, model, counted, find, again)
        self.calls.timed(call, now() - began)
        return answer


def _settle(connection: sa.Connection, order: SettleUseRequest, said: Caller) -> Mapping[str, object]:
    settle = partial(guard.settle, connection, _own(connection, order.key, said))
    return answer_shown(settle(order.actual, said.by(order.reason)))


def _release(connection: sa.Connection, order: ReleaseUseRequest, said: Caller) -> Mapping[str, object]:
    release = partial(guard.release, connection, _own(connection, order.key, said))
    return answer_shown(release(order.incurred, said.by(order.reason)))


def _extend(connection: sa.Connection, order: ExtendUseRequest, said: Caller) -> Mapping[str, object]:
    extend = partial(guard.extend, connection, _own(connection, order.key, said))
    return answer_shown(extend(order.to, order.for_ms, said.by(order.reason)))


def _ask(order: UseRequest, org: str, said: Caller, for_ms: int | None, state: State) -> Ask:
    wish = Wish(org, order.metric, order.quantity, for_ms, order.project, order.subject, order.payer)
    own = said.key.org_id is not None
    failed_open = order.let_through and not own  # a tenant must not pass a limit by claiming an outage
    event = _emission(order, org, said) if isinstance(order, ConsumeRequest) else None
    return Ask(order.key, wish, said.by(order.reason), state, own=own, failed_open=failed_open, event=event)


def _emission(order: ConsumeRequest, org: str, said: Caller) -> Emission | None:
    """Return the event that a use emits, with missing fields from the use.

    Errors: ApiError 403, 422.
    """
    if order.event is None:
        return None
    key = said.key
    require_scope(key, EVENTS_SCOPE)
    by_use = {
        "source": key.source or SOURCE, "event_id": order.key, "quantity": order.quantity, "org_id": org,
        "subject": order.subject, "project": order.project,
    }  # fmt: skip
    item = {**by_use, **{name: value for name, value in order.event.items() if value is not None}}
    try:
        given = of_use(item, org, said.now_ms, key.source)
    except Unfit as error:
        raise bad_value(f"event.{error.at}".rstrip("."), str(error)) from None
    own = key.org_id is not None
    by = Bringer(org_id=org) if own else Bringer(key_name=key.name, source=key.source)
    return Emission(given.event, given.has_time, own, by)


def _own(connection: sa.Connection, key: str, said: Caller) -> str:
    """Return the stored name of a use that the caller may change.

    A key that is bound to an organisation finds only the uses of that organisation. Errors: ApiError 404, 403.
    """
    if said.key.org_id is None:
        return key
    use = guard.use_of(connection, said.key.org_id, key)
    if use is None:
        raise ApiError(
            404, "unknown_use", f"{said.key.org_id} does not have a use with the key {quote_value(key)}. Check the key"
        )
    require_maker(said.key, use.actor, "this use")
    return use.use_key


def _event_shown(found: emission.Emitted | None) -> Mapping[str, object] | None:
    message = None if found is None or found.message is None else for_programs(found.message)
    return emission.to_json(None if found is None else replace(found, message=message))


def answer_shown(found: Answer) -> dict[str, object]:
    """Return a `GuardAnswer`."""
    apart = ("resets_ms", "as_of_ms", "charged_before_micro")
    kept = {name: value for name, value in vars(found).items() if name not in apart}
    micro = {"price": found.price_micro, "charged": found.charged_micro, "balance": found.balance_micro}
    return {
        **kept,
        **{name: None if value is None else in_credits(value) for name, value in micro.items()},
        "links": {"request_override": OVERRIDES_PATH} if "request_override" in found.options else {},
        "event": _event_shown(found.event),
        "resets_at": None if found.resets_ms is None else iso(found.resets_ms),
        "as_of": iso(found.as_of_ms),
    }


OPTIONS_PATH = "/v1/guard/{org_id:id}/options"


class Options:
    """The route for ways out of a block."""

    def __init__(self, services: Services, programs: Programs) -> None:
        self._services = services
        self._programs = programs

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        known = (401, 403, 404, 422, 429, 500, 503)
        described = operation(OptionsAnswer, *known, query=OptionsQuery, scope=SCOPE)
        router.add_api_route(OPTIONS_PATH, self.options, methods=["GET"], **described)
        return router

    async def options(self, org_id: str, request: Request) -> JSONResponse:
        """Return an organisation's four ways out of a block, open or closed."""
        work = partial(_options, org_id=org_id, page=self._services.settings.my_page)
        return await self._programs.ask(request, SCOPE, OptionsQuery, work)


def _options(
    connection: sa.Connection, query: OptionsQuery, said: Caller, *, org_id: str, page: str
) -> Mapping[str, object]:
    wish = Wish(said.require_org(org_id), query.metric, query.quantity, payer=query.payer)
    found = describe_ways(connection, wish, page, said.now_ms)
    return {**vars(found), "options": [vars(way) for way in found.options], "as_of": iso(found.as_of_ms)}


OVERRIDES_PATH = "/v1/guard/overrides"
WORDS: Mapping[str, Word] = {"approve": "approve", "refuse": "refuse", "end": "end"}


class Overrides:
    """The routes for limit overrides."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        asked = operation(
            LimitOverride, 400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503,
            body=OverrideAsk, scope=SCOPE,
        )  # fmt: skip
        router.add_api_route(OVERRIDES_PATH, self.ask, methods=["POST"], **asked)
        listed = operation(OverridesAnswer, 401, 403, 404, 422, 429, 500, 503, query=OverridesQuery, scope=SCOPE)
        router.add_api_route(OVERRIDES_PATH, self.list, methods=["GET"], **listed)
        return router

    async def ask(self, request: Request) -> JSONResponse:
        """Request a limit override for a metric. A person must approve it."""
        return await self._programs.act(request, SCOPE, OverrideAsk, _ask_override)

    async def list(self, request: Request) -> JSONResponse:
        """Return an organisation's own limit overrides, requests first, then in force."""
        return await self._programs.ask(request, SCOPE, OverridesQuery, _list_overrides)


async def decide_override(
    threads: Threads, now_ms: int, number: str, word: str, signed: Signed[DecideRequest]
) -> Mapping[str, object]:
    """Approve, refuse or end a limit override. Errors: ApiError; DrawdownError."""
    if word not in WORDS or not (number.isascii() and number.isdecimal() and len(number) <= NUMBER_DIGITS):
        raise ApiError(
            404,
            "unknown_override",
            f"unknown limit override {quote_value(number)} or action {quote_value(word)}: expected "
            "/admin/overrides/NUMBER/approve, /refuse or /end",
        )
    by = By(now_ms, signed.order.actor, signed.order.reason, "http")

    def work(connection: sa.Connection) -> OverrideRow:
        signed.use_up(connection)
        row, _ = guard_overrides.decide(connection, int(number), WORDS[word], by)
        return row

    return override_shown(await threads.write(work), now_ms)


def _ask_override(connection: sa.Connection, order: OverrideAsk, said: Caller) -> Mapping[str, object]:
    terms = Terms(order.metric, "org", said.require_org(order.org_id), order.period, order.amount, order.ends_ms)
    row, _ = guard_overrides.add(connection, terms, said.by(order.reason), asked=True)
    return override_shown(row, said.now_ms)


def _list_overrides(connection: sa.Connection, query: OverridesQuery, said: Caller) -> Mapping[str, object]:
    org = said.require_org(query.org_id)
    rows = guard_overrides.list_overrides(
        connection, query.metric or "", said.now_ms, query.most, everything=query.all, org_id=org
    )
    return {"overrides": [override_shown(row, said.now_ms) for row in rows]}


def override_shown(row: OverrideRow, now_ms: int) -> dict[str, object]:
    """Return a `LimitOverride`."""
    return {**vars(row), "state": "over" if row.is_over(now_ms) else row.state}
