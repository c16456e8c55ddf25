"""The pace of calls: no second holds more than allowed, and few timers are needed for it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any

import pytest

from drawdown.worker.engine.pace import Pace

ALLOWED = (0.5, 1, 7, 10, 49, 50, 60, 75, 99, 100, 150, 1900)


class Late(asyncio.SelectorEventLoop):
    """A loop whose time jumps to the next timer, and by `late` beyond it, by turns."""

    def __init__(self, late: float) -> None:
        super().__init__()
        self._now, self._late, self._turn, self.timers = 1000.0, late, 0, 0

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        self.timers += 1
        return super().call_at(when, callback, *args, context=context)

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._turn += 1
            late = self._late if self._turn % 2 else 0.0
            self._now = max(self._now, heapq.nsmallest(1, self._scheduled)[0].when() + late)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def times_of(allowed: float, calls: int, late: float = 0.0) -> tuple[list[float], int]:
    """When each of so many calls was let through, and how many timers that took."""
    loop = Late(late)
    made: list[float] = []

    async def whole() -> None:
        pace = Pace(allowed)

        async def one() -> None:
            await pace.turn()
            made.append(loop.time())

        await asyncio.gather(*(one() for _ in range(calls)))

    try:
        loop.run_until_complete(whole())
    finally:
        loop.close()
    return made, loop.timers


def most_in_a_second(made: list[float]) -> int:
    most = first = 0
    for place, at in enumerate(made):
        while made[first] <= at - 1:
            first += 1
        most = max(most, place - first + 1)
    return most


@pytest.mark.parametrize("late", [0.0, 0.003, 0.019])
def test_pace_calls_per_second_do_not_exceed_allowed(late: float) -> None:
    above = {
        allowed: most
        for allowed in ALLOWED
        if (most := most_in_a_second(times_of(allowed, int(allowed * 4) + 4, late)[0])) > max(allowed, 1)
    }
    assert above == {}


def test_pace_calls_reach_allowed_rate_with_few_timers() -> None:
    made, timers = times_of(1900, 5700, late=0.003)
    assert made[-1] - made[0] < 3.3
    assert timers < 170
    assert times_of(10, 31)[0][-1] - 1000.0 < 3.3


def test_pace_cancelled_caller_does_not_delay_other_callers() -> None:
    async def whole() -> list[int]:
        pace, made = Pace(100), list[int]()

        async def one(number: int) -> None:
            await pace.turn()
            made.append(number)

        tasks = [asyncio.ensure_future(one(number)) for number in range(6)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return made

    loop = Late(0.0)
    try:
        assert loop.run_until_complete(whole()) == [0, 1, 2, 4, 5]
    finally:
        loop.close()
