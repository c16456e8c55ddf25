"""A check of the guard over HTTP: beside a handler that decides nothing, and 500 a second while a fleet is drained."""

from __future__ import annotations

import http.client
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep
from typing import Final

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.schema.clock import SystemClock
from drawdown.schema.database import write
from drawdown.schema.units import MICRO
from drawdown.server.api import guard
from drawdown.server.api.programs import Programs, Said
from drawdown.server.app import Server
from drawdown.worker.access import keys as api_keys
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from tests.benchmarks.bare import serving_bare
from tests.benchmarks.bare_guard import COUNTED, SAID, bare
from tests.benchmarks.case_gate import drained, listening, services
from tests.benchmarks.case_tick import run_tick
from tests.benchmarks.databases import Databases, tidy, url_of
from tests.benchmarks.fleet import Fleet, give_credit, settle_in, use
from tests.benchmarks.measure import Figure, Result, compared
from tests.benchmarks.wallets import BY
from tests.server.program import key_of
from tests.server.test_process import FRESH, serving

GOAL: Final = 3.0
REQUESTS: Final = 100
METRIC: Final = "idea"
PER_S: Final = 500
KEYS: Final = 10
"""A key may ask 100 times a second: 500 checks a second are of several programs."""
SENDERS: Final = 10
SECONDS: Final = 10.0
P99_MS: Final = 10.0
WARMED_S: Final = 1.0
CHECK, FRAME = "/v1/guard/check", "/v1/guard/nothing"
_KEYS: Final = [key_of(f"app-{number}") for number in range(KEYS)]


def run(databases: Databases, kind: str, fleet: Fleet, scale: float, runs: int) -> list[Result]:
    """Each organisation has credit and a limit that nobody meets."""
    engine = databases.new(kind)
    settle_in(engine, fleet.orgs)
    give_credit(engine, fleet.orgs)
    use(engine, fleet, 0)
    _guarded(engine)
    tidy(engine)
    run_tick(engine, 0)
    found = [
        _beside(engine, kind, fleet, max(int(REQUESTS * scale), 10), runs),
        _in_time(engine, kind, fleet, max(SECONDS * scale, 0.2)),
    ]
    databases.drop(engine)
    return found


def _guarded(engine: sa.Engine) -> None:
    def work(connection: sa.Connection) -> None:
        guard_terms.set_metric(connection, METRIC, Change(price_micro=MICRO, phase=3), BY)
        guard_terms.set_limit(connection, PlanLimit(METRIC, "*", "month", 10**9), BY)
        for number in range(KEYS):
            name = f"app-{number}"
            api_keys.create(connection, key_of(name), name, (guard.SCOPE,), BY, new=True)

    write(engine, work)


def _beside(engine: sa.Engine, kind: str, fleet: Fleet, asks: int, runs: int) -> Result:
    server = Server(replace(services(engine), clock=SystemClock()))
    server.routes.include_router(_nothing(vars(server)["_programs"]))
    with listening(server.app) as port, listening(bare(engine)) as bare_port:
        check = Asker(port, CHECK, fleet.orgs, asks=asks)
        frame, least = Asker(port, FRAME, fleet.orgs, asks=asks), Asker(bare_port, CHECK, fleet.orgs, asks=asks)
        figures = compared(check.median_s, frame.median_s, runs, goal=GOAL, what=("check", "bare handler"))
        further = compared(check.median_s, least.median_s, runs, goal=GOAL, what=("check", "without the server"))
    server.close()
    assert check.allowed == check.asked and frame.allowed == frame.asked, "every organisation has credit and room"
    return Result(
        case="guard",
        database=kind,
        compares=f"POST /v1/guard/check, the median of {asks} requests one after the other on one connection, "
        "beside a handler of the same server that has the key, the body and a transaction, and decides nothing",
        figures=[*figures, Figure("times a handler without the server's frame", "", further[0].values), further[2]],
        baseline=f"{COUNTED}; without the frame: no route, no limit, no model; the key and this row, read at once",
        totals={"checked": check.asked, "beside": frame.asked},
    )


def _nothing(programs: Programs) -> APIRouter:
    """The route's frame around one row that is read."""

    async def read(order: guard.CheckRequest, _said: Said) -> Mapping[str, object]:
        asked = {"org": order.org_id, "metric": order.metric}
        await programs.threads.read(lambda c: c.execute(sa.text(COUNTED), asked).one_or_none())
        return SAID

    async def nothing(request: Request) -> JSONResponse:
        return await programs.act_by(request, guard.SCOPE, guard.CheckRequest, read)

    router = APIRouter(default_response_class=JSONResponse)
    router.add_api_route(FRAME, nothing, methods=["POST"])
    return router


class Asker:
    """Asks on one connection about one organisation after the other, with one key after the other."""

    def __init__(self, port: int, path: str, orgs: int, first: int = 0, asks: int = 0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._path, self._orgs, self._first, self._asks = path, orgs, first, asks
        self.asked = self.allowed = 0

    def median_s(self) -> float:
        self._connection.close()  # the server may have, meanwhile
        return median(self.once() for _ in range(self._asks))

    def once(self) -> float:
        number = self._first + self.asked
        body = json.dumps({"org_id": f"org-{number * 7919 % self._orgs}", "metric": METRIC})
        headers = {"Authorization": f"Bearer {_KEYS[number % KEYS]}", "Content-Type": "application/json"}
        began = perf_counter()
        self._connection.request("POST", self._path, body, headers)
        said = self._connection.getresponse().read()
        took = perf_counter() - began
        self.asked += 1
        self.allowed += json.loads(said).get("decision") == "allow"
        return took


def _in_time(engine: sa.Engine, kind: str, fleet: Fleet, seconds: float) -> Result:
    """Checks at their moments, whether those before were answered or not: who is late is late by the clock. Beside it a
    handler that decides nothing, asked likewise: what the machine itself is late by. Who asks is a process of its own:
    this one writes what hosts write, and would be late by that."""
    url, found = url_of(engine.url), list[tuple[str, list[float]]]()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving_bare("tests.benchmarks.bare_guard", url) as (bare_port, bare_pid),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as asking,
    ):

        def sent(port: int, seconds: float) -> list[float]:
            return asking.submit(_sent, port, fleet.orgs, seconds).result()

        env = {"DRAWDOWN_REQUESTS_PER_S": "1000000", "DRAWDOWN_LOG_LEVEL": "CRITICAL"}
        with serving(url, env, Path(folder) / "log", program=FRESH) as (at, process):
            ports = {"": int(at.rpartition(":")[2]), " of a bare handler": bare_port}
            for port in ports.values():
                sent(port, min(seconds, WARMED_S))
            pids = process.pid, bare_pid
            before = [_cpu_s(pid) for pid in pids]
            found += [(f"{whose}, alone", sent(port, seconds)) for whose, port in ports.items()]
            spent_s = [_cpu_s(pid) - was for pid, was in zip(pids, before, strict=True)]
            with drained(engine, fleet) as windows:
                found += [(f"{whose}, during a drain", sent(port, seconds)) for whose, port in ports.items()]
    goal = {"p99, during a drain": P99_MS}
    figures = [
        Figure(name + when, "ms", [value], goal.get(name + when))
        for when, times in found
        for name, value in _percentiles(times)
    ]
    return Result(
        case="guard in time",
        database=kind,
        compares=f"{PER_S} checks a second on {SENDERS} connections with {KEYS} keys, at a process of its own; "
        "milliseconds from the moment at which each was to be sent",
        figures=[
            *figures,
            *(
                Figure(f"CPU of the process{whose} for each, alone", "ms", [one * 1000 / len(found[0][1])])
                for whose, one in zip(ports, spent_s, strict=True)
            ),
        ],
        totals={"checked": 2 * len(found[0][1]), "windows": 1 + len(windows)},
    )


def _cpu_s(pid: int) -> float:
    """What a process has had by now; nothing where the system does not say it in a file."""
    file = Path(f"/proc/{pid}/stat")
    fields = file.read_text().rpartition(")")[2].split() if file.exists() else ["0"] * 13
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _sent(port: int, orgs: int, seconds: float) -> list[float]:
    """Milliseconds that each took from its moment on."""
    began, each = perf_counter() + 0.05, int(PER_S * seconds / SENDERS)

    def send(sender: int) -> list[float]:
        asker, found = Asker(port, CHECK, orgs, sender), []
        for number in range(each):
            due = began + (number * SENDERS + sender) / PER_S
            sleep(max(due - perf_counter(), 0))
            asker.once()
            found.append((perf_counter() - due) * 1000)
        assert asker.allowed == asker.asked == each, "each is answered, and allowed"
        return found

    with ThreadPoolExecutor(SENDERS) as pool:
        return [one for found in pool.map(send, range(SENDERS)) for one in found]


def _percentiles(found: Sequence[float]) -> list[tuple[str, float]]:
    cuts = quantiles(found, n=100)
    return [("p50", cuts[49]), ("p99", cuts[98])]
