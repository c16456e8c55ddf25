"""Serve POST /cron/…: periodic work for a scheduler that only calls URLs.

The scheduler sends the bearer secret.

Guarantee: this process never runs two ticks, or two checks of a kind, at the same time. If a caller disconnects, the
work still completes. These routes do not close or revert work that waits for a person's decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from typing import Final, TypeVar, cast

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.schema.audit import By
from drawdown.schema.database import read, write
from drawdown.schema.errors import Exit
from drawdown.server.api import models
from drawdown.server.api.openapi import operation
from drawdown.server.http import signing
from drawdown.server.http.errors import ApiError
from drawdown.server.services import Services, ThreadKit
from drawdown.server.step_threads import StepThreads, check_clock
from drawdown.worker.checks import checks
from drawdown.worker.checks.checks import Reconciled
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.parity.parity import TOLERANCE_PPM, Checked, check_cells, days_due
from drawdown.worker.provider import vendors
from drawdown.worker.status.ticks import Report
from drawdown.worker.tick import tick
from drawdown.worker.usage import backfills
from drawdown.worker.usage.backfills import Overdue

T = TypeVar("T")

ACTOR: Final = "cron"
"""Actor of corrections of counters, in the audit log."""
STATUSES: Final = (400, 401, 409, 429, 500, 503)


class Cron:
    """The ticks and checks of this process."""

    def __init__(self, services: Services, step_threads: StepThreads) -> None:
        self._services = services
        self._step_threads = step_threads
        self._running: dict[str, tuple[int, Future[object]]] = {}

    def routes(self) -> APIRouter:
        router = APIRouter(default_response_class=JSONResponse)
        kinds: tuple[tuple[Callable[[Request], object], type[BaseModel]], ...] = (
            (self.tick, models.TickAnswer),
            (self.parity, models.ParityAnswer),
            (self.vendors, models.DriftAnswer),
            (self.guard, models.ReconcileAnswer),
            (self.backfills, models.OverdueAnswer),
        )
        for work, answer in kinds:
            described = operation(answer, *STATUSES, security="bearer")
            router.add_api_route(f"/cron/{work.__name__}", work, methods=["POST"], **described)
        return router

    async def tick(self, request: Request) -> JSONResponse:
        """Run one tick to its end, and return the report of `drawdown tick --json`."""
        report = await self._alone(request, "tick", self._step_threads.tick, _tick)
        return JSONResponse({"tick": {**asdict(report), "exit_status": report.exit_status}})

    async def parity(self, request: Request) -> JSONResponse:
        """Compare the totals of all cells for the due days.

        The work is that of `drawdown parity check --cells`.
        """
        found = await self._alone(request, "parity", self._step_threads.order, _parity)
        return JSONResponse({"parity": {**asdict(found), "exit_status": found.exit_status}})

    async def vendors(self, request: Request) -> JSONResponse:
        """Compare costs with vendors' bills, like `drawdown vendor drift --keep --json`."""
        return JSONResponse(asdict(await self._alone(request, "vendors", self._step_threads.order, _vendors)))

    async def guard(self, request: Request) -> JSONResponse:
        """Correct the guard's counters, like `drawdown guard reconcile --json`."""
        found = await self._alone(request, "guard", self._step_threads.order, _guard)
        return JSONResponse({**asdict(found), "exit_status": found.exit_status})

    async def backfills(self, request: Request) -> JSONResponse:
        """Return the overdue backfills, like `drawdown backfill overdue --json`."""
        found = await self._alone(request, "backfills", self._step_threads.order, _backfills)
        status = int(Exit.PERSON if found else Exit.SETTLED)
        return JSONResponse({"overdue": [asdict(one) for one in found], "exit_status": status})

    async def _alone(
        self,
        request: Request,
        what: str,
        begin: Callable[[Callable[[ThreadKit, Context], T]], Future[T]],
        work: Callable[[ThreadKit, Context], T],
    ) -> T:
        """Run work of a kind unless it already runs, and return its result.

        Errors: ApiError 401 for a wrong secret, 503 if the secret is not set, 400 for parameters, 409 while this work
        already runs; DrawdownError.
        """
        signing.check_bearer(self._services.settings.cron_secret, request.headers.get("authorization", ""))
        if request.query_params:
            raise ApiError(400, "bad_request", "this path does not take parameters. Remove the query")
        if what in self._running and not self._running[what][1].done():
            details = {"running_since_ms": self._running[what][0]}
            raise ApiError(
                409,
                f"{what}_running",
                f"another {what} is running in this process. Send the request again after it ends",
                details=details,
            )
        begun = begin(work)
        self._running[what] = self._services.clock.now_ms(), cast("Future[object]", begun)
        return await asyncio.shield(asyncio.wrap_future(begun))


def _tick(thread_kit: ThreadKit, context: Context) -> Report:
    return runner.run(tick(context), thread_kit.world)


def _parity(thread_kit: ThreadKit, context: Context) -> Checked:
    check_clock(thread_kit, context)
    days = read(thread_kit.world.engine, lambda c: days_due(c, context.clock.now_ms()))
    return runner.run(check_cells(days, TOLERANCE_PPM, context.clock, context.stopping), thread_kit.world)


def _vendors(thread_kit: ThreadKit, context: Context) -> vendors.Drifted:
    check_clock(thread_kit, context)
    now_ms = context.clock.now_ms()
    found = write(thread_kit.world.engine, lambda c: checks.check_vendors(c, now_ms))
    vendors.tell(found)
    return found


def _guard(thread_kit: ThreadKit, context: Context) -> Reconciled:
    check_clock(thread_kit, context)
    by = By(context.clock.now_ms(), ACTOR, "reconcile", "http")
    engine = thread_kit.world.engine
    drifts = read(engine, lambda c: checks.look(c, by.now_ms - checks.SPAN_MS))
    return write(engine, lambda c: checks.put_right(c, drifts, 0, by))


def _backfills(thread_kit: ThreadKit, context: Context) -> list[Overdue]:
    return read(thread_kit.world.engine, lambda c: backfills.overdue(c, context.clock.now_ms()))
