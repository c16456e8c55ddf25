"""The gate, webhooks and cells written out by hand: what seeds showed, or reach only rarely."""

from __future__ import annotations

import random

import pytest

from drawdown.schema.units import SECOND_MS, WINDOW_MS
from drawdown.server.settings import ServerSettings
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Transaction
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.orgs.actions import override
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.tick import tick
from drawdown.worker.wallets.actions import grant
from tests.simulation.faults import Faults
from tests.simulation.gate import READ_WITHIN_MS, Question, ask
from tests.simulation.judges import heard, judged
from tests.simulation.operators import said
from tests.simulation.providers import MEMORY
from tests.simulation.server import Reading, Server, new_server
from tests.simulation.stepping import Task, WorkerClock
from tests.simulation.test_scenarios import drive
from tests.simulation.world import START, World


@pytest.fixture
def world() -> World:
    """An organisation without credit, halted, and two processes of the server."""
    made = World(random.Random(1), Faults(random.Random(1), 0.0))
    made.write(lambda c: install_defaults(c, said(made)))
    made.write(lambda c: assign(c, ["acme"], MEMORY, said(made), from_ms=START))
    made.time.advance(SECOND_MS)
    drive(made, Task(tick(Context("w", WorkerClock(made.time, trusted=True), made.capabilities))))
    for name in ("s0", "s1"):
        context = Context(name, WorkerClock(made.time), made.capabilities)
        made.servers.append(new_server(name, made.time, context, ServerSettings(), providers=made.providers))
    assert made.rows("SELECT is_halted FROM orgs") == [(1,)]
    return made


def serve(world: World, server: Server, *, until: str = "") -> None:
    """Step a process until nothing is under way, or to where it asks for a transaction."""
    while server.task is not None and not server.task.done:
        leaf = next(server.task.leaves())
        if isinstance(leaf.asked, Transaction) and leaf.asked.name == until:
            return
        perform(world, server, leaf)
        leaf.tell()
        server.task.join()


def perform(world: World, server: Server, leaf: Task) -> None:
    """Do what a process asks for, and hold the answer back."""
    assert leaf.asked is not None
    with judged(world, server, leaf, leaf.asked):
        answer = world.do(leaf.asked, server.clock.now_ms())
    leaf.hold(answer, None)
    heard(leaf, leaf.asked, answer, None)


def asks(world: World) -> int:
    return int(world.rows("SELECT refresh_requests FROM orgs")[0][0])


def test_gate_request_delayed_in_thread_asks_provider_once(world: World) -> None:
    slow, other = world.servers
    before = asks(world)
    ask(world, slow, "acme")
    serve(world, slow, until="gate")
    world.time.advance(300 * SECOND_MS)
    ask(world, other, "acme")
    serve(world, other)
    serve(world, slow)
    assert (asks(world) - before, world.breaches) == (1, [])


def test_gate_requests_of_hosts_with_clock_skew_ask_provider_once(world: World) -> None:
    ahead, other = world.servers
    before = asks(world)
    ahead.clock.offset_ms = SECOND_MS
    for server in (ahead, other):
        ask(world, server, "acme")
        serve(world, server)
        world.time.advance(SECOND_MS // 2)
    assert (asks(world) - before, world.breaches) == (1, [])


def test_gate_ask_of_corrected_clock_does_not_block_next_ask(world: World) -> None:
    ahead, other = world.servers
    before = asks(world)
    ahead.clock.offset_ms = 3600 * SECOND_MS
    for server in (ahead, other):
        ask(world, server, "acme")
        serve(world, server)
        world.gate_asks.clear()
    assert asks(world) - before == 2


def test_gate_after_payment_allows_in_same_answer(world: World) -> None:
    world.memory[MEMORY].granted["acme"] = 10**9
    question: Question = ask(world, world.servers[0], "acme")
    serve(world, world.servers[0])
    assert (question.answer["allowed"], world.breaches) == (True, [])


def test_gate_with_late_second_read_answers_first_verdict(world: World) -> None:
    """Its second read is done, and sees the new verdict, but the answer arrives too late."""
    server = world.servers[0]
    world.memory[MEMORY].granted["acme"] = 10**9
    question: Question = ask(world, server, "acme")
    reads = 0
    while reads < 2:
        assert server.task is not None
        leaf = next(server.task.leaves())
        reads += isinstance(leaf.asked, Reading)
        perform(world, server, leaf)
        if reads < 2:
            leaf.tell()
        else:
            world.time.advance(READ_WITHIN_MS + 1)
        server.task.join()
    assert (question.answer["allowed"], question.answer["degraded"], world.breaches) == (False, False, [])
    assert world.rows("SELECT is_halted FROM orgs") == [(0,)]


def test_org_override_ended_during_read_is_ignored(world: World) -> None:
    until = world.time.now + 60 * SECOND_MS
    world.write(lambda c: override(c, "acme", said(world), halted=False, max_concurrent=None, until_ms=until))
    world.execute("UPDATE orgs SET projection_read_ms = NULL")  # as if never read, so that the gate asks
    ask(world, world.servers[0], "acme")
    serve(world, world.servers[0], until="project")
    world.time.advance(61 * SECOND_MS)
    serve(world, world.servers[0])
    assert (world.rows("SELECT is_halted, halt_reason FROM orgs"), world.breaches) == ([(1, "credits_exhausted")], [])


def test_gate_after_assignment_asks_new_provider(world: World) -> None:
    """No tick has run since the flip: `orgs` still names the biller before it."""
    flips_ms = START + WINDOW_MS
    world.write(lambda c: assign(c, ["acme"], "embedded", said(world), from_ms=flips_ms))
    world.write(lambda c: grant(c, "acme", 10**9, said(world), key="paid", plan=None))
    world.time.advance(flips_ms + SECOND_MS - world.time.now)
    question: Question = ask(world, world.servers[0], "acme")
    serve(world, world.servers[0])
    assert (question.answer["allowed"], world.breaches) == (True, [])
