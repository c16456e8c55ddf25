"""One of the two sides of a case: an engine of its own, whose transaction can be held after a statement.

Guarantee: nobody sleeps and hopes. A transaction that is held says so; of one that does not go on, the server says that
it waits for the other's locks.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.database import connect
from tests.interleave.footprint import Spy

BOUND_S: Final = 60.0
"""Longer than any case takes, lock time-out and deadlocks included; what takes longer is a finding."""
LOOK_S: Final = 0.002


class Stuck(AssertionError):
    """Neither done, nor held, nor waiting for the other side."""


class Hand:
    """Runs one transaction at a time in a thread of its own."""

    def __init__(self, url: str) -> None:
        self.engine = connect(url)
        sa.event.listen(self.engine, "begin", self._begun)
        sa.event.listen(self.engine, "after_cursor_execute", self._executed)
        sa.event.listen(self.engine, "handle_error", self._failed)
        self._go = threading.Event()
        self._told: queue.Queue[str] = queue.Queue()
        self._hold_after: int | None = None
        self._thread: threading.Thread | None = None
        self.pid, self.statements, self.deadlocks = 0, 0, 0
        self.spy: Spy | None = None
        self.error: BaseException | None = None

    def _begun(self, connection: sa.Connection) -> None:
        self.pid = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]
        self.statements = 0
        if self.spy is not None and self._thread is threading.current_thread():
            self.spy.begun(connection)

    def _executed(self, connection: sa.Connection, _cursor: Any, statement: str, *_rest: Any) -> None:
        if self._thread is not threading.current_thread():
            return  # set-up, and what follows
        self.statements += 1
        if self.spy is not None:
            self.spy.executed(connection, statement)
        if self.statements == self._hold_after:
            self._hold_after = None
            self._told.put("held")
            if not self._go.wait(BOUND_S):
                raise Stuck("held, and never told to go on")

    def _failed(self, context: sa.engine.ExceptionContext) -> None:
        self.deadlocks += getattr(context.original_exception, "sqlstate", None) == "40P01"

    def start(self, work: Callable[[sa.Engine], object], hold_after: int | None = None) -> None:
        self._hold_after, self.error, self.deadlocks = hold_after, None, 0
        self._go.clear()
        self._told = queue.Queue()

        def whole() -> None:
            try:
                work(self.engine)
            except BaseException as error:
                self.error = error
            self._told.put("done")

        self._thread = threading.Thread(target=whole, daemon=True)
        self._thread.start()

    def held(self) -> bool:
        """Wait until it is held, or done: then false."""
        return self._next(BOUND_S) == "held"

    def done_or_behind(self, other: Hand, watch: sa.Connection) -> bool:
        """Wait until it is done; false where it waits for what the other side has locked."""
        behind = sa.text("SELECT :other = ANY(pg_blocking_pids(:mine))")
        for _ in range(int(BOUND_S / LOOK_S)):
            try:
                return self._next(LOOK_S) == "done"
            except Stuck:
                if watch.execute(behind, {"other": other.pid, "mine": self.pid}).scalar_one():
                    return False
        raise Stuck("neither done nor waiting for the other side")

    def go_on(self) -> None:
        self._go.set()

    def join(self) -> None:
        if self._next(BOUND_S) != "done":
            raise Stuck("held twice")

    def _next(self, within_s: float) -> str:
        try:
            return self._told.get(timeout=within_s)
        except queue.Empty:
            raise Stuck(f"nothing happened for {within_s} s") from None

    def close(self) -> None:
        self.engine.dispose()
