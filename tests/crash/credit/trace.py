"""The siege of the trace: eight clients have GenTD26 run on credit while a ticker meters the same wallets; all of them
are killed again and again, and go on by key. In the end every wallet is exact.
"""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from drawdown.ledger.lots import Terms
from drawdown.schema.audit import By
from drawdown.schema.database import connect, write
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.wallets import actions as credit
from tests.acceptance.commands import must
from tests.acceptance.gentd26 import Sums
from tests.acceptance.tables import billed_exactly, number
from tests.crash.credit.judge import Books, judged
from tests.crash.credit.process import TICKER
from tests.crash.credit.requests import FEATURE, MICRO_FOR, SHARE_PPM, SUPPLIER, UNITS, Planned, requests
from tests.crash.credit.shared import Board
from tests.crash.data import FROM_MS
from tests.crash.hunt import Hunt
from tests.crash.nursery import Child, Nursery
from tests.crash.toll import Toll, sound
from tests.postgres_server import Server
from tests.sqlite_databases import migrated

CLIENTS = 8
MOST_AT_ONCE = (*(1,) * 10, 2, CLIENTS + 1)
"""How many are killed in one moment: one, two, or all, as a power cut would."""
BY_ORDER, LATE_SHARE = 0.3, 0.2
CLIENT_STEPS = tuple(f"{when} {act}" for when in ("begin", "inside", "end") for act in ("accept", "draw", "settle"))
TICK_STEPS = tuple(f"inside {step}" for step in ("seal", "charge", "claim", "project"))
ORDER_S, SETTLED_TICKS, BUSY_TRIES = 0.5, 3, 1_000
NO_END, SERVER_EVERY = 10**9, 10
POOR_EVERY, LOT_EVERY = 6, 3
"""Organisations that cannot pay for all of it, and those some of whose credit expires on the way."""


@dataclass(frozen=True)
class Outcome:
    """What a siege of the trace came to; it is only returned where every sum was exact."""

    toll: Toll
    books: Books
    requests: int
    pushes: int
    took_s: float


class Trace(Hunt):
    """Eight clients and a ticker, on one database."""

    def __init__(
        self,
        nursery: Nursery,
        dice: random.Random,
        made: Sequence[Planned],
        every_s: float,
        at: Sequence[str],
        strikes: int,
        server: Server | None,
    ) -> None:
        super().__init__(nursery, dice, no_kill=False)
        self.made, self.every_s, self.at, self.strikes = made, every_s, at, strikes
        self.server = server
        self.board = Board(self.folder, clients=CLIENTS, start_ms=made[0].at_ms)
        self.engine = connect(nursery.url)
        self.clients = [f"client-{number}" for number in range(CLIENTS)]
        self.arrivals = sorted(self._arrivals(), key=lambda one: one[0])

    def _arrivals(self) -> list[tuple[int, Planned]]:
        """When each sample comes in: every fifth some hours late."""
        late = [self.dice.randrange(6 * 3_600_000) if self.dice.random() < LATE_SHARE else 0 for _ in self.made]
        return [(one.at_ms + more, one) for one, more in zip(self.made, late, strict=True)]

    def besiege(self, most_s: float) -> Toll:
        """Until every client has come to the end of its requests."""
        self.start(*self.clients, TICKER)
        began = kill_at = time.monotonic()
        while alive := self._alive():
            assert time.monotonic() - began < most_s, f"no end within {most_s:.0f} s, at {self.board.behind()}"
            self._time_goes_by()
            if self.strikes and time.monotonic() >= kill_at + self.every_s:
                kill_at = time.monotonic()
                self.strikes -= 1
                self._kill(alive)
            time.sleep(0.01)
        self._samples(None)
        (self.folder / "stop").touch()
        self.end([TICKER])
        sound(self.nursery, (*self.clients, TICKER))
        self.toll.starts = self.nursery.starts
        self.engine.dispose()
        return self.toll

    def _alive(self) -> list[str]:
        """The clients that go on; each of the others ended in peace."""
        found = []
        for role in self.clients:
            status = self.running[role].poll()
            assert status in (None, 0), f"{role} ended with {status}: {self.said(self.running[role])}"
            found += [role] if status is None else []
        assert self.running[TICKER].poll() is None, self.said(self.running[TICKER])
        return found

    def _time_goes_by(self) -> None:
        """The clock stands where the last of the clients is; once all are through, runs that were left are over."""
        place = self.board.behind()
        at_ms = self.made[-1].at_ms + 2 * DAY_MS if place >= len(self.made) else self.made[place].at_ms
        self.board.forward(at_ms)
        self._samples(at_ms)

    def _samples(self, until_ms: int | None) -> None:
        due = 0
        while due < len(self.arrivals) and (until_ms is None or self.arrivals[due][0] <= until_ms):
            due += 1
        if due:
            added = [one for _, one in self.arrivals[:due]]
            del self.arrivals[:due]
            patiently(self.engine, lambda c: c.execute(SAMPLE, [_sample(one) for one in added]))

    def _kill(self, alive: Sequence[str]) -> None:
        if self.server is not None and self.strikes % SERVER_EVERY == 0:
            killed(self.server, self.dice)
            self.toll.strikes["postmaster killed"] += 1
            return
        if self.at:
            self.kill_by_order("client", self.dice.choice(self.at), ORDER_S)
            return
        if self.dice.random() < BY_ORDER:
            kind, steps = self.dice.choice((("client", CLIENT_STEPS), ("client", CLIENT_STEPS), (TICKER, TICK_STEPS)))
            if self.kill_by_order(kind, self.dice.choice(steps), ORDER_S):
                return
        roles = [*alive, TICKER]
        for role in self.dice.sample(roles, min(self.dice.choice(MOST_AT_ONCE), len(roles))):
            self._kill_one(self.running[role])

    def _kill_one(self, child: Child) -> None:
        """Unless it has hardly begun, or ends this moment."""
        if child.log.exists() and child.kill() != 0:
            self._killed(child, ordered=False)


def killed(server: Server, dice: random.Random) -> None:
    """The whole server dies, whoever is at work on it; it is there again a moment later."""
    server.kill()
    time.sleep(dice.uniform(0, 0.2))
    server.start()


SAMPLE = sa.text(
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
    "VALUES (:id, :org, :sandbox, 'cell-1', 1024, :seconds, :ts, :ts) ON CONFLICT (id) DO NOTHING"
)


def _sample(one: Planned) -> dict[str, object]:
    return {"id": one.line, "org": one.org, "sandbox": one.sandbox, "seconds": one.seconds, "ts": one.at_ms}


def patiently(engine: sa.Engine, work: Callable[[sa.Connection], Any]) -> Any:
    """Write, however long others write."""
    for _ in range(BUSY_TRIES):
        try:
            return write(engine, work)
        except DatabaseBusy:
            time.sleep(0.02)
    raise AssertionError(f"the database was busy {BUSY_TRIES} times")


def _set_up(url: str, made: Sequence[Planned]) -> tuple[dict[str, int], int]:
    """Plans, rates and credit; what each organisation was given, and what a metered second costs, in micro-credits."""
    must(migrated(url), "init", at=str(FROM_MS))
    engine, by = connect(url), By(FROM_MS, "test", "the trace")
    rate = write(engine, lambda c: credit.rate_at(c, "compute_1gb", FROM_MS))
    assert rate is not None and rate.per_quantity == 1
    needs: dict[str, int] = defaultdict(int)
    for one in made:
        needs[one.org] += sum(map(one.micro, (*one.parts, one.last))) + one.seconds * rate.micro_credits
    given = dict.fromkeys(needs, 0)

    def begin(connection: sa.Connection) -> None:
        credit.set_plan_limit(connection, "trace", 1_000, by)
        credit.set_rate(connection, FEATURE, MICRO_FOR, UNITS, by, from_ms=None)
        change = settlements.Change(share_ppm=SHARE_PPM)
        settlements.set_supplier(connection, SUPPLIER, change, by, new=True)
        assign(connection, sorted(needs), "embedded", by, from_ms=FROM_MS)

    def give(connection: sa.Connection, orgs: Sequence[tuple[int, str]]) -> None:
        for place, org in orgs:
            for key, amount, terms in _grants(place, needs[org], (made[0].at_ms, made[-1].at_ms)):
                credit.grant(connection, org, amount, by, key=f"{org}:{key}", plan="trace", terms=terms)
                given[org] += amount

    write(engine, begin)
    orgs = list(enumerate(sorted(needs)))
    for first in range(0, len(orgs), 500):
        write(engine, partial(give, orgs=orgs[first : first + 500]))
    engine.dispose()
    return given, rate.micro_credits


def _grants(place: int, need: int, span: tuple[int, int]) -> list[tuple[str, int, Terms]]:
    """What one organisation is given: too little now and then, and a part of it for a while."""
    amount = need // 2 + 1 if place % POOR_EVERY == 0 else 12 * need + 50 * MICRO
    found = [("whole", amount, Terms())]
    if place % LOT_EVERY == 0:
        until = span[0] + (span[1] - span[0]) // 2 + DAY_MS
        found.append(("part", need // 5 + 1, Terms(kind="bonus", expires_ms=until)))
    return found


def trace(
    folder: Path,
    url: str,
    *,
    seed: int,
    every_s: float = 1.0,
    most: int | None = None,
    most_s: float = 3_600.0,
    strikes: int = NO_END,
    server: Server | None = None,
    planted: str = "",
    at: Sequence[str] = (),
) -> Outcome:
    """A strike every `every_s` seconds, so many at most; at clients alone, at these steps, where any is named. Every
    tenth is at the `server`, where one is given.

    Errors: AssertionError where anything is lost, doubled, left over or broken.
    """
    made = requests(seed, most=most)
    given, rate = _set_up(url, made)
    (folder / "siege.json").write_text(json.dumps({"seed": seed, "most": most}))
    began = time.monotonic()
    env = {"CRASH_PLANTED": planted}
    with closing(Nursery(folder, url, env, work="tests.crash.credit.process")) as nursery:
        toll = Trace(nursery, random.Random(seed), made, every_s, at, strikes, server).besiege(most_s)
    took = time.monotonic() - began
    later = made[-1].at_ms + 40 * DAY_MS
    for _ in range(SETTLED_TICKS):
        must(url, "tick", at=str(later))
    expected: Sums = defaultdict(int)
    for one in made:
        expected[one.org, one.at_ms - one.at_ms % 300_000] += one.seconds
    billed_exactly(url, {key: seconds for key, seconds in expected.items() if seconds})
    books = judged(url, folder, made, given, rate)
    assert must(url, "verify", at=str(later))["breaches"] == []
    return Outcome(toll, books, len(made), number(url, "SELECT COUNT(*) FROM pushes"), took)
