"""A server on a database that was restored under it (rule R1): it notices before it writes, and says so at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from drawdown.schema.database import connect, read
from drawdown.schema.errors import UsageError
from drawdown.server.http.threads import EVERY_MS
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import present
from drawdown.worker.history.witness import WitnessFile
from tests.acceptance.commands import drawdown
from tests.server.acts.money import owes
from tests.server.console_home import Home, as_read
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key
from tests.server.test_console_acts import hidden
from tests.server.test_process import serving
from tests.sqlite_databases import migrated

BATCH = "/console/act/settlement-payout"


class Remembered:
    """What this machine remembers: as much as there is, until a test says otherwise."""

    def __init__(self, engine: sa.Engine) -> None:
        self.last: Witness = read(engine, present)
        self.asked = 0
        self.unreadable = False

    def load(self, engine: sa.Engine) -> Witness | None:
        self.asked += 1
        if self.unreadable:
            raise UsageError("it cannot be read")
        return self.last

    def save(self, engine: sa.Engine, witness: Witness) -> None:
        raise AssertionError("a server remembers nothing by itself")

    def restore(self) -> None:
        """The database is an older one than this machine knows."""
        self.last = replace(self.last, sends=self.last.sends + 3)


FORM = {"supplier": "pixel", "expect": "2", "reason": "as they asked", "step": "look"}


@pytest.mark.parametrize("step", ["look", "do"])
def test_payout_on_restored_database_is_refused_before_any_tick(home_engine: sa.Engine, step: str) -> None:
    home = Home(home_engine, copied=True)
    owes(home)
    home.witness = remembered = Remembered(home_engine)
    looked = home.send(BATCH, FORM)
    assert looked.status_code == 200, "nothing was lost, and that was seen just now"
    remembered.restore()
    page = home.send(BATCH, FORM if step == "look" else hidden(looked))
    assert page.status_code == 409 and "history was lost" in as_read(page.text), page.text
    assert home.fleet.rows("SELECT payout FROM payouts") == []
    (reason,) = home.fleet.rows("SELECT doubted_reason FROM incarnation")
    assert "restored" in str(reason[0]), "written down, so that hosts without a file stand still, too"


@pytest.fixture
def watched(engine: sa.Engine) -> tuple[House, Remembered]:
    remembered = Remembered(engine)
    house = House(engine, remembered)
    give(house, "acme")
    make_key(house, "app", "executions:write", "ledger:read")
    return house, remembered


def doubted(house: House) -> list[tuple[object, ...]]:
    return house.fleet.rows("SELECT number FROM incarnation WHERE doubted_ms IS NOT NULL")


def test_readiness_and_metric_report_restored_database(watched: tuple[House, Remembered]) -> None:
    house, remembered = watched

    async def work(caller: Caller) -> None:
        assert (await caller.get("/readyz")).status_code == 200
        assert "drawdown_history_doubted 0.0" in (await caller.get("/metrics")).text
        remembered.restore()
        answer = await caller.get("/readyz")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "history_doubted")
        house.clock.at_ms += 5_000
        assert "drawdown_history_doubted 1.0" in (await caller.get("/metrics")).text
        assert doubted(house) == [], "whoever looks changes nothing"

    served(house, work)


def test_restore_check_runs_once_per_second_on_writes_only(watched: tuple[House, Remembered]) -> None:
    house, remembered = watched

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        await program.accept("run-1", 1)
        await caller.settled()
        before = remembered.asked
        assert before == 1
        for number in range(5):
            assert (await program.accept(f"run-2{number}", 1)).status_code == 200
            assert (await program.get("/accounts/acme")).status_code == 200
        await caller.settled()
        remembered.restore()
        await program.accept("run-3", 1)
        assert remembered.asked == before and doubted(house) == []
        house.clock.at_ms += EVERY_MS
        assert (await program.get("/accounts/acme")).status_code == 200
        assert (remembered.asked, doubted(house)) == (before, [])
        assert (await program.accept("run-4", 1)).status_code == 200, "runs go on, as they do while it stands still"
        assert (remembered.asked, doubted(house)) == (before + 1, [(1,)])

    served(house, work)


@pytest.mark.parametrize("what", ["another", "recovered elsewhere", "unreadable"])
def test_restore_check_of_other_database_or_unreadable_does_not_doubt(
    watched: tuple[House, Remembered], what: str
) -> None:
    house, remembered = watched
    remembered.restore()
    if what == "another":
        remembered.last = replace(remembered.last, database_id="another")
    elif what == "recovered elsewhere":
        house.fleet.write("UPDATE incarnation SET number = 2")
    else:
        remembered.unreadable = True

    async def work(caller: Caller) -> None:
        assert (await Program(caller, key_of("app")).accept("run-1", 1)).status_code == 200
        assert (await caller.get("/readyz")).status_code == 200

    served(house, work)
    assert remembered.asked == 2 and doubted(house) == []


def test_serve_with_newer_checkpoint_in_state_folder_reports_doubt(tmp_path: Path) -> None:
    url, state = f"sqlite:///{tmp_path}/served.db", tmp_path / "state"
    assert drawdown(migrated(url), "init").status == 0
    engine = connect(url)
    WitnessFile(state).save(engine, replace(read(engine, present), sends=3))
    engine.dispose()
    with serving(url, {"DRAWDOWN_STATE_DIR": str(state)}, tmp_path / "log") as (base, _):
        answer = httpx.get(f"{base}/readyz")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "history_doubted")
        assert "drawdown_history_doubted 1.0" in httpx.get(f"{base}/metrics").text
