"""Cells that hang or are gone slow down neither the watch nor the server's reads."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.processes import Stopping
from drawdown.cli.scheduler import WatchLoop
from drawdown.providers.protocol import CustomerState
from drawdown.schema.database import write
from drawdown.schema.units import SECOND_MS
from drawdown.server.http.threads import Restores
from drawdown.server.services import ThreadKit
from drawdown.server.step_threads import StepThreads
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import HaltRequest
from drawdown.worker.engine.runner import NoWitness
from drawdown.worker.engine.shard import Shard
from drawdown.worker.orgs import actions as orgs
from tests.fake_provider import FakeProvider, capabilities
from tests.prepaid import look
from tests.world import T0, Cells, Fleet


class Hanging(Cells):
    """Cells that answer after ten seconds, or not at all."""

    answer: str | None = "no complete response within 10 s"
    fleet: Fleet

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        self.received += halts
        self.fleet.clock.at_ms += 10 * SECOND_MS
        return [self.answer for _ in halts]


def made(engine: sa.Engine, biller: str) -> Fleet:
    """Four organisations with a sandbox each on one cell that hangs."""
    cells, provider = Hanging(), FakeProvider(capabilities())
    fleet = Fleet(engine, cells=cells, extra={"fake": provider})
    cells.fleet = fleet
    names = [f"org-{number}" for number in range(4)]
    fleet.assign(*names, provider=biller, from_ms=T0)
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    for name in names:
        provider.states[name] = CustomerState(-1, None, 5)
        fleet.write(
            "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES (:org, :org, 'cell-1', 'running')",
            {"org": name},
        )
    return fleet


def halt(fleet: Fleet, *names: str) -> None:
    for name in names:
        write(fleet.engine, lambda c, name=name: orgs.halt(c, [name], fleet.by))  # type: ignore[misc]


def world_of(fleet: Fleet) -> runner.World:
    return runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)


@pytest.mark.parametrize(("biller", "told"), [("none", 1), ("fake", 2)])  # by its lane, and with the rest
def test_watch_round_with_slow_cell_leaves_other_halts_due(
    engine: sa.Engine, biller: str, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hanging, "answer", None)
    fleet = made(engine, biller)
    halt(fleet, "org-0", "org-1", "org-2", "org-3")
    look(fleet)
    assert len(fleet.cells.received) == told
    assert fleet.one("SELECT COUNT(*) FROM halts WHERE due_at_ms IS NOT NULL") == 4 - told


def test_watch_keeps_circuit_of_dead_cell_open_between_rounds(engine: sa.Engine) -> None:
    fleet = made(engine, "none")
    halt(fleet, "org-0", "org-1", "org-2", "org-3")
    state: Any = SimpleNamespace(
        context=fleet.context,
        world=lambda: world_of(fleet),
        read_files_again=lambda: None,
        require_clock=lambda: None,
    )
    watch_loop = WatchLoop(state, Shard(), Stopping())
    for _ in range(3):
        watch_loop.round()
    assert len(fleet.cells.received) == 2, "its circuit is open for half a minute"


def crew_of(fleet: Fleet) -> StepThreads:
    thread_kit = ThreadKit(world_of(fleet), fleet.context)
    services: Any = SimpleNamespace(thread_kit=lambda: thread_kit, restores=Restores(NoWitness(), fleet.clock))
    return StepThreads(services, threads=1)


def test_server_reads_keep_circuit_of_dead_cell_open(engine: sa.Engine) -> None:
    fleet = made(engine, "fake")
    crew = crew_of(fleet)
    for number in range(4):
        crew.read_again(f"org-{number}", "fake")
        crew.wait_for_reads()
    crew.close()
    assert fleet.one("SELECT COUNT(*) FROM orgs WHERE is_halted") == 4
    assert len(fleet.cells.received) == 2, "its circuit is open for half a minute"


@pytest.mark.both_databases
def test_server_read_with_slow_cell_leaves_other_halts_due(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hanging, "answer", None)
    fleet = made(engine, "fake")
    halt(fleet, "org-1", "org-2", "org-3")
    crew = crew_of(fleet)
    crew.read_again("org-0", "fake")
    crew.wait_for_reads()
    crew.close()
    assert len(fleet.cells.received) == 1
    assert fleet.one("SELECT COUNT(*) FROM halts WHERE due_at_ms IS NOT NULL") == 3
