"""Webhooks in the simulated world: whatever crashes, stalls or is lost, what happened was told, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drawdown.schema.messages import ORG_HALTED, ORG_RESUMED
from drawdown.worker.engine.effects import HookAnswer
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.hooks import deliver as delivering
from drawdown.worker.hooks.deliver import deliver
from drawdown.worker.verdict import org_row
from tests.simulation import scheduler
from tests.simulation.making import new_world
from tests.simulation.operators import said
from tests.simulation.scheduler import simulate
from tests.simulation.stepping import Task
from tests.simulation.world import World
from tests.whole import share

SEEDS = share(1, whole=100)
TICKS = 20
TURNS = (
    "SELECT p.org_id, p.is_halted, p.at_ms FROM projections p WHERE p.is_halted <> COALESCE((SELECT b.is_halted "
    "FROM projections b WHERE b.org_id = p.org_id AND b.projection_id < p.projection_id "
    "ORDER BY b.projection_id DESC LIMIT 1), 0)"
)
"""Halts and their ends, as the history of verdicts has them."""


def listening(made: list[World]) -> Any:
    """A world with an endpoint, whose workers tell it."""

    def one(*given: Any, **more: Any) -> World:
        world = new_world(*given, **more)
        args = ("app", "https://app.example/in", (ORG_HALTED, ORG_RESUMED), said(world))
        world.write(lambda c: hooks.set_endpoint(c, *args, new=True))
        for worker in world.workers:
            worker.context.hooks = ("https://app.example:443",)
        world.close, right = (lambda: made.append(world)), world.close  # type: ignore[method-assign]
        world.__dict__["really_close"] = right
        return world

    return one


def tell_the_rest(world: World) -> None:
    """Nothing fails any more; by now each schedule is over, or goes on."""
    world.time.advance(40 * 3_600_000)
    while True:
        task = Task(deliver(world.workers[0].watch_context()))
        asked = 0
        while not task.done:
            leaf = next(task.leaves())
            assert leaf.asked is not None
            asked += 1
            leaf.hold(world.do(leaf.asked), None)
            leaf.tell()
            task.join()
        if asked <= 1:
            return


@pytest.mark.parametrize("seed", range(SEEDS))
def test_halt_webhooks_are_each_sent_at_least_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    all_is_told(seed, monkeypatch)


def all_is_told(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors: AssertionError where the product was told otherwise."""
    made: list[World] = []
    monkeypatch.setattr(scheduler, "new_world", listening(made))
    outcome = simulate(seed, TICKS, restores=False)
    (world,) = made
    assert outcome.breaches == []
    tell_the_rest(world)
    turned = sorted((org, bool(halted), at_ms) for org, halted, at_ms in world.rows(TURNS))
    told = sorted(
        (org, event == ORG_HALTED, at_ms)
        for org, event, at_ms in world.rows("SELECT org_id, event, at_ms FROM hook_messages")
    )
    assert told == turned and told, "a message for each turn, and for nothing else"
    assert world.rows("SELECT COUNT(*) FROM hook_deliveries WHERE state = 'due'") == [(0,)]
    delivered = {name for (name,) in world.rows("SELECT message_id FROM hook_deliveries WHERE state = 'delivered'")}
    assert delivered <= set(world.product.ids())
    failed = world.rows("SELECT failures FROM hook_deliveries WHERE state = 'failed'")
    assert {failures for (failures,) in failed} <= {8}
    world.__dict__["really_close"]()


def _no_answer_is_a_success(message: Any, answer: HookAnswer, now: int) -> Any:
    return _end(message, replace(answer, error=None, is_sent=True), now)


def _a_failure_is_the_last(message: Any, answer: HookAnswer, now: int) -> Any:
    found = _end(message, answer, now)
    return found if answer.error is None else {**found, "state": "failed", "ended_ms": now}


_end = delivering._end
PLANTED: dict[str, tuple[object, str, Any]] = {
    "a call without an answer counts as delivered": (delivering, "_end", _no_answer_is_a_success),
    "a message that failed once is given up": (delivering, "_end", _a_failure_is_the_last),
    "a verdict that tells nobody": (org_row, "tell", lambda connection, messages: 0),
}


@pytest.mark.parametrize("bug", share(list(PLANTED)[:1], whole=list(PLANTED)))
def test_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*PLANTED[bug])
    with pytest.raises(AssertionError):
        for seed in range(6):
            all_is_told(seed, monkeypatch)
