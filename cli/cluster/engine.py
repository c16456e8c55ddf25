"""The engine that spreads the work: procrastinate, on the same PostgreSQL, in a schema of its own.

Guarantee: of each kind and shard one job waits at most, and one runs. A job is acknowledged once its work has ended;
one whose worker died is taken over. No money rests on it: a job that runs twice, or late, does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import psycopg
import sqlalchemy as sa
import structlog
from procrastinate import App as Engine
from procrastinate import PsycopgConnector, RetryStrategy, exceptions, jobs, sql
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_fixed

from drawdown.cli.cluster.jobs import Jobs, PutBack
from drawdown.schema.errors import UsageError
from drawdown.schema.units import SECOND_MS
from drawdown.worker.cluster.install import SCHEMA
from drawdown.worker.cluster.membership import LIVES_S
from drawdown.worker.watch import ROUND_MS

log = structlog.get_logger()

TAKE_OVER_EVERY_S: Final = 15
"""Jobs of workers that died are taken over by then, once LIVES_S are over."""
MAX_KEPT_HOURS: Final = 24
"""How long the engine keeps jobs that it could not even begin; what ended well is deleted at once."""
ACKNOWLEDGED_S: Final = 30
"""For so long the end of a job is tried to be noted. Longer than two heartbeats: a worker that cannot note it by then
has lost its heartbeat, too, and begins anew, and its jobs are taken over."""
RECONCILE_AT: Final = "17 2 * * *"
"""Nightly, UTC."""
CATCH_UP_S: Final = 12 * 3_600
"""A comparison that nobody was there for is made up for within so long."""
MAX_CONNECTIONS: Final = 4
"""Of a worker's engine, beside two on which it is told of new jobs."""
TICKS, QUICK = "ticks", "quick"
BACK = RetryStrategy(retry_exceptions=(PutBack,))
_MINUTE, _HOUR = 60, 3_600


class Connector(PsycopgConnector):
    """One that notes what became of a job again where its connection was lost, and else fails. A job that is to wait
    again, while a newer one of its shard waits already, is done by that one."""

    async def execute_query_async(self, query: Any, **arguments: Any) -> None:
        try:
            await self._noted(query, **arguments)
        except exceptions.UniqueViolation:
            if query != sql.queries["retry_job"]:
                raise
            given = {"job_id": arguments["job_id"], "status": jobs.Status.ABORTED.value, "delete_job": True}
            await self._noted(sql.queries["finish_job"], **given)

    async def _noted(self, query: Any, **arguments: Any) -> None:
        """Again only where no answer came. That there is no such job any more is one; after an answer that was lost, it
        says that this was done."""
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
    """The engine's functions raise so for a job that is not there, or not under way."""
    return isinstance(error.__cause__, psycopg.errors.RaiseException)


def connector(latest_url: Callable[[], str]) -> Connector:
    """Connections for the engine, each with the login that is to be used by then."""

    async def conninfo() -> str:
        url = sa.make_url(latest_url()).set(drivername="postgresql")
        return url.render_as_string(hide_password=False)

    return Connector(
        conninfo=conninfo,
        configure=_go_there,
        min_size=1,
        max_size=MAX_CONNECTIONS,
        timeout=10.0,
        kwargs={"connect_timeout": 10},
    )


async def _go_there(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.execute(f"SET search_path TO {SCHEMA}".encode())
    if not connection.autocommit:
        await connection.commit()


def cron(every_s: int) -> str:
    """Every so many seconds, as the engine's schedule has it. Errors: UsageError for what divides no minute or hour."""
    minutes, rest = divmod(every_s, _MINUTE)
    if 0 < every_s < _MINUTE and _MINUTE % every_s == 0:
        return f"* * * * * */{every_s}"
    if rest == 0 and every_s == _HOUR:
        return "0 * * * *"
    if rest == 0 and 0 < every_s < _HOUR and _HOUR % every_s == 0:
        return f"*/{minutes} * * * *"
    raise UsageError(f"--every {every_s}: workers tick by the clock, so it divides a minute or an hour: 300, 60, 30")


def ticking(work: Jobs, made: Connector) -> Engine:
    """The queue of ticks: of each shard, every `every_s` seconds."""
    engine = Engine(connector=made)

    def tick(timestamp: int, shard: str) -> None:
        work.tick(shard)

    task = engine.task(name="tick", queue=TICKS, retry=BACK)(tick)
    for shard in shards(work):
        _schedule(engine, task, cron(work.terms.every_s), f"tick {shard}", {"shard": shard})
    return engine


def watching(work: Jobs, made: Connector) -> Engine:
    """The queue that no tick holds up: rounds of the watch, the nightly comparison, and what is taken over."""
    engine = Engine(connector=made, periodic_defaults={"max_delay": CATCH_UP_S})

    def watch(timestamp: int, shard: str) -> None:
        work.watch(shard)

    def reconcile(timestamp: int) -> None:
        work.reconcile()

    async def gone(timestamp: int) -> None:
        await take_over(engine)
        await engine.job_manager.delete_old_jobs(MAX_KEPT_HOURS, include_failed=True, include_aborted=True)
        await asyncio.to_thread(work.book.forget_schedules)

    task = engine.task(name="watch", queue=QUICK, retry=BACK)(watch)
    for shard in shards(work):
        _schedule(engine, task, cron(ROUND_MS // SECOND_MS), f"watch {shard}", {"shard": shard})
    nightly = engine.task(name="reconcile", queue=QUICK, retry=BACK)(reconcile)
    _schedule(engine, nightly, RECONCILE_AT, "reconcile", {})
    # No lock: one whose worker died would hold up the one that is to take it over.
    taken = engine.task(name="take_over", queue=QUICK, queueing_lock="take_over", priority=1)(gone)
    engine.periodic(cron=cron(TAKE_OVER_EVERY_S), periodic_id="take_over")(taken)
    return engine


def shards(work: Jobs) -> list[str]:
    """All of them, as `i/n`."""
    return [f"{index}/{work.terms.shards}" for index in range(work.terms.shards)]


def _schedule(engine: Engine, task: Any, when: str, name: str, given: dict[str, Any]) -> None:
    """One waits at most (`queueing_lock`), and one runs (`lock`)."""
    engine.periodic(cron=when, periodic_id=name, lock=name, queueing_lock=name, task_kwargs=given)(task)


async def take_over(engine: Engine) -> None:
    """The engine sees which workers died, and does nothing about their jobs: they wait again."""
    for job in await engine.job_manager.get_stalled_jobs(seconds_since_heartbeat=LIVES_S):
        log.warning("job_taken_over", job=job.task_name, lock=job.lock, worker=job.worker_id)
        await engine.job_manager.retry_job(job)
