"""Test which databases a test runs on: SQLite by default, PostgreSQL as well where a test asks for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests import conftest


def databases(*marks: pytest.MarkDecorator, fixture: str = "database_url") -> list[str]:
    """Return the databases that conftest chooses for a test with these marks."""
    chosen: list[str] = []
    metafunc = SimpleNamespace(
        fixturenames=[fixture],
        definition=SimpleNamespace(iter_markers=lambda: iter([decorator.mark for decorator in marks])),
        parametrize=lambda name, values, indirect: chosen.extend(values),
    )
    conftest.pytest_generate_tests(cast(Any, metafunc))
    return chosen


def test_databases_of_unmarked_test_are_sqlite_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "WHOLE", False)
    assert databases() == ["sqlite"]
    assert databases(pytest.mark.data) == ["sqlite"]


def test_databases_of_marked_test_are_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "WHOLE", False)
    assert databases(pytest.mark.both_databases) == ["sqlite", "postgresql"]


def test_databases_of_whole_suite_are_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "WHOLE", True)
    assert databases() == ["sqlite", "postgresql"]


def test_databases_of_parametrized_or_unrelated_test_are_unchanged() -> None:
    assert databases(pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)) == []
    assert databases(fixture="tmp_path") == []
