"""A test that walks a table: `tests/cases.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cases import cases


def test_cases_run_all_and_failures_name_their_case() -> None:
    seen = []

    @cases("number, word", [(1, "one"), (2, "two"), (3, "three")])
    def walk(number: int, word: str) -> None:
        seen.append(word)
        assert number == 2

    with pytest.raises(ExceptionGroup, match="2 of 3 cases failed") as failed:
        walk()
    assert seen == ["one", "two", "three"]
    notes = [note for error in failed.value.exceptions for note in error.__notes__]
    assert notes == ["case 0: (1, 'one')", "case 2: (3, 'three')"]


def test_cases_have_separate_patches_and_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class House:
        door = "shut"

    seen = []

    @cases("name", ["first", "second"])
    def walk(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        seen.append((House.door, [one.name for one in tmp_path.iterdir()]))
        monkeypatch.setattr(House, "door", name)
        (tmp_path / name).touch()

    walk(monkeypatch=monkeypatch, tmp_path=tmp_path)
    assert seen == [("shut", []), ("shut", [])]
    assert House.door == "shut"
