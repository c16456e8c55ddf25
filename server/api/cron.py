"""POST /cron/tick: a tick for a scheduler that only calls URLs.

Guarantee: this process never runs two at once. A caller that goes away leaves the tick running to its end.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import asdict

from drawdown.server.http.errors import ApiError
from drawdown.server.services import Services, ThreadKit
from drawdown.server.step_threads import StepThreads
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.tick import tick
from drawdown.worker.views.tick_report import Report


class Cron:
    """The tick of this process."""

    def __init__(self, services: Services, step_threads: StepThreads) -> None:
        self._services = services
        self._step_threads = step_threads
        self._running: Future[Report] | None = None
        self._since_ms = 0

    async def tick(self) -> dict[str, object]:
        """Run one and report, as `drawdown tick --json` does. Errors: ApiError 409 while one runs; DrawdownError."""
        if self._running is not None and not self._running.done():
            details = {"running_since_ms": self._since_ms}
            raise ApiError(409, "tick_running", "a tick runs in this process already", details=details)
        self._since_ms = self._services.clock.now_ms()
        self._running = self._step_threads.tick(_tick)
        report = await asyncio.shield(asyncio.wrap_future(self._running))
        return {"tick": {**asdict(report), "exit_status": report.exit_status}}


def _tick(thread_kit: ThreadKit, context: Context) -> Report:
    return runner.run(tick(context), thread_kit.world)
