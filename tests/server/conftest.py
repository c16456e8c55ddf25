"""A house with a server, on each kind of database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.fresh import fresh
from tests.server.house import House


@pytest.fixture
def house(engine: sa.Engine) -> Iterator[House]:
    made = House(engine)
    yield made
    made.server.close()


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[House]:
    """The same on SQLite alone, for what is decided before any database is asked."""
    engine = fresh(tmp_path / "drawdown.db")
    made = House(engine)
    yield made
    made.server.close()
    engine.dispose()
