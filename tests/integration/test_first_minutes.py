"""What a person meets in the first minutes: addresses of databases, typed numbers, copies, and Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drawdown.cli import settings
from drawdown.cli.main import run
from drawdown.schema.database import connect, read, url_of, write
from drawdown.schema.errors import UsageError
from drawdown.worker.verdict.org_row import Change, OrgState
from tests.sqlite_databases import migrated

ROOT = Path(__file__).resolve().parents[2]


def test_database_url_postgres_scheme_equals_postgresql() -> None:
    assert connect("postgres://user@host/name").dialect.name == "postgresql"
    assert url_of("postgres://user@host/name") == url_of("postgresql://user@host/name")
    check = settings.CHECKS["database_url"]
    check("postgres://other@host/name", "postgresql://user@host/name")
    with pytest.raises(UsageError, match="more than the user and password"):
        check("postgres://user@host/else", "postgresql://user@host/name")


def test_empty_database_url_uses_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", "")
    assert settings.load().database_url == "sqlite:///drawdown.db"


def test_negative_number_argument_error_suggests_double_dash(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["ledger", "grant", "acme", "-5", "--reason", "x"]) == 2
    said = capfd.readouterr().err
    assert "'-5' reads as an option. Put `--` before the arguments" in said and "-- NAME -5" in said
    assert run(["ledger", "grant", "acme", "--nosuch"]) == 2
    assert "No such option: --nosuch" in capfd.readouterr().err


def test_read_only_copy_can_be_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Such as a backup on a medium that this user cannot write: SQLite would make its log beside it first."""
    url = f"sqlite:///{tmp_path}/copy.db"
    migrated(url)
    connect(url).dispose()
    before = {path.name for path in tmp_path.iterdir()}
    assert before == {"copy.db"}
    able = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and able(path, mode))
    monkeypatch.setenv("DRAWDOWN_STATE_DIR", str(tmp_path / "state"))
    assert run(["--database-url", url, "verify", "--no-stop"]) == 0
    assert "all invariants hold" in capfd.readouterr().out
    engine = connect(url)
    read(engine, lambda connection: connection.exec_driver_sql("SELECT count(*) FROM orgs"))
    assert {path.name for path in tmp_path.iterdir()} - {"state"} == before, "no log is made beside it"
    with pytest.raises(Exception, match="is read-only"):
        write(engine, lambda connection: connection.exec_driver_sql("DELETE FROM orgs"))


def test_read_only_copy_with_wal_is_read_with_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the log, what was committed last would be missing."""
    url = f"sqlite:///{tmp_path}/used.db"
    migrated(url)
    using = connect(url)
    write(using, lambda connection: connection.exec_driver_sql("CREATE TABLE newest (n)"))
    able = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and able(path, mode))
    assert (tmp_path / "used.db-wal").exists()
    read(connect(url), lambda connection: connection.exec_driver_sql("SELECT n FROM newest"))


INTERRUPTED = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "drawdown.cli.main":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from drawdown.cli.entry import main
main()
"""


def test_ctrl_c_during_import_prints_single_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (75, "drawdown: stopped before it began\n")


def test_verdict_change_without_reason_keeps_reason_null() -> None:
    """It was logged as the text "None"."""
    change = Change(OrgState.__new__(OrgState), {"reason": None})
    assert change.reason is None
