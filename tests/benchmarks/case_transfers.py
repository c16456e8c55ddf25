"""Charges as pushes make them, beside what a ledger in a database is compared with: a transaction a transfer, with both
rows locked; and beside a ledger that keeps the other side's balance in one row, which all writers share."""

from __future__ import annotations

import itertools
import random
from typing import Final

import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.ledger.entries import Usage
from drawdown.ledger.wallet import Charge
from drawdown.providers.embedded import CAPABILITIES
from drawdown.schema.database import write
from tests.benchmarks.databases import Databases, tidy
from tests.benchmarks.measure import Figure, Result, alternate, stopwatch
from tests.benchmarks.wallets import CREDIT_MICRO, NOW, at_once, give_wallets, insert, one

ACCOUNTS: Final = 100_000
EXPONENT: Final = 1.0
"""Of the zipf distribution: the account at place k is chosen with a weight of 1 / k."""
CLIENTS: Final = 8
TIMES: Final = 2.3
BATCH: Final = 20
"""Charges of one transaction, where writers share a row."""
FEATURE: Final = "bench"
LOCK: Final = "SELECT id, balance FROM bare_accounts WHERE id IN (:debit, :credit) ORDER BY id {lock}"
DEBIT: Final = "UPDATE bare_accounts SET balance = balance - 1 WHERE id = :debit"
CREDIT: Final = "UPDATE bare_accounts SET balance = balance + 1 WHERE id = :credit"
INSERT: Final = "INSERT INTO bare_transfers (id, debit, credit, amount) VALUES (:id, :debit, :credit, 1)"
SHARED: Final = "UPDATE ledger_accounts SET balance_micro = balance_micro + 1 WHERE account_id = 'revenue:bench'"


def run(databases: Databases, kind: str, scale: float, runs: int) -> list[Result]:
    """The same choice of accounts for both, one after the other."""
    engine = databases.new(kind)
    accounts = max(int(ACCOUNTS * scale), 200)
    _prepare(engine, accounts)
    found = [_mix(engine, kind, accounts, scale, runs), _rows(engine, kind, accounts, scale, runs)]
    databases.drop(engine)
    return found


def _prepare(engine: sa.Engine, accounts: int) -> None:
    give_wallets(engine, accounts)
    with engine.begin() as connection:
        for text in (
            "CREATE TABLE bare_accounts (id BIGINT PRIMARY KEY, balance BIGINT)",
            "CREATE TABLE bare_transfers (id BIGINT PRIMARY KEY, debit BIGINT, credit BIGINT, amount BIGINT)",
            "INSERT INTO ledger_accounts (account_id) VALUES ('revenue:bench')",
            "INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, reason) "
            "VALUES ('bench', 0, 1, 1, 0, 'bench', 'a benchmark')",
        ):
            connection.exec_driver_sql(text)
    insert(engine, "bare_accounts (id, balance)", "i, 0", accounts)
    tidy(engine)


class _Zipf:
    """Accounts, the first far oftener than the last; the same each time."""

    def __init__(self, accounts: int) -> None:
        self._weights = list(itertools.accumulate(1 / place**EXPONENT for place in range(1, accounts + 1)))
        self._rng = random.Random(1)

    def choose(self, count: int) -> list[int]:
        return self._rng.choices(range(len(self._weights)), cum_weights=self._weights, k=count)


def _charge(connection: sa.Connection, uses: list[Usage]) -> None:
    assert wallet.charge(connection, uses, NOW) == [Charge.CHARGED] * len(uses)


def _commit(engine: sa.Engine, uses: list[Usage], shared: sa.TextClause | None = None) -> None:
    """One transaction of charges, and of a row that all writers share."""

    def work(connection: sa.Connection) -> None:
        _charge(connection, uses)
        if shared is not None:
            connection.execute(shared)

    write(engine, work)


def _commit_all(engine: sa.Engine, batches: list[list[Usage]]) -> None:
    for batch in batches:
        _commit(engine, batch)


def _mix(engine: sa.Engine, kind: str, accounts: int, scale: float, runs: int) -> Result:
    many, few = max(int(20_000 * scale), 200), max(int(4_000 * scale), 40)
    zipf, numbers, ids = _Zipf(accounts), itertools.count(), itertools.count()
    size = CAPABILITIES.batch_size

    def ours() -> float:
        uses = [Usage(f"mix-{next(numbers)}", f"org-{at}", FEATURE, 1, NOW) for at in zipf.choose(many)]
        batches = [uses[at : at + size] for at in range(0, many, size)]
        return stopwatch(lambda: _commit_all(engine, batches)) / many

    def bare() -> float:
        pairs = [(debit, (debit + 1 + credit) % accounts) for debit, credit in _pairs_of(zipf, accounts, few)]
        shares = [pairs[at::CLIENTS] for at in range(CLIENTS)]

        def client(at: int) -> None:
            for debit, credit in shares[at]:
                _transfer(engine, next(ids), debit, credit)

        return at_once(CLIENTS, client) / few

    ours_s, bare_s = alternate(ours, bare, runs)
    charged, moved = (
        one(engine, "SELECT COUNT(*) FROM ledger_entries"),
        one(engine, "SELECT COUNT(*) FROM bare_transfers"),
    )
    assert charged == many * (runs + 1) and moved == few * (runs + 1)
    taken = accounts * CREDIT_MICRO - one(engine, "SELECT SUM(balance_micro) FROM ledger_accounts")
    assert taken == charged and one(engine, "SELECT SUM(balance) FROM bare_accounts") == 0
    return Result(
        case="mix",
        database=kind,
        compares=f"transfers on {accounts:,} accounts, chosen by a zipf distribution of exponent {EXPONENT:g}: "
        f"{many:,} charges in batches of {size:,} as pushes make them, over {few:,} of {CLIENTS} clients, a "
        "transaction each with both rows locked",
        figures=[
            Figure(
                "times a transaction each", "", [b / o for b, o in zip(bare_s, ours_s, strict=True)], at_least=TIMES
            ),
            Figure("charges", "/s", [1 / seconds for seconds in ours_s]),
            Figure("a transaction each", "/s", [1 / seconds for seconds in bare_s]),
        ],
        baseline="; ".join((LOCK.format(lock=_lock(engine)), DEBIT, CREDIT, INSERT)),
        totals={"charged": charged, "transfers": moved},
    )


def _pairs_of(zipf: _Zipf, accounts: int, count: int) -> list[tuple[int, int]]:
    """A debit and how far away its credit is: two accounts that differ."""
    return [
        (debit, credit % (accounts - 1)) for debit, credit in zip(zipf.choose(count), zipf.choose(count), strict=True)
    ]


def _lock(engine: sa.Engine) -> str:
    return "FOR UPDATE" if engine.dialect.name == "postgresql" else ""


def _transfer(engine: sa.Engine, number: int, debit: int, credit: int) -> None:
    values = {"id": number, "debit": debit, "credit": credit}

    def work(connection: sa.Connection) -> None:
        rows = connection.execute(sa.text(LOCK.format(lock=_lock(engine))), values).all()
        assert len(rows) == 2
        for text in (DEBIT, CREDIT, INSERT):
            connection.execute(sa.text(text), values)

    write(engine, work)


def _rows(engine: sa.Engine, kind: str, accounts: int, scale: float, runs: int) -> Result:
    """Writers whose wallets are their own: nothing but a shared row makes them wait for one another."""
    each = max(int(50 * scale), 2)
    numbers = itertools.count()
    shared = sa.text(SHARED)
    before = one(engine, "SELECT COUNT(*) FROM ledger_entries")

    def write_all(*, with_row: bool) -> float:
        def client(at: int) -> None:
            for _ in range(each):
                own = [f"org-{(at + CLIENTS * place) % accounts}" for place in range(BATCH)]
                uses = [Usage(f"row-{next(numbers)}", name, FEATURE, 1, NOW) for name in dict.fromkeys(own)]
                _commit(engine, uses, shared if with_row else None)

        return at_once(CLIENTS, client) / (CLIENTS * each)

    ours_s, shared_s = alternate(lambda: write_all(with_row=False), lambda: write_all(with_row=True), runs)
    charged = one(engine, "SELECT COUNT(*) FROM ledger_entries") - before
    noted = one(engine, "SELECT balance_micro FROM ledger_accounts WHERE account_id = 'revenue:bench'")
    assert noted == CLIENTS * each * (runs + 1) and charged == next(numbers)
    return Result(
        case="rows",
        database=kind,
        compares=f"{CLIENTS} writers that charge {BATCH} at once, {CLIENTS * each:,} transactions: with wallets of "
        "their own alone, over the same with one row that all of them update, as a ledger has it that keeps what was "
        "earned",
        figures=[
            Figure(
                "times those that share a row",
                "",
                [mine / own for mine, own in zip(shared_s, ours_s, strict=True)],
            ),
            Figure("own rows", "transactions/s", [1 / seconds for seconds in ours_s]),
            Figure("with a shared row", "transactions/s", [1 / seconds for seconds in shared_s]),
        ],
        baseline=SHARED,
        totals={"charged": charged, "shared": noted},
    )
