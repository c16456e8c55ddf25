"""In some lives on-call jobs a replay instead of doing it at once: ticks do it, through crashes and at once. In a few
they job again and again, and take some of it back, so that ticks die with jobs, lie still with them and meet. There
they job corrections, too; and, where wallets are topped up, another card and a start.

Guarantee: it draws from a stream of its own, so that other lives stay what they are. A job is told of once by all
ticks together, and once all is healed each one is over, with a replay that came to its end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Final

from drawdown.schema.audit import By
from drawdown.schema.units import DAY_MS, WINDOW_MS, window_of
from drawdown.worker.engine.effects import Effect, Transaction
from drawdown.worker.jobs import queue
from drawdown.worker.jobs.job_payloads import Asked, CorrectJob, ReplayJob, TopupJob
from drawdown.worker.replay.plan import ReplayPlan, ReplayScope
from drawdown.worker.topup import actions as topups
from tests.simulation.actions import ORGS
from tests.simulation.operators import attempt
from tests.simulation.server import Reading
from tests.simulation.world import World

LIVES: Final = 0.3
SHARE: Final = 0.6
"""Of the replays of such a life."""
BUSY_EVERY, BUSY = 25, (6, 19)
"""Seeds whose lives are full of jobs: none of those that once failed, which stay what they were."""
PLACES, CANCELS = 0.25, 0.05
CORRECTS, TOPS_UP, STOPS = 0.03, 0.1, 0.2
"""How often, whenever the world does something."""
_NEWEST: Final = "SELECT job_id FROM jobs WHERE state = 'waiting' ORDER BY job_id DESC LIMIT 1"
_UNDONE: Final = (
    "SELECT job_id FROM jobs o WHERE state = 'done' AND kind = 'replay' AND NOT EXISTS "
    "(SELECT 1 FROM replays r WHERE r.job_id = o.job_id AND r.finished_ms IS NOT NULL) ORDER BY job_id"
)


class Ordering:
    """Who jobs replays in one life."""

    def __init__(self, seed: int | None = None, busy: bool | None = None) -> None:
        self.rng, self.others = random.Random(f"{seed}-orders"), random.Random(f"{seed}-other jobs")
        self.share = SHARE if seed is not None and self.rng.random() < LIVES else 0.0
        self.busy = seed is not None and seed % BUSY_EVERY in BUSY if busy is None else busy
        self.told = Counter[int]()
        """How often ticks told of the end of each job."""

    def instead(self, world: World, plan: ReplayPlan, now_ms: int) -> bool:
        """Whether it was queued, or refused as a job, and is not done at once."""
        if self.rng.random() >= self.share:
            return False
        _place(world, ReplayJob(plan.scope, plan.asked_from_ms, plan.asked_to_ms), now_ms)
        return True

    def act(self, world: World) -> None:
        """What on-call does in a life that is full of jobs; nothing in others, and while history is lost."""
        if not self.busy or world.lost_at is not None:
            return
        chance, now = self.rng.random(), world.time.now
        if chance < PLACES:
            to_ms = window_of(now - self.rng.randrange(DAY_MS)) + WINDOW_MS
            scope = self.rng.choice((ReplayScope(), ReplayScope(orgs=(self.rng.choice(ORGS),))))
            _place(world, ReplayJob(scope, to_ms - self.rng.choice((WINDOW_MS, DAY_MS, 7 * DAY_MS)), to_ms), now)
        elif chance < PLACES + CANCELS:
            for (job_id,) in world.rows("SELECT MAX(job_id) FROM jobs WHERE state = 'waiting' HAVING COUNT(*) > 0"):
                attempt(world, partial(queue.cancel, job_id=job_id, by=By(now, "sim", "takes it back")))
                world.say("world", f"takes back job {job_id}")
        chance = self.others.random()
        if chance < CORRECTS:
            _place(world, CorrectJob(self.others.choice(("", *ORGS))), now, "correction_queued")
        elif chance < CORRECTS + TOPS_UP:
            self._top_up(world)

    def _top_up(self, world: World) -> None:
        """Another card of a wallet whose top-ups have stopped; else a stop, and a start that is queued."""
        found = world.rows("SELECT customer_id, mode, declines FROM topup_terms ORDER BY customer_id")
        if not found:
            return
        now = world.time.now
        customer, mode, declines = self.others.choice(found)
        if mode == "stopped":
            _place(world, TopupJob(customer, "start"), now, "start_queued")
        elif declines:
            _place(world, TopupJob(customer, "resume"), now, "resume_queued")
        elif self.others.random() < STOPS:
            stop = partial(topups.set_mode, customer_id=customer, mode="stopped", by=By(now, "sim", "stops"))
            attempt(world, stop)

    def heard(self, effect: Effect | Reading, answer: object) -> None:
        """What a transaction answered, once it was committed."""
        match effect:
            case Transaction("end_job", rollback=False) if answer is not None:
                self.told[effect.work.keywords["taken"].job_id] += 1  # type: ignore[attr-defined]
            case Transaction("take_job", rollback=False) if isinstance(answer, queue.ClaimedJob) and answer.failed:
                self.told[answer.job_id] += 1

    def wrong(self, world: World, *, restored: bool) -> Iterator[str]:
        """What does not hold once all is healed. What a restore forgot is told of again, or by nobody."""
        if not restored:
            yield from (f"jobs: {one} was told of {times} times" for one, times in self.told.items() if times > 1)
        for (job_id,) in world.rows(_UNDONE):
            yield f"jobs: {job_id} is done, and no replay of it came to its end"


def _place(world: World, asked: Asked, now_ms: int, kind: str = "replay_queued") -> None:
    by = By(now_ms, "sim", "jobs it")
    number = attempt(world, lambda c: queue.place(c, asked, by))
    world.faults.note(kind)
    world.say("world", f"jobs a {asked}: {number}")
