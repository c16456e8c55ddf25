"""One simulated run: a safety phase with faults, then a healing phase in which everything has to settle.

Guarantee: every choice comes from the seed, so the same seed gives the same trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from drawdown.schema.audit import By
from drawdown.schema.errors import ClockDoubted, DatabaseBusy, Refused
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.worker.engine.context import LEASE_MS
from drawdown.worker.engine.effects import Effect, Push, SendHalts, Transaction
from drawdown.worker.history.incarnation import HistoryDoubted
from drawdown.worker.history.recover import Recovered
from drawdown.worker.reconcile.reconcile import Reconciled, ReconcileScope, reconcile
from drawdown.worker.replay.replay import Replayed, replay
from drawdown.worker.status.ticks import Report
from drawdown.worker.tick import tick
from drawdown.worker.verdict.refresh_requests import mark_for_projection
from drawdown.worker.watch import Watched, watch
from tests.simulation.accepted import note_compared
from tests.simulation.actions import ACTIONS as DONE_BY_HOSTS
from tests.simulation.actions import ORGS, flood
from tests.simulation.gate import ask_gate
from tests.simulation.healing import heal
from tests.simulation.invariants import check
from tests.simulation.judges import Round, heard, judged
from tests.simulation.making import new_world
from tests.simulation.operators import OPERATORS, plan_replay
from tests.simulation.people import PEOPLE
from tests.simulation.queueing import Ordering
from tests.simulation.restore import Restores, still
from tests.simulation.runs import RUNS
from tests.simulation.server import Served
from tests.simulation.shortcut import texts_kept
from tests.simulation.stepping import Task, Worker
from tests.simulation.story import story
from tests.simulation.telling import describe, name_of, short
from tests.simulation.world import World

CHECK_EVERY = 40
"""Steps between two checks of all tables, and one more for every `CHECK_SHARE` pushes: a long run is not all checks."""
CHECK_SHARE = 3
WATCH_SHARE = 0.3
OUTAGE_MS = 16 * MINUTE_MS
"""Of what a worker begins, where it watches."""
ACTIONS = (*DONE_BY_HOSTS, (ask_gate, 4.0))
ACTING = (*ACTIONS, *OPERATORS, *PEOPLE, *RUNS)
HOSTS, HOSTS_WEIGHTS = [action for action, _ in ACTIONS], [weight for _, weight in ACTIONS]
FINE = (
    "DatabaseBusy",
    "went away",
    "HistoryDoubted",
    "ticks could not finish the job",
    "left to a person",
    "since the job was queued",
)
ACTS, WEIGHTS = [action for action, _ in ACTING], [weight for _, weight in ACTING]


@dataclass
class Outcome:
    """What one seed came to."""

    seed: int
    breaches: list[str]
    digest: str
    story: list[str]
    """Of a run that failed: what has to do with it."""
    ticks: int
    effects: int
    faults: Counter[str]
    pushes: int


def simulate(
    seed: int,
    ticks: int,
    *,
    show: bool = False,
    intensity: float | None = None,
    billing: tuple[str, ...] | None = None,
    restores: bool | None = None,
    orders: bool | None = None,
) -> Outcome:
    """Run one seed; stops at the first breach. `intensity` multiplies the faults' chances, `billing` names the
    providers there are, `restores` whether the database is restored, `orders` whether on-call orders much; the seed
    says, where they are not given."""
    with texts_kept():
        world = new_world(seed, intensity, billing, show=show)
        return _simulate(Run(world, ticks, Restores(world, seed, restores), Ordering(seed, orders)), seed)


def _simulate(run: Run, seed: int) -> Outcome:
    world = run.world
    run.safety()
    if not world.breaches:
        heal(run)
        world.breaches += [] if world.breaches else run.ordering.wrong(world, restored=run.restores.on)
    for row in world.rows("SELECT key, sealed_qty, sent_qty, state, attempts, settled_ms FROM pushes ORDER BY key"):
        world.trace.digest.update(repr(row).encode())
    pushes = world.pushes()
    for name, remote in world.remote.items():
        world.faults.counts.update({f"{name} {kind}": count for kind, count in remote.emulator.faults.counts.items()})
    digest = world.trace.digest.hexdigest()[:16]
    told = story(world.breaches, world.trace.last) if world.breaches else []
    world.close()
    return Outcome(seed, world.breaches, digest, told, run.begun, world.effects, world.faults.counts, pushes)


class Run:
    """The seeded scheduler."""

    def __init__(self, world: World, ticks: int, restores: Restores, ordering: Ordering | None = None) -> None:
        self.world, self.ordering = world, ordering or Ordering()
        self.restores = restores
        world.judged = partial(still, world)
        self.rng = world.rng
        self.ticks = ticks
        self.begun = 0
        self.round: Round | None = None
        self.reports: list[Report] = []
        self.compared: list[Reconciled] = []

    def safety(self) -> None:
        """Workers, world and time, in an order that only the seed knows."""
        world, steps, check_at = self.world, 0, CHECK_EVERY
        while not world.breaches and (self.begun < self.ticks or any(one.task for one in world.workers)):
            steps += 1
            self.restores.happen()
            asked = [one for one in world.servers if one.task is not None]
            awake = [one for one in (*world.workers, *asked) if one.up(world.time.now)]
            if not awake or self.rng.random() < 0.06:
                world.time.advance(self._while())
            elif self.rng.random() < 0.1:
                self._act()
            else:
                self._work(self.rng.choice(awake))
            if steps >= check_at or self.rng.random() < 0.001:
                world.breaches += check(world)
                check_at = steps + CHECK_EVERY + world.pushes() // CHECK_SHARE
        world.breaches += [] if world.breaches else check(world)

    def _while(self) -> int:
        """How long nothing happens."""
        choice = self.rng.random()
        if choice < 0.5:
            return self.rng.randrange(2_000)
        if choice < 0.97:
            return self.rng.randrange(WINDOW_MS)
        return self.rng.choice((MINUTE_MS, 60 * MINUTE_MS, 60 * MINUTE_MS, 6 * 60 * MINUTE_MS, 26 * 60 * MINUTE_MS))

    def _act(self) -> None:
        # While history is lost, people do again what they did, and nothing else.
        acts, weights = (ACTS, WEIGHTS) if self.world.lost_at is None else (HOSTS, HOSTS_WEIGHTS)
        action = self.rng.choices(acts, weights)[0]
        what = action(self.world)
        if what is not None:
            self.world.say("world", what)
        self.ordering.act(self.world)

    def _work(self, worker: Worker) -> None:
        if worker.task is not None:
            self.step(worker)
        elif self.begun < self.ticks:
            self.world.time.advance(self.rng.choice((0, 1, 1_000, MINUTE_MS, WINDOW_MS, WINDOW_MS, 2 * WINDOW_MS)))
            what = self.rng.random()
            if worker.watches and self.rng.random() < WATCH_SHARE:
                self._watch(worker)
            elif self.world.lost_at is not None:
                self.begin(worker)
            elif what < 0.1:
                self.compare(worker)
            elif what < 0.16:
                self.replay(worker)
            else:
                self.begin(worker)

    def begin(self, worker: Worker) -> None:
        """A tick."""
        self.begun += 1
        worker.task, worker.ticks, worker.began_ms = Task(tick(worker.context)), True, self.world.time.now
        worker.doing = "tick"
        self.world.say(worker.name, "starts a tick")

    def _watch(self, worker: Worker) -> None:
        if self.world.faults.strikes("outage"):
            self._outage(worker)
            return
        in_one_go = self.rng.random() < 0.4
        flooded = flood(self.world) if in_one_go else None
        if flooded is not None:
            self.world.say("world", flooded)
        self.watch(worker)
        if in_one_go:
            self.to_the_end(worker, in_one_go=True)

    def _outage(self, worker: Worker) -> None:
        """A provider is asked about everybody, and answers nothing for longer than some plans allow."""
        world, life = self.world, worker.life
        name = self.rng.choice(world.billing)
        was_down = name in world.down
        world.down.add(name)
        world.say("world", f"{name} has an outage")
        world.write(lambda c: mark_for_projection(c, ORGS, world.time.now))
        for _ in range(2):
            if worker.life == life and worker.up(world.time.now):
                self.watch(worker)
                self.to_the_end(worker)
                world.time.advance(OUTAGE_MS)
        if not was_down:
            world.down.discard(name)

    def watch(self, worker: Worker) -> None:
        """A round of a watch."""
        context = worker.watch_context()
        worker.task, worker.ticks, worker.doing = Task(watch(context, worker.watcher)), True, "watch"
        worker.began_ms = self.world.time.now
        self.world.faults.note("watch")
        self.world.say(worker.name, "starts to watch")

    def compare(self, worker: Worker) -> None:
        """`reconcile --correct`."""
        now = By(worker.clock.now_ms(), "sim", "reconciles")
        worker.ticks, worker.doing = False, "reconcile"
        worker.task = Task(reconcile(worker.context, ReconcileScope(correct=True), now))
        self.world.faults.note("reconcile")
        self.world.say(worker.name, "starts to reconcile")

    def replay(self, worker: Worker) -> None:
        """`replay`, or what it would do."""
        world, now = self.world, worker.clock.now_ms()
        planned, dry_run = plan_replay(world, now), self.rng.random() < 0.2
        if planned is None:
            return
        if not dry_run and self.ordering.instead(world, planned, now):
            return
        worker.ticks, worker.doing = False, "replay"
        worker.task = Task(replay(worker.context, planned, By(now, "sim", "replays"), dry_run=dry_run))
        world.faults.note("replay_dry_run" if dry_run else "replay")
        world.say(worker.name, f"starts to replay {planned.scope} {planned.from_ms}..{planned.to_ms} dry={dry_run}")

    def to_the_end(self, worker: Worker, *, in_one_go: bool = False) -> None:
        """Nothing comes in between; in one go, a slow cell is the only thing that takes time."""
        context = worker.watch_context() if worker.doing == "watch" else worker.context
        self.round = Round(self.world, worker, context) if in_one_go else None
        while worker.task is not None:
            self.step(worker)
            if worker.paused_until > self.world.time.now:
                self.round = None
        if self.round is not None:
            self.world.breaches += self.round.ended()
            self.round = None

    def step(self, worker: Worker) -> None:
        assert worker.task is not None
        faults, world = self.world.faults, self.world
        world.latest = max(world.latest, worker.clock.now_ms())
        leaf = self._leaf(worker.task)
        if leaf is None:
            return self._joined(worker)
        if leaf.held is None:
            assert leaf.asked is not None
            what = "transaction" if isinstance(leaf.asked, Transaction) else "call"
            if faults.strikes("crash_before", f"crash_before_{what}"):
                return self._crash(worker, leaf)
            if isinstance(leaf.asked, Transaction) and faults.strikes("crash_before_commit"):
                self._do(worker, leaf, replace(leaf.asked, rollback=True))
                return self._crash(worker, leaf)
            if isinstance(leaf.asked, Push) and faults.strikes("crash_within"):
                self._do(worker, leaf, leaf.asked, dies=True)
                return self._crash(worker, leaf)
            self._do(worker, leaf, leaf.asked)
            if faults.strikes("crash_after", f"crash_after_{what}"):
                return self._crash(worker, leaf)
            if faults.strikes("paused_past_lease"):
                worker.pause(world.time.now, self.rng.randrange(LEASE_MS + 1, 20 * MINUTE_MS))
                return None
            if leaf.late_ms or faults.strikes("answer_delayed"):
                return None
        if leaf.late_ms:
            world.time.advance(leaf.late_ms)
            leaf.late_ms = 0
        leaf.tell()
        return self._joined(worker)

    def _leaf(self, task: Task) -> Task | None:
        """Whose turn it is; who waits for a slow cell has time, as long as there is anything else to do."""
        leaves = list(task.leaves())
        return self.rng.choice([one for one in leaves if not one.late_ms] or leaves) if leaves else None

    def _joined(self, worker: Worker) -> None:
        assert worker.task is not None
        worker.task.join()
        if worker.task.done:
            self._ended(worker, worker.task.result)

    def _do(self, worker: Worker, leaf: Task, effect: Effect, *, dies: bool = False) -> None:
        answer, error = None, None
        try:
            with judged(self.world, worker, leaf, effect):
                answer = self.world.do(effect, worker.clock.now_ms(), dies=dies, too_late=leaf.over, host=worker.name)
            if isinstance(effect, Transaction) and effect.name == "claim":
                provider = effect.work.keywords["provider"]  # type: ignore[attr-defined]
                worker.claimed |= {(provider, one.request.key) for one in answer.pushes}
        except Exception as problem:  # as production's runner does: handed to the step, which decides
            error = problem
        leaf.hold(answer, error)
        heard(leaf, effect, answer, error)
        self.ordering.heard(effect, answer)
        if isinstance(effect, Transaction) and effect.name == "reconcile_drawn":
            note_compared(self.world)
        if isinstance(effect, SendHalts):
            leaf.late_ms = self.world.cells.takes_ms(effect.halts, self.rng)
        if self.round is not None:
            self.round.saw(effect, answer, error)
        self.world.say(worker.name, describe(effect, answer, error))

    def _crash(self, worker: Worker, leaf: Task) -> None:
        """The process dies; what its other steps had asked of the network may arrive all the same."""
        assert worker.task is not None
        self.world.say(worker.name, f"CRASH {'after' if leaf.held else 'before'} {name_of(leaf.asked)}")
        for other in worker.task.leaves():
            flying = isinstance(other.asked, Push | SendHalts) and other.held is None and other is not leaf
            if flying and other.asked is not None and self.world.faults.strikes("delivered_after_death"):
                self._do(worker, other, other.asked)
        worker.crash()

    def _ended(self, worker: Worker, result: object) -> None:
        worker.task, worker.claimed = None, set()
        self.world.say(worker.name, f"ends: {short(result)}")
        match result:
            case Watched():
                self._failures(result.failures)
            case Served():
                pass
            case Report():
                self.reports.append(result)
                self.world.faults.counts["history_doubted"] += result.doubted is not None
                self._failures(result.failures)
            case Reconciled():
                self.compared.append(result)
            case Replayed() | Recovered():
                pass
            case HistoryDoubted():
                self.world.faults.note("history_doubted")
            case Refused():
                self.world.faults.note("replay_refused")
            case ClockDoubted():
                self.world.faults.note("clock_doubted")
                worker.clock.offset_ms = 0
                worker.context.accept_clock = True  # a person looked, and says the clock is right now
            case DatabaseBusy():
                worker.crash()
            case _:
                self.world.breaches.append(f"a tick died of {type(result).__name__}: {result}")

    def _failures(self, failures: Sequence[str]) -> None:
        bad = [one for one in failures if not any(fine in one for fine in FINE)]
        self.world.breaches += [f"S8: a lane failed: {one}" for one in bad]
