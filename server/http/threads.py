"""Run database work of asynchronous routes, and detect a restored database (R1).

Guarantee: at most `at_once` short transactions run at a time. If the database does not answer, the requests that need
it wait here, and the server still answers others. A server checks for a restored database before each action of the
console and each declared action. Before any other write, it checks if the last check is EVERY_MS old. It records a
restore in a separate transaction, so that a refusal does not revert the record. One check serves the whole process, and
reads do not check.
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
from drawdown.worker.history.incarnation import read_doubt, recognise, record_doubt

T = TypeVar("T")

AT_ONCE: Final = 4
"""Concurrent short transactions of a pool, by default."""


class Threads:
    """A pool of threads for one engine."""

    def __init__(
        self,
        engine: sa.Engine,
        restores: Restores,
        at_once: int = AT_ONCE,
        name: str = "db",
        *,
        lock_wait_ms: int | None = None,
    ) -> None:
        """Start no thread yet.

        `lock_wait_ms`: the longest wait of a write for each lock on PostgreSQL; None means LOCK_TIMEOUT_S.
        """
        self._engine, self._restores = engine, restores
        self._writing = engine if lock_wait_ms is None else engine.execution_options(lock_wait_ms=lock_wait_ms)
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix=f"drawdown-{name}")

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, database.read, self._engine, work)

    async def write(self, work: Callable[[sa.Connection], T], *, rollback: bool = False, always: bool = False) -> T:
        """Run a write in a thread.

        `always`: as in `Restores.write`. The write then waits up to LOCK_TIMEOUT_S for each lock.
        """
        engine = self._engine if always else self._writing
        whole = partial(self._restores.write, engine, work, rollback=rollback, always=always)
        return await asyncio.get_running_loop().run_in_executor(self._pool, whole)

    async def run(self, work: Callable[[sa.Engine], T]) -> T:
        """Run work in a thread. The work makes its own transactions."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, self._engine)

    def begin(self, work: Callable[[sa.Engine], None]) -> None:
        """Begin work in a thread, without waiting for its end."""
        self._pool.submit(work, self._engine)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


log = structlog.get_logger()


EVERY_MS: Final = 1_000
"""Milliseconds between two checks for a restored database.

Meanwhile a process writes without a check, unless the write is a declared action or a form of the console.
"""


class Restores:
    """The checks for a restored database of one process.

    `witness`: the local checkpoint.
    """

    def __init__(self, witness: WitnessStore, clock: Clock) -> None:
        self._witness, self._clock = witness, clock
        self._lock = threading.Lock()
        self._looked_ms: int | None = None
        self._writing = threading.Lock()

    def doubt(self, engine: sa.Engine) -> str | None:
        """Return why the database may have lost history; None without such a doubt.

        The method only reads.
        """
        witness = self._load_witness(engine)
        return read(engine, lambda connection: read_doubt(connection, witness))

    def look(self, engine: sa.Engine) -> None:
        """Check for a restored database, unless the last check was within EVERY_MS."""
        if self._is_due():
            self._notice(engine)

    def write(
        self, engine: sa.Engine, work: Callable[[sa.Connection], T], *, rollback: bool = False, always: bool = False
    ) -> T:
        """Run a write like `schema.database.write`, after a check for a restored database.

        `always`: check even if the last check was just now, and again in the transaction. As a command does, the
        transaction then also requires a correct clock of this machine (S9). SQLite has one writer. If two threads of
        this process write, a lock of this class starts the second write directly after the first. SQLite alone would
        retry only after up to 0.1 s. Errors: the errors of `schema.database.write`; DatabaseBusy; with `always`, also
        ClockDoubted.
        """
        if engine.dialect.name != "sqlite":
            return self._write(engine, work, rollback=rollback, always=always)
        if not self._writing.acquire(timeout=SQLITE_BUSY_S):  # wait with a limit, as SQLite does
            raise DatabaseBusy(
                f"the database was busy for {SQLITE_BUSY_S:.0f} s, so Drawdown did not change any data. Try again"
            )
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
        """Check for a restored database, and record a restore."""
        witness = self._load_witness(engine)
        record_doubt(engine, witness, self._clock.now_ms())
        return witness

    def _load_witness(self, engine: sa.Engine) -> Witness | None:
        """Return the local checkpoint; None if this user may not read it.

        An unreadable checkpoint must not prevent a command to halt.
        """
        try:
            return self._witness.load(engine)
        except UsageError as error:
            log.warning("witness_unreadable", reason=str(error))
            return None
