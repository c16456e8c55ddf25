"""Run steps, and perform their effects in production.

Guarantee: effects are performed in the order in which a step yields them. Steps that run together share only the
database. Database work is synchronous, in a thread, so that the response of a provider does not wait for a transaction
of another step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import sqlalchemy as sa

from drawdown.providers.http import Http
from drawdown.providers.payments.protocol import PaymentService
from drawdown.providers.protocol import Provider
from drawdown.schema.clock import Clock
from drawdown.schema.database import write
from drawdown.worker.engine.calls import POLL_S, Calls, answers, who_fills
from drawdown.worker.engine.effects import (
    NO_RESPONSE,
    NOT_SENT,
    AskWhoFills,
    CellReader,
    ChargeMoney,
    CheckCustomers,
    Effect,
    HaltSender,
    HookAnswer,
    HookRequest,
    HookSender,
    LoadWitness,
    LookUp,
    LookUpMoney,
    OnDisk,
    Over,
    Push,
    ReadCells,
    ReadCosts,
    ReadCustomers,
    ReadDrawn,
    ReadTotals,
    RunTogether,
    SaveWitness,
    SendHalts,
    SendHooks,
    Steps,
    Transaction,
    UsageAnswer,
    UsageRequest,
)
from drawdown.worker.engine.witness import Witness, WitnessStore

R = TypeVar("R")


class NoHooks:
    """The sender of a process that does not send webhooks."""

    async def send(self, messages: Sequence[HookRequest]) -> list[HookAnswer]:
        return [HookAnswer(error="this process does not send webhooks", is_sent=False) for _ in messages]


class NoCells:
    """The reader of a process that does not read cells."""

    async def read(self, requests: Sequence[UsageRequest]) -> list[UsageAnswer]:
        return [UsageAnswer(error="this process does not read cells") for _ in requests]


class NoWitness:
    """The store for a database that exists only as long as its process."""

    def load(self, engine: sa.Engine) -> Witness | None:
        return None

    def save(self, engine: sa.Engine, witness: Witness) -> None:
        """Ignore the checkpoint."""


@dataclass(frozen=True)
class World:
    """The real database, providers and cells."""

    engine: sa.Engine
    providers: Mapping[str, Provider]
    cells: HaltSender
    clock: Clock
    http: Http | None = None
    """The client that providers share; None: they do not share a client.

    The runner closes the client when the steps have ended.
    """
    witness: WitnessStore = field(default_factory=NoWitness)
    payments: Mapping[str, PaymentService] = field(default_factory=dict)
    hooks: HookSender = field(default_factory=NoHooks)
    usage: CellReader = field(default_factory=NoCells)
    processes: int = 1
    """Processes of one command that share the limits of providers."""


def run(steps: Steps[R], world: World) -> R:
    """Run steps to their end, and return their result."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_whole(steps, world))


def ask(question: Callable[[], Coroutine[object, object, R]], world: World) -> R:
    """Run one coroutine outside of steps, and return its result."""

    async def whole() -> R:
        try:
            return await question()
        finally:
            if world.http is not None:
                await world.http.close()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(whole())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the loop of uvloop, if installed, because it makes more calls a second."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _whole(steps: Steps[R], world: World) -> R:
    calls = {name: Calls(provider, world.clock, world.processes) for name, provider in world.providers.items()}
    try:
        return await _drive(steps, world, calls)
    finally:
        for provider_calls in calls.values():
            await provider_calls.close()
        if world.http is not None:
            await world.http.close()


async def _drive(steps: Steps[R], world: World, calls: Mapping[str, Calls]) -> R:
    answer: object = None
    failure: Exception | None = None
    while True:
        try:
            effect = steps.throw(failure) if failure is not None else steps.send(answer)
        except StopIteration as stop:
            result: R = stop.value
            return result
        answer, failure = None, None
        try:
            answer = await _do(effect, world, calls)
        except Exception as error:  # the step receives the failure, and decides
            failure = error


async def _await_cells(
    sending: Coroutine[object, object, list[str | None]], over: Over, count: int
) -> list[str | None]:
    """Return the responses of cells.

    Once time is over, stop waiting. Halts without a response are sent again later.
    """
    task = asyncio.ensure_future(sending)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=POLL_S)
            if not task.done() and over():
                task.cancel()
                await asyncio.wait({task}, timeout=POLL_S)
                return [NO_RESPONSE] * count if not task.done() or task.cancelled() else task.result()
    finally:
        task.cancel()
    return task.result()


async def _do(effect: Effect, world: World, calls: Mapping[str, Calls]) -> object:
    match effect:
        case Transaction(_, work, rollback):
            return await asyncio.to_thread(write, world.engine, work, rollback=rollback)
        case Push(provider) | LookUp(provider):
            return await calls[provider].fetch(effect)
        case ReadCustomers(provider, customer_ids, over, cut):
            return await calls[provider].customers(customer_ids, over, cut)
        case ReadTotals(provider, customers, over):
            return await calls[provider].totals(customers, over)
        case ReadDrawn(provider, customer_ids, over):
            return await calls[provider].drawn(customer_ids, over)
        case ReadCosts(provider, known):
            return await calls[provider].costs(known)
        case CheckCustomers(provider, customer_ids):
            return await calls[provider].check(customer_ids)
        case ChargeMoney(service) | LookUpMoney(service):
            return await answers(world.payments[service], effect, world.clock)
        case AskWhoFills(service):
            return await who_fills(world.payments[service], effect)
        case SendHalts(halts, over) if over():
            return [NOT_SENT] * len(halts)
        case SendHalts(halts, over):
            return await _await_cells(world.cells.send(halts), over, len(halts))
        case SendHooks(messages, over) if over():
            return [HookAnswer(error=NOT_SENT, is_sent=False)] * len(messages)
        case SendHooks(messages):
            return await world.hooks.send(messages)
        case ReadCells(requests, over) if over():
            return [UsageAnswer(error=NOT_SENT)] * len(requests)
        case ReadCells(requests):
            return await world.usage.read(requests)
        case LoadWitness():
            return await asyncio.to_thread(world.witness.load, world.engine)
        case SaveWitness(witness):
            return await asyncio.to_thread(world.witness.save, world.engine, witness)
        case OnDisk(_, look):
            return await asyncio.to_thread(look)
        case RunTogether(steps):
            return await asyncio.gather(*(_drive(lane, world, calls) for lane in steps), return_exceptions=True)
