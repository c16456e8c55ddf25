"""Dispatch: a lane for each cell, moves while it is under way, stragglers, and acknowledgements without effect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
import sqlalchemy as sa
from structlog.testing import CapturingLogger

from drawdown.schema.audit import By
from drawdown.schema.database import read, write
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import HaltRequest, SendHalts, Steps
from drawdown.worker.halts import dispatch as dispatching
from drawdown.worker.halts.addresses import ANSWERED
from drawdown.worker.halts.dispatch import EMPTY_FOR_MS, Dispatched, dispatch
from drawdown.worker.halts.ignored_halts import ESCALATE_AFTER
from drawdown.worker.orgs.actions import halt as halt_org
from drawdown.worker.status.status import status
from drawdown.worker.verify.verify import verify
from tests.interleave.walk import Walk
from tests.world import T0, Fleet


class Scripted:
    """Cells that do as told; `during` happens while a call is under way."""

    def __init__(self) -> None:
        self.received: list[tuple[str, int]] = []
        self.answer: dict[str, str | None] = {}
        self.during: dict[str, Callable[[], None]] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.waited_for: dict[str, int] = {}

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        (cell,) = {halt.cell_id for halt in halts}
        self.received.append((cell, len(halts)))
        if cell in self.held:
            await asyncio.wait_for(self.held[cell].wait(), 30)
        if cell in self.during:
            self.during.pop(cell)()
        for name, event in self.held.items():
            if self.waited_for.get(name) == sum(one != name for one, _ in self.received):
                event.set()
        return [self.answer.get(cell) for _ in halts]

    def told(self, cell: str) -> list[int]:
        return [count for name, count in self.received if name == cell]


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    made.cells = Scripted()  # type: ignore[assignment]
    return made


def cells_of(fleet: Fleet) -> Scripted:
    assert isinstance(fleet.cells, Scripted)
    return fleet.cells


def populate(fleet: Fleet, orgs: int, *cells: str, state: str = "running") -> None:
    """Halted organisations, each with a sandbox on every cell."""
    for number in range(orgs):
        name = f"org-{number:03}"
        if not fleet.rows("SELECT 1 FROM orgs WHERE org_id = :org", org=name):
            fleet.assign(name)
            write(fleet.engine, lambda c, org=name: halt_org(c, [org], By(fleet.clock.at_ms, "a", "r")))  # type: ignore[misc]
        for cell in cells:
            fleet.write(
                "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES (:box, :org, :cell, :state)",
                {"box": f"{name}@{cell}", "org": name, "cell": cell, "state": state},
            )
    for cell in cells:
        fleet.write(
            "INSERT INTO cells (cell_id, url) VALUES (:cell, :url)", {"cell": cell, "url": f"http://{cell}.example"}
        )


def run(fleet: Fleet, context: Context | None = None) -> Dispatched:
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    return runner.run(dispatch(context or fleet.context()), world)


def due(fleet: Fleet, cell: str) -> int:
    return int(str(fleet.one("SELECT COUNT(*) FROM halts WHERE cell_id = :cell AND due_at_ms IS NOT NULL", cell=cell)))


def test_dispatch_to_dead_cell_is_tried_twice_and_live_cell_is_halted(fleet: Fleet) -> None:
    populate(fleet, 120, "dead", "well", state="hibernated")
    cells_of(fleet).answer["dead"] = "no connection"
    done = run(fleet)
    assert (done.acknowledged, done.failed) == (120, 2)
    assert cells_of(fleet).told("dead") == [1, 1]
    assert cells_of(fleet).told("well") == [1, 50, 50, 19]
    assert (due(fleet, "dead"), due(fleet, "well")) == (120, 0)
    # What was not tried is due all the time: once the cell is back, none waits for a back-off that grew.
    cells_of(fleet).answer.clear()
    fleet.clock.at_ms += MINUTE_MS
    assert run(fleet).acknowledged == 120


def test_dispatch_slow_cell_does_not_delay_fast_cells(fleet: Fleet) -> None:
    """While `slow` holds its first call, the others are told all there is: else it is never let go."""
    populate(fleet, 60, "slow", "b", "c")
    cells = cells_of(fleet)

    async def world() -> Dispatched:
        cells.held["slow"], cells.waited_for["slow"] = asyncio.Event(), 6
        made = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
        return await runner._whole(dispatch(fleet.context()), made)

    done = asyncio.run(world())
    assert done.acknowledged == 180
    assert cells.told("b") == cells.told("c") == [1, 50, 9]


def test_dispatch_continues_after_cell_answers_error(fleet: Fleet) -> None:
    """It is there: each halt is refused by itself, and the circuit stays closed."""
    populate(fleet, 5, "rude")
    cells_of(fleet).answer["rude"] = f"{ANSWERED} 404"
    assert run(fleet).failed == 5


def test_dispatch_beyond_cell_time_budget_is_resumed_by_next_dispatch(fleet: Fleet) -> None:
    populate(fleet, 5, "slow")

    def later() -> None:
        fleet.clock.at_ms += dispatching.CELL_BUDGET_MS

    cells_of(fleet).during["slow"] = later
    assert run(fleet).acknowledged == 1
    assert due(fleet, "slow") == 4
    assert run(fleet).acknowledged == 4


def test_dispatch_to_cell_without_url_is_reported(fleet: Fleet) -> None:
    """A host starts a sandbox at a cell while that is removed: neither sees the other."""
    populate(fleet, 2, "gone", "well")
    fleet.write("DELETE FROM cells WHERE cell_id = 'gone'")
    report = fleet.tick()
    assert report.exit_status == 1
    assert [text for text in report.problems if "cell" in text] == [
        "cell gone does not have a URL, so Drawdown cannot deliver 2 halts. Run `drawdown cell set gone URL`"
    ]
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('gone', 'http://gone.example')")
    fleet.clock.at_ms += 60 * MINUTE_MS
    report = fleet.tick()
    assert (report.exit_status, report.problems, due(fleet, "gone")) == (0, [], 0)


def test_dispatch_circuit_of_dead_cell_is_shared_within_tick(fleet: Fleet) -> None:
    """Each provider's lane dispatches: the circuit is theirs together."""
    populate(fleet, 10, "dead")
    cells_of(fleet).answer["dead"] = "no connection"
    context = fleet.context()
    run(fleet, context)
    assert run(fleet, context).failed == 0
    fleet.clock.at_ms += MINUTE_MS
    assert run(fleet, context).failed == 1, "one call decides"


def test_dispatch_of_moved_sandbox_reaches_new_cell(fleet: Fleet) -> None:
    populate(fleet, 1, "old")
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('new', 'http://new.example')")
    cells_of(fleet).during["old"] = lambda: fleet.write("UPDATE sandboxes SET cell_id = 'new', state = 'migrating'")
    assert run(fleet).acknowledged == 2
    assert [cell for cell, _ in cells_of(fleet).received] == ["old", "new"]
    assert fleet.rows("SELECT cell_id FROM halts WHERE due_at_ms IS NULL ORDER BY 1") == [("new",), ("old",)]


def test_dispatch_of_moved_sandbox_does_not_wait_for_dead_cell(fleet: Fleet) -> None:
    populate(fleet, 3, "old")
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('new', 'http://new.example')")
    cells_of(fleet).answer["old"] = "no complete response within 10 s"
    cells = cells_of(fleet)

    def move() -> None:
        fleet.write("UPDATE sandboxes SET cell_id = 'new' WHERE org_id = 'org-000'")
        cells.held["old"], cells.waited_for["old"] = (
            asyncio.Event(),
            1,
        )  # answers after `new` was told

    cells.during["old"] = move
    assert run(fleet).acknowledged == 1
    assert sorted(cells.received) == [("new", 1), ("old", 1), ("old", 1)]


def test_dispatch_of_dead_worker_is_resumed_after_lease(fleet: Fleet) -> None:
    populate(fleet, 1, "a")
    steps: Steps[object] = dispatch(fleet.context())
    effect, answer = next(steps), None
    while getattr(effect, "name", "") != "claim_halts":  # one lane: Together's steps are driven by hand
        if hasattr(effect, "steps"):
            steps = effect.steps[0]
            effect = next(steps)
            continue
        answer = write(fleet.engine, effect.work)  # type: ignore[union-attr]
        effect = steps.send(answer)
    write(fleet.engine, effect.work)  # type: ignore[union-attr]  # claimed; and the worker is gone
    assert run(fleet).acknowledged == 0
    fleet.clock.at_ms += LEASE_MS
    assert run(fleet).acknowledged == 1


def ticks_until(fleet: Fleet, count: int) -> int:
    status_ = 0
    for _ in range(count):
        status_ = fleet.tick_windows(1).exit_status
    return status_


@pytest.mark.both_databases
def test_halt_acknowledged_without_effect_is_reported(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    populate(fleet, 1, "liar", "honest")
    cells_of(fleet).during["honest"] = lambda: fleet.write(
        "UPDATE sandboxes SET state = 'stopped' WHERE cell_id = 'honest'"
    )
    assert ticks_until(fleet, ESCALATE_AFTER) == 0, "each time it is told again, and acknowledges"
    logs = CapturingLogger()
    monkeypatch.setattr(dispatching, "log", logs)
    report = fleet.tick_windows(1)
    told = (
        "cell liar has acknowledged the halt of org-000 3 times since 2026-01-01T00:05:00Z, but its sandboxes still run"
    )
    assert (report.exit_status, report.problems, report.left.halts_ignored) == (1, [told], 1)
    events = [call for call in logs.calls if call.args == ("halt_ignored",)]
    assert [(one.method_name, one.kwargs["cell"], one.kwargs["org"]) for one in events] == [
        ("error", "liar", "org-000")
    ]
    found = read(fleet.engine, lambda c: status(c, fleet.clock.at_ms))
    assert (found.headline.verdict, found.headline.reason) == ("person_needed", told)
    assert "liar" in found.headline.next


def test_ignored_halt_is_cleared_after_sandbox_stops(fleet: Fleet) -> None:
    populate(fleet, 1, "liar")
    assert ticks_until(fleet, ESCALATE_AFTER + 1) == 1
    fleet.write("UPDATE sandboxes SET state = 'stopped'")
    assert fleet.tick_windows(1).exit_status == 0
    fleet.write("UPDATE sandboxes SET state = 'running'")
    assert ticks_until(fleet, ESCALATE_AFTER - 1) == 0
    assert ticks_until(fleet, 1) == 1


def test_ignored_halt_of_resumed_org_is_cleared(fleet: Fleet) -> None:
    populate(fleet, 1, "liar")
    assert ticks_until(fleet, ESCALATE_AFTER + 1) == 1
    fleet.write("UPDATE orgs SET is_halted = false, halted_at = NULL, operator_halt = false")
    assert fleet.tick(fleet.clock.at_ms + WINDOW_MS).problems == []


def test_ignored_halt_is_reported_by_single_shard(fleet: Fleet) -> None:
    populate(fleet, 1, "liar")
    ticks_until(fleet, ESCALATE_AFTER + 1)
    bucket = int(str(fleet.one("SELECT bucket FROM orgs")))
    from drawdown.worker.engine.shard import Shard
    from drawdown.worker.halts.ignored_halts import ignored_halts

    assert len(read(fleet.engine, lambda c: ignored_halts(c, Shard(bucket, bucket)))) == 1
    others = Shard(bucket + 1, 255) if bucket < 255 else Shard(0, bucket - 1)
    assert read(fleet.engine, lambda c: ignored_halts(c, others)) == []
    assert fleet.clock.at_ms > T0


def test_halt_for_empty_dead_cell_is_not_retried_forever(fleet: Fleet) -> None:
    populate(fleet, 3, "gone", "well")
    cells_of(fleet).answer["gone"] = "no connection"
    run(fleet)
    fleet.write("UPDATE sandboxes SET state = 'stopped' WHERE cell_id = 'gone' AND org_id <> 'org-002'")
    assert due(fleet, "gone") == 3
    fleet.clock.at_ms += EMPTY_FOR_MS
    run(fleet)
    assert due(fleet, "gone") == 1, "one still has a sandbox there"
    fleet.write("UPDATE sandboxes SET state = 'hibernated' WHERE cell_id = 'gone' AND org_id = 'org-001'")
    assert due(fleet, "gone") == 2, "what appears there is to be stopped"
    assert read(fleet.engine, verify).breaches == []


def test_dispatch_with_expired_claim_is_not_sent(fleet: Fleet) -> None:
    """The halt may be over by now: whoever paid meanwhile goes on."""
    populate(fleet, 1, "cell-1")
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    walk = Walk(dispatch(fleet.context()), world)
    while not isinstance(walk.asked, SendHalts):
        walk.one(fleet.engine)
    fleet.clock.at_ms += LEASE_MS
    walk.rest(fleet.engine)
    assert cells_of(fleet).received == []
    fleet.clock.at_ms += 10 * MINUTE_MS
    run(fleet)
    assert cells_of(fleet).received == [("cell-1", 1)], "the next dispatch tells it"
