"""Serve /v1/executions with the functions of `drawdown execution`.

Guarantee: Drawdown performs each call in one transaction, like the command line. The execution's key or the draw's
number, which the caller chooses, identifies the call. If the response is lost, the caller can repeat the call.
Concurrent calls share a transaction (`payment_calls`). Concurrent acceptances of one organisation may share one, too
(`request_batching`). If an API key is bound to an organisation, it changes only executions that it began
(`require_maker`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeVar

import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.ledger import reservations
from drawdown.ledger.draws import Cost
from drawdown.ledger.own_keys import own_name, strip_own_prefix, strip_own_prefixes
from drawdown.ledger.reservations import NotTogether, Reservation
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import quote_value
from drawdown.schema.units import in_credits
from drawdown.server.api import models
from drawdown.server.api.openapi import IDEMPOTENCY_KEY, operation
from drawdown.server.api.payment_calls import PaymentCalls
from drawdown.server.api.programs import Caller, Programs, clean_id, for_programs, require_maker
from drawdown.server.api.request_batching import Way
from drawdown.server.http.errors import ApiError
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions import request as run_request
from drawdown.worker.executions.actions import Accepted, RequestedExecution, Settled
from drawdown.worker.executions.grouped import Change
from drawdown.worker.executions.lists import RunFilter, list_runs, org_of_run, show_run
from drawdown.worker.guard.grouped import Call

ROOT: Final = "/v1/executions"
SCOPE: Final = "executions:write"
M = TypeVar("M", bound=BaseModel)
C = TypeVar("C", models.DrawRequest, models.SettleRequest, models.ReleaseRequest)
_HEADER: Final = re.compile(r"[ -~]{1,200}")


def _accept_all(connection: sa.Connection, asked: Sequence[RequestedExecution], now_ms: int) -> Sequence[Accepted]:
    return executions.accept_together(connection, asked, now_ms)


def _accept(connection: sa.Connection, asked: RequestedExecution, now_ms: int) -> Accepted:
    return executions.accept_asked(connection, asked, now_ms)


WAY: Final = Way[RequestedExecution, Accepted](
    lambda asked: asked.request.org_id, _accept_all, _accept, lambda asked: asked.tells_names
)
"""The batching of acceptances.

Acceptances of one organisation share a transaction, so Drawdown locks a busy wallet once.
"""


class Executions:
    """The routes of /v1/executions. A path has the execution's key, percent-encoded."""

    def __init__(self, programs: Programs, money: PaymentCalls) -> None:
        self._programs = programs
        self._money = money
        self._accepting = programs.batch_requests(WAY)

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        known = (401, 403, 422, 429, 500, 503)
        sent = (400, 408, 413, 415, *known)
        add, write = router.add_api_route, partial(operation, scope=SCOPE)
        add(
            f"{ROOT}/preview",
            self.preview,
            methods=["POST"],
            **operation(models.PreviewAnswer, 404, *sent, body=models.PreviewRequest, scope="executions:read"),
        )
        add(
            ROOT,
            self.accept,
            methods=["POST"],
            **write(models.RunAnswer, 402, 404, 409, *sent, body=models.AcceptRequest, headers=(IDEMPOTENCY_KEY,)),
        )
        add(
            ROOT,
            self.list_,
            methods=["GET"],
            **operation(models.RunsAnswer, 404, *known, query=models.RunsQuery, scope="executions:read"),
        )
        for name, work, answer, body in (
            ("draws", self.draw, models.ChargedAnswer, models.DrawRequest),
            ("extend", self.extend, models.RunAnswer, models.ExtendRequest),
            ("settle", self.settle, models.ChargedAnswer, models.SettleRequest),
            ("release", self.release, models.ChargedAnswer, models.ReleaseRequest),
        ):
            add(
                f"{ROOT}/{{execution:id}}/{name}",
                work,
                methods=["POST"],
                **write(answer, 402, 404, 409, *sent, body=body),
            )
        add(
            f"{ROOT}/{{execution:id}}",
            self.show,
            methods=["GET"],
            **operation(models.ShownRunAnswer, 404, *known, query=models.MostQuery, scope="executions:read"),
        )
        return router  # fmt: skip

    async def preview(self, request: Request) -> JSONResponse:
        """Check whether Drawdown would accept an execution now, without any change."""
        return await self._programs.act(request, "executions:read", models.PreviewRequest, _preview, reads=True)

    async def accept(self, request: Request) -> JSONResponse:
        """Reserve credit for an execution before it starts. A repeat has no effect."""
        given = request.headers.getlist("idempotency-key")

        async def accept(order: models.AcceptRequest, said: Caller) -> Mapping[str, object]:
            try:
                key, run = _key_of(order.key, given), _request(order, said)
            except ApiError:
                await self._programs.confirm_key(said.key)  # an ended key must learn only that it ended
                raise
            own = said.key.org_id is not None
            asked = RequestedExecution(key, run, said.key.actor, order.reason, tells_names=not own, own=own)
            done: Accepted | None = await self._shared(asked, said)
            if done is None:
                done = await self._accepting.ask(asked)
            return _with_wallet(done.reservation, done, said, key, repeated=done.repeated)

        return await self._recalled(request, models.AcceptRequest, accept)

    async def _recalled(
        self, request: Request, model: type[M], do: Callable[[M, Caller], Awaitable[Mapping[str, object]]]
    ) -> JSONResponse:
        """Make a change with a remembered key.

        The transaction of the change reads the key again.
        """
        programs = self._programs
        return await programs.act_by(request, SCOPE, model, do, programs.recall_key, programs.confirm_key)

    async def _shared(self, call: Call, said: Caller) -> Any:
        """Return the result of a call that shares a transaction.

        Return None if the call must have its own transaction. This method then confirms the key. Errors: the errors of
        `PaymentCalls.ask`; ApiError 401.
        """
        key = said.key

        def remember_key(found: ApiKey) -> None:
            self._programs.remember_key(key.proof, found, said.now_ms)

        try:
            return await self._money.ask(key, call, remember_key)
        except NotTogether:
            await self._programs.confirm_key(key)
            return None

    async def _change(
        self,
        request: Request,
        key: str,
        model: type[C],
        change: Callable[[C], tuple[Literal["draw", "settled", "released"], Cost | None, int]],
        work: Callable[..., Mapping[str, object]],
    ) -> JSONResponse:
        """Draw on an execution, or end it.

        `change`: a function that returns the kind of the change, its cost and its number.
        """

        async def do(order: C, said: Caller) -> Mapping[str, object]:
            kind, cost, number = change(order)
            asked = Change(key, kind, cost, said.key.actor, order.reason, number, said.key.org_id)
            done: Settled | None = None
            if is_clean_id(key):
                done = await self._shared(asked, said)
            else:
                await self._programs.confirm_key(said.key)
            if done is not None:
                return _charged(done, said, key)
            return await self._programs.threads.write(
                lambda c: work(c, order, self._programs.identify(said.key, c), key=key)
            )

        return await self._recalled(request, model, do)

    async def draw(self, execution: str, request: Request) -> JSONResponse:
        """Charge a part of an open execution's cost."""

        def change(order: models.DrawRequest) -> tuple[Literal["draw"], Cost, int]:
            return "draw", Cost(order.credits, order.use), order.number

        return await self._change(request, execution, models.DrawRequest, change, _draw)

    async def extend(self, execution: str, request: Request) -> JSONResponse:
        """Extend an execution's reservation in time, in credit, or both."""
        return await self._programs.act(request, SCOPE, models.ExtendRequest, partial(_extend, key=execution))

    async def settle(self, execution: str, request: Request) -> JSONResponse:
        """End an execution, charge its total cost once, and release its unused credit."""

        def change(order: models.SettleRequest) -> tuple[Literal["settled"], Cost | None, int]:
            return "settled", _cost(order.actual, order.use), 0

        return await self._change(request, execution, models.SettleRequest, change, _settle)

    async def release(self, execution: str, request: Request) -> JSONResponse:
        """Release an execution's credit, and charge its incurred cost, if given."""

        def change(order: models.ReleaseRequest) -> tuple[Literal["released"], Cost | None, int]:
            return "released", _cost(order.incurred, order.use), 0

        return await self._change(request, execution, models.ReleaseRequest, change, _release)

    async def list_(self, request: Request) -> JSONResponse:
        """List executions.

        The newest execution is first. A list of `held` executions of all organisations begins with the reservation that
        ends first.
        """
        return await self._programs.ask(request, "executions:read", models.RunsQuery, _list)

    async def show(self, execution: str, request: Request) -> JSONResponse:
        """Return an execution: reservation, charges and outcome."""
        return await self._programs.ask(request, "executions:read", models.MostQuery, partial(_show, key=execution))


def _request(order: models.PreviewRequest, said: Caller) -> run_request.Request:
    return run_request.Request(
        org_id=said.require_org(order.org_id),
        amount_micro=order.estimate,
        quantities=order.use,
        project=order.project,
        subject=order.subject,
        action=order.action,
        supplier=order.supplier,
        overage=order.overage,
        for_ms=order.for_ms,
        queued=order.queued,
        settled_by=order.settled_by,
        sandboxes=tuple(order.sandboxes),
        payer=order.payer,
    )


def _preview(connection: sa.Connection, order: models.PreviewRequest, said: Caller) -> Mapping[str, object]:
    found = executions.preview(connection, _request(order, said), said.now_ms)
    reason = None if found.reason is None else for_programs(found.reason)
    if reason is not None and said.key.org_id is not None:
        reason = strip_own_prefixes(reason, said.key.org_id)
    return {**vars(found), "reason": reason, **_credits(amount=found.amount_micro, available=found.available_micro)}


def _key_of(key: str | None, given: list[str]) -> str:
    """Return the execution's key, from the body or the header. Errors: ApiError 400."""
    if len(given) > 1 or any(not _HEADER.fullmatch(one) for one in given):
        raise ApiError(
            400,
            "bad_request",
            f"invalid Idempotency-Key {quote_value(', '.join(given))}: expected 1 to 200 printable ASCII characters. "
            "Send the header once, or omit it",
        )
    if given and key not in (None, given[0]):
        raise ApiError(
            400,
            "other_key",
            f"the body's key {quote_value(key)} and the Idempotency-Key {quote_value(given[0])} differ. Send the "
            "same key in both, or send it once",
        )
    found = given[0] if given else key
    if found is None:
        raise ApiError(400, "bad_request", "missing key. Send `key`, or the header Idempotency-Key")
    return found


def _draw(connection: sa.Connection, order: models.DrawRequest, said: Caller, *, key: str) -> Mapping[str, object]:
    cost, by = Cost(order.credits, order.use), said.by(order.reason)
    return _charged(executions.draw(connection, _begun(connection, key, said), order.number, cost, by), said, key)


def _extend(connection: sa.Connection, order: models.ExtendRequest, said: Caller, *, key: str) -> Mapping[str, object]:
    by = said.by(order.reason)
    done = executions.extend(connection, _begun(connection, key, said), order.to, order.for_ms, by)
    return _with_wallet(done.reservation, done, said, key, repeated=done.repeated)


def _cost(amount_micro: int | None, quantities: Mapping[str, int] | None) -> Cost | None:
    return None if amount_micro is None and quantities is None else Cost(amount_micro, quantities)


def _settle(connection: sa.Connection, order: models.SettleRequest, said: Caller, *, key: str) -> Mapping[str, object]:
    cost = _cost(order.actual, order.use)
    return _charged(
        executions.settle(connection, _begun(connection, key, said), cost, said.by(order.reason)), said, key
    )


def _release(
    connection: sa.Connection, order: models.ReleaseRequest, said: Caller, *, key: str
) -> Mapping[str, object]:
    cost = _cost(order.incurred, order.use)
    return _charged(
        executions.release(connection, _begun(connection, key, said), cost, said.by(order.reason)), said, key
    )


def _list(connection: sa.Connection, query: models.RunsQuery, said: Caller) -> Mapping[str, object]:
    org = query.org_id or said.key.org_id
    chosen = RunFilter(
        tuple(query.state),
        org="" if org is None else said.require_org(org),
        project=query.project or "",
        subject=query.subject or "",
        action=query.action or "",
    )
    found = list_runs(connection, chosen, said.now_ms, query.after, query.most)
    return {"executions": [_run(one, said) for one in found.runs], "next": found.next_after, "is_cut": found.is_cut}


def _show(connection: sa.Connection, query: models.MostQuery, said: Caller, *, key: str) -> Mapping[str, object]:
    run, entries = show_run(connection, _own(connection, key, said), said.now_ms, query.most)
    drawn = [{**vars(entry), "amount": in_credits(entry.amount_micro)} for entry in entries]
    return {**_run(run, said), "key": key, "entries": drawn}


def _own(connection: sa.Connection, key: str, said: Caller) -> str:
    """Return the stored name of an execution, by its key in a path.

    A key that is bound to an organisation finds only executions of that organisation. The error for such a key does not
    suggest other ids. Errors: ApiError 422, 404.
    """
    clean_id(key, "execution key")
    org = said.key.org_id
    if org is None:
        return key
    for name in (own_name(org, key), key):
        if org_of_run(connection, name) == org:
            return name
    raise ApiError(
        404, "unknown_execution", f"{org} does not have an execution with the key {quote_value(key)}. Check the key"
    )


def _begun(connection: sa.Connection, key: str, said: Caller) -> str:
    """Return the stored name of an execution that the caller may change.

    Errors: ApiError 422, 404, 403.
    """
    name = _own(connection, key, said)
    if said.key.org_id is not None:
        found = reservations.read(connection, name)
        require_maker(said.key, "" if found is None else found.actor, "this execution")
    return name


def _run(run: Reservation, said: Caller) -> dict[str, object]:
    """Return an execution for the caller.

    A bound key sees the key that it sent. Other keys see the stored name.
    """
    kept = {name: value for name, value in vars(run).items() if name not in ("reservation", "fingerprint", "estimate")}
    del kept["amount_micro"], kept["payer_number"]
    use = None if run.estimate is None else json.loads(run.estimate)
    amounts = {"reserved": run.amount_micro, "drawn": run.drawn_micro, "held": run.left_micro}
    sponsored = run.payer_number is not None
    return {
        "key": run.reservation if said.key.org_id is None else strip_own_prefix(run.reservation),
        **kept,
        "sponsored": sponsored,
        "sandboxes": run.named,
        "use": use,
        **_both(amounts),
    }


def _with_wallet(
    run: Reservation, done: executions.Accepted | executions.Settled, said: Caller, key: str, **more: object
) -> dict[str, object]:
    """Return the answer with the wallet's credit.

    It omits a sponsor's credit, because the organisation must not see that credit.
    """
    wallet = None if run.payer_number is not None else done.wallet
    available, balance = (None, None) if wallet is None else (wallet.available_micro, wallet.balance_micro)
    amounts = _both({"available": available, "balance": balance})
    return {**_run(run, said), "key": key, **amounts, "balance_read_ms": done.balance_read_ms, **more}


def _charged(done: executions.Settled, said: Caller, key: str) -> dict[str, object]:
    drawn = done.drawn
    amounts = _both({"charged": drawn.charged_micro, "written_off": drawn.written_off_micro})
    return _with_wallet(drawn.reservation, done, said, key, **amounts, repeated=drawn.repeated)


def _both(amounts: Mapping[str, int | None]) -> dict[str, object]:
    """Return each amount in credits and in micro-credits."""
    micro = {f"{name}_micro": value for name, value in amounts.items()}
    return {**_credits(**amounts), **micro}


def _credits(**micro: int | None) -> dict[str, object]:
    return {name: None if value is None else in_credits(value) for name, value in micro.items()}
