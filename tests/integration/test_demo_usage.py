"""What the demo refuses before it makes anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from drawdown.cli.main import global_options_first, run
from drawdown.schema.errors import Exit


@pytest.mark.parametrize("where", ["sqlite:///kept.db", "postgresql://nobody@127.0.0.1:1/kept"])
@pytest.mark.parametrize(
    "words", ["--database-url {} demo", "demo --database-url {}", "--database-url {} demo --serve --no-open"]
)
def test_demo_with_database_url_option_is_refused(
    words: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever names one would look for the fleet there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("drawdown.cli.demo.serve.serve", lambda *_words, **_more: pytest.fail("it was begun"))
    assert run(global_options_first(words.format(where).split())) == Exit.USAGE
    assert capfd.readouterr().err == (
        "drawdown: --database-url does not apply: the demo creates its own file. Use --file\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_demo_ignores_database_url_of_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what other commands go by: the demo goes by none, and says where its own lies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", "sqlite:///kept.db")
    monkeypatch.setattr("structlog.configure", lambda **_terms: None)  # the demo's quiet would outlive this test
    begun: list[object] = []
    monkeypatch.setattr("drawdown.cli.demo.serve.serve", lambda *words, **_more: begun.append(words))
    assert run(["demo", "--serve", "--no-open"]) == 0
    assert len(begun) == 1 and list(tmp_path.iterdir()) == []
