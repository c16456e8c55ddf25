"""A database that goes away in the middle of a tick: one clear line, nothing half-done, the next tick goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from drawdown.schema.database import connect
from drawdown.schema.migrate import upgrade
from tests import fork_server
from tests.acceptance.commands import PROJECT, drawdown, environment, must, one_clear_line
from tests.acceptance.tables import billed_exactly
from tests.postgres_server import Server
from tests.whole import share
from tests.world import T0, Fleet

AT = str(T0 + 3_600_000)
LATER_MS = int(AT) + 600_000
"""A lost claim's lease is over."""
EXPECTED = {("acme", T0): 60, ("bolt", T0): 30}


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    made.assign("acme", "bolt", from_ms=T0)
    made.sample("acme", T0 + 1)
    made.sample("bolt", T0 + 2, 30)
    engine.dispose()
    return made


@contextmanager
def _in_the_middle(url: str, folder: Path, mark: str) -> Iterator[Callable[[], tuple[int, str]]]:
    """A tick in a process of its own that waits at a mark while the body runs; call what is given to see it end."""
    command = ["--slow", f"{mark}=1.0", "once", str(folder), "--", "tick", "--at", AT]
    said = folder / "err"
    with said.open("wb") as err:
        process = fork_server.Started(command, env=environment(url), cwd=PROJECT, err=err, module="tests.crash.process")
    log, until = folder / f"once.{process.pid}.log", time.monotonic() + 60
    while not (log.exists() and f"{mark}\n" in log.read_text()):
        assert time.monotonic() < until and process.poll() is None, said.read_text()
        time.sleep(0.01)

    def ended() -> tuple[int, str]:
        return process.wait(300), said.read_text()

    yield ended
    process.kill()
    process.wait()


def _sound(status: int, err: str) -> None:
    """Either the tick went on and left something, or it said in one line what was wrong."""
    assert status in (0, 1, 75), err
    assert "Traceback" not in err and err.count("\n") <= 1, err
    assert err.startswith("drawdown: ") or not err, err


MARKS = (
    "inside begin_tick", "inside seal", "begin claim", "inside claim", "inside charge", "end charge", "inside settle",
    "inside project", "inside end_tick",
)  # fmt: skip


@pytest.mark.parametrize("mark", share(MARKS[1:2], whole=MARKS))
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_tick_with_lost_connections_is_sound_and_next_tick_bills(
    fleet: Fleet, database_url: str, tmp_path: Path, mark: str
) -> None:
    with _in_the_middle(database_url, tmp_path, mark) as ended:
        with psycopg.connect(database_url, autocommit=True) as connection:
            lost = connection.execute(
                "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
        assert lost is not None and lost[0] > 0
        status, err = ended()
        _sound(status, err)
        if mark in ("inside begin_tick", "inside seal", "inside claim", "inside settle"):
            lost_where = ("Try again", "may or may not be stored; you can safely repeat the command")
            assert status == 75 and any(told in err for told in lost_where)
    fleet.tick(LATER_MS)
    billed_exactly(database_url, EXPECTED)
    must(database_url, "verify", at=AT)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_tick_with_vanished_sqlite_file_is_sound_and_next_tick_bills(
    fleet: Fleet, database_url: str, tmp_path: Path
) -> None:
    file, away = Path(str(sa.make_url(database_url).database)), tmp_path / "away"
    away.mkdir()
    with _in_the_middle(database_url, tmp_path, "begin charge") as ended:
        for part in file.parent.glob(f"{file.name}*"):
            part.rename(away / part.name)
        status, err = ended()
        _sound(status, err)
        assert status == 1 and "does not exist. If you mean another database" in err
    assert not file.exists()
    for part in away.iterdir():
        part.rename(file.parent / part.name)
    fleet.tick(LATER_MS)
    billed_exactly(database_url, EXPECTED)
    must(database_url, "verify", at=AT)


def test_tick_with_killed_server_is_retryable_and_next_tick_bills(tmp_path: Path) -> None:
    with closing(Server(durable=True)) as server:
        url = server.url
        engine = connect(url)
        upgrade(engine)
        fleet = Fleet(engine)
        fleet.assign("acme", "bolt", from_ms=T0)
        fleet.sample("acme", T0 + 1)
        fleet.sample("bolt", T0 + 2, 30)
        with _in_the_middle(url, tmp_path, "begin charge") as ended:
            os.kill(server.postmaster(), signal.SIGQUIT)  # at once, as a machine does that loses its power
            status, err = ended()
            _sound(status, err)
            lost_where = ("Try again", "may or may not be stored; you can safely repeat the command")
            assert status == 75 and any(told in err for told in lost_where)
        one_clear_line(drawdown(url, "tick", at=AT), 75)
        server.start()
        must(url, "tick", at=str(LATER_MS))
        billed_exactly(url, EXPECTED)
        must(url, "verify", at=AT)
