"""A worker at work: two lanes, ticks and what is short, each with connections of its own, so that no tick holds up a
halt; and a beat, by which the others see that it lives.

Guarantee: it ends between two effects where it is told to. A database that is away is waited for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog
from procrastinate import App as Engine
from procrastinate import exceptions
from psycopg_pool import PoolTimeout

from drawdown.cli.cluster.engine import QUICK, TICKS, connector, ticking, watching
from drawdown.cli.cluster.jobs import QUICK_AT_ONCE, Jobs
from drawdown.cli.stopping import LOOK_S
from drawdown.schema.errors import Exit
from drawdown.worker.cluster.membership import LIVES_S

log = structlog.get_logger()

BEAT_S: Final = 5.0
POLL_S: Final = 1.0
"""A job that waited for another of its shard to end is seen by then: nobody is told of that."""
AGAIN_S: Final = 1.0
"""Before a database that was away is tried again."""
MAX_TICK_S: Final = 3_600.0
"""A tick leaves off before the next one is due, and each of its effects has an end. One that runs for so long hangs; no
thread can be ended from outside, so the process ends, and others take its jobs over."""
AWAY: Final = (exceptions.ConnectorException, PoolTimeout)


die: Callable[[int], None] = os._exit
"""Ends the process as it is. Nothing is lost: what it did is committed, or is done again."""


def work(jobs: Jobs) -> None:
    """Work until it is to stop. Errors: `jobs.ended_by`, where it may work no longer."""
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
    """Until it is to stop, or a lane fails for good."""
    made = connector(jobs.app.settings.latest_database_url)
    ticks, quick = ticking(jobs, made), watching(jobs, made)
    async with ticks.open_async():
        lanes = [_begun(_lane(jobs, ticks, TICKS, 1)), _begun(_lane(jobs, quick, QUICK, QUICK_AT_ONCE))]
        beat, stop = _begun(_beat(jobs)), _begun(_until_stopped(jobs))
        await asyncio.wait([*lanes, stop], return_when=asyncio.FIRST_COMPLETED)
        for lane in lanes:
            lane.cancel()  # which lets it end what it does
        ended = await asyncio.gather(*lanes, return_exceptions=True)
        for other in (beat, stop):
            other.cancel()
        for result in ended:
            if isinstance(result, Exception):
                raise result


async def _lane(jobs: Jobs, engine: Engine, name: str, at_once: int) -> None:
    """One lane. Where the engine loses its database it begins anew, alone: it waits for no job of the other one."""
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
        # Any login of a database may notify whom it likes; what does not parse would end the lane.
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
