"""One simulated run: a safety phase with faults, then a healing phase in which everything has to settle.

Guarantee: every choice comes from the seed, so the same seed gives the same trace.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

from drawdown.schema.database import write
from drawdown.schema.errors import ClockDoubted, DatabaseBusy
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.context import Context
from drawdown.worker.effects import Effect, Push, ReadCustomers, SendHalts, Transaction
from drawdown.worker.features import install_defaults
from drawdown.worker.orgs import assign
from drawdown.worker.shard import NewOrgs, Shard
from drawdown.worker.stops import release_org
from drawdown.worker.tick import Report, tick
from tests.simulation.actions import ACTIONS, CELLS, ORGS
from tests.simulation.faults import INTENSITIES, Faults
from tests.simulation.invariants import check
from tests.simulation.operators import OPERATORS, add_rates, said, void_rejected
from tests.simulation.oracle import Assignment, Rule
from tests.simulation.providers import BILLING
from tests.simulation.settled import left, settled
from tests.simulation.stepping import Task, Worker, WorkerClock
from tests.simulation.world import START, World

HEALING_TICKS = 12
QUIET_TICKS = 2
HEALING_STEP_MS = 16 * MINUTE_MS
CHECK_EVERY = 40
SPLITS = (
    (Shard(),),
    (Shard(), Shard()),
    (Shard(), Shard(0, 127), Shard(128, 255)),
    (Shard(0, 127), Shard(128, 255)),
    (Shard(), Shard(0, 127), Shard(0, 200)),
    (Shard(), Shard(0, 90), Shard(60, 255), Shard(100, 140)),
)
ACTING = (*ACTIONS, *OPERATORS)
ACTS, WEIGHTS = [action for action, _ in ACTING], [weight for _, weight in ACTING]


@dataclass
class Outcome:
    """What one seed came to."""

    seed: int
    breaches: list[str]
    digest: str
    last: list[str]
    ticks: int
    effects: int
    faults: Counter[str]
    pushes: int


def simulate(seed: int, ticks: int, *, show: bool = False, intensity: float | None = None) -> Outcome:
    """Run one seed; stops at the first breach. `intensity` multiplies the faults' chances (else the seed says)."""
    world = _new_world(seed, show=show)
    if intensity is not None:
        world.faults.intensity = intensity
    run = _Run(world, ticks)
    run.safety()
    if not world.breaches:
        run.heal()
    for row in world.rows("SELECT key, sealed_qty, sent_qty, state, attempts, settled_ms FROM pushes ORDER BY key"):
        world.trace.digest.update(repr(row).encode())
    pushes = int(world.rows("SELECT COUNT(*) FROM pushes")[0][0])
    digest = world.trace.digest.hexdigest()[:16]
    last = list(world.trace.last)
    world.engine.dispose()
    return Outcome(seed, world.breaches, digest, last, run.begun, world.effects, world.faults.counts, pushes)


def _new_world(seed: int, *, show: bool) -> World:
    rng = random.Random(seed)
    world = World(rng, Faults(rng, rng.choice(INTENSITIES)))
    world.trace.show = show
    world.net = rng.random() < 0.3
    write(world.engine, lambda c: install_defaults(c, said(world)))
    for size in (1, 4, 8, 16, 32, 64):
        world.oracle.rules.append(Rule("exact", size * 1024, f"compute_{size}gb", "s", 0))
    for cell in CELLS[:2]:
        world.execute("INSERT INTO cells (cell_id, url) VALUES (:cell, 'http://127.0.0.1:1')", cell=cell)
    for org, provider in zip(ORGS, (*BILLING, *BILLING), strict=True):
        if rng.random() < 0.8:
            _assign_first(world, org, provider)
    new_orgs = NewOrgs(rng.choice(BILLING), START - 60 * DAY_MS) if rng.random() < 0.3 else None
    if new_orgs is not None and new_orgs.start_ms is not None:
        world.oracle.default = Assignment(new_orgs.start_ms, new_orgs.provider, "")
    capabilities = {name: one.capabilities for name, one in world.providers.items()}
    for number, shard in enumerate(rng.choice(SPLITS)):
        clock = WorkerClock(world.time)
        context = Context(f"w{number}.1", clock, capabilities, shard=shard, new_orgs=new_orgs)
        world.workers.append(Worker(f"w{number}", shard, clock, context))
    return world


def _assign_first(world: World, org: str, provider: str) -> None:
    start = START - 60 * DAY_MS
    write(world.engine, lambda c: assign(c, [org], provider, said(world), from_ms=start))
    world.oracle.assignments[org].append(Assignment(start, provider, org))
    if provider in world.memory:
        world.memory[provider].granted[org] = world.rng.choice((0, 4_000, 10_000_000))


class _Run:
    """The seeded scheduler."""

    def __init__(self, world: World, ticks: int) -> None:
        self.world = world
        self.rng = world.rng
        self.ticks = ticks
        self.begun = 0
        self.reports: list[Report] = []

    def safety(self) -> None:
        """Workers, world and time, in an order that only the seed knows."""
        world, steps = self.world, 0
        while not world.breaches and (self.begun < self.ticks or any(one.task for one in world.workers)):
            steps += 1
            awake = [one for one in world.workers if one.paused_until <= world.time.now]
            if not awake or self.rng.random() < 0.06:
                world.time.advance(self._while())
            elif self.rng.random() < 0.1:
                self._act()
            else:
                self._work(self.rng.choice(awake))
            if steps % CHECK_EVERY == 0 or self.rng.random() < 0.005:
                world.breaches += check(world)
        world.breaches += [] if world.breaches else check(world)

    def _while(self) -> int:
        """How long nothing happens."""
        choice = self.rng.random()
        if choice < 0.5:
            return self.rng.randrange(2_000)
        if choice < 0.97:
            return self.rng.randrange(WINDOW_MS)
        return self.rng.choice((MINUTE_MS, 60 * MINUTE_MS, 6 * 60 * MINUTE_MS))

    def _act(self) -> None:
        action = self.rng.choices(ACTS, WEIGHTS)[0]
        what = action(self.world)
        if what is not None:
            self.world.say("world", what)

    def _work(self, worker: Worker) -> None:
        if worker.task is not None:
            self._step(worker)
        elif self.begun < self.ticks:
            self.world.time.advance(self.rng.choice((0, 1, 1_000, MINUTE_MS, WINDOW_MS, WINDOW_MS, 2 * WINDOW_MS)))
            self._begin(worker)

    def _begin(self, worker: Worker) -> None:
        self.begun += 1
        worker.task = Task(tick(worker.context))
        self.world.say(worker.name, "starts a tick")

    def _step(self, worker: Worker) -> None:
        assert worker.task is not None
        faults, world = self.world.faults, self.world
        world.latest = max(world.latest, worker.clock.now_ms())
        leaf = self.rng.choice(list(worker.task.leaves()))
        if leaf.held is None:
            assert leaf.asked is not None
            if faults.strikes("crash_before"):
                return self._crash(worker, leaf)
            self._do(worker, leaf, leaf.asked)
            if faults.strikes("crash_after"):
                return self._crash(worker, leaf)
            if faults.strikes("paused_past_lease"):
                worker.pause(world.time.now, self.rng.randrange(20 * MINUTE_MS))
                return None
            if faults.strikes("answer_delayed"):
                return None
        leaf.tell()
        worker.task.join()
        if worker.task.done:
            self._ended(worker, worker.task.result)
        return None

    def _do(self, worker: Worker, leaf: Task, effect: Effect) -> None:
        answer, error = None, None
        try:
            answer = self.world.do(effect)
        except Exception as problem:  # as production's runner does: handed to the step, which decides
            error = problem
        leaf.hold(answer, error)
        self.world.say(worker.name, _describe(effect, answer, error))

    def _crash(self, worker: Worker, leaf: Task) -> None:
        """The process dies; what its other steps had asked of the network may arrive all the same."""
        assert worker.task is not None
        self.world.say(worker.name, f"CRASH {'after' if leaf.held else 'before'} {_name(leaf.asked)}")
        for other in worker.task.leaves():
            flying = isinstance(other.asked, Push | SendHalts) and other.held is None and other is not leaf
            if flying and other.asked is not None and self.world.faults.strikes("delivered_after_death"):
                self._do(worker, other, other.asked)
        worker.crash()

    def _ended(self, worker: Worker, result: object) -> None:
        worker.task = None
        self.world.say(worker.name, f"ends its tick: {_short(result)}")
        match result:
            case Report():
                self.reports.append(result)
                bad = [one for one in result.failures if "DatabaseBusy" not in one and "went away" not in one]
                self.world.breaches += [f"S8: a lane failed: {one}" for one in bad]
            case ClockDoubted():
                self.world.faults.note("clock_doubted")
                worker.clock.offset_ms = 0
                worker.context.accept_clock = True  # a person looked, and says the clock is right now
            case DatabaseBusy():
                worker.crash()
            case _:
                self.world.breaches.append(f"a tick died of {type(result).__name__}: {result}")

    def heal(self) -> None:
        """No more faults: within a bounded number of ticks nothing is left and everything agrees."""
        world = self.world
        world.faults.intensity = 0.0
        world.down.clear()
        world.cells.down.clear()
        world.cells.lying.clear()
        for provider in world.memory.values():
            provider.refused_features.clear()
        world.time.now = max(world.time.now, world.latest)
        world.execute("INSERT INTO cells (cell_id, url) VALUES ('cell-c', 'http://127.0.0.1:1') ON CONFLICT DO NOTHING")
        for worker in world.workers:
            worker.crash()
            worker.clock.offset_ms, worker.clock.trusted = 0, True
        for (org,) in world.rows("SELECT org_id FROM orgs WHERE stopped_at_ms IS NOT NULL ORDER BY org_id"):
            told: dict[str, Any] = {"org_id": org, "reason": "heal", "now_ms": world.time.now, "actor": "sim"}
            world.write(partial(release_org, **told))
        self._until_quiet()

    def _until_quiet(self) -> None:
        world = self.world
        world.say("world", "HEALS")
        for _ in range(HEALING_TICKS):
            add_rates(world)
            void_rejected(world)
            self._tick_all()
            if world.breaches or not left(world):
                break
        world.breaches += [] if world.breaches else check(world)
        if not world.breaches:
            before = len(self.reports)
            for _ in range(QUIET_TICKS):
                self._tick_all()
            if any(one.sealed or one.swept or one.accepted for one in self.reports[before:]):
                world.breaches.append("not healed: a tick over settled usage sealed or pushed something")
            world.breaches += settled(world) + check(world)

    def _tick_all(self) -> None:
        self.world.time.advance(HEALING_STEP_MS)
        for worker in self.world.workers:
            worker.context.accept_clock = True
            self._begin(worker)
            while worker.task is not None:
                self._step(worker)


def _name(effect: Effect | None) -> str:
    match effect:
        case Transaction(name):
            return name
        case Push(provider) | ReadCustomers(provider):
            return f"{type(effect).__name__} {provider}"
    return type(effect).__name__


def _describe(effect: Effect, answer: object, error: Exception | None) -> str:
    what = _name(effect)
    match effect:
        case Push(_, batch):
            what += " " + " ".join(f"{one.key}={one.quantity}#{one.attempt}" for one in batch)
        case ReadCustomers(_, ids):
            what += f" {list(ids)}"
        case SendHalts(halts):
            what += " " + " ".join(f"{one.org_id}@{one.cell_id}" for one in halts)
    return f"{what} -> {_short(error if error is not None else answer)}"


def _short(value: object) -> str:
    if isinstance(value, Exception):
        return f"{type(value).__name__}: {value}".split("\n", 1)[0][:160]
    return repr(value)[:200]
