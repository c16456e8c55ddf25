"""Bugs for the siege of the trace to find, planted in its own client processes only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from drawdown.ledger import draws
from drawdown.worker.executions import actions as executions


def _committed_in_two_parts() -> None:
    """The entries of a draw are committed before the run and its wallet know of them."""
    original = draws._charge

    def charge(connection: sa.Connection, *given: Any) -> tuple[int, int]:
        found = original(connection, *given)
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("BEGIN")
        return found

    vars(draws)["_charge"] = charge


def _draws_without_numbers() -> None:
    """A draw that comes again is one more."""
    original, count = executions.draw, iter(range(1_000_000, 2_000_000))

    def draw(connection: sa.Connection, key: str, number: int, *given: Any) -> Any:
        return original(connection, key, next(count), *given)

    vars(executions)["draw"] = draw


PLANTED: dict[str, Callable[[], None]] = {
    "committed in two parts": _committed_in_two_parts,
    "draws without numbers": _draws_without_numbers,
}
