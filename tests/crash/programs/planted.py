"""Bugs for the siege of programs to find, planted in its own processes only."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.server.usage import items as way_in
from drawdown.worker.guard import counters as guard_counts
from drawdown.worker.guard import use as guard
from drawdown.worker.usage import backfills


def _commit(connection: sa.Connection) -> None:
    connection.exec_driver_sql("COMMIT")
    connection.exec_driver_sql("BEGIN")


def _counted_apart() -> None:
    """A counter is committed before the use that it counts."""
    original = guard_counts.write

    def write(connection: sa.Connection, *given: Any, **more: Any) -> None:
        original(connection, *given, **more)
        _commit(connection)

    vars(guard_counts)["write"] = write


def _charged_apart() -> None:
    """What a use costs is committed before the use, and under a key of the process's own."""
    original = guard._charge

    def charged(connection: sa.Connection, ask: guard.Ask, *given: Any, **more: Any) -> Any:
        found = original(connection, replace(ask, key=f"{ask.key}:{os.getpid()}"), *given, **more)
        _commit(connection)
        return found

    vars(guard)["_charge"] = charged


def _closed_in_parts() -> None:
    """Each part that goes in is committed, and then the backfill is closed."""
    original = vars(backfills)["take"]

    def take(connection: sa.Connection, *given: Any, **more: Any) -> Any:
        found = original(connection, *given, **more)
        _commit(connection)
        return found

    vars(backfills)["take"] = take


def _reverted_first() -> None:
    """It is said to be reverted before anything is taken back."""
    original = vars(backfills)["withdraw"]

    def withdraw(connection: sa.Connection, *given: Any) -> Any:
        connection.execute(sa.text("UPDATE backfills SET state = 'reverted', reverted_ms = 1 WHERE state = 'closed'"))
        _commit(connection)
        return original(connection, *given)

    vars(backfills)["withdraw"] = withdraw


def _fresh_ids() -> None:
    """An event has an id of its own for each process that sends it."""
    names = vars(way_in)
    original = names["take"]

    def take(connection: sa.Connection, events: Sequence[UsageEvent], now_ms: int, **more: Any) -> Any:
        sent = [replace(one, event_id=f"{one.event_id}:{os.getpid()}") for one in events]
        return original(connection, sent, now_ms, **more)

    names["take"] = take


PLANTED: dict[str, Callable[[], None]] = {
    "counted apart": _counted_apart,
    "charged apart": _charged_apart,
    "closed in parts": _closed_in_parts,
    "reverted first": _reverted_first,
    "fresh ids": _fresh_ids,
}
