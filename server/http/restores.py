"""Whether the database is still the one that this machine left (rule R1), asked before the server writes.

Guarantee: a database that was restored is noticed by a server as by a command: before each deed of the console, and by
any other write within EVERY_MS. What is noticed is written down in a transaction of its own: no refusal takes it
back. One look serves a whole process: a check of the guard, and whatever else only reads, costs nothing more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

import sqlalchemy as sa
import structlog

from drawdown.schema.clock import Clock
from drawdown.schema.database import read, write
from drawdown.schema.errors import UsageError
from drawdown.worker.engine.effects import Witness, WitnessStore
from drawdown.worker.history.incarnation import difference, read_doubt, read_incarnation, recognise

log = structlog.get_logger()

T = TypeVar("T")

EVERY_MS: Final = 1_000
"""How long a process writes on without another look, where nobody's money leaves by it."""


class Restores:
    """Of one process. `witness`: what this machine remembers."""

    def __init__(self, witness: WitnessStore, clock: Clock) -> None:
        self._witness, self._clock = witness, clock
        self._lock = threading.Lock()
        self._looked_ms: int | None = None

    def doubt(self, engine: sa.Engine) -> str | None:
        """Why the database may have lost history, by itself or by what this machine remembers; nothing is written."""
        witness = self._recall(engine)
        return read(engine, lambda connection: read_doubt(connection, witness))

    def look(self, engine: sa.Engine) -> None:
        """Notice a database that was restored, where nobody looked a moment ago."""
        if self._is_due():
            self._notice(engine)

    def write(
        self, engine: sa.Engine, work: Callable[[sa.Connection], T], *, rollback: bool = False, always: bool = False
    ) -> T:
        """As `schema.database.write`, on a database that was looked at. `always`: also where one looked just now, and
        once more in the transaction itself, as a command does."""
        if not always:
            self.look(engine)
            return write(engine, work, rollback=rollback)
        witness = self._notice(engine)

        def noticed(connection: sa.Connection) -> T:
            recognise(connection, witness, self._clock.now_ms())
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
        witness = self._recall(engine)
        if read(engine, lambda connection: _is_news(connection, witness)):
            write(engine, lambda connection: recognise(connection, witness, self._clock.now_ms()))
        return witness

    def _recall(self, engine: sa.Engine) -> Witness | None:
        """Nothing where this user may not read it: an order to halt must not fail by that."""
        try:
            return self._witness.recall(engine)
        except UsageError as error:
            log.warning("witness_unreadable", reason=str(error))
            return None


def _is_news(connection: sa.Connection, witness: Witness | None) -> bool:
    found = read_incarnation(connection)
    return found.doubted is None and difference(connection, found, witness) is not None
