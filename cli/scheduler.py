"""`drawdown run` and `up`: a tick every five minutes, a watch between them, and what is done once a night.

Guarantee: a late fire still happens, and several missed ones become one. Two ticks of this process never overlap (an
overlap is logged and counted). SIGTERM ends between two effects: every push that was sent has its attempt on record.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from typing import Final

import structlog
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobExecutionEvent
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from drawdown.cli.app import App
from drawdown.cli.night import Night
from drawdown.cli.stopping import Stopping
from drawdown.cli.watch_loop import WatchLoop
from drawdown.schema.errors import DrawdownError, Exit
from drawdown.schema.units import SECOND_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import NewOrgs, Shard
from drawdown.worker.status.ticks import Report
from drawdown.worker.tick import tick

log = structlog.get_logger()


WITHIN: Final = 0.8
"""What a tick may take of the time between two, unless told otherwise: one that hangs holds up no other for good."""


@dataclass
class Options:
    """How to tick."""

    shard: Shard
    new_orgs: NewOrgs | None
    accept_clock: bool
    every_s: int
    watch_every_s: int | None = None
    """None: nobody is watched."""
    deadline_s: float | None = None
    """What a tick leaves after so many seconds, the next one does. None: by WITHIN."""
    nightly_at: dt.time | None = None
    """In UTC. None: somebody else runs `drawdown nightly`."""

    def deadline_ms(self) -> int:
        """How long a tick may take, in milliseconds."""
        return round((self.every_s * WITHIN if self.deadline_s is None else self.deadline_s) * SECOND_MS)


def tick_once(app: App, options: Options, stopping: Stopping) -> Report:
    """One tick of a process that lives on, with what files of settings hold by now."""
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
        """One tick. What goes wrong is logged; the next tick goes on from what is committed."""
        try:
            self.last_status = tick_once(self.app, self.options, self.stopping).exit_status
            self.options.accept_clock = False  # one jump was vouched for, not every later one
        except DrawdownError as error:
            self.last_status = error.exit_status
            log.error("tick_failed", error=str(error), exit_status=error.exit_status)
        except Exception:
            self.last_status = Exit.PERSON
            log.exception("tick_failed")

    def overlapped(self, event: JobExecutionEvent) -> None:
        if event.job_id != "tick":
            return  # a round that takes longer than it should is made up for by the next
        self.overlaps += 1
        log.warning("tick_overlaps", count=self.overlaps, detail="the tick before still runs; it will be made up for")


def at_night(at: dt.time) -> CronTrigger:
    """Once a day, in UTC, which has no hour twice or left out."""
    return CronTrigger(hour=at.hour, minute=at.minute, timezone=dt.UTC)


def run(app: App, options: Options, stopping: Stopping) -> int:
    """Tick now and then every `every_s` seconds, until `stopping`; returns the last tick's exit status."""
    loop = _Loop(app, options, stopping)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # what it warns of, an overlap, is told below
    # Late fires count (a sleeping laptop), several become one, and a fire during a tick is skipped and reported.
    scheduler = BackgroundScheduler(
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}, timezone="UTC"
    )
    scheduler.add_listener(loop.overlapped, EVENT_JOB_MAX_INSTANCES)
    if options.watch_every_s is not None:
        # Connections of its own: a tick that waits for a slow provider holds up no halt.
        watch_loop = WatchLoop(app.apart(), options.shard, loop.stopping)
        scheduler.add_job(watch_loop.try_round, IntervalTrigger(seconds=options.watch_every_s), id="watch")
        scheduler.start()
    if options.nightly_at is not None:
        scheduler.add_job(Night(app.settings, stopping).run, at_night(options.nightly_at), id="nightly")
    loop.tick()
    scheduler.add_job(loop.tick, IntervalTrigger(seconds=options.every_s), id="tick")
    if not scheduler.running:
        scheduler.start()
    loop.stopping.wait()
    scheduler.shutdown(wait=True)  # the running tick ends at its next effect
    return loop.last_status
