"""`--processes`: one command, its shards in processes of their own. One report, one exit status, no part lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.cli.nouns import tick as commands
from drawdown.cli.processes import MAX_PROCESSES, Stopping, in_processes, shards
from drawdown.cli.streams import Fault
from drawdown.schema.errors import Exit
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps
from drawdown.worker.engine.shard import Shard
from drawdown.worker.status.ticks import Report
from drawdown.worker.tick import tick
from tests.world import T0, Fleet

ORGS = [f"org-{number}" for number in range(12)]
TICKS = "SELECT bucket_lo, bucket_hi, exit_status, report FROM ticks ORDER BY bucket_lo"
Say = pytest.CaptureFixture[str]


@pytest.fixture
def fleet(postgres: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", postgres.url.render_as_string(hide_password=False))
    monkeypatch.setenv("DRAWDOWN_STATE_DIR", str(tmp_path))
    made = Fleet(postgres)
    made.assign(*ORGS, from_ms=T0)
    insert = (
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        f"VALUES (:org, :org, 'box', 'cell-1', 1024, 60, {T0}, {T0})"
    )
    made.write(insert, [{"org": org} for org in ORGS])
    made.sample(ORGS[0], T0, memory_mb=999)  # of no feature: pending
    postgres.dispose()  # what forks has no connection open
    return made


def ticked(capfd: Say, *more: str) -> tuple[int, dict[str, object]]:
    status = run(["--at", str(T0 + 600_000), "--json", "tick", *more])
    return status, json.loads(capfd.readouterr().out)["tick"]


def planted(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """It happens to the part that has the first bucket."""

    def one(context: Context) -> Steps[Report]:
        if context.shard.lo == 0:
            happens()
        return (yield from tick(context))

    monkeypatch.setattr(commands, "tick", one)


def test_report_shows_work_of_each_part_and_next_tick_does_the_rest(
    fleet: Fleet, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part ends as it should; then one is killed, and the others are done; then all of them are done."""

    def fails(_steps: object, world: runner.World) -> None:
        raise ValueError(f"one of {world.processes}")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "run", fails)
        assert run(["--at", str(T0 + 600_000), "tick", "--processes", "3"]) == Exit.PERSON, "no part has a report"
    assert "ValueError: one of 3" in capfd.readouterr().err, "each has its share of what a provider allows"

    with monkeypatch.context() as patch:
        planted(patch, lambda: os.kill(os.getpid(), signal.SIGKILL))
        status, first = ticked(capfd, "--processes", "2")
    assert first["failures"] == ["buckets 0 to 127: its process was killed by SIGKILL"]
    assert status == first["exit_status"] == Exit.LEFT
    assert 0 < int(str(first["sealed"])) < len(ORGS)
    assert [row[:3] for row in fleet.rows(TICKS)] == [(128, 255, 0)]

    status, told = ticked(capfd, "--processes", "3")
    rows = [row for row in fleet.rows(TICKS) if row[0] != 128]
    assert [row[:3] for row in rows] == [(0, 84, 0), (85, 169, 0), (170, 255, 0)]
    parts = [json.loads(str(row[3])) for row in rows]
    assert min(part["sealed"] for part in parts[:2]) > 0
    for name in ("sealed", "accepted", "projected", "not_accepted"):
        assert told[name] == sum(part[name] for part in parts)
    assert told["accepted_at"] == {"embedded": told["sealed"]}
    assert int(str(told["sealed"])) + int(str(first["sealed"])) == len(ORGS)
    assert told["left"] == parts[0]["left"] | {"pending_s": {"no_mapping": 60}}
    assert (status, told["exit_status"]) == (0, 0)


def test_failed_process_of_tick_exits_with_person_status(
    fleet: Fleet, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise ValueError("planted")

    planted(monkeypatch, fails)
    status, told = ticked(capfd, "--processes", "2")
    assert "buckets 0 to 127: ValueError: planted" in str(told["problems"]) and status == Exit.PERSON


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--processes", "0"], "--processes"),
        (["--processes", str(MAX_PROCESSES + 1)], "--processes"),
        (["--processes", "2", "--shard", "0/2"], "either --shard or --processes"),
        (["--processes", "2"], "SQLite has one writer"),
    ],
)
def test_invalid_processes_option_is_refused(
    given: list[str], says: str, migrated_sqlite: Path, tmp_path: Path, capfd: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "d.db"
    file.write_bytes(migrated_sqlite.read_bytes())
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", f"sqlite:///{file}")
    for command in ("tick", "run"):
        assert run([command, *given]) == Exit.USAGE
        assert says in capfd.readouterr().err


def waits(_part: Shard, stopping: Stopping) -> str:
    stopping.wait(10)
    return "ended" if stopping.is_set() else "waited in vain"


def test_interrupt_stops_each_process() -> None:
    def one(part: Shard, stopping: Stopping) -> str:
        if part.lo == 0:
            os.kill(os.getppid(), signal.SIGINT)
        return waits(part, stopping)

    kept = signal.getsignal(signal.SIGINT)
    assert [result for _, result in in_processes(shards(3), one)] == ["ended"] * 3
    assert signal.getsignal(signal.SIGINT) is kept


def test_killed_process_stops_remaining_processes() -> None:
    def one(part: Shard, stopping: Stopping) -> str:
        if part.lo == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return waits(part, stopping)

    gone, other = (result for _, result in in_processes(shards(2), one, together=True))
    assert gone == Fault("its process was killed by SIGKILL", Exit.LEFT, "process_died") and other == "ended"


def test_processes_stop_after_command_is_killed(tmp_path: Path) -> None:
    source = (
        "import os, signal\nfrom pathlib import Path\nfrom drawdown.cli.processes import in_processes, shards\n"
        "def one(part, stopping):\n"
        "    if part.lo: os.kill(os.getppid(), signal.SIGKILL)\n"
        f"    stopping.wait(30)\n    (Path({str(tmp_path)!r}) / str(part.lo)).write_text(str(stopping.is_set()))\n"
        "in_processes(shards(2), one)\n"
    )
    assert subprocess.run([sys.executable, "-c", source], stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    ends = time.monotonic() + 10
    while [one.read_text() for one in tmp_path.iterdir()] != ["True", "True"] and time.monotonic() < ends:
        time.sleep(0.05)
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"0": "True", "128": "True"}


def test_run_ticks_in_each_process_until_sigterm(fleet: Fleet) -> None:
    command = [sys.executable, "-c", "from drawdown.cli.main import main; main()", "run", "--processes", "2"]
    environment = {**os.environ, "DRAWDOWN_LOG_LEVEL": "INFO"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        ends = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < ends:
            if [row[2] in (0, Exit.LEFT) for row in fleet.rows(TICKS)] == [True, True]:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=300)
    assert process.returncode in (0, Exit.LEFT), told  # what the other part has to do yet counts as left
    assert len(re.findall('"signal": "SIGTERM"', told)) == 2  # each part says so
    assert [row[:2] for row in fleet.rows(TICKS)] == [(0, 127), (128, 255)]
    assert fleet.rows("SELECT state, COUNT(*) FROM pushes GROUP BY state") == [("accepted", len(ORGS))]
