"""A fixed share of the answers that may be lost: the commits of what people change in money and rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from drawdown.cli.main import run
from tests.interleave.explore import Explorer
from tests.interleave.lost import COMMIT, Lost
from tests.whole import share

pytestmark = pytest.mark.xdist_group("interleave")

SHARE = (
    "cli.declared:run ledger grant keyed",
    "cli.declared:run ledger rate",
    "cli.declared:run provider rate",
    "cli.declared:run sample withdraw",
    "cli.declared:run push retry",
    "cli.declared:run feature map",
    "cli.nouns.overrides:_add",
    "cli.nouns.overrides:_add one that counts",
    "assign",
    "worker.sources.samples.importer:import_samples",
)


@pytest.fixture(scope="module")
def lost(explorer: Explorer) -> Iterator[Lost]:
    made = Lost(explorer)
    yield made
    made.close()


@pytest.mark.parametrize("name", share(SHARE[:1], whole=SHARE))
def test_command_with_lost_commit_answer_reports_truth_and_repeats_safely(lost: Lost, name: str) -> None:
    assert [told for told in lost.party(name, commit_only=True) if told.wrong] == []


def test_command_with_lost_statement_answer_is_not_stored(lost: Lost) -> None:
    seen = list(lost.party(share("cli.declared:run ledger rate", whole="cli.declared:run sample withdraw")))
    assert len([one for one in seen if one.at != COMMIT and "Try again" in one.said]) > share(2, whole=10)
    assert [one for one in seen if one.wrong] == []


@pytest.mark.parametrize("where", ["before", "after"])
def test_grant_with_lost_commit_answer_reports_key_to_repeat(
    lost: Lost, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = lost.explorer.stage()
    url = lost.explorer.postgres.url
    monkeypatch.setattr("drawdown.cli.app.connect", lambda *_given: lost.hand.engine)
    monkeypatch.setattr("drawdown.cli.declared.new_key", lambda: "a1b2")
    lost.hand.cut(COMMIT, where)
    assert run(["--database-url", url, "--json", "ledger", "grant", "spent", "5"]) == 75
    told = json.loads(capsys.readouterr().out)["error"]
    assert "may or may not be stored; repeat the command with --key a1b2. Drawdown makes the change only once" in told
    monkeypatch.undo()
    lost.hand.engine.dispose()
    assert run(["--database-url", url, "ledger", "grant", "spent", "5", "--key", "a1b2"]) == 0
    assert [row[0] for row in stage.rows("SELECT amount_micro FROM ledger_entries WHERE key = 'grant:a1b2'")] == [
        5_000_000
    ]


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("word", ["make", "ask"])
def test_limit_override_with_lost_commit_answer_reports_expiry_to_repeat(
    lost: Lost, where: str, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`+7d` is another moment each time."""
    stage = lost.explorer.stage()
    line = ["--database-url", lost.explorer.postgres.url, "override", word, "spark", "7", "--plan", "free"]
    monkeypatch.setattr("drawdown.cli.app.connect", lambda *_given: lost.hand.engine)
    lost.hand.cut(COMMIT, where)
    assert run([*line, "--expires", "+7d"]) == 75
    found = re.search(
        r"repeat the command with (--expires \S+)\. Drawdown makes the change only once", capsys.readouterr().err
    )
    assert found is not None
    monkeypatch.undo()
    lost.hand.engine.dispose()
    assert run([*line, *found[1].split()]) == 0
    said = capsys.readouterr().out
    assert said.endswith("; unchanged\n") == (where == "after"), said
    assert stage.rows("SELECT COUNT(*) FROM guard_overrides WHERE target = 'free' AND amount = 7") == [(1,)]


def test_two_grants_at_same_time_without_key_are_both_recorded(lost: Lost) -> None:
    stage = lost.explorer.stage()
    url = lost.explorer.postgres.url
    for _ in range(2):
        assert run(["--database-url", url, "--at", "2026-02-10T02:00:00Z", "ledger", "grant", "spent", "5"]) == 0
    assert stage.rows("SELECT COUNT(*) FROM ledger_entries WHERE amount_micro = 5000000")[0][0] == 2
