"""Databases without tables, and one that lived through all versions: made once of each kind, and copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.schema.database import connect
from tests.conftest import _for_a_test, _new_database
from tests.migration.chapters import told_at_each_version
from tests.migration.past import Past

KINDS = ("sqlite", "postgresql")
OLD = "lived_through_all"


@pytest.fixture(params=KINDS)
def past(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Past]:
    """A database without tables."""
    yield from _opened(request, tmp_path / "old.db", "template1")


@pytest.fixture(scope="session")
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """By kind, the file or the name of a database that was told something at each version."""

    @cache
    def made(kind: str) -> str:
        file = tmp_path_factory.mktemp("old") / "old.db"
        url = f"sqlite:///{file}"
        if kind == "postgresql":
            url = _new_database(request.getfixturevalue("postgres_server"), OLD)
        engine = connect(url)
        told_at_each_version(Past(engine))
        engine.dispose()
        return str(file) if kind == "sqlite" else OLD

    return made


@pytest.fixture(params=KINDS)
def grown(request: pytest.FixtureRequest, tmp_path: Path, old: Callable[[str], str]) -> Iterator[Past]:
    """A database of 0001 that was told something at each version, and is as new as the program."""
    there, file = old(request.param), tmp_path / "grown.db"
    if request.param == "sqlite":
        shutil.copy(there, file)
    yield from _opened(request, file, there)


def _opened(request: pytest.FixtureRequest, file: Path, template: str) -> Iterator[Past]:
    if request.param == "sqlite":
        yield from _past(f"sqlite:///{file}")
        return
    for url in _for_a_test(request.getfixturevalue("postgres_server"), template):
        yield from _past(url)


def _past(url: str) -> Iterator[Past]:
    engine: sa.Engine = connect(url)
    yield Past(engine)
    engine.dispose()
