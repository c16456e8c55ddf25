"""Does the effects that steps ask for: production's half of `worker.effects`.

Guarantee: effects are done in the order a step yields them; steps that run together share nothing but the database.
Database work is synchronous, in a thread, so that no provider's answer waits for another's transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from drawdown.providers.protocol import Provider
from drawdown.schema.database import write
from drawdown.worker.cells import CellClient
from drawdown.worker.effects import Effect, Push, ReadCustomers, SendHalts, Steps, Together, Transaction

R = TypeVar("R")


@dataclass(frozen=True)
class World:
    """The real database, providers and cells."""

    engine: sa.Engine
    providers: Mapping[str, Provider]
    cells: CellClient


def run(steps: Steps[R], world: World) -> R:
    """Drive steps to their end."""
    return asyncio.run(_drive(steps, world))


async def _drive(steps: Steps[R], world: World) -> R:
    answer: Any = None
    failure: Exception | None = None
    while True:
        try:
            effect = steps.throw(failure) if failure is not None else steps.send(answer)
        except StopIteration as stop:
            result: R = stop.value
            return result
        answer, failure = None, None
        try:
            answer = await _do(effect, world)
        except Exception as error:  # handed to the step, which decides
            failure = error


async def _do(effect: Effect, world: World) -> Any:
    match effect:
        case Transaction(_, work, rollback):
            return await asyncio.to_thread(write, world.engine, work, rollback=rollback)
        case Push(provider, batch):
            return await world.providers[provider].push(batch)
        case ReadCustomers(provider, customer_ids):
            return await world.providers[provider].customers(customer_ids)
        case SendHalts(halts):
            return await world.cells.send(halts)
        case Together(steps):
            return await asyncio.gather(*(_drive(one, world) for one in steps), return_exceptions=True)
