"""Uses at the turn of a month, where no counter is locked by both, on PostgreSQL; on SQLite they come one by one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.database import write
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.terms import Wish
from drawdown.worker.guard.use import Answer, Ask
from tests.integration.guarding import Guarded

TURN_MS = int(datetime(2026, 2, 1, tzinfo=UTC).timestamp() * 1000)
SOON_S = 0.5


@pytest.fixture
def guarded(engine: sa.Engine) -> Iterator[Guarded]:
    made = Guarded(engine)
    made.fleet.clock.at_ms = TURN_MS
    made.limit("idea", 10)
    yield made
    made.prove()


@pytest.mark.parametrize("metric", ["idea", "look"])
@pytest.mark.parametrize("own", [False, True])
def test_key_repeated_at_month_end_is_counted_once(guarded: Guarded, metric: str, own: bool) -> None:
    """The first, of the old month, is held before its commit while the same comes in the new one."""
    guarded.limit("look", 10)
    is_written, answers = threading.Event(), list[Answer]()

    def take(at_ms: int, own: bool) -> Answer:
        def work(connection: sa.Connection) -> Answer:
            found = guard.take(connection, Ask("k", Wish("acme", metric, 2), By(at_ms, "app", ""), own=own))
            if not is_written.is_set():
                is_written.set()
                threading.Event().wait(SOON_S)
            return found

        return write(guarded.fleet.engine, work)

    first = threading.Thread(target=lambda: answers.append(take(TURN_MS - 1, False)))
    first.start()
    assert is_written.wait(30)
    again = take(TURN_MS + 1, own)
    first.join(30)
    assert [(one.repeated, one.charged_micro > 0) for one in (*answers, again)] == [
        (False, metric == "idea"),
        (True, False),
    ]
    assert guarded.fleet.rows("SELECT use_key, amount FROM guard_uses") == [("k", 2)]
