"""Credit that is set to zero at the provider, which sends a webhook: how long until the cells are called, in real time.

Guarantee: webhooks go through the whole application of `drawdown serve`. Nobody watches, and no tick runs meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from drawdown.providers.protocol import CustomerChanged, CustomerRead, CustomerState, Notice
from drawdown.schema.clock import Clock, FixedClock
from drawdown.schema.database import read
from drawdown.schema.units import WINDOW_MS
from drawdown.server.app import Server
from drawdown.server.services import NobodyThere, Services, ThreadKit
from drawdown.server.settings import ServerSettings
from drawdown.worker.engine.effects import HaltRequest
from drawdown.worker.engine.runner import World
from drawdown.worker.verdict.refresh_requests import SECOND_READ_MS
from drawdown.worker.verify.verify import verify
from tests.acceptance.exhaustion_autumn import Account, StaleAfterChange
from tests.acceptance.exhaustion_fleet import Result
from tests.emulators.autumn import AutumnEmulator
from tests.fake_provider import FakeProvider, capabilities
from tests.sqlite_databases import fresh
from tests.world import T0, Fleet

CELLS = 4
AT_ONCE = 1
"""Webhooks on their way together."""
STALE_S = 2.0
"""For so long after a change the provider still answers with what was before."""
WAIT_S = SECOND_READ_MS / 1000 + 10


@dataclass
class Running(FixedClock):
    """A clock that begins at a moment and runs as the true one."""

    began: float = field(default_factory=time.monotonic)

    def now_ms(self) -> int:
        return self.at_ms + int((time.monotonic() - self.began) * 1000)


@dataclass
class Hooked(FakeProvider):
    """A provider whose answers may be stale, and that tells of changes."""

    stale: bool = False
    emptied: dict[str, float] = field(default_factory=dict)
    """When the credit of a customer was set to zero."""

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        return {name: CustomerState(0 if self._is_empty(name) else 10**9, "prepaid", 50) for name in customer_ids}

    def _is_empty(self, name: str) -> bool:
        since = self.emptied.get(name)
        return since is not None and (not self.stale or time.monotonic() - since >= STALE_S)

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice]:
        return [CustomerChanged(json.loads(body)["customer"])]

    def empty(self, name: str) -> tuple[dict[str, str], bytes]:
        """Set a customer's credit to zero; return the headers and the body of the webhook for it."""
        self.emptied[name] = time.monotonic()
        return {}, json.dumps({"id": name, "customer": name}).encode()


class HookedAutumn:
    """Autumn with a credit system, by its emulated server."""

    name = "autumn"

    def __init__(self, clock: Clock, engine: sa.Engine, names: Sequence[str], *, stale: bool) -> None:
        emulator = AutumnEmulator()
        self._http = StaleAfterChange(emulator, clock, STALE_S if stale else 0)
        self._account = Account(clock, engine, emulator, self._http)
        self.provider = self._account.provider
        self.emptied = self._http.changed
        for name in names:
            self._account.give(name, 10**9)
        self._http.keep_past()

    def empty(self, name: str) -> tuple[dict[str, str], bytes]:
        self.emptied[name] = time.monotonic()
        return self._account.empty(name)


@dataclass
class Called:
    """The cells: when each organisation was first told to stop."""

    at: dict[str, float] = field(default_factory=dict)

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        for halt in halts:
            self.at.setdefault(halt.org_id, time.monotonic())
        return [None] * len(halts)


def halted_after_webhooks(folder: Path, orgs: int, *, stale: bool, autumn: bool = False) -> Result:
    """Empty each organisation and tell the server of it; errors are seconds from that to the call of its cell.

    `autumn`: by the Autumn provider and its emulated server, else by a provider made for this.
    """
    engine, clock, cells = fresh(folder / f"hooked-{stale}-{autumn}.db"), Running(T0), Called()
    names = [f"org-{number:05d}" for number in range(orgs)]
    source: Hooked | HookedAutumn
    if autumn:
        source = HookedAutumn(clock, engine, names, stale=stale)
        fleet = Fleet(engine, clock, extra={source.name: source.provider})
    else:
        source = Hooked(capabilities(in_flight=16, reads_a_call=50), name="hooked", stale=stale)
        fleet = Fleet(engine, clock, extra={source.name: source})
    fleet.assign(*names, provider=source.name, from_ms=T0)
    fleet.tick()
    for number in range(CELLS):
        fleet.write("INSERT INTO cells (cell_id, url) VALUES (:cell, 'http://cell')", {"cell": f"cell-{number}"})
    for number, name in enumerate(names):
        fleet.write(
            "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES (:org, :org, :cell, 'running')",
            {"org": name, "cell": f"cell-{number % CELLS}"},
        )
    asyncio.run(_hook_all(_server(fleet, cells), source, cells, names))
    result = Result(halts=len(cells.at), errors_s=[at - source.emptied[name] for name, at in cells.at.items()])
    assert read(engine, verify).breaches == []
    assert fleet.clock.now_ms() < T0 + WINDOW_MS, "no window ended: nothing but webhooks had anybody read"
    engine.dispose()
    return result


def _server(fleet: Fleet, cells: Called) -> Server:
    told: Any = cells

    def thread_kit() -> ThreadKit:
        return ThreadKit(World(fleet.engine, fleet.providers, told, fleet.clock), fleet.context)

    return Server(
        Services(
            engine=fleet.engine,
            clock=fleet.clock,
            settings=ServerSettings(requests_per_s=1_000_000),
            providers=fleet.providers,
            unasked=fleet.providers,
            broken={},
            http=NobodyThere(),
            thread_kit=thread_kit,
        )
    )


async def _hook_all(server: Server, source: Hooked | HookedAutumn, cells: Called, names: Sequence[str]) -> None:
    transport = httpx.ASGITransport(server.app, client=("127.0.0.1", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://drawdown.test") as client:
        turns = asyncio.Semaphore(AT_ONCE)

        async def hook(name: str) -> None:
            async with turns:
                headers, body = source.empty(name)
                answer = await client.post(f"/webhooks/{source.name}", headers=headers, content=body)
                assert answer.json() == {"status": "done"}, answer.text

        await asyncio.gather(*(hook(name) for name in names))
        ends = time.monotonic() + WAIT_S
        while len(cells.at) < len(names) and time.monotonic() < ends:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(server.close)
