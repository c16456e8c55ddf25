"""What hosts, providers and files are called is shown as text: a terminal is given nothing that it would obey."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import sqlalchemy as sa
import structlog

from drawdown.cli import startup
from drawdown.cli.main import run
from drawdown.schema.database import connect, write
from drawdown.schema.text import clean
from tests.sqlite_databases import migrated

HOSTILE = "cell\x1b]0;owned\x07\x1b[2J\u202e\u2066gpj\x9b31m\r\nALL SETTLED"
SHOWN = clean(HOSTILE)


def obeyed(text: str) -> list[str]:
    """What is in it besides lines of text."""
    return [one for line in text.split("\n") for one in line if not one.isprintable()]


@pytest.fixture
def url(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> str:
    found = f"sqlite:///{tmp_path}/drawdown.db"
    assert run(["--database-url", migrated(found), "init"]) == 0
    assert run(["--database-url", found, "org", "assign", "acme", "--provider", "embedded", "--new"]) == 0
    engine = connect(found)

    def fill(connection: sa.Connection) -> None:
        for text in (
            "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('b', 'acme', :hostile, 'running')",
            "UPDATE orgs SET stopped_at_ms = 1, stopped_reason = :hostile, is_halted = true, halted_at = 1",
            "INSERT INTO provider_states (provider, paused_ms, paused_reason) VALUES ('embedded', 1, :hostile) "
            "ON CONFLICT (provider) DO UPDATE SET paused_ms = 1, paused_reason = :hostile",
            "INSERT INTO operator_actions (at_ms, action, target, details, actor, reason) "
            "VALUES (1, 'org_halted', :hostile, '{}', :hostile, :hostile)",
        ):
            connection.execute(sa.text(text), {"hostile": HOSTILE})

    write(engine, fill)
    engine.dispose()
    capfd.readouterr()
    return found


def test_commands_escape_control_characters_of_stored_text(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    for command in ("doctor", "status", "status acme", "org show acme", "provider list", "tick"):
        run(["--database-url", url, *command.split()])
        said = capfd.readouterr()
        assert obeyed(said.out) == [] and obeyed(said.err) == [], command
        assert "\nALL SETTLED" not in said.out, "nor does it make a line of its own"
        if command == "org show acme":
            assert "owned" in said.out and "\\x1b" in said.out, "it is there to be read"


def test_import_escapes_control_characters_of_file_name_and_row(
    url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "\x1b[2J\u202e.csv"
    file.write_text(f"id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts\n\x1b[2J,{HOSTILE!r},b,c,1,1,x\n")
    run(["--database-url", url, "import", str(file)])
    said = capfd.readouterr()
    assert obeyed(said.out + said.err) == [] and "\\x1b" in said.out + said.err


def test_console_logs_escape_control_characters(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    before = structlog.get_config()
    try:
        startup.set_up_logs("INFO")
        structlog.get_logger().error("lane_failed", error=HOSTILE, org="acme")
    finally:
        structlog.configure(**before)
    said = capfd.readouterr().err
    assert "\x1b]" not in said and "\u202e" not in said and "\x9b" not in said and "\\x1b]0;owned" in said


@pytest.mark.parametrize("level, is_shown", [("DEBUG", True), ("INFO", False)])
def test_terminal_at_debug_level_shows_place_of_unexpected_error(
    level: str, is_shown: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error's message names this level. A terminal, and `tick --quiet`, hid the place at each level."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    before = structlog.get_config()
    try:
        startup.set_up_logs(level, at_least=logging.WARNING)
        assert "DRAWDOWN_LOG_LEVEL=DEBUG" in startup.meaning_of(ValueError("odd")).text
    finally:
        structlog.configure(**before)
    assert ("unexpected_error" in capfd.readouterr().err) == is_shown
