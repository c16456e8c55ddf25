"""Many clients, each a process of its own, ask to use one metric of one organisation at once.

    python -m tests.integration.guard_rush --database-url URL --clients 16 --decisions 100000 --seed 0
    python -m tests.integration.guard_rush --database-url URL --http --kills 5

on an empty database of that URL; by transactions of their own, or over HTTP (`guard_over_http`) while the server is
killed. Exit status 1 where one more was used than the limit, where a counter is not the sum of its uses, where a use is
not what its client was told, or where `verify` finds anything; and where time was up before all decisions or kills.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.schema.audit import By
from drawdown.schema.clock import SystemClock
from drawdown.schema.database import connect, read, write
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import MICRO, MINUTE_MS
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.guard.use import Answer, Wish
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from tests.integration import guard_over_http
from tests.world import T0

MOST_S: Final = 3_600.0


def begin(engine: sa.Engine, limit: int, price_micro: int, now_ms: int = T0) -> None:
    """An organisation with credit, and a metric of which it may use so much a month, and an hour."""
    by = By(now_ms, "test", "a rush")

    def work(connection: sa.Connection) -> None:
        credit.grant(connection, "acme", 10**6 * MICRO, by, key="first", plan=None, new=True)
        guard_terms.set_metric(connection, "hot", Change(price_micro=price_micro, phase=3), by)
        guard_terms.set_limit(connection, PlanLimit("hot", "*", "month", limit), by)
        guard_terms.set_limit(connection, PlanLimit("hot", "*", "hour", limit), by)

    write(engine, work)


class Client:
    """Asks so often, by a random stream of its own; what it is unsure of it asks again, by the same key."""

    def __init__(self, engine: sa.Engine, seed: int, number: int) -> None:
        self.engine, self.number = engine, number
        self.random = random.Random(f"{seed} {number}")
        self.said: Counter[str] = Counter()
        self.keys = 0

    def once(self) -> None:
        """One decision; of a hold that was given, its end, too."""
        self.keys += 1
        key, amount = f"c{self.number}-{self.keys}", self.random.choice((1, 1, 1, 2, 3))
        wish, by = Wish("acme", "hot", amount), By(T0 + self.keys % MINUTE_MS, f"client {self.number}", "rushed")
        if self.random.random() < 0.8:
            found = self.sure(lambda c: guard.consume(c, key, wish, by))
            self.said[found.decision] += 1
            if self.random.random() < 0.05 and found.state is not None:
                assert self.sure(lambda c: guard.consume(c, key, wish, by)).repeated
            return
        found = self.sure(lambda c: guard.reserve(c, key, wish, by))
        self.said[found.decision] += 1
        if found.state is None:
            return
        actual, gives_up = self.random.randint(0, amount), self.random.random() < 0.5
        end = guard.release if gives_up else guard.settle
        self.sure(lambda c: end(c, key, actual, by))

    def sure(self, work: Callable[[sa.Connection], Answer]) -> Answer:
        for _ in range(100):
            try:
                return write(self.engine, work)
            except DatabaseBusy:
                self.said["busy"] += 1
                time.sleep(self.random.random() / 50)
        raise AssertionError("the database was busy a hundred times")


def client(url: str, seed: int, number: int, decisions: int) -> Counter[str]:
    """One process."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    engine = connect(url)
    mine = Client(engine, seed, number)
    for _ in range(decisions):
        mine.once()
    engine.dispose()
    return mine.said


def rush(
    url: str, clients: int, decisions: int, seed: int, limit: int, price_micro: int
) -> tuple[list[str], Counter[str]]:
    """All of them; what is wrong afterwards, and what they were told."""
    engine = connect(url)
    begin(engine, limit, price_micro)
    engine.dispose()
    share = [(url, seed, number, decisions // clients) for number in range(clients)]
    with multiprocessing.get_context("fork").Pool(clients) as pool:
        said = sum(pool.starmap(client, share), Counter[str]())
    use_up(Client(engine, seed, clients), T0)
    wrong = judge(engine, limit)
    engine.dispose()
    return wrong, said


def rush_over_http(
    url: str, log: Path, clients: int, decisions: int, seed: int, limit: int, price_micro: int, kills: int,
    most_s: float = MOST_S,
) -> tuple[list[str], Counter[str], float]:  # fmt: skip
    """The same over HTTP; and how long the clients took, in seconds."""
    engine = connect(url)
    begin(engine, limit, price_micro, SystemClock().now_ms() - MINUTE_MS)
    engine.dispose()
    told, said, took = guard_over_http.rush(url, log, clients, decisions, seed, kills, most_s)
    wrong = guard_over_http.judge(engine, told)
    use_up(Client(engine, seed, clients), SystemClock().now_ms())
    wrong += judge(engine, limit)
    engine.dispose()
    return wrong, said, took


def use_up(last: Client, now_ms: int) -> None:
    """What is left, by halves: then exactly the limit is used."""
    by, amount = By(now_ms, "last", "rushed"), 2**20
    while amount:
        last.keys += 1
        key, wish = f"last-{last.keys}", Wish("acme", "hot", amount)
        if last.sure(lambda c, key=key, wish=wish: guard.consume(c, key, wish, by)).decision == "block":  # type: ignore[misc]
            amount //= 2


def judge(engine: sa.Engine, limit: int) -> list[str]:
    """By rows alone, and by `verify`."""

    def sums(connection: sa.Connection) -> list[tuple[str, int]]:
        rows = connection.execute(sa.text("SELECT period, SUM(used) AS used FROM guard_counters GROUP BY period")).all()
        used = connection.execute(sa.text("SELECT SUM(amount) FROM guard_uses")).scalar_one()
        charged = connection.execute(sa.text("SELECT SUM(charged_micro) FROM guard_uses")).scalar_one()
        paid = connection.execute(
            sa.text("SELECT SUM(drawn_micro) FROM reservations WHERE reservation LIKE 'guard:%'")
        ).scalar_one()
        held = connection.execute(sa.text("SELECT SUM(held_micro) FROM ledger_accounts")).scalar_one()
        counted = [(f"the {row.period}'s counter", int(row.used) - limit) for row in rows]
        money = [("charged less drawn", int(charged) - int(paid or 0)), ("held", int(held))]
        return [*counted, ("uses", int(used) - limit), *money]

    wrong = [f"{what} is off by {by:,}" for what, by in read(engine, sums) if by]
    return [*wrong, *(one.text for one in read(engine, verify).breaches)]


def shortage(decisions: int, kills: int) -> str:
    """In words, what is missing of as many decisions and kills as were asked for."""
    if decisions:
        return f"time was up: {decisions:,} decisions were not asked for"
    return f"{kills:,} kills did not land" if kills else ""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--price", type=int, default=0, help="micro-credits a unit: each use is charged, too")
    parser.add_argument("--http", action="store_true", help="over HTTP, by API keys")
    parser.add_argument("--kills", type=int, default=5, help="how often the server is killed (--http)")
    parser.add_argument("--most-s", type=float, default=MOST_S, help="after which clients ask for no more (--http)")
    given = parser.parse_args()
    engine = connect(given.database_url)
    upgrade(engine)
    engine.dispose()
    began, limit = time.monotonic(), given.decisions // 2
    shared = (given.clients, given.decisions, given.seed, limit, given.price)
    if given.http:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            wrong, said, took = rush_over_http(given.database_url, log, *shared, given.kills, given.most_s)
    else:
        wrong, said = rush(given.database_url, *shared)
        took = time.monotonic() - began
    asked = sum(said[one] for one in ("allow", "warn", "block"))
    told = f"{asked:,} decisions of {given.clients} clients in {took:,.0f} s ({asked / took:,.0f}/s)"
    print(f"{told}, on a limit of {limit:,}: {dict(said)}; judged after {time.monotonic() - began:,.0f} s")
    for one in wrong:
        print(f"WRONG: {one}")
    missing = given.decisions // given.clients * given.clients - asked
    short = shortage(missing, given.kills - said["kills"] if given.http else 0)
    if short:
        print(short)
    return 1 if wrong or short else 0


if __name__ == "__main__":
    sys.exit(main())
