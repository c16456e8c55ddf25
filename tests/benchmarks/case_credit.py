"""What credit costs one caller: a look at a balance beside one row that is read, a reserve beside one row that is
inserted and one that is updated, each with its commit."""

from __future__ import annotations

import itertools
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import draws, due_changes, reservations
from drawdown.ledger.draws import Cost
from drawdown.ledger.rates import RateCard
from drawdown.ledger.reservations import Ask
from drawdown.schema.database import read, write
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from tests.benchmarks.databases import Databases, indexes_of, tidy
from tests.benchmarks.measure import Figure, Result, compared
from tests.benchmarks.wallets import BY, CREDIT_MICRO, NOW, each_s, give_wallets, one

LOOK_GOAL: Final = 1.5
RESERVE_GOAL: Final = 2.0
HOUR_MS: Final = 3_600_000
LOOK: Final = "SELECT balance_micro, held_micro FROM ledger_accounts WHERE account_id = :id"
INSERT: Final = "INSERT INTO bare_runs (run, account_id, amount, at_ms) VALUES (:run, :id, 5, 0)"
UPDATE: Final = "UPDATE bare_accounts SET held = held + 5 WHERE account_id = :id"


def run(databases: Databases, kind: str, scale: float, runs: int) -> list[Result]:
    """One caller, one wallet after the other."""
    engine = databases.new(kind)
    wallets, often = max(int(10_000 * scale), 10), max(int(1_000 * scale), 10)
    give_wallets(engine, wallets)
    tidy(engine)
    found = [_looks(engine, kind, wallets, often, runs), _reserves(engine, kind, wallets, often, runs)]
    databases.drop(engine)
    return found


def _looks(engine: sa.Engine, kind: str, wallets: int, often: int, runs: int) -> Result:
    numbers = itertools.count()
    bare = sa.text(LOOK)
    seen = {"ours": 0, "bare": 0}

    def look() -> None:
        customer = f"org-{next(numbers) * 7919 % wallets}"
        found = read(engine, lambda c: due_changes.look_ahead(c, customer, NOW))
        seen["ours"] += found.available_micro == CREDIT_MICRO

    def select() -> None:
        account = f"wallet:org-{next(numbers) * 7919 % wallets}"
        row = read(engine, lambda c: c.execute(bare, {"id": account}).one())
        seen["bare"] += row.balance_micro - row.held_micro == CREDIT_MICRO

    figures = compared(
        lambda: each_s(often, look),
        lambda: each_s(often, select),
        runs,
        goal=LOOK_GOAL,
        what=("look", "bare SELECT"),
    )
    assert seen["ours"] == seen["bare"] == often * (runs + 1), "each found its wallet"
    return Result(
        case="check",
        database=kind,
        compares=f"what a wallet has, looked at {often:,} times, each in a transaction of its own; over one row, read "
        "by its key in such a transaction",
        figures=figures,
        baseline=f"{LOOK}\n{indexes_of(engine, 'ledger_accounts')}",
        totals=seen,
    )


def _reserves(engine: sa.Engine, kind: str, wallets: int, often: int, runs: int) -> Result:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE bare_runs (run TEXT PRIMARY KEY, account_id TEXT, amount BIGINT, at_ms BIGINT)"
        )
        connection.exec_driver_sql("CREATE TABLE bare_accounts (account_id TEXT PRIMARY KEY, held BIGINT)")
        connection.exec_driver_sql("INSERT INTO bare_accounts SELECT account_id, 0 FROM ledger_accounts")
    tidy(engine)
    numbers = itertools.count()
    insert, update = sa.text(INSERT), sa.text(UPDATE)

    def reserve() -> None:
        number = next(numbers)
        org = f"org-{number * 7919 % wallets}"
        ask = Ask(f"run-{number}", org, org, 5, NOW + HOUR_MS, "charge", "fingerprint")
        write(engine, lambda c: reservations.reserve(c, ask, BY))

    def bare() -> None:
        number = next(numbers)
        values = {"run": f"run-{number}", "id": f"wallet:org-{number * 7919 % wallets}"}

        def work(connection: sa.Connection) -> None:
            connection.execute(insert, values)
            connection.execute(update, values)

        write(engine, work)

    figures = compared(
        lambda: each_s(often, reserve),
        lambda: each_s(often, bare),
        runs,
        goal=RESERVE_GOAL,
        what=("reserve", "bare INSERT and UPDATE"),
    )
    made, held = (
        one(engine, "SELECT COUNT(*) FROM reservations"),
        one(engine, "SELECT SUM(held_micro) FROM ledger_accounts"),
    )
    counts = {"reserved": made, "held": held, "bare": one(engine, "SELECT COUNT(*) FROM bare_runs")}
    assert made == counts["bare"] == often * (runs + 1) and held == 5 * made
    return Result(
        case="reserve",
        database=kind,
        compares=f"{often:,} reserves of as many runs, each committed; over a row inserted and a row updated, each "
        "pair committed. Beside them a run as a program has it: permission, reserve, settle",
        figures=[*figures, *_pairs(engine, wallets, often, numbers)],
        baseline=f"{INSERT}; {UPDATE}\n{indexes_of(engine, 'reservations')}",
        totals=counts,
    )


def _pairs(engine: sa.Engine, wallets: int, often: int, numbers: itertools.count[int]) -> list[Figure]:
    """A run from its permission to its settlement, two transactions, as commands do it."""
    keys = [(f"run-{number}", f"org-{number * 7919 % wallets}") for number in itertools.islice(numbers, often)]
    card, to_accept, to_settle = RateCard([]), iter(keys), iter(keys)

    def accept() -> None:
        key, org = next(to_accept)
        write(engine, lambda c: executions.accept(c, key, Request(org, 5), BY))

    def settle() -> None:
        key, _ = next(to_settle)
        write(engine, lambda c: _settled(c, key, card))

    accepted, settled = each_s(often, accept), each_s(often, settle)
    return [
        Figure("accept, with permission", "s", [accepted]),
        Figure("settle", "s", [settled]),
        Figure("pairs", "/s", [1 / (accepted + settled)]),
    ]


def _settled(connection: sa.Connection, key: str, card: RateCard) -> None:
    found = reservations.hold(connection, key)
    assert found is not None
    draws.finish(connection, found, "settled", Cost(4), card, BY)
