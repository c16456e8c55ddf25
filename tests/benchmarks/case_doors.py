"""The gate and the guard under floods of callers who prove nothing: how long their answers take, beside idle."""

from __future__ import annotations

import http.client
import json
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.units import MICRO
from drawdown.worker.access import keys as api_keys
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from tests.benchmarks.case_tick import run_tick
from tests.benchmarks.databases import Databases, tidy, url_of
from tests.benchmarks.fleet import Fleet, give_credit, settle_in, use
from tests.benchmarks.floods import KINDS, flooded
from tests.benchmarks.measure import Figure, Result
from tests.benchmarks.wallets import BY
from tests.server.program import key_of
from tests.server.test_process import FRESH, serving

GOAL: Final = 3.0
METRIC: Final = "idea"
ASKED: Final = 300
"""Requests of each kind, one after the other, at each time."""
PAUSE_S: Final = 0.005


def run(databases: Databases, kind: str, fleet: Fleet, scale: float) -> list[Result]:
    """Each organisation has credit and a limit that no request reaches."""
    engine = databases.new(kind)
    settle_in(engine, fleet.orgs)
    give_credit(engine, fleet.orgs)
    use(engine, fleet, 0)
    write(engine, _guarded)
    tidy(engine)
    run_tick(engine, 0)
    asked = max(int(ASKED * scale), 20)
    figures: list[Figure] = []
    totals: dict[str, int] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(url_of(engine.url), {"DRAWDOWN_LOG_LEVEL": "INFO"}, Path(folder) / "log", program=FRESH) as (url, _),
    ):
        port = int(url.rpartition(":")[2])
        doors = {name: Door(port, name, fleet.orgs) for name in ("gate", "check", "consume")}
        for door in doors.values():
            door.times(asked // 5)
        idle = {name: door.times(asked) for name, door in doors.items()}
        for name, times in idle.items():
            figures += _told(name, "idle", times)
        for flood in KINDS:
            with flooded(flood, port, key_of("flood")) as said:
                found = {name: door.times(asked) for name, door in doors.items()}
            totals |= {f"{flood} {status}": count for status, count in said.items()}
            for name, times in found.items():
                figures += _told(name, flood, times)
                ratio = p99(times) / p99(idle[name])
                figures.append(Figure(f"{name} under {flood}: times its idle p99", "", [ratio], GOAL))
        figures += [Figure(f"{name}: refused", "answers", [door.refused]) for name, door in doors.items()]
    databases.drop(engine)
    what = f"{asked} requests one after the other, on one connection, beside the same while nobody floods the server"
    return [Result("doors", kind, what, figures, baseline="the same server, idle", totals=totals)]


def _guarded(connection: sa.Connection) -> None:
    guard_terms.set_metric(connection, METRIC, Change(price_micro=MICRO, phase=3), BY)
    guard_terms.set_limit(connection, PlanLimit(METRIC, "*", "month", 10**9), BY)
    api_keys.create(connection, key_of("app"), "app", ("guard",), BY, new=True)
    api_keys.create(connection, key_of("flood"), "flood", ("executions:read",), BY, new=True)


def _told(name: str, when: str, times: list[float]) -> list[Figure]:
    ms = [round(one * 1000, 2) for one in (median(times), p99(times))]
    return [Figure(f"{name}, {when}: median", "ms", [ms[0]]), Figure(f"{name}, {when}: p99", "ms", [ms[1]])]


def p99(times: list[float]) -> float:
    return sorted(times)[-1 - len(times) // 100]


class Door:
    """Asks on one connection, from an address of its own, about one organisation after the other."""

    def __init__(self, port: int, name: str, orgs: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=("127.0.0.9", 0))
        self._name, self._orgs = name, orgs
        self.asked = self.refused = 0

    def times(self, count: int) -> list[float]:
        return [self._once() for _ in range(count)]

    def _once(self) -> float:
        sleep(PAUSE_S)
        began = perf_counter()
        while not self._answered():
            self.refused += 1
            sleep(0.01)
        return perf_counter() - began

    def _answered(self) -> bool:
        self.asked += 1
        org = f"org-{self.asked * 7919 % self._orgs}"
        try:
            if self._name == "gate":
                self._connection.request("GET", f"/v1/gate/{org}")
            else:
                more = {} if self._name == "check" else {"key": f"{self._name}-{self.asked}-{id(self)}"}
                body = json.dumps({"org_id": org, "metric": METRIC, "quantity": 1, **more})
                headers = {"Authorization": f"Bearer {key_of('app')}", "Content-Type": "application/json"}
                self._connection.request("POST", f"/v1/guard/{self._name}", body, headers)
            answer = self._connection.getresponse()
            answer.read()
            return answer.status == 200
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return False
