"""Real processes die at bad moments; what was used is billed once all the same. At length: `make crash`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.history import incarnation
from tests import fork_server
from tests.acceptance.commands import PROJECT, environment, must
from tests.acceptance.tables import billed_exactly, number, rows
from tests.crash.billers import blockade
from tests.crash.controller import STRIKES, Plan
from tests.crash.siege import siege
from tests.postgres_server import Server
from tests.simulation.mutants_remote import Patches
from tests.whole import at_length, share
from tests.world import T0, Fleet

KILLS = share(2, whole=8)
MOST = share(200, whole=1500)
"""Samples of a siege."""
BATCH = 30
"""The embedded ledger's, as a process is told here; what is more than that is a second batch."""
WINDOWS = BATCH + 10
AT = str(T0 + (WINDOWS + 2) * WINDOW_MS)


@at_length("make crash")
def test_usage_with_workers_killed_on_sqlite_is_billed_once(tmp_path: Path) -> None:
    found = siege(tmp_path, f"sqlite:///{tmp_path}/drawdown.db", Plan(kills=KILLS), seed=3, most=MOST)
    assert found.toll.short_of(KILLS, 0) is None
    assert found.toll.starts == 3 + KILLS


def test_usage_with_workers_and_server_killed_is_billed_once(tmp_path: Path) -> None:
    with closing(Server(durable=True)) as server:
        found = siege(tmp_path, server.url, Plan(kills=KILLS, strikes=3), seed=3, server=server, most=MOST)
        assert server.recoveries() == 3, "by its own log"
    assert found.toll.short_of(KILLS, 6) is None
    assert set(found.toll.strikes) == set(STRIKES)
    assert found.toll.held.total() == 6
    # 0 is sound as well: what the strike left was settled by another worker before this one counted what is left.
    assert found.toll.struck_ends[1] + found.toll.struck_ends[75] > 0, "nobody noticed"


def test_driver_warning_after_lost_connection_is_not_printed() -> None:
    warn = "import logging; from drawdown.schema import database; logging.getLogger('psycopg').warning('lost')"
    assert subprocess.run([sys.executable, "-c", warn], capture_output=True, check=True).stderr == b""


def test_connection_lost_during_server_identification_is_retryable(postgres: sa.Engine) -> None:
    patches = Patches()
    read_id, end_it = "system_identifier FROM pg_control_system()", "pg_terminate_backend(pg_backend_pid())"
    patches.query(incarnation, "server", read_id, end_it)
    with patches.kept(), pytest.raises(DatabaseBusy, match="Try again"):
        write(postgres, incarnation.read_incarnation)


@at_length("make crash")
@pytest.mark.parametrize("name", ["autumn", "stripe"])
def test_usage_with_kills_between_claim_send_and_settle_is_billed_once(name: str, tmp_path: Path) -> None:
    found = blockade(tmp_path, f"sqlite:///{tmp_path}/drawdown.db", name, kills=KILLS, seed=3)
    assert found.toll.short_of(KILLS, 0) is None


@at_length("make crash")
def test_siege_without_kills_is_reported_as_short(tmp_path: Path) -> None:
    """Orders are given and taken all the same."""
    plan = Plan(kills=4, no_kill=True)
    found = siege(tmp_path, f"sqlite:///{tmp_path}/drawdown.db", plan, seed=3, most=600)
    assert (found.toll.kills, found.toll.inside, found.toll.starts) == (0, 0, 3)
    assert found.toll.short_of(4, 0) == "no kill landed inside a step"
    assert found.samples == 600
    never_answered = "SELECT COUNT(*) FROM attempts WHERE outcome IS NULL"
    assert number(f"sqlite:///{tmp_path}/drawdown.db", never_answered) == 0, "nobody died over one"
    assert any("passed " in log.read_text() for log in tmp_path.glob("*.log"))


PLANTED = (
    ("fresh key", ("end charge", "begin settle")),
    ("settled first", ("begin charge",)),
    ("settled apart", ("end charge", "begin settle")),
)
"""Each with the steps at which to kill. `make mutants` plants all."""


@pytest.mark.parametrize(("planted", "at"), share(PLANTED[:1], whole=PLANTED))
def test_planted_bug_is_found(planted: str, at: tuple[str, ...], tmp_path: Path) -> None:
    """What a retry charges again, and what is never sent."""
    url, plan = f"sqlite:///{tmp_path}/drawdown.db", Plan(kills=share(2, whole=4), at=at)
    with pytest.raises(AssertionError, match=r"windows with \(charged, expected\)"):
        siege(tmp_path, url, plan, seed=3, most=MOST, planted=planted)


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """Two organisations with usage in more windows than one batch of pushes holds."""
    made = Fleet(engine)
    made.assign("acme", "bolt", from_ms=T0)
    values = [
        {"id": f"s{n}", "org": ("acme", "bolt")[n % 2], "ts": T0 + n * WINDOW_MS + 1, "now": T0 + n * WINDOW_MS + 9}
        for n in range(WINDOWS)
    ]
    insert = sa.text(
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        "VALUES (:id, :org, 'box', 'cell-1', 1024, 60, :ts, :now)"
    )
    write(engine, lambda connection: connection.execute(insert, values))
    return made


EXPECTED = {(("acme", "bolt")[n % 2], T0 + n * WINDOW_MS): 60 for n in range(WINDOWS)}


class Running:
    """`drawdown run` as a real process that waits at one step."""

    def __init__(self, url: str, folder: Path, slow: str, *options: str) -> None:
        command = ["--slow", slow, "--at-once", str(BATCH), "once", str(folder), "--", "run", "--at", AT, *options]
        env = environment(url, {"DRAWDOWN_LOG_LEVEL": "WARNING"})
        self.said = folder / "err"
        with self.said.open("wb") as err:
            self.process = fork_server.Started(command, env=env, cwd=PROJECT, err=err, module="tests.crash.process")
        self.log = folder / f"once.{self.process.pid}.log"

    def marks(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def wait_for(self, mark: str, count: int = 1) -> None:
        until = time.monotonic() + 60
        while self.marks().count(mark) < count:
            assert self.process.poll() is None and time.monotonic() < until, self.marks()[-5:]
            time.sleep(0.01)

    def terminate(self, *, within_s: float) -> str:
        """SIGTERM; returns what the process said on stderr."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(within_s)
        return self.said.read_text()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.parametrize("database_url", share(["sqlite"], whole=["sqlite", "postgresql"]), indirect=True)
def test_sigterm_during_push_leaves_rest_due_for_next_tick(fleet: Fleet, database_url: str, tmp_path: Path) -> None:
    fleet.engine.dispose()
    with Running(database_url, tmp_path, "begin charge=1.5") as running:
        running.wait_for("begin charge")
        err = running.terminate(within_s=300)
        assert "Traceback" not in err
        assert running.process.returncode == 75, "something is left for the next tick"
        assert running.marks()[-1] == "end end_tick"
        assert running.marks().count("begin charge") == 1
    states = "SELECT state, COUNT(*) FROM pushes GROUP BY state ORDER BY state"
    assert rows(database_url, states) == [("accepted", BATCH), ("due", WINDOWS - BATCH)]
    assert number(database_url, "SELECT COUNT(*) FROM attempts WHERE outcome IS NULL") == 0
    must(database_url, "verify", at=AT)
    assert must(database_url, "tick", at=AT)["tick"]["accepted"] == WINDOWS - BATCH
    billed_exactly(database_url, EXPECTED)


@pytest.mark.parametrize("database_url", share(["sqlite"], whole=["sqlite", "postgresql"]), indirect=True)
def test_ticks_longer_than_interval_do_not_overlap(fleet: Fleet, database_url: str, tmp_path: Path) -> None:
    with Running(database_url, tmp_path, "end end_tick=1.2", "--every", "1") as running:
        running.wait_for("begin end_tick")
        fleet.clock.at_ms = int(AT)
        fleet.sample("acme", T0 + 2, 7, sample_id="late")
        fleet.engine.dispose()
        running.wait_for("end end_tick", 3)
        err = running.terminate(within_s=300)
        ticks = [mark.split()[1] for mark in running.marks() if mark in ("begin begin_tick", "end end_tick")]
    assert ticks[: len(ticks) // 2 * 2] == ["begin_tick", "end_tick"] * (len(ticks) // 2), "one after another"
    assert "tick_overlaps" in err and "Traceback" not in err
    assert running.process.returncode == 0
    billed_exactly(database_url, {**EXPECTED, ("acme", T0): 67})
