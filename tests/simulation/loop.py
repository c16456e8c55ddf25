"""An event loop for the server's own coroutines: its clock is the world's, and it waits for nobody.

Guarantee: what is ready is run in the order in which it became so; timers ring when the true time has passed them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulation.stepping import Time


class _Nothing:
    """A selector without files."""

    def select(self, timeout: float | None) -> list[Any]:
        return []


class Loop(asyncio.BaseEventLoop):
    """asyncio's, without a clock, a thread or a socket."""

    def __init__(self, time: Time) -> None:
        super().__init__()
        self._true_time = time
        self._selector = _Nothing()

    def time(self) -> float:
        return self._true_time.now / 1000

    def settle(self) -> None:
        """Run until everything waits: for the database, for a crew, or for time to pass."""
        waiting: Any = self
        while waiting._ready or (waiting._scheduled and waiting._scheduled[0]._when < self.time()):
            self.call_soon(self.stop)
            self.run_forever()

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nothing sleeps that would have to be woken."""
