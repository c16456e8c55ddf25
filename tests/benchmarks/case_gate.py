"""The gate beside a bare handler that makes the same read, over sockets: alone, and while a fleet is drained."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any, Final

import sqlalchemy as sa
import uvicorn

from drawdown.providers.embedded import EmbeddedProvider
from drawdown.schema import database
from drawdown.server.app import Server
from drawdown.server.services import NobodyThere, Services, ThreadKit
from drawdown.server.settings import ServerSettings
from drawdown.worker.verdict import refresh_requests
from tests.benchmarks.case_tick import run_tick, world_of
from tests.benchmarks.databases import Databases, tidy, url_of
from tests.benchmarks.fleet import Fleet, clock, give_credit, sealable_at, settle_in, use
from tests.benchmarks.measure import Result, compared

GOAL: Final = 3.0
REQUESTS: Final = 200
ROOT: Final = Path(__file__).resolve().parents[2]


def run(databases: Databases, kind: str, fleet: Fleet, runs: int) -> list[Result]:
    """Each organisation was projected by a tick; then the gate is asked about one after the other."""
    engine = databases.new(kind)
    settle_in(engine, fleet.orgs)
    give_credit(engine, fleet.orgs)
    use(engine, fleet, 0)
    tidy(engine)
    run_tick(engine, 0)
    server = Server(services(engine))
    with listening(server.app) as gate_port, listening(bare(engine)) as bare_port:
        gate, other = Asker(gate_port, fleet.orgs), Asker(bare_port, fleet.orgs)
        alone = compared(gate.median_s, other.median_s, runs, goal=GOAL, what=("gate", "bare handler"))
        with drained(engine, fleet) as windows:
            beside = compared(gate.median_s, other.median_s, runs, goal=GOAL, what=("gate", "bare handler"))
    server.close()
    assert gate.allowed == gate.asked, "every organisation has credit"
    totals = {"organisations": fleet.orgs, "asked": gate.asked, "windows": 1 + len(windows)}
    databases.drop(engine)
    return [
        Result(
            case="gate",
            database=kind,
            compares=f"GET /v1/gate, the median of {REQUESTS} requests one after the other on one connection, beside a "
            "bare ASGI handler with the same read",
            figures=[*alone, *(replace(one, name=f"{one.name}, during a drain") for one in beside)],
            baseline=refresh_requests.SQL.text("gated", engine.dialect.name),
            totals=totals,
        )
    ]


def services(engine: sa.Engine) -> Services:
    """A server of this engine, that takes as many requests as come."""
    now = clock(0)
    embedded = {"embedded": EmbeddedProvider(engine, now)}

    def thread_kit() -> ThreadKit:
        context, world = world_of(engine, now)
        return ThreadKit(world, lambda: context)

    return Services(
        engine=engine,
        clock=now,
        settings=ServerSettings(requests_per_s=1_000_000),
        providers=embedded,
        unasked=embedded,
        broken={},
        http=NobodyThere(),
        thread_kit=thread_kit,
    )


def bare(engine: sa.Engine) -> Callable[..., Any]:
    """The least that answers with an organisation's row: no routes, no limits, no headers."""
    pool = ThreadPoolExecutor(6)

    async def app(scope: dict[str, Any], _receive: object, send: Callable[[dict[str, object]], Any]) -> None:
        org = scope["path"].rpartition("/")[2]

        def work(connection: sa.Connection) -> sa.Row[Any]:
            return refresh_requests.SQL.run(connection, "gated", {"org_id": org}).one()

        found = await asyncio.get_running_loop().run_in_executor(pool, database.read, engine, work)
        body = json.dumps({"allowed": not found.is_halted, "at_once": found.max_concurrent_sandboxes}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


@contextmanager
def listening(app: Any) -> Iterator[int]:
    """The port an application answers on, served by uvicorn in a thread."""
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off", http="h11")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(30)


class Asker:
    """Asks about one organisation after the other, on one connection."""

    def __init__(self, port: int, orgs: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._orgs = orgs
        self.asked = self.allowed = 0

    def median_s(self) -> float:
        self._connection.close()
        self._connection.connect()  # the server closes connections that wait, as this one did for its turn
        return median(self._once() for _ in range(REQUESTS))

    def _once(self) -> float:
        org = f"org-{self.asked * 7919 % self._orgs}"
        began = perf_counter()
        self._connection.request("GET", f"/v1/gate/{org}")
        body = self._connection.getresponse().read()
        took = perf_counter() - began
        self.asked += 1
        self.allowed += json.loads(body)["allowed"]
        return took


@contextmanager
def drained(engine: sa.Engine, fleet: Fleet) -> Iterator[list[int]]:
    """One window after the other is used and drained by a process of its own, for as long as this lasts."""
    done: list[int] = []
    ending, begun = threading.Event(), threading.Event()
    command = [sys.executable, "-m", "tests.benchmarks.drain", url_of(engine.url)]

    def work() -> None:
        while not ending.is_set():
            number = len(done) + 1
            use(engine, fleet, number)
            begun.set()
            subprocess.run([*command, str(sealable_at(number))], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            done.append(number)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    yield done
    ending.set()
    thread.join()
