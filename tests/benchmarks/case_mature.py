"""Holds that are over, among many that are not: how long it takes until what is due is free."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from drawdown.ledger.due_changes import mature_due
from drawdown.schema.database import write
from tests.benchmarks.databases import Databases, tidy
from tests.benchmarks.measure import Figure, Result, stopwatch
from tests.benchmarks.wallets import CREDIT_MICRO, NOW, insert, one

OPEN: Final = 1_000_000
DUE: Final = 10_000
GOAL_S: Final = 1.0
HOUR_MS: Final = 3_600_000
LATER_MS: Final = 1_000 * HOUR_MS
HELD_MICRO: Final = 5
COLUMNS: Final = (
    "reservations (reservation, org_id, customer_id, amount_micro, state, overage, accepted_ms, expires_ms, "
    "fingerprint, actor, reason)"
)


def run(databases: Databases, kind: str, scale: float, runs: int) -> list[Result]:
    """In each round another part falls due: once in as many wallets as runs, once in one wallet."""
    due, rounds = max(int(DUE * scale), 10), runs + 1  # the first round warms up
    open_runs = max(int(OPEN * scale), due * rounds)
    engine = databases.new(kind)
    _fill(engine, open_runs, due, rounds)
    tidy(engine)
    spread, together = [], []
    for number in range(rounds):
        # Odd hours: those of many wallets; even ones: those of one.
        spread.append(_matured_s(engine, NOW + (2 * number + 1) * HOUR_MS))
        together.append(_matured_s(engine, NOW + (2 * number + 2) * HOUR_MS))
    expired = one(engine, "SELECT COUNT(*) FROM reservations WHERE state = 'expired'")
    held = one(engine, "SELECT COUNT(*) FROM reservations WHERE state = 'held'")
    kept = one(engine, "SELECT SUM(held_micro) FROM ledger_accounts")
    assert expired == 2 * due * rounds and kept == HELD_MICRO * held and held >= open_runs - expired
    databases.drop(engine)
    return [
        Result(
            case="mature",
            database=kind,
            compares=f"{due:,} holds that are over among {open_runs + due * rounds:,} open ones: until all are free "
            "again, each transaction committed",
            figures=[
                Figure(f"in {due:,} wallets", "s", spread[1:], GOAL_S),
                Figure("in one wallet", "s", together[1:], GOAL_S),
            ],
            totals={"expired": expired, "held": held},
        )
    ]


def _matured_s(engine: sa.Engine, now_ms: int) -> float:
    """Seconds until nothing is due any more."""

    def whole() -> None:
        while write(engine, lambda c: mature_due(c, now_ms)).more:
            pass

    return stopwatch(whole)


def _fill(engine: sa.Engine, open_runs: int, due: int, rounds: int) -> None:
    """Wallets with as many open runs each, one of which falls due in each round; and one wallet with all of a round."""
    held = f"'held', 'charge', {NOW}"
    end = "'a fingerprint', 'bench', 'a benchmark'"
    of_round = f"CASE WHEN i < {due * rounds} THEN {NOW} + (2 * (i / {due}) + 1) * {HOUR_MS} ELSE {NOW + LATER_MS} END"
    org = f"'org-' || (i % {due})"
    insert(engine, COLUMNS, f"'spread-' || i, {org}, {org}, {HELD_MICRO}, {held}, {of_round}, {end}", open_runs)
    of_one = f"{NOW} + (2 * (i / {due}) + 2) * {HOUR_MS}"
    insert(engine, COLUMNS, f"'one-' || i, 'one', 'one', {HELD_MICRO}, {held}, {of_one}, {end}", due * rounds)
    in_each = f"({open_runs} - i + {due} - 1) / {due} * {HELD_MICRO}"
    accounts = "ledger_accounts (account_id, balance_micro, held_micro, next_due_ms)"
    insert(engine, accounts, f"'wallet:org-' || i, {CREDIT_MICRO}, {in_each}, {NOW + HOUR_MS}", due)
    all_of_one = f"{due * rounds * HELD_MICRO}, {NOW + 2 * HOUR_MS}"
    insert(engine, accounts, f"'wallet:one', {CREDIT_MICRO}, {all_of_one}", 1)
