"""POST /cron/tick, /cron/parity and /cron/vendors: what a cron does, for a scheduler that only calls URLs.

Guarantee: this process never runs two ticks at once, nor two checks. A caller that goes away leaves what runs running
to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from typing import TypeVar, cast

from drawdown.schema.clock import Clock
from drawdown.schema.database import read
from drawdown.schema.units import DAY_MS
from drawdown.server.http.errors import ApiError
from drawdown.server.services import Services, ThreadKit
from drawdown.server.step_threads import StepThreads
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.parity.parity import TOLERANCE_PPM, Checked, check_cells
from drawdown.worker.tick import tick
from drawdown.worker.views import vendors
from drawdown.worker.views.tick_report import Report

T = TypeVar("T")


class Cron:
    """The ticks and checks of this process."""

    def __init__(self, services: Services, step_threads: StepThreads) -> None:
        self._services = services
        self._step_threads = step_threads
        self._running: dict[str, tuple[int, Future[object]]] = {}

    async def tick(self) -> dict[str, object]:
        """Run one and report, as `drawdown tick --json` does. Errors: ApiError 409 while one runs; DrawdownError."""
        report = await self._alone("tick", self._step_threads.tick, _tick)
        return {"tick": {**asdict(report), "exit_status": report.exit_status}}

    async def parity(self) -> dict[str, object]:
        """Compare yesterday's totals of all cells, as `drawdown parity check --cells --json`. Errors: as `tick`."""
        work = partial(_parity, clock=self._services.clock)
        found = await self._alone("parity", self._step_threads.order, work)
        return {"parity": {**asdict(found), "exit_status": found.exit_status}}

    async def vendors(self) -> dict[str, object]:
        """Compare the last days' bills, as `drawdown vendor drift --json`. Errors: as `tick`."""
        return asdict(await self._alone("vendors", self._step_threads.order, _vendors))

    async def _alone(
        self,
        what: str,
        begin: Callable[[Callable[[ThreadKit, Context], T]], Future[T]],
        work: Callable[[ThreadKit, Context], T],
    ) -> T:
        """Errors: ApiError 409 while one runs."""
        if what in self._running and not self._running[what][1].done():
            details = {"running_since_ms": self._running[what][0]}
            raise ApiError(409, f"{what}_running", f"one ({what}) runs in this process already", details=details)
        begun = begin(work)
        self._running[what] = self._services.clock.now_ms(), cast("Future[object]", begun)
        return await asyncio.shield(asyncio.wrap_future(begun))


def _tick(thread_kit: ThreadKit, context: Context) -> Report:
    return runner.run(tick(context), thread_kit.world)


def _parity(thread_kit: ThreadKit, context: Context, *, clock: Clock) -> Checked:
    now_ms = clock.now_ms()
    yesterday = now_ms - now_ms % DAY_MS - DAY_MS
    return runner.run(check_cells([yesterday], TOLERANCE_PPM, clock, context.stopping), thread_kit.world)


def _vendors(thread_kit: ThreadKit, context: Context) -> vendors.Drifted:
    now_ms = context.clock.now_ms()
    today = now_ms - now_ms % DAY_MS
    bounds = vendors.TOLERANCE_PPM, vendors.LEAST_MICRO
    first = today - vendors.SPAN_DAYS * DAY_MS
    return vendors.told_drift(read(thread_kit.world.engine, lambda c: vendors.drift(c, first, today, now_ms, *bounds)))
