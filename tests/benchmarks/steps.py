"""Where a tick's time goes: the real steps and effects, done one after the other, each timed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any, TypeVar

from drawdown.worker.engine import runner
from drawdown.worker.engine.calls import Calls
from drawdown.worker.engine.effects import Effect, Push, ReadCustomers, RunTogether, SendHalts, Steps, Transaction

R = TypeVar("R")

STEPS = ("seal", "push", "project", "dispatch", "other")
_STEP_OF = {
    "seal": "seal",
    "sweep": "seal",
    "expire": "push",
    "charge": "push",
    "claim": "push",
    "settle": "push",
    "projections_due": "project",
    "project": "project",
    "due_halts": "dispatch",
    "claim_halts": "dispatch",
    "settle_halts": "dispatch",
}


def step_of(effect: Effect) -> str:
    match effect:
        case Transaction(name):
            return _STEP_OF.get(name, "other")
        case Push():
            return "push"
        case ReadCustomers():
            return "project"
        case SendHalts():
            return "dispatch"
        case _:
            return "other"


def drive(steps: Steps[R], world: runner.World) -> tuple[R, Counter[str]]:
    """Run steps to their end; returns also the seconds that each step of the tick took."""
    spent: Counter[str] = Counter()
    return asyncio.run(_whole(steps, world, spent)), spent


async def _whole(steps: Steps[R], world: runner.World, spent: Counter[str]) -> R:
    calls = {name: Calls(provider, world.clock) for name, provider in world.providers.items()}
    return await _drive(steps, world, calls, spent)


async def _drive(steps: Steps[R], world: runner.World, calls: dict[str, Calls], spent: Counter[str]) -> R:
    answer: Any = None
    while True:
        try:
            effect = steps.send(answer)
        except StopIteration as stop:
            result: R = stop.value
            return result
        if isinstance(effect, RunTogether):
            answer = [await _drive(one, world, calls, spent) for one in effect.steps]
            continue
        began = time.perf_counter()
        answer = await runner._do(effect, world, calls)
        spent[step_of(effect)] += time.perf_counter() - began  # type: ignore[assignment]
