"""`drawdown up`: one command ticks, watches, serves, and does what is done once a night; and ends as one."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from drawdown.cli import scheduler
from drawdown.cli.main import run
from drawdown.schema.clock import SystemClock
from drawdown.schema.database import connect
from drawdown.schema.units import WINDOW_MS
from tests import fork_server
from tests.acceptance.commands import PROJECT, drawdown, environment
from tests.patience import PATIENT_S
from tests.sqlite_databases import migrated
from tests.world import Fleet

NIGHTS = """
from apscheduler.triggers.interval import IntervalTrigger
from drawdown.cli import scheduler
scheduler.at_night = lambda at: IntervalTrigger(seconds=1)
"""
"""A night is a second long."""


def waited(found: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if (result := found()) is not None:
            return result
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds:g} s")


@pytest.fixture
def database(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/up.db"
    assert drawdown(migrated(url), "init").status == 0
    return url


@contextmanager
def up(url: str, log: Path, *options: str) -> Iterator[tuple[str, fork_server.Started]]:
    words, env = ["--json", "up", "--port", "0", *options], environment(url, {"DRAWDOWN_LOG_LEVEL": "INFO"})
    with log.open("w") as err:
        process = fork_server.Started(words, env=env, cwd=PROJECT, err=err, before=NIGHTS)
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        yield json.loads(line)["url"], process
    finally:
        process.kill()
        process.wait(60)


def events(log: Path, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


def parts(process: fork_server.Started) -> list[int]:
    """The processes that the command was made of."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(one) for one in children.read_text().split()]


def test_up_command_runs_tick_watch_server_and_nightly(database: str, tmp_path: Path) -> None:
    engine, log = connect(database), tmp_path / "log"
    fleet = Fleet(engine)
    now_ms = SystemClock().now_ms()
    fleet.clock.at_ms = now_ms - now_ms % WINDOW_MS
    fleet.assign("acme", from_ms=fleet.clock.at_ms - 3_600_000)
    fleet.sample("acme", fleet.clock.at_ms - 1_800_000)

    def count(statement: str) -> Callable[[], int | None]:
        return lambda: fleet.one(statement) or None  # type: ignore[return-value]

    with up(database, log, "--every", "1") as (url, process):
        assert httpx.get(f"{url}/healthz", timeout=PATIENT_S).status_code == 200
        other = drawdown(database, "up", "--port", url.rpartition(":")[2])
        assert other.status == 2 and "cannot listen on 127.0.0.1" in other.err, "before anything is begun"
        waited(count("SELECT COUNT(*) FROM pushes WHERE state = 'accepted'"), "a tick")
        waited(count("SELECT NULLIF(COUNT(*), 1) FROM ticks"), "the tick after it")
        waited(count("SELECT MAX(round_ms) FROM watch_state"), "a round of the watch")
        ended = waited(lambda: next(iter(events(log, "nightly_ended")), None), "a night")
        assert (ended["exit_status"], ended["failed"]) == (0, [])
        made = parts(process)
        process.send_signal(signal.SIGTERM)
        # 75: the signal came during a tick, which left work
        assert process.wait(60) == events(log, "tick_finished")[-1]["exit_status"] in (0, 75), log.read_text()
    assert not [one for one in made if Path(f"/proc/{one}").exists()]
    assert not [line for line in map(json.loads, log.read_text().splitlines()) if line["level"] == "error"]


@pytest.mark.parametrize("which", [0, 1], ids=["its ticks", "its server"])
def test_up_command_exits_when_any_part_dies(which: int, database: str, tmp_path: Path) -> None:
    """What keeps it running then starts both: none of them is missing for hours while the other one looks well."""
    with up(database, tmp_path / "log") as (url, process):
        assert httpx.get(f"{url}/healthz", timeout=PATIENT_S).status_code == 200
        os.kill(parts(process)[which], signal.SIGKILL)
        assert process.wait(60) == 75
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


def test_up_command_parts_exit_when_command_is_killed(database: str, tmp_path: Path) -> None:
    with up(database, tmp_path / "log") as (url, process):
        assert httpx.get(f"{url}/healthz", timeout=PATIENT_S).status_code == 200
        made = parts(process)
        process.kill()
        process.wait(60)
        waited(lambda: None if any(Path(f"/proc/{one}").exists() for one in made) else True, "their end")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")


@pytest.mark.parametrize("given", ["24:00", "2:17", "noon", ""])
def test_nightly_time_invalid_is_refused(
    given: str, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database)
    for command in ("up", "run"):
        assert run([command, "--nightly-at", given]) == 2
        assert f"--nightly-at '{given}': expected an hour and minute in UTC" in capsys.readouterr().err


def test_nightly_time_is_in_utc() -> None:
    at = scheduler.at_night(dt.time(2, 17))
    now = dt.datetime(2026, 3, 29, 1, 0, tzinfo=dt.UTC)
    assert at.get_next_fire_time(None, now) == now.replace(hour=2, minute=17)
