"""`drawdown nightly`: all that is done once a night is done, whatever one part comes to."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.cli.nouns import nightly
from drawdown.schema.errors import MEANINGS, Exit
from tests.world import T0, Copied, Fleet

ORG = "acme"


@pytest.fixture
def asked(engine: sa.Engine, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Somebody used something, and it is billed."""
    fleet = Fleet(engine)
    fleet.assign(ORG, from_ms=T0)
    fleet.sample(ORG, T0)
    fleet.tick(T0 + 3_600_000)
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    return lambda *options: run([*options, "--at", str(fleet.clock.at_ms), "nightly"])


def headings(said: str) -> list[str]:
    return [line.removeprefix("drawdown ") for line in said.splitlines() if line.startswith("drawdown ")]


def test_nightly_runs_each_command_and_prints_result(
    asked: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked() == 0
    said = capsys.readouterr().out
    assert headings(said) == [*nightly.LINES]
    assert "all invariants hold" in said and "High spenders" in said
    assert said.splitlines()[-1] == f"all {len(nightly.LINES)}: all settled, or done"


def test_nightly_failed_command_does_not_skip_rest(
    asked: Callable[..., int], engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE ledger_accounts SET balance_micro = balance_micro + 1"))
    assert asked() == 1
    said = capsys.readouterr()
    assert headings(said.out) == [*nightly.LINES]
    last = said.out.splitlines()[-2:]
    needed = f"{MEANINGS[Exit.PERSON]}: drawdown"
    assert last == [f"{needed} {one} (exit status 1)" for one in ("verify --since-last", "status")], "still stopped"


def test_nightly_reports_unbilled_usage(
    asked: Callable[..., int], engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tick ends with 0 for that: who is new is billed by nobody until somebody looks."""
    fleet = Copied(engine)
    fleet.sample("stranger", T0, sample_id="of-a-stranger")
    assert fleet.tick(T0 + 3_600_000).exit_status == 0
    assert asked() == 75
    said = capsys.readouterr().out
    assert "no provider bills 60 s of usage yet (unknown_org)" in said
    assert said.splitlines()[-1].endswith(": drawdown status (exit status 75)")


def test_nightly_command_that_cannot_run_does_not_stop_rest(
    asked: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nightly, "LINES", ("org show nobody", *nightly.LINES[-1:]))
    assert asked() == 2
    said = capsys.readouterr()
    assert headings(said.out) == [*nightly.LINES] and "unknown organisation nobody" in said.err


def test_nightly_with_unread_cell_runs_cell_comparison(
    asked: Callable[..., int], engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAWDOWN_CELL_ORIGINS", "http://127.0.0.1:9")
    monkeypatch.setenv("DRAWDOWN_CELL_SECRET", "a-root-secret-of-the-cells")
    assert run(["cell", "set", "cell-1", "http://127.0.0.1:10", "--new"]) == 0
    assert asked() == 75
    assert headings(capsys.readouterr().out)[-1] == nightly.WITH_CELLS


def test_nightly_json_is_single_object(asked: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert asked("--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["command"] for one in told["nightly"]] == [*nightly.LINES] and told["exit_status"] == 0
    assert told["nightly"][1]["said"]["breaches"] == []


def test_nightly_interrupt_stops_remaining_commands(
    asked: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("drawdown.cli.nouns.reconcile.compare", interrupted)
    assert asked() == 75
    assert headings(capsys.readouterr().out) == [*nightly.LINES[:1]]
