"""What everybody used and paid, and what a host remembers, is nobody else's to read, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from drawdown.cli.main import run


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    return {str(one.relative_to(folder)): oct(stat.S_IMODE(one.stat().st_mode)) for one in folder.rglob("*")}


@pytest.mark.usefixtures("open_umask")
def test_database_and_state_files_are_private_and_checked_by_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAWDOWN_STATE_DIR", str(tmp_path / "state"))
    url = f"sqlite:///{tmp_path}/drawdown.db"
    for command in (["init"], ["tick"], ["tick"]):
        assert run(["--database-url", url, *command]) in (0, 75)
    found = modes(tmp_path)
    assert found.pop("state") == "0o700"
    assert {"drawdown.db"} < set(found) and len(found) >= 3, "the database, and what is remembered, and its lock"
    assert set(found.values()) == {"0o600"}
    run(["--database-url", url, "doctor"])
    assert "every user of this machine can read" not in capfd.readouterr().out
    (tmp_path / "drawdown.db").chmod(0o644)
    (tmp_path / "state").chmod(0o755)
    assert run(["--database-url", url, "doctor"]) == 1
    said = capfd.readouterr().out
    assert f"chmod 600 {tmp_path}/drawdown.db" in said and f"chmod 700 {tmp_path}/state" in said
