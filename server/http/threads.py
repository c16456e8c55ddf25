"""The database from asynchronous routes, and whether it is still the one that this machine left (rule R1).

Guarantee: at most so many short transactions at once, so that requests for a dead database wait here, and the server
continues to answer. A server notices a restored database as a command does: before each deed of the console, and by any
other write within EVERY_MS. It records this in a transaction of its own, so no refusal takes it back. One look serves a
whole process: a check of the guard, and any other read, costs nothing more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

import sqlalchemy as sa
import structlog

from drawdown.schema import database
from drawdown.schema.clock import Clock
from drawdown.schema.database import SQLITE_BUSY_S, read, write
from drawdown.schema.errors import DatabaseBusy, UsageError
from drawdown.worker.engine.clock_check import require_clock
from drawdown.worker.engine.witness import Witness, WitnessStore
from drawdown.worker.history.incarnation import difference, read_doubt, read_incarnation, recognise

T = TypeVar("T")

AT_ONCE: Final = 4
"""Short transactions of the server."""


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


log = structlog.get_logger()


EVERY_MS: Final = 1_000
"""The time that a process writes on without another look, if no money leaves by it."""


class Restores:
    """The looks of one process. `witness`: this machine's checkpoint."""

    def __init__(self, witness: WitnessStore, clock: Clock) -> None:
        self._witness, self._clock = witness, clock
        self._lock = threading.Lock()
        self._looked_ms: int | None = None
        self._writing = threading.Lock()

    def doubt(self, engine: sa.Engine) -> str | None:
        """Why the database may have lost history, by itself or by what this machine remembers; nothing is written."""
        witness = self._load_witness(engine)
        return read(engine, lambda connection: read_doubt(connection, witness))

    def look(self, engine: sa.Engine) -> None:
        """Notice a database that was restored, where nobody looked a moment ago."""
        if self._is_due():
            self._notice(engine)

    def write(
        self, engine: sa.Engine, work: Callable[[sa.Connection], T], *, rollback: bool = False, always: bool = False
    ) -> T:
        """Write as `schema.database.write`, after a look at the database.

        `always`: look again even if the last look was just now, and once more in the transaction itself, by a clock
        that ticks believe, as a command does. SQLite has one writer. If two threads of this process write, the second
        continues as soon as the first is done, while SQLite would look again after up to a tenth of a second.
        """
        if engine.dialect.name != "sqlite":
            return self._write(engine, work, rollback=rollback, always=always)
        if not self._writing.acquire(timeout=SQLITE_BUSY_S):  # all wait beside one another, as they would for SQLite
            raise DatabaseBusy(f"the database was busy for {SQLITE_BUSY_S:.0f} s, so no data was changed. Try again")
        try:
            return self._write(engine, work, rollback=rollback, always=always)
        finally:
            self._writing.release()

    def _write(self, engine: sa.Engine, work: Callable[[sa.Connection], T], *, rollback: bool, always: bool) -> T:
        if not always:
            self.look(engine)
            return write(engine, work, rollback=rollback)
        witness = self._notice(engine)

        def noticed(connection: sa.Connection) -> T:
            recognise(connection, witness, self._clock.now_ms())
            if not self._clock.trusted:
                require_clock(connection, self._clock.now_ms())
            return work(connection)

        return write(engine, noticed, rollback=rollback)

    def _is_due(self) -> bool:
        now = self._clock.now_ms()
        with self._lock:
            if self._looked_ms is not None and 0 <= now - self._looked_ms < EVERY_MS:
                return False
            self._looked_ms = now
            return True

    def _notice(self, engine: sa.Engine) -> Witness | None:
        """Looked at in a reading, which waits for no lock: only what is found is written."""
        witness = self._load_witness(engine)
        if read(engine, lambda connection: _is_news(connection, witness)):
            write(engine, lambda connection: recognise(connection, witness, self._clock.now_ms()))
        return witness

    def _load_witness(self, engine: sa.Engine) -> Witness | None:
        """Nothing where this user may not read it: an order to halt must not fail by that."""
        try:
            return self._witness.load(engine)
        except UsageError as error:
            log.warning("witness_unreadable", reason=str(error))
            return None


def _is_news(connection: sa.Connection, witness: Witness | None) -> bool:
    found = read_incarnation(connection)
    return found.doubted is None and difference(connection, found, witness) is not None
