"""Run a worker of `drawdown worker`: its two queues, their jobs, and the engine.

The engine is procrastinate, on the same PostgreSQL, in its own schema.

Guarantee: ticks and short jobs have their own connections, so a tick does not delay a halt. For each kind and shard, at
most one job waits, and at most one runs. A job is acknowledged after its work. If its worker died, another worker takes
the job over. Drawdown logs and records a fault in a job, and the next job of the shard continues from the committed
work. If a job is stopped, or needs a newer program, it goes back to the queue. Money does not depend on the engine,
because a job can safely run twice, or late. A worker ends between two effects. If the database is unavailable, the
worker waits for it.
"""

from __future__ import annotations

import asyncio
import os
import queue
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import psycopg
import sqlalchemy as sa
import structlog
from procrastinate import App as Engine
from procrastinate import PsycopgConnector, RetryStrategy, exceptions, jobs, sql
from psycopg_pool import PoolTimeout
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_fixed

from drawdown.cli import scheduler
from drawdown.cli.app import App
from drawdown.cli.nouns.reconcile import compare
from drawdown.cli.nouns.tick import new_orgs, parse_shard
from drawdown.cli.processes import LOOK_S, Stopping
from drawdown.cli.scheduler import WatchLoop
from drawdown.schema.audit import By
from drawdown.schema.database import PG_WAITS
from drawdown.schema.errors import DatabaseNotReady, DrawdownError, Exit, Refused, UsageError
from drawdown.schema.text import in_short
from drawdown.schema.units import SECOND_MS
from drawdown.worker.cluster.install import SCHEMA
from drawdown.worker.cluster.membership import LIVES_S, Book, Member, Membership, RequestedTerms, Terms, take_part
from drawdown.worker.reconcile.reconcile import ReconcileScope
from drawdown.worker.watch import ROUND_MS

log = structlog.get_logger()

QUICK_AT_ONCE: Final = 2
"""Maximum number of concurrent watch rounds and nightly comparisons of a worker, beside its tick."""


@dataclass(frozen=True, eq=False)
class Ticking:
    """A running tick. Two ticks of a shard are different objects."""

    shard: str


class PutBack(Exception):
    """Raised if a job is not complete. The engine then queues the job again."""


@dataclass
class Jobs:
    """The jobs that one worker runs, and their state."""

    app: App
    terms: Terms
    member: Member
    stopping: Stopping
    ended_by: DrawdownError | None = None
    """Error that ends this worker."""
    ticking: Ticking | None = None
    """The tick that runs now."""
    _share: int = 1
    _watches: dict[str, WatchLoop] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.book = Book(self.app.engine, self.member)
        self._ticks, self._quick = _apart(self.app, 1), _apart(self.app, QUICK_AT_ONCE)

    def tick(self, shard: str) -> None:
        """Run one tick of a shard `i/n`.

        The tick also runs if the workers have since agreed on another n. Otherwise the organisations of the shard
        would wait for another tick. Overlapping shards are safe.
        """
        with self._one_of(self._ticks) as app:
            options = scheduler.Options(
                parse_shard(shard), new_orgs(app, self.terms.new_org_provider, None), False, self.terms.every_s
            )
            self.ticking = Ticking(shard)
            try:
                self._do(f"tick {shard}", lambda: scheduler.tick_once(app, options, self.stopping))
            finally:
                self.ticking = None

    def watch(self, shard: str) -> None:
        """Run one round of the watch for a shard.

        The next round of this worker reuses the state of this round in memory, which only saves time.
        """
        with self._one_of(self._quick) as app:
            kept = self._watches.setdefault(shard, WatchLoop(app, parse_shard(shard), self.stopping))
            self._do(f"watch {shard}", replace(kept, app=app).round)

    def reconcile(self) -> None:
        """Run the nightly comparison, as `drawdown reconcile --correct` does."""
        with self._one_of(self._quick) as app:
            by = By(app.clock.now_ms(), "drawdown worker", "nightly", "cli")
            self._do("reconcile", lambda: compare(app, ReconcileScope(correct=True, recent=True), by))

    def beat(self) -> None:
        """Record this worker's heartbeat, and take its share of providers' limits.

        The share depends on the number of workers that can tick at once. If the database is not ready, or a rule
        refuses this worker, the worker ends.
        """
        try:
            self.app.ready()
            wanted = RequestedTerms(
                self.terms.shards, self.terms.every_s, self.terms.new_org_provider, self.terms.providers
            )
            taken: Membership = self.app.write(lambda c: take_part(c, self.member, wanted))
            self._share = min(taken.terms.shards, taken.living)
        except (DatabaseNotReady, Refused) as error:
            self.end(error)
        except Exception as error:  # continue, because a worker without a heartbeat counts as dead
            log.warning("worker_not_told", error=in_short(error))

    def end(self, error: DrawdownError) -> None:
        """Stop this worker, which then ends with the first such error."""
        self.ended_by = self.ended_by or error
        self.stopping.end()

    def close(self) -> None:
        """Record the end of this worker, and close its connections."""
        try:
            self.book.leave()
        except DrawdownError as error:
            log.warning("worker_not_told", error=str(error))
        for free in (self._ticks, self._quick):
            while not free.empty():
                free.get_nowait().close()

    @contextmanager
    def _one_of(self, free: queue.Queue[App]) -> Iterator[App]:
        app = free.get()
        app.processes = self._share
        try:
            yield app
        finally:
            free.put(app)

    def _do(self, what: str, work: Callable[[], object]) -> None:
        try:
            work()
        except DatabaseNotReady as error:
            self.end(error)
            raise PutBack from error
        except Exception as error:
            text = str(error) if isinstance(error, DrawdownError) else in_short(error)
            log.error("job_failed", job=what, error=text, exc_info=not isinstance(error, DrawdownError))
            self._note(lambda: self.book.failed(f"{what}: {text}"))
        else:
            self._note(self.book.note_done)
        if self.stopping.is_set():
            raise PutBack

    def _note(self, write: Callable[[], None]) -> None:
        """Write a note about a job. A failure is logged and does not fail the job."""
        try:
            write()
        except DrawdownError as error:
            log.warning("worker_not_told", error=str(error))


def _apart(app: App, count: int) -> queue.Queue[App]:
    """Return copies of an invocation, each with its own connections and providers."""
    made: queue.Queue[App] = queue.Queue()
    for _ in range(count):
        made.put(app.apart())
    return made


TAKE_OVER_EVERY_S: Final = 15
"""Seconds between two take-overs of the jobs of dead workers (see LIVES_S)."""
MAX_KEPT_HOURS: Final = 24
"""Hours for which the engine keeps failed and aborted jobs.

The engine deletes successful jobs at once.
"""
ACKNOWLEDGED_S: Final = 30
"""Seconds for which a worker tries to record the end of a job.

This time is more than two heartbeats. If the worker cannot record the end by then, it has lost its heartbeat, too. It
then starts again, and other workers take over its jobs.
"""
RECONCILE_AT: Final = "17 2 * * *"
"""Schedule of the nightly comparison, in UTC."""
CATCH_UP_S: Final = 12 * 3_600
"""Seconds after which a worker no longer starts a missed nightly comparison."""
MAX_CONNECTIONS: Final = 4
"""Maximum number of connections of a worker's engine, beside two connections that receive jobs."""
TICKS, QUICK = "ticks", "quick"
BACK = RetryStrategy(retry_exceptions=(PutBack,))
_MINUTE, _HOUR = 60, 3_600


class Connector(PsycopgConnector):
    """A connector that records a job's outcome again after a lost connection.

    If a job goes back to the queue while a newer job of its shard waits, the newer job replaces it.
    """

    async def execute_query_async(self, query: Any, **arguments: Any) -> None:
        try:
            await self._noted(query, **arguments)
        except exceptions.UniqueViolation:
            if query != sql.queries["retry_job"]:
                raise
            given = {"job_id": arguments["job_id"], "status": jobs.Status.ABORTED.value, "delete_job": True}
            await self._noted(sql.queries["finish_job"], **given)

    async def _noted(self, query: Any, **arguments: Any) -> None:
        """Execute a statement, and repeat it only if no response came.

        The error that no such job exists is a response. After a lost response, this error proves that the first
        statement worked.
        """
        tries = AsyncRetrying(
            retry=retry_if_exception(_is_unanswered),
            stop=stop_after_delay(ACKNOWLEDGED_S),
            wait=wait_fixed(1),
            reraise=True,
        )
        async for one in tries:
            with one:
                try:
                    await super().execute_query_async(query, **arguments)
                except exceptions.ConnectorException as error:
                    if not _is_gone(error) or one.retry_state.attempt_number == 1:
                        raise


def _is_unanswered(error: BaseException) -> bool:
    return type(error) is exceptions.ConnectorException and not _is_gone(error)


def _is_gone(error: BaseException) -> bool:
    """Return True if the job does not exist, or does not run.

    The engine's functions then raise an exception.
    """
    return isinstance(error.__cause__, psycopg.errors.RaiseException)


def connector(latest_url: Callable[[], str]) -> Connector:
    """Return the connector of the engine.

    Each connection uses the login that is valid when the connection opens.
    """

    async def conninfo() -> str:
        url = sa.make_url(latest_url()).set(drivername="postgresql")
        return url.render_as_string(hide_password=False)

    return Connector(
        conninfo=conninfo,
        configure=_go_there,
        min_size=1,
        max_size=MAX_CONNECTIONS,
        timeout=10.0,
        kwargs=dict(PG_WAITS),
    )


async def _go_there(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.execute(f"SET search_path TO {SCHEMA}".encode())
    if not connection.autocommit:
        await connection.commit()


def cron(every_s: int) -> str:
    """Return the cron expression of the engine for a period in seconds.

    Errors: UsageError unless the period divides a minute or an hour.
    """
    minutes, rest = divmod(every_s, _MINUTE)
    if 0 < every_s < _MINUTE and _MINUTE % every_s == 0:
        return f"* * * * * */{every_s}"
    if rest == 0 and every_s == _HOUR:
        return "0 * * * *"
    if rest == 0 and 0 < every_s < _HOUR and _HOUR % every_s == 0:
        return f"*/{minutes} * * * *"
    raise UsageError(
        f"invalid --every {every_s}: expected seconds that divide a minute, or whole minutes that divide an hour, such "
        "as 30, 60 or 300"
    )


def ticking(work: Jobs, made: Connector) -> Engine:
    """Return the engine that ticks each shard every `work.terms.every_s` seconds."""
    engine = Engine(connector=made)

    def tick(timestamp: int, shard: str) -> None:
        work.tick(shard)

    task = engine.task(name="tick", queue=TICKS, retry=BACK)(tick)
    for shard in shards(work):
        _schedule(engine, task, cron(work.terms.every_s), f"tick {shard}", {"shard": shard})
    return engine


def watching(work: Jobs, made: Connector) -> Engine:
    """Return the engine of the queue of short jobs, which ticks do not delay.

    Short jobs are watch rounds, the nightly comparison, and take-overs of the jobs of dead workers.
    """
    engine = Engine(connector=made, periodic_defaults={"max_delay": CATCH_UP_S})

    def watch(timestamp: int, shard: str) -> None:
        work.watch(shard)

    def reconcile(timestamp: int) -> None:
        work.reconcile()

    async def clean_up(timestamp: int) -> None:
        await take_over(engine)
        await engine.job_manager.delete_old_jobs(MAX_KEPT_HOURS, include_failed=True, include_aborted=True)
        await asyncio.to_thread(work.book.forget_schedules)

    task = engine.task(name="watch", queue=QUICK, retry=BACK)(watch)
    for shard in shards(work):
        _schedule(engine, task, cron(ROUND_MS // SECOND_MS), f"watch {shard}", {"shard": shard})
    nightly = engine.task(name="reconcile", queue=QUICK, retry=BACK)(reconcile)
    _schedule(engine, nightly, RECONCILE_AT, "reconcile", {})
    # Use only a queueing lock. If the worker of a take-over died, a `lock` would block the next take-over.
    taken = engine.task(name="take_over", queue=QUICK, queueing_lock="take_over", priority=1)(clean_up)
    engine.periodic(cron=cron(TAKE_OVER_EVERY_S), periodic_id="take_over")(taken)
    return engine


def shards(work: Jobs) -> list[str]:
    """Return the names of all shards, each as `i/n`."""
    return [f"{index}/{work.terms.shards}" for index in range(work.terms.shards)]


def _schedule(engine: Engine, task: Any, when: str, name: str, given: dict[str, Any]) -> None:
    """Schedule a task.

    At most one of its jobs waits (`queueing_lock`), and at most one runs (`lock`).
    """
    engine.periodic(cron=when, periodic_id=name, lock=name, queueing_lock=name, task_kwargs=given)(task)


async def take_over(engine: Engine) -> None:
    """Put the jobs of dead workers back into the queue.

    The engine detects dead workers, but leaves their jobs assigned to them.
    """
    for job in await engine.job_manager.get_stalled_jobs(seconds_since_heartbeat=LIVES_S):
        log.warning("job_taken_over", job=job.task_name, lock=job.lock, worker=job.worker_id)
        await engine.job_manager.retry_job(job)


BEAT_S: Final = 5.0
"""Seconds between two heartbeats of a worker."""
POLL_S: Final = 1.0
"""Seconds between two searches for a job that waits for another job of its shard.

The engine does not send a notification for such a job.
"""
AGAIN_S: Final = 1.0
"""Seconds before a worker reconnects to a lost database."""
MAX_TICK_S: Final = 3_600.0
"""Maximum duration of a worker's tick, in seconds.

If a tick lasts longer, it counts as hung. The process ends, and other workers take over its jobs.
"""
AWAY: Final = (exceptions.ConnectorException, PoolTimeout)


die: Callable[[int], None] = os._exit
"""The function that ends the process at once. Its work is committed, or will be done again."""


def work(jobs: Jobs) -> None:
    """Run jobs until the worker is stopped.

    Errors: the error in `jobs.ended_by`, if a fault stopped the worker.
    """
    while not jobs.stopping.is_set():
        try:
            asyncio.run(_turn(jobs))
        except AWAY as error:
            log.warning("engine_away", reason=type(error).__name__)
        if not jobs.stopping.is_set():
            jobs.stopping.wait(AGAIN_S)
    if jobs.ended_by is not None:
        raise jobs.ended_by


async def _turn(jobs: Jobs) -> None:
    """Run both queues until the worker is stopped, or a queue fails for good."""
    made = connector(jobs.app.settings.latest_database_url)
    ticks, quick = ticking(jobs, made), watching(jobs, made)
    async with ticks.open_async():
        lanes = [_begun(_lane(jobs, ticks, TICKS, 1)), _begun(_lane(jobs, quick, QUICK, QUICK_AT_ONCE))]
        beat, stop = _begun(_beat(jobs)), _begun(_until_stopped(jobs))
        await asyncio.wait([*lanes, stop], return_when=asyncio.FIRST_COMPLETED)
        for lane in lanes:
            lane.cancel()  # the queue first ends its present job
        ended = await asyncio.gather(*lanes, return_exceptions=True)
        for other in (beat, stop):
            other.cancel()
        for result in ended:
            if isinstance(result, Exception):
                raise result


async def _lane(jobs: Jobs, engine: Engine, name: str, at_once: int) -> None:
    """Run one queue.

    If the engine loses its database, this queue begins again without waiting for the other.
    """
    while not jobs.stopping.is_set():
        try:
            return await _worked(engine, name, at_once)
        except AWAY as error:
            log.warning("engine_away", lane=name, reason=type(error).__name__)
            await asyncio.sleep(AGAIN_S)


async def _worked(engine: Engine, name: str, at_once: int) -> None:
    await engine.run_worker_async(
        queues=[name],
        concurrency=at_once,
        fetch_job_polling_interval=POLL_S,
        # Any login of a database can send notifications, and an invalid notification would stop the worker.
        listen_notify=False,
        delete_jobs="successful",
        install_signal_handlers=False,
        update_heartbeat_interval=BEAT_S,
        stalled_worker_timeout=LIVES_S,
    )


def _begun(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.create_task(coroutine)


async def _beat(jobs: Jobs) -> None:
    loop = asyncio.get_running_loop()
    tick, since = jobs.ticking, loop.time()
    while True:
        if jobs.ticking is not tick:
            tick, since = jobs.ticking, loop.time()
        elif tick is not None and loop.time() - since > MAX_TICK_S:
            log.critical("tick_hangs", shard=tick.shard, after_s=MAX_TICK_S)
            die(Exit.PERSON)
        await asyncio.to_thread(jobs.beat)
        await asyncio.sleep(BEAT_S)


async def _until_stopped(jobs: Jobs) -> None:
    while not jobs.stopping.is_set():
        await asyncio.sleep(LOOK_S)
