"""The database from asynchronous routes. Guarantee: at most so many short transactions at once, so that requests for
a dead database wait here, and the server goes on answering. What writes through them notices a database that was
restored: see restores.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

import sqlalchemy as sa

from drawdown.schema import database
from drawdown.server.http.restores import Restores

T = TypeVar("T")

AT_ONCE: Final = 4
"""With the steps' threads, fewer than the engine has connections."""


class Threads:
    """A pool of threads beside one engine."""

    def __init__(self, engine: sa.Engine, restores: Restores, at_once: int = AT_ONCE, name: str = "db") -> None:
        self._engine, self._restores = engine, restores
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix=f"drawdown-{name}")

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, database.read, self._engine, work)

    async def write(self, work: Callable[[sa.Connection], T], *, rollback: bool = False, always: bool = False) -> T:
        """`always`: a restore is looked for in any case, before a person's deed."""
        whole = partial(self._restores.write, self._engine, work, rollback=rollback, always=always)
        return await asyncio.get_running_loop().run_in_executor(self._pool, whole)

    async def run(self, work: Callable[[sa.Engine], T]) -> T:
        """Work that has more to do than a transaction, and makes its own."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, self._engine)

    def begin(self, work: Callable[[sa.Engine], None]) -> None:
        """Work that nobody waits for as a whole."""
        self._pool.submit(work, self._engine)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
