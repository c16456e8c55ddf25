"""The healing phase: no more faults, and within a bounded time nothing is left and everything agrees.

Guarantee: people do what they are asked to do, and no more; what reconcile corrects, it corrects by itself.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, Protocol

from drawdown.schema.units import MINUTE_MS
from drawdown.worker.engine.effects import CLOCKS_APART_MS
from drawdown.worker.provider.actions import resume
from drawdown.worker.reconcile.reconcile import Reconciled
from drawdown.worker.seal.stops import resume_org
from drawdown.worker.status.ticks import Report
from tests.simulation.actions import ORGS, STRANGERS
from tests.simulation.gate import ask
from tests.simulation.invariants import check
from tests.simulation.operators import add_rates, fill_customer, said, void_rejected
from tests.simulation.people import credit_what_is_forgotten, decide, make_up_for, settle_told
from tests.simulation.restore import Restores
from tests.simulation.runs import end_all
from tests.simulation.settled import SETTLED, left, settled
from tests.simulation.stepping import Worker
from tests.simulation.webhooks import webhooks
from tests.simulation.world import World

HEALING_TICKS: Final = 12
"""A quarter of an hour each; from then on as long as a provider may still apply what it was sent."""
MORE_TICKS: Final = 60
COMPARISONS: Final = 12
QUIET_TICKS: Final = 2
HEALED_WITHIN: Final = COMPARISONS * (HEALING_TICKS + MORE_TICKS)
"""Ticks of each worker, at most. A seed needs some ten; one that loses the same push again and again needs more."""
MOST_REVISIONS: Final = 100
"""Revisions of one window. A life of 200 ticks makes about ten; a hundred means that its pushes are voided for ever."""
STEP_MS: Final = 16 * MINUTE_MS
LONG_STEP_MS: Final = 5 * 60 * MINUTE_MS
LAG_MS: Final = 61 * MINUTE_MS + CLOCKS_APART_MS


PAID: Final = 10**12
_SPENT: Final = """
SELECT o.org_id, a.provider, a.customer_id FROM orgs o JOIN assignments a ON a.org_id = o.org_id AND a.end_ms IS NULL
WHERE o.is_halted AND o.halt_reason IN ('credits_exhausted', 'estimate') AND a.start_ms <= o.projection_read_ms
    AND NOT o.operator_halt AND o.override_halted IS NULL AND COALESCE(o.override_max_concurrent, 1) > 0
ORDER BY o.org_id
"""
_WAITING: Final = "SELECT 1 FROM pushes WHERE state IN ('due', 'queued', 'in_doubt') LIMIT 1"


class Run(Protocol):
    """What drives the workers."""

    world: World
    reports: list[Report]
    compared: list[Reconciled]
    restores: Restores

    def begin(self, worker: Worker) -> None: ...

    def compare(self, worker: Worker) -> None: ...

    def watch(self, worker: Worker) -> None: ...

    def to_the_end(self, worker: Worker) -> None: ...


def heal(run: Run) -> None:
    """Switch all faults off, fix what only people can fix, and tick until nothing is left."""
    world = run.world
    _fix(world)
    run.restores.finish(run)
    end_all(world)
    world.say("world", "HEALS")
    for _ in range(COMPARISONS):
        _until_quiet(run)
        if world.breaches or (_reconciled(run) and not left(world)):
            break
    else:
        world.breaches.append(
            f"not healed within {HEALED_WITHIN} ticks: {left(world)} is left, "
            f"and reconcile says {run.compared[-1].differing}"
        )
    world.breaches += [] if world.breaches else check(world)
    if not world.breaches:
        before = len(run.reports)
        for _ in range(QUIET_TICKS):
            _tick_all(run, STEP_MS)
            _watch_all(run)
        _pay_untold(world)
        _watch_all(run)
        if any(one.sealed or one.swept or one.accepted for one in run.reports[before:]):
            world.breaches.append("not healed: a tick over settled usage sealed or pushed something")
        world.breaches += settled(world) + check(world)
    if not world.breaches:
        _who_pays_gets_through(run)


def _fix(world: World) -> None:
    world.faults.intensity = 0.0
    world.down.clear()
    world.cells.heal()
    for provider in world.memory.values():
        provider.refused_features.clear()
    world.time.now = max(world.time.now, world.latest)
    world.network.deliver()
    for remote in world.remote.values():
        remote.fix((*ORGS, *STRANGERS), world.time.now)
    for name in sorted(world.paused):
        world.write(partial(resume, provider=name, by=said(world)))
    world.paused.clear()
    world.execute("INSERT INTO cells (cell_id, url) VALUES ('cell-c', 'http://127.0.0.1:1') ON CONFLICT DO NOTHING")
    for server in world.servers:
        server.crash()
    for worker in world.workers:
        worker.crash()
        worker.clock.offset_ms, worker.clock.trusted = 0, True
    for (org,) in world.rows("SELECT org_id FROM orgs WHERE stopped_at_ms IS NOT NULL ORDER BY org_id"):
        told: dict[str, Any] = {"org_id": org, "reason": "heal", "now_ms": world.time.now, "actor": "sim"}
        world.write(partial(resume_org, **told))


def _until_quiet(run: Run) -> None:
    world = run.world
    for number in range(HEALING_TICKS + MORE_TICKS):
        for org in (*ORGS, *STRANGERS):
            fill_customer(world, org)
        for act in (add_rates, webhooks, void_rejected, decide):
            act(world)
            serve(run)
        _tick_all(run, STEP_MS if number < HEALING_TICKS else LONG_STEP_MS)
        newest = int(world.rows("SELECT COALESCE(MAX(revision), 0) FROM pushes")[0][0])
        if newest > MOST_REVISIONS:
            world.breaches.append(f"not healed: a window has {newest} revisions")
        waits = left(world)
        # A correction may be refused until reconcile has found what got lost before.
        refused = number >= HEALING_TICKS and set(waits) == {SETTLED} and not world.rows(_WAITING)
        if world.breaches or not waits or refused:
            break


def _tick_all(run: Run, step_ms: int) -> None:
    run.world.time.advance(step_ms)
    for worker in run.world.workers:
        worker.context.accept_clock = True
        run.begin(worker)
        run.to_the_end(worker)


def _watch_all(run: Run) -> None:
    """Whoever has paid, and told nobody, is found by a watch."""
    for worker in run.world.workers:
        run.watch(worker)
        run.to_the_end(worker)


def _pay_untold(world: World) -> None:
    """Some whose credit is used up pay, and no webhook says so."""
    for org, provider, customer in world.rows(_SPENT)[::2]:
        if provider in world.memory:
            world.memory[provider].granted[customer] += PAID
            world.faults.note("grant_untold")
            world.say("world", f"{org} pays, and nobody is told")


def serve(run: Run) -> None:
    """The server answers all that it was asked."""
    for server in run.world.servers:
        if server.task is not None:
            run.to_the_end(server)


def _who_pays_gets_through(run: Run) -> None:
    """Whose credit is used up pays; the gate asks his provider, and opens in the same answer."""
    world = run.world
    for org, provider, customer in world.rows(_SPENT):
        if provider not in world.memory:
            continue
        world.time.advance(MINUTE_MS + 1)
        world.memory[provider].granted[customer] += PAID
        question = ask(world, world.servers[0], org)
        serve(run)
        world.faults.note("gate_paid")
        if not (question.answer or {}).get("allowed"):
            world.breaches.append(f"gate: {org} paid, and was answered {question.answer}")


def _reconciled(run: Run) -> bool:
    """One comparison, by one worker, once every lag is over; whether it found nothing that it could correct."""
    world = run.world
    world.time.advance(LAG_MS)
    worker = world.workers[0]
    run.compare(worker)
    run.to_the_end(worker)
    if world.breaches:
        return True
    found = run.compared[-1]
    world.say("world", f"reconciled: {found}")
    before = {one for earlier in run.compared[-2:-1] for one in earlier.differing}
    again = before & {one for one in found.differing if one.balance and not one.corrected and not one.standing}
    world.breaches += [f"told again, of what was told and remembered: {one}" for one in again]
    if found.unread:
        world.breaches.append(f"not healed: reconcile could not compare: {found}")
    if found.waiting:
        return False  # a push may wait for the others of its customer for MOST_WAITS lookups, until a person decides
    if any(one.corrected for one in found.differing):
        return False
    settle_told(world)
    credit_what_is_forgotten(world)
    return not make_up_for(world, found.differing)
