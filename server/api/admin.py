"""Serve POST /admin/orgs/{org_id}/provider and /override, with signed requests.

The routes do the work of `drawdown org assign` and `drawdown org override`.

Guarantee: the routes call the same functions with the same checks, and record the actor and the reason. Drawdown
verifies the signature before any work. The transaction of the request marks the signature as used, so a repeated
request takes effect once. If a request failed, the caller may send it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final, Generic, TypeVar

import sqlalchemy as sa
from pydantic import BaseModel
from starlette.requests import Request

from drawdown.schema import audit
from drawdown.schema.audit import require_org
from drawdown.schema.database import write
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import quote_value
from drawdown.schema.units import WINDOW_MS
from drawdown.server.api.models import OverrideRequest, ProviderRequest
from drawdown.server.http import bodies, signing
from drawdown.server.http.errors import ApiError
from drawdown.server.http.threads import Threads
from drawdown.server.services import Services, ThreadKit
from drawdown.server.step_threads import StepThreads
from drawdown.worker.access.idempotency import use_once
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs import assignments, flips

MAX_BYTES: Final = 64 * 1024
"""Largest body of an admin request, in bytes."""
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Signed(Generic[M]):
    """A request with a verified signature.

    Call `use_up` first in the transaction that applies the request. Errors of `use_up`: ApiError 401 if the signature
    is no longer fresh, or 409 if a request already used it.
    """

    order: M
    use_up: Callable[[sa.Connection], None]


async def order_of(services: Services, budget: bodies.Budget, request: Request, model: type[M]) -> Signed[M]:
    """Verify a signed request, and return its content. Errors: ApiError."""
    if not services.settings.admin_secrets:
        raise ApiError(
            503, "not_configured", "the admin secret is not set. Ask the operator to set DRAWDOWN_ADMIN_SECRETS"
        )
    async with bodies.body_of(request, MAX_BYTES, budget) as body:
        return _order_in(services, request, body, model)


def _order_in(services: Services, request: Request, body: bytes, model: type[M]) -> Signed[M]:
    path, query = request.scope["raw_path"], request.scope["query_string"]
    now = services.clock.now_ms()
    of = signing.Signed(request.method, request.headers.get("host", ""), path, query, body)
    offered = signing.verify(services.settings.admin_secrets, request.headers, of, now, services.settings.admin_hosts)
    if query:  # the parameters of an admin request are in its path and body
        raise ApiError(400, "bad_request", "this path does not take a query. Remove the query")
    order = bodies.parse(body, request.headers.get("content-type", ""), model)
    return Signed(order, partial(_use_up, services=services, headers=request.headers, offered=offered))


def _use_up(connection: sa.Connection, *, services: Services, headers: Mapping[str, str], offered: str) -> None:
    now = services.clock.now_ms()
    signing.require_fresh(headers, now)
    if not use_once(connection, offered, now, fresh_ms=signing.TOLERANCE_MS):
        raise ApiError(
            409,
            "signature_repeated",
            "this signature was already used. To repeat the request, sign it again with the present time",
        )


async def assign(
    services: Services, step_threads: StepThreads, org_id: str, signed: Signed[ProviderRequest]
) -> dict[str, object]:
    """Assign an organisation to a provider, or cancel that assignment.

    Errors: ApiError; DrawdownError.
    """
    order = signed.order
    _check_org(org_id)
    by = audit.By(services.clock.now_ms(), order.actor, order.reason, "http")
    if order.from_ms is not None and order.from_ms % WINDOW_MS:
        raise UsageError(
            f"invalid from_ms {quote_value(order.from_ms)}: expected a multiple of 300000, the start of a window"
        )

    def cancel(connection: sa.Connection) -> assignments.Assigned:
        signed.use_up(connection)
        meant = {"provider": order.provider, "customer_id": order.customer_id}
        return assignments.cancel(connection, org_id, by, order.from_ms, **meant)

    def work(thread_kit: ThreadKit, context: Context) -> list[flips.Flip] | list[assignments.Assigned]:
        if order.undo:
            return [write(thread_kit.world.engine, cancel, rollback=order.dry_run)]
        options = flips.FlipOptions(
            order.provider, order.from_ms, order.dry_run, order.allow_halt, order.unchecked, new=order.new
        )
        wish = flips.Wish(org_id, order.customer_id)
        return runner.run(flips.flip(context, [wish], options, by, signed.use_up), thread_kit.world)

    done = await asyncio.wrap_future(step_threads.order(work))
    if not order.dry_run:
        step_threads.read_again(org_id, order.provider)
    return {"assigned": [asdict(flip) for flip in done], "provider": order.provider, "dry_run": order.dry_run}


async def override(
    threads: Threads, step_threads: StepThreads, now_ms: int, org_id: str, signed: Signed[OverrideRequest]
) -> dict[str, object]:
    """Set or end an organisation's org override. Errors: ApiError; DrawdownError."""
    order = signed.order
    _check_org(org_id)
    undo = order.undo
    if undo == (order.max_concurrent is not None or order.never_halt or order.until_ms is not None):
        raise UsageError("specify either undo, or at least one of max_concurrent, never_halt and until_ms")
    by = audit.By(now_ms, order.actor, order.reason, "http")

    def work(connection: sa.Connection) -> tuple[str | None, orgs.Overridden]:
        signed.use_up(connection)
        found = require_org(connection, org_id)
        if undo:
            return found.billing_provider, orgs.end_override(connection, org_id, by)
        halted = False if order.never_halt else None
        done = orgs.override(
            connection,
            org_id,
            by,
            max_concurrent=order.max_concurrent,
            halted=halted,
            until_ms=order.until_ms,
        )
        return found.billing_provider, done

    provider, done = await threads.write(work)
    if provider is not None:
        step_threads.read_again(org_id, provider)
    return {"org_id": org_id, "cleared": undo, "was": asdict(done.was), "now": asdict(done.now)}


def _check_org(org_id: str) -> None:
    if not is_clean_id(org_id):
        raise ApiError(404, "unknown_org", f"unknown organisation {quote_value(org_id)}. Check the id")
