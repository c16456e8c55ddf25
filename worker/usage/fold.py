"""Folding: settled pushes of old months become sums of a day, and go (rule S3).

Guarantee: a push goes only below its organisation's floor, where nothing is sealed any more, and in the transaction
that adds it to the sum of its day, customer, feature and state. So sums and pushes together are what the pushes were,
at any moment; `verify` proves them against the ledger. Only pushes of the embedded ledger are folded: its entries tell
of each charge, and stay. What others were sent is looked up, compared and given back push by push, and stays, too. So
do voids and adoptions: they are evidence, few, and keep a sender that slept from charging what was voided.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.monthly.calendar import start_of
from drawdown.schema.audit import By, record
from drawdown.schema.database import Transact
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.usage.prune import EVER_MS, in_portions

SQL = queries(__file__)
MONTHS_KEPT: Final = 13
"""A year, and the month before it to compare with."""


@dataclass(frozen=True)
class FoldedMonths:
    """How many pushes were folded; `kept`: pushes of the embedded ledger before that moment which stay, of
    `held_back` organisations, for their floor is lower or one of them is open."""

    before_ms: int
    pushes: int
    kept: int
    held_back: int


def fold(transact: Transact, before_ms: int, by: By, *, dry_run: bool = False) -> FoldedMonths:
    """Fold the pushes of the months that ended before a moment, the start of a month.

    Some windows at a time, each portion in a transaction of its own that no seal waits for: below the floor nothing is
    sealed. Cut off in between, the same command folds the rest.
    Errors: UsageError for another moment than a month's start, or one less than MONTHS_KEPT months ago.
    """
    _require_month(before_ms, by.now_ms)
    values = {"from_ms": EVER_MS, "to_ms": before_ms, "before_ms": before_ms}
    if dry_run:
        going = transact(lambda c: SQL.run(c, "count_going", values).one(), rollback=True)
        pushes = int(going.pushes)
    else:
        transact(partial(_say, before=before_ms, by=by))
        first = transact(lambda c: SQL.run(c, "first_push", values).scalar())
        portion = partial(fold_between, before=before_ms, now_ms=by.now_ms)
        pushes = in_portions(transact, portion, None if first is None else int(first), before_ms)
    kept = transact(lambda c: SQL.run(c, "count_kept", values).one(), rollback=True)
    left = int(kept.pushes) - (pushes if dry_run else 0)
    return FoldedMonths(before_ms, pushes, left, int(kept.orgs) if left else 0)


def _say(connection: sa.Connection, *, before: int, by: By) -> None:
    record(connection, "push_fold", "all", {"before_ms": before}, by)


def fold_between(connection: sa.Connection, *, since: int, to: int, before: int, now_ms: int) -> int:
    """Fold those of windows in [since, to) that may go; how many went."""
    values = {"from_ms": since, "to_ms": to, "before_ms": before, "now_ms": now_ms}
    return int(SQL.run(connection, "fold", values).scalar_one())


def _require_month(before_ms: int, now_ms: int) -> None:
    if start_of(before_ms) != before_ms:
        raise UsageError("whole months are folded: name the first one that stays, as in --before 2025-01")
    newest = now_ms
    for _ in range(MONTHS_KEPT + 1):
        newest = start_of(newest) - 1
    if before_ms > newest + 1:
        newest_text = show_time(newest + 1)[: len("2025-01")]
        raise UsageError(f"pushes are kept for {MONTHS_KEPT} months, one by one: at most --before {newest_text}")
