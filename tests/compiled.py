"""Statements that were compiled for one test's engine, for the next one's: each test has an engine of its own, and
would compile anew whatever the product says, a hundred statements in its first tick.

Guarantee: an engine gets what it would have compiled itself. SQLAlchemy's key has all that a statement depends on; in
place of the dialect's object, which is each engine's own, stands its name: `connect` makes all of one name alike.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.util import LRUCache

MOST: Final = 5_000
"""More than the product has; what tests say themselves takes the place of what was said longest ago."""


class _OfAll(MutableMapping[Any, Any]):
    """What SQLAlchemy takes for an engine's own cache."""

    def __init__(self) -> None:
        self._all: LRUCache[Any, Any] = LRUCache(MOST)

    def __getitem__(self, key: Any) -> Any:
        return self._all[key[0].name, *key[1:]]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._all[key[0].name, *key[1:]] = value

    def __delitem__(self, key: Any) -> None:
        del self._all[key[0].name, *key[1:]]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


_ALL: Final = _OfAll()


def share(engine: sa.Engine) -> sa.Engine:
    """From now on this engine compiles what none before it has."""
    engine._compiled_cache = _ALL
    return engine
