"""The commands of the watch."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests import fork_server
from tests.integration.test_cli import Shell
from tests.sqlite_databases import migrated


@pytest.fixture
def shell(tmp_path: Path, database_url: str) -> Shell:
    """A fleet whose one organisation has used more than it has."""
    made = Shell(tmp_path, database_url)
    migrated(database_url)
    made.run("init")
    made.run("ledger", "grant", "acme", "0.000001", "--new")
    made.run("org", "assign", "acme", "--new", "--from", "2026-01-01")
    made.run("import", made.samples("a,acme,box,cell-1,1024,60,2026-01-01T00:01:00Z"))
    return made


def credit(shell: Shell, at: str) -> dict[str, Any]:
    found = shell.json("org", "show", "acme", "--at", at)
    return {**found["credit"], "verdicts": [(bool(one["is_halted"]), one["reason"]) for one in found["verdicts"]]}


def test_watch_command_halts_and_org_show_shows_estimate(shell: Shell) -> None:
    first = shell.json("watch", "--once", "--at", "2026-01-01T00:01:05Z")["watch"]
    second = shell.json("watch", "--once", "--at", "2026-01-01T00:01:15Z")["watch"]
    assert first["halted"] + second["halted"] == 1
    found = credit(shell, "2026-01-01T00:01:20Z")
    assert found["verdicts"] == [(True, "estimate")]
    assert found["effective_micro"] == 1 - found["unsealed_micro"] < 0
    assert found["when_down"] == "estimate"
    told = shell.run("org", "show", "acme", "--at", "2026-01-01T00:01:20Z")
    for words in ("Credit", "Verdicts, newest first", "estimate"):
        assert words in told
    assert told.count("0.000001") == 3, "people see credits: in the row, in its parts and in the verdict"
    shell.run("ledger", "grant", "acme", "50", "--at", "2026-01-01T00:01:20Z")
    assert shell.json("watch", "--once", "--at", "2026-01-01T00:01:25Z")["watch"]["resumed"] == 1


def test_watch_and_provider_commands_with_invalid_options_are_refused(shell: Shell) -> None:
    assert "--once" in shell.run("watch", "--at", "2026-01-01", status=2)
    assert "expected go_on" in shell.run("provider", "when-down", "embedded", "--policy", "panic", status=2)
    assert "ledger rate" in shell.run("provider", "rate", "embedded", "compute_1gb", "--micro", "1", status=1)
    assert "does not have rates for estimates" in shell.run(
        "provider", "rate", "legacy", "compute_1gb", "--micro", "1", status=1
    )
    assert "unknown provider" in shell.run("provider", "when-down", "nobody", "--policy", "stop", status=2)


def test_provider_rate_repeated_is_unchanged_and_earlier_rate_is_refused(shell: Shell) -> None:
    rate = shell.json("provider", "rate", "autumn", "compute_4gb", "--micro", "1000000", "--per", "3")
    assert (rate["micro"], rate["per_quantity"], rate["start_ms"]) == (1_000_000, 3, 0)
    assert shell.json("provider", "rate", "autumn", "compute_4gb", "--micro", "1000000", "--per", "3") == rate  # again
    shell.run("plan", "set", "free", "--max-concurrent", "2", "--new")
    shell.run("provider", "when-down", "embedded", "--plan", "free", "--policy", "stop", "--reason", "abuse")
    assert "append-only" in shell.run(
        "provider", "rate", "autumn", "compute_4gb", "--micro", "2", "--from", "1970-01-01", status=1
    )


@pytest.mark.parametrize("command", [("watch", "--every", "1"), ("run", "--every", "3600")])
def test_watch_and_run_commands_loop_until_sigterm(shell: Shell, command: tuple[str, ...]) -> None:
    soon = "from drawdown.worker import watch; watch.ROUND_MS = 1_000"
    with Path(os.devnull).open("wb") as nothing:
        process = fork_server.Started(command, env=shell.environment, cwd=shell.folder, err=nothing, before=soon)
    try:
        for _ in range(600):
            if credit_read(shell):
                break
            time.sleep(0.1)
        assert credit_read(shell)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) in (0, 75)
    finally:
        process.kill()
        process.wait()


def credit_read(shell: Shell) -> bool:
    """Whether a round was made: it asks whoever was never read."""
    from drawdown.schema.database import connect, read
    from drawdown.worker.verdict.watch_state import is_watched

    engine = connect(shell.environment["DRAWDOWN_DATABASE_URL"])
    found = read(engine, lambda c: is_watched(c, time.time_ns() // 1_000_000))
    engine.dispose()
    return found
