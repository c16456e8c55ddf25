"""Interleavings written out by hand, on the simulation's world: what seeds reach only rarely."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from drawdown.schema.units import WINDOW_MS, horizon
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Effect, Push, Steps
from drawdown.worker.engine.shard import Shard
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.push.push import push
from drawdown.worker.seal.seal import SealRequest, seal
from drawdown.worker.tick import tick
from tests.simulation.actions import insert
from tests.simulation.faults import Faults
from tests.simulation.operators import said, void_rejected
from tests.simulation.oracle import Assignment, Rule, Sample
from tests.simulation.providers import MEMORY
from tests.simulation.settled import settled
from tests.simulation.stepping import Task, WorkerClock
from tests.simulation.world import START, World

LEASE_MS = 200_000
FEATURE = "compute_1gb"


@pytest.fixture
def world() -> World:
    """One sealed push of 60 s, due at the memory provider, and nothing that goes wrong by itself."""
    made = World(random.Random(1), Faults(random.Random(1), 0.0))
    made.write(lambda c: install_defaults(c, said(made)))
    made.oracle.rules.append(Rule("exact", 1024, FEATURE, "s", 0))
    made.write(lambda c: assign(c, ["acme"], MEMORY, said(made), from_ms=START))
    made.oracle.assignments["acme"].append(Assignment(START, MEMORY, "acme"))
    insert(made, [Sample("s1", "acme", START + 1, 1024, 60, good=True)])
    made.time.advance(2 * WINDOW_MS)
    now = made.time.now
    made.write(lambda c: seal(c, SealRequest(Shard(), horizon(now), now, capabilities(made))))
    return made


def capabilities(world: World) -> dict[str, Any]:
    return {name: one.capabilities for name, one in world.providers.items()}


def start(world: World, name: str, steps: Callable[[Context], Steps[Any]]) -> Task:
    return Task(steps(Context(name, WorkerClock(world.time, trusted=True), capabilities(world))))


def drive(world: World, task: Task, *, until: Callable[[Effect | None], bool] = lambda effect: False) -> Task:
    """Step a task to its end, or to where it asks for something."""
    while not task.done:
        leaf = next(task.leaves())
        if until(leaf.asked):
            break
        assert leaf.asked is not None
        try:
            leaf.hold(world.do(leaf.asked), None)
        except Exception as error:
            leaf.hold(None, error)
        leaf.tell()
        task.join()
    return task


def sends(effect: Effect | None) -> bool:
    return isinstance(effect, Push)


def pushing(context: Context) -> Steps[Any]:
    return push(context, MEMORY)


def states(world: World) -> list[str]:
    return [state for (state,) in world.rows("SELECT state FROM pushes ORDER BY revision")]


def test_request_delivered_after_lease_is_charged_once(world: World) -> None:
    slow = drive(world, start(world, "slow", pushing), until=sends)
    world.time.advance(LEASE_MS)
    drive(world, start(world, "other", pushing))
    assert states(world) == ["accepted"]
    drive(world, slow)  # its request reaches the provider now, and is a duplicate
    drive(world, start(world, "other", tick))
    assert (states(world), world.breaches, settled(world)) == (["accepted"], [], [])


def test_answer_after_claim_expired_is_recorded(world: World) -> None:
    slow = drive(world, start(world, "slow", pushing), until=sends)
    world.time.advance(LEASE_MS)
    other = drive(world, start(world, "other", pushing), until=sends)
    drive(world, slow)
    assert states(world) == ["accepted"]
    drive(world, other)
    drive(world, start(world, "other", tick))
    assert (states(world), world.breaches, settled(world)) == (["accepted"], [], [])


def test_push_is_not_voided_while_earlier_attempt_may_arrive(world: World) -> None:
    world.memory[MEMORY].refused_features.add(FEATURE)
    slow = drive(world, start(world, "slow", pushing), until=sends)  # its request is held up on the way
    world.time.advance(LEASE_MS)
    drive(world, start(world, "other", pushing))
    assert states(world) == ["queued"]  # rejected; but the first request may still arrive, so it is looked up
    void_rejected(world)
    world.memory[MEMORY].refused_features.clear()
    drive(world, slow)
    for _ in range(6):
        world.time.advance(16 * 60_000)
        void_rejected(world)
        drive(world, start(world, "other", tick))
    assert (world.breaches, settled(world)) == ([], [])
