"""Run the loops of `drawdown run`, `up` and `watch`.

The loops are ticks, watch rounds between ticks, and nightly checks.

Guarantee: a late tick still runs, and several missed ticks become one. Two ticks of this process never overlap, and
neither do two rounds. A tick that would overlap is logged and counted. If the machine's clock is set back, the loops
continue after one interval. SIGTERM ends the loops between two effects, so
every push that was sent has its attempt on record. A failed round is logged, and the next round does its work. The
nightly command runs in its own process, so it does not take memory from ticks, and its failure does not end them.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobExecutionEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.schedulers.base import BaseScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from drawdown.cli.app import App
from drawdown.cli.processes import LOOK_S, Stopping
from drawdown.cli.settings import Settings
from drawdown.schema.clock import Clock
from drawdown.schema.errors import MEANINGS, DrawdownError, Exit
from drawdown.schema.units import SECOND_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.breaker import Breaker
from drawdown.worker.engine.shard import NewOrgs, Shard
from drawdown.worker.status.ticks import Report
from drawdown.worker.tick import tick
from drawdown.worker.watch import Watched, Watcher, watch

log = structlog.get_logger()


CLOCK_LOOK_S: Final = 1.0
"""Seconds between two checks whether the machine's clock was set back."""
WITHIN: Final = 0.8
"""Default time limit of a tick, as a share of the interval between ticks.

A hung tick ends at this limit.
"""


@dataclass
class Options:
    """The options of a loop of ticks."""

    shard: Shard
    new_orgs: NewOrgs | None
    accept_clock: bool
    every_s: int
    watch_every_s: int | None = None
    """Seconds between watch rounds; None: the watch does not run."""
    deadline_s: float | None = None
    """Seconds after which a tick leaves the rest to the next tick.

    None: the share WITHIN of the interval.
    """
    nightly_at: dt.time | None = None
    """Time of day of the nightly checks in UTC; None: this process does not run them."""

    def deadline_ms(self) -> int:
        """Return the time limit of a tick, in milliseconds."""
        return round((self.every_s * WITHIN if self.deadline_s is None else self.deadline_s) * SECOND_MS)


def tick_once(app: App, options: Options, stopping: Stopping) -> Report:
    """Read the files of settings again, run one tick, and return its report."""
    app.read_files_again()
    context = app.context()
    context.shard = options.shard
    context.new_orgs = options.new_orgs
    context.accept_clock = options.accept_clock
    context.stopping = stopping.is_set
    context.deadline_ms = app.clock.now_ms() + options.deadline_ms()
    return runner.run(tick(context), app.world())


@dataclass
class _Loop:
    app: App
    options: Options
    stopping: Stopping
    overlaps: int = 0
    last_status: int = 0

    def tick(self) -> None:
        """Run one tick.

        A fault is logged. The next tick continues from the committed work.
        """
        try:
            self.last_status = tick_once(self.app, self.options, self.stopping).exit_status
            self.options.accept_clock = False  # --accept-clock accepts one clock jump only
        except DrawdownError as error:
            self.last_status = error.exit_status
            log.error("tick_failed", error=str(error), exit_status=error.exit_status)
        except Exception:
            self.last_status = Exit.PERSON
            log.exception("tick_failed")

    def overlapped(self, event: JobExecutionEvent) -> None:
        if event.job_id != "tick":
            return  # the next round, or the next night, catches up
        self.overlaps += 1
        log.warning(
            "tick_overlaps",
            count=self.overlaps,
            detail="the previous tick still runs; a later tick does the work of this one",
        )


def at_night(at: dt.time) -> CronTrigger:
    """Return a daily trigger in UTC, so that daylight saving time does not affect it."""
    return CronTrigger(hour=at.hour, minute=at.minute, timezone=dt.UTC)


def run(app: App, options: Options, stopping: Stopping) -> int:
    """Run a tick now and every `every_s` seconds until stopped.

    Return the exit status of the last tick.
    """
    loop = _Loop(app, options, stopping)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # the library warns of overlaps; `overlapped` logs them
    # A late tick still runs, such as after a laptop slept. Several late ticks become one. Skip and log a tick during a
    # tick.
    scheduler = BackgroundScheduler(
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}, timezone="UTC"
    )
    scheduler.add_listener(loop.overlapped, EVENT_JOB_MAX_INSTANCES)
    began_ms = app.clock.now_ms()
    if options.watch_every_s is not None:
        # The watch has its own connections, so that a tick that waits for a slow provider does not delay a halt.
        watch_loop = WatchLoop(app.apart(), options.shard, loop.stopping)
        scheduler.add_job(watch_loop.try_round, IntervalTrigger(seconds=options.watch_every_s), id="watch")
        scheduler.start()
    if options.nightly_at is not None:
        scheduler.add_job(Night(app.settings, stopping).run, at_night(options.nightly_at), id="nightly")
    loop.tick()
    scheduler.add_job(loop.tick, IntervalTrigger(seconds=options.every_s), id="tick")
    if not scheduler.running:
        scheduler.start()
    wait_until_stopped(scheduler, app.clock, stopping, began_ms)
    scheduler.shutdown(wait=True)  # the running tick ends at its next effect
    return loop.last_status


def wait_until_stopped(scheduler: BaseScheduler, clock: Clock, stopping: Stopping, seen_ms: int) -> None:
    """Wait for a signal, and plan each job again if the clock was set back.

    `seen_ms`: the first time with which the function compares the clock.

    The scheduler waits for times of the machine's clock. Otherwise it would wait for the length of the step, too.
    """
    while True:
        stopping.wait(CLOCK_LOOK_S)
        if stopping.is_set():
            return
        now_ms = clock.now_ms()
        if now_ms < seen_ms:
            log.warning("clock_set_back", by_ms=seen_ms - now_ms)
            for job in scheduler.get_jobs():
                trigger = job.trigger
                if isinstance(trigger, IntervalTrigger):  # the trigger's first time may be in the future now
                    trigger = IntervalTrigger(seconds=trigger.interval_length)
                scheduler.reschedule_job(job.id, trigger=trigger)
        seen_ms = now_ms


@dataclass
class WatchLoop:
    """A watch of one shard, with the state that its rounds share."""

    app: App
    shard: Shard
    stopping: Stopping
    watcher: Watcher = field(default_factory=Watcher)
    breakers: dict[str, Breaker] = field(default_factory=dict)
    cell_breakers: dict[str, Breaker] = field(default_factory=dict)

    def round(self) -> Watched:
        self.app.read_files_again()
        self.app.require_clock()
        context = self.app.context()
        context.shard = self.shard
        context.stopping = self.stopping.is_set
        context.breakers = self.breakers
        context.cell_breakers = self.cell_breakers
        return runner.run(watch(context, self.watcher), self.app.world())

    def try_round(self) -> None:
        """Run one round.

        A fault is logged. The next round continues from the committed work.
        """
        try:
            self.round()
        except DrawdownError as error:
            log.error("watch_failed", error=str(error), exit_status=error.exit_status)
        except Exception:
            log.exception("watch_failed")


COMMAND: Final = (sys.executable, "-c", "from drawdown.cli.main import main; main()", "nightly", "--json")
ENDED: Final = (-signal.SIGTERM, -signal.SIGINT)
"""Exit statuses of a process that SIGTERM or SIGINT ended.

When the machine stops, all processes get the signal, so the nightly process may end first.
"""
ENDS_WITHIN_S: Final = 20.0
"""Seconds that the scheduler waits for the nightly process to end after a request."""


@dataclass
class Night:
    """The nightly checks of `drawdown run` and `drawdown up`."""

    settings: Settings
    stopping: Stopping

    def run(self) -> None:
        """Run the nightly command in its own process, and log its result."""
        environment = self.settings.environment()
        with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, text=True) as nightly:  # noqa: S603 our own
            said = self._read_output(nightly)
        if said is None or nightly.returncode in ENDED:
            log.warning("nightly_stopped", detail="the next night does these checks")
            return
        status, failed = Exit.PERSON, ["drawdown nightly"]
        with suppress(ValueError, KeyError, TypeError):  # the process was killed, or failed before its first command
            found = json.loads(said)
            status = Exit(found["exit_status"])
            failed = [f"{one['exit_status']} of drawdown {one['command']}" for one in found["nightly"]
                      if one["exit_status"]]  # fmt: skip
        tell = log.info if status == Exit.SETTLED else log.warning if status == Exit.LEFT else log.error
        tell("nightly_ended", exit_status=int(status), meaning=MEANINGS[status], failed=failed)

    def _read_output(self, nightly: subprocess.Popen[str]) -> str | None:
        """Return the output of the nightly command; None if this process was stopped.

        If this process was stopped, the method ends the nightly command.
        """
        while not self.stopping.is_set():
            with suppress(subprocess.TimeoutExpired):
                return nightly.communicate(timeout=LOOK_S)[0]
        nightly.terminate()
        try:
            nightly.communicate(timeout=ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            nightly.kill()
        return None
