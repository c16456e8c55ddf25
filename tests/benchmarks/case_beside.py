"""A healthy provider and a healthy cell, with eight hostile connections beside them and without.

Both are paced, the provider by its rate and the cell by its places, so that what is measured is waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from drawdown.providers.http import Call
from drawdown.providers.http.client import HttpClient
from drawdown.providers.protocol import ReadFailed
from drawdown.schema.clock import FixedClock
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import HaltRequest, ReadTotals, RunTogether, SendHalts, Steps
from drawdown.worker.halts.cell_client import CellClient
from drawdown.worker.halts.cell_settings import CellSettings
from drawdown.worker.push.push import push
from tests.benchmarks import case_push
from tests.benchmarks.databases import Databases
from tests.benchmarks.hostile_sites import hostile
from tests.benchmarks.measure import Figure, Result, alternate
from tests.benchmarks.quick_server import serving
from tests.fake_provider import FakeProvider
from tests.world import T0

LATENCY_MS: Final = 20
MOST: Final = 1.1
"""An outside party delays another by a tenth at most."""
CELLS: Final = 2
"""Of the hostile, as many are cells."""


@dataclass
class Beside:
    """Asks each hostile service again and again, through the transport that the healthy one is called by."""

    http: HttpClient
    sites: Sequence[str]
    over: Callable[[], bool]
    ended: int = 0

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> ReadFailed:
        site = self.sites[int(customer_id)]
        while not self.over():
            asking = asyncio.ensure_future(self.http.send(Call("GET", f"{site}/totals", {}, b"")))
            while not asking.done() and not self.over():
                await asyncio.wait({asking}, timeout=0.05)
            self.ended += asking.done()
            asking.cancel()
        return ReadFailed("hostile")


@dataclass
class Round:
    """One time through: how long the pushes took, and the halts."""

    engine: sa.Engine
    healthy: str
    hostile: Sequence[str]
    count: int
    took: dict[str, float] = field(default_factory=dict)

    def over(self) -> bool:
        return len(self.took) == 2

    def run(self) -> dict[str, float]:
        case_push.due(self.engine, self.count)
        clock, http = FixedClock(T0 + 600_000), HttpClient()
        provider = case_push.provider_at(self.engine, self.healthy, http, case_push.RATE)
        beside = FakeProvider(provider.capabilities)
        beside.totals = Beside(http, self.hostile, self.over).totals  # type: ignore[method-assign]
        allowed = frozenset([self.healthy, *self.hostile])
        cells = CellClient(CellSettings(allowed, ("a-root-secret-of-the-cells",)), clock)
        context = Context("bench", clock, {"autumn": provider.capabilities})
        world = runner.World(self.engine, {"autumn": provider, "hostile": beside}, cells, clock, http)
        runner.run(self._all(context), world)
        return self.took

    def _all(self, context: Context) -> Steps[None]:
        pushes = self._timed("pushes", RunTogether([push(context, "autumn"), push(context, "autumn")]))
        halts = self._timed("halts", SendHalts(self._halts("cell-0", self.healthy, self.count)))
        lanes = [pushes, halts]
        if self.hostile:
            lanes.append(self._asked())
            lanes += [self._told(f"cell-{number}", site) for number, site in enumerate(self.hostile[:CELLS], start=1)]
        for failed in (yield RunTogether(lanes)):
            if isinstance(failed, Exception):
                raise failed

    def _timed(self, what: str, effect: Any) -> Steps[None]:
        began = time.perf_counter()
        answers = yield effect
        self.took[what] = time.perf_counter() - began
        done = answers.count(None) if what == "halts" else sum(one.accepted for one in answers)
        assert done == self.count, answers[:3]

    def _asked(self) -> Steps[None]:
        yield ReadTotals("hostile", [(str(at), 0, 0) for at in range(CELLS, len(self.hostile))])

    def _told(self, cell_id: str, site: str) -> Steps[None]:
        while not self.over():
            yield SendHalts(self._halts(cell_id, site, 8), self.over)

    @staticmethod
    def _halts(cell_id: str, url: str, count: int) -> list[HaltRequest]:
        return [HaltRequest(f"org-{number}", cell_id, url, T0) for number in range(count)]


def run(databases: Databases, kind: str, scale: float, runs: int) -> list[Result]:
    """Pushes and halts with the hostile beside them, over the same without."""
    engine, count = databases.new(kind), max(int(1_200 * scale), 20)
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    with serving(LATENCY_MS) as healthy, hostile() as sites:

        def timed(beside: bool) -> float:
            found[beside].append(Round(engine, healthy, sites if beside else (), count).run())
            return found[beside][-1]["pushes"]

        alternate(lambda: timed(True), lambda: timed(False), runs)
    databases.drop(engine)
    ratios = {
        what: [mine[what] / alone[what] for mine, alone in zip(found[True][1:], found[False][1:], strict=True)]
        for what in ("pushes", "halts")
    }
    return [
        Result(
            case="beside",
            database=kind,
            compares=f"{count:,} pushes at {case_push.RATE}/s and as many halts to one cell, with {len(sites) - CELLS} "
            f"hostile connections of providers and {CELLS} of cells beside them; over the same without",
            figures=[
                *(Figure(f"{what}: ratio", "", values, MOST) for what, values in ratios.items()),
                *(Figure(f"{what} alone", "s", [one[what] for one in found[False][1:]]) for what in ratios),
            ],
            totals={"accepted": count, "halts": count},
        )
    ]
