"""A house with a server, on each kind of database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tests.server.house import House


@pytest.fixture
def house(engine: sa.Engine) -> Iterator[House]:
    made = House(engine)
    yield made
    made.server.close()
