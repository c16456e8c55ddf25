"""Words that the project's style avoids do not become more, and a commit message is checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import style
from tests.cases import cases

MOST_IN_DOCUMENTS = 0
MOST_IN_HELP = 0
"""How many were left when this was last lowered. Lower it when you remove some."""


def test_avoided_words_do_not_become_more() -> None:
    counts = style.avoided(style.documents())
    assert sum(counts.values()) <= MOST_IN_DOCUMENTS, counts
    counts = style.avoided(style.helps())
    assert sum(counts.values()) <= MOST_IN_HELP, counts


def test_avoided_words_are_counted_wherever_they_stand() -> None:
    assert style.avoided(iter([("a", "Whose is it? It goes\non. WHOSE."), ("b", "whosever")])) == {"whose": 2}


@cases(
    ("message", "count"),
    [
        ("seal: count a late sample once\n\nIt was counted twice.\n", 0),
        ("Merge branch 'x'\n", 0),
        ("seal: count a late sample once.\n", 1),
        ("Count a late sample once\n", 1),
        (f"seal: {'x' * 70}\n", 1),
        ("seal: count a late sample once\nIt was counted twice.\n", 1),
        ("", 1),
    ],
)
def test_commit_message_is_refused_for_each_fault(
    message: str, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "message"
    file.write_text(message)
    assert len(style.faults(message)) == count
    assert style.main(["--message", str(file)]) == int(count > 0)
    assert ("commit message refused" in capsys.readouterr().out) == (count > 0)
