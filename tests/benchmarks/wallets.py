"""Wallets for benchmarks, made by the database itself, and a time at which nothing is due in them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.database import write
from tests.benchmarks.fleet import _SERIES, START_MS, _percents
from tests.benchmarks.measure import stopwatch

NOW: Final = START_MS
BY: Final = By(NOW, "bench", "a benchmark")
CREDIT_MICRO: Final = 10**12
"""Of each wallet: more than any benchmark takes."""


def insert(engine: sa.Engine, into: str, select: str, count: int, where: str = "1 = 1") -> None:
    """`INSERT INTO into SELECT select` for those i from 0 to count - 1 that are so."""
    series = _SERIES[engine.dialect.name].replace(":first", "0").replace(":last", str(count - 1))
    text = f"INSERT INTO {into} {series} SELECT {select} FROM n WHERE {where}"
    write(engine, lambda c: c.exec_driver_sql(text.replace("%", "%%") if _percents(engine) else text))


def give_wallets(engine: sa.Engine, count: int) -> None:
    """`org-0` to `org-N`, each with credit."""
    insert(
        engine,
        "ledger_accounts (account_id, balance_micro)",
        f"'wallet:org-' || i, {CREDIT_MICRO}",
        count,
    )


def one(engine: sa.Engine, text: str) -> int:
    """A figure that the database has."""
    with engine.connect() as connection:
        return int(connection.execute(sa.text(text)).scalar_one() or 0)


def at_once(clients: int, work: Callable[[int], object]) -> float:
    """How many seconds it takes until each of so many threads has done its work."""
    with ThreadPoolExecutor(clients) as pool:
        return stopwatch(lambda: list(pool.map(work, range(clients))))


def each_s(often: int, work: Callable[[], object]) -> float:
    """How many seconds one of so many takes, one after the other."""

    def whole() -> None:
        for _ in range(often):
            work()

    return stopwatch(whole) / often
