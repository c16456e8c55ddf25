"""What a home goes through before its tests, gone through once in a process: it takes longer than what they ask of it.

Guarantee: each test has a database of its own, as its home left it, and a clock and cells that no other test moves.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from drawdown.schema.clock import FixedClock
from tests.server.console_home import Home
from tests.sqlite_databases import named_anew, restore
from tests.world import Cells, Copied

H = TypeVar("H", bound=Home)
_kept: Final[dict[object, tuple[Home, bytes]]] = {}


def lived(engine: sa.Engine, live: Callable[[sa.Engine], H]) -> H:
    """The home that `live` makes of a new database. On SQLite the second one is a copy of the first."""
    if engine.dialect.name != "sqlite":
        return live(engine)
    connection = engine.raw_connection()
    driver: Any = connection.driver_connection
    if live in _kept:
        first, content = _kept[live]
        restore(named_anew(content), driver)
        connection.close()
        return _moved(first, engine)  # type: ignore[return-value]
    made = live(engine)
    assert not made.fleet.extra and not made._servers, "they would go on with the first database"
    _kept[live] = _moved(made, engine), driver.serialize()
    connection.close()
    return made


def _moved(home: Home, engine: sa.Engine) -> Home:
    """The same home as it is now, in another database."""
    made, cells = copy(home), Cells()
    cells.failing |= home.fleet.cells.failing
    made.engine, made.fleet = engine, Copied(engine, FixedClock(home.fleet.clock.at_ms), cells)
    made._servers = {}
    return made
