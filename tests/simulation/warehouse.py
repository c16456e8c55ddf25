"""A warehouse in the simulated world: a query of it is a source, and hosts write rows there, some of them late.

Guarantee: all of it is drawn from a stream of its own. What a period says is worked out here from the rows, apart from
the product, each time a row comes; the oracle is told of what was taken as it is committed. A person does what ticks
and the documentation say, and no more: withdraws the batch that a conflict names, has a day asked for again that was
refused, or of which a row came later than anybody asks.
"""

from __future__ import annotations

import csv
import hashlib
import io
import random
import re
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.batches import query_source
from drawdown.worker.batches.query_source import Question, period_name
from drawdown.worker.batches.sources import add_query, list_batches, pause_source
from drawdown.worker.batches.take import TakenFile, withdraw_some
from drawdown.worker.engine.effects import Transaction
from drawdown.worker.engine.stores import Databases
from tests.simulation import actions, healing, scheduler, settled
from tests.simulation.actions import ORGS, STRANGERS
from tests.simulation.making import new_world
from tests.simulation.operators import add_rates, said
from tests.simulation.oracle import WINDOW, Sample
from tests.simulation.providers import MEMORY
from tests.simulation.restore import still
from tests.simulation.world import START, World

FIRST, END = START - 3 * DAY_MS, START + DAY_MS
"""Rows are of days in between."""
QUESTION: Final = Question(
    "SELECT org_id, ts, memory_mb, interval_s FROM used WHERE ts >= :from_ms AND ts < :until_ms",
    "warehouse",
    DAY_MS,
    30 * MINUTE_MS,
)
WELL: Final = "SELECT org_id, ts, memory_mb, interval_s FROM written"
MANNERS: Final = {
    "warehouse_well": WELL,
    "warehouse_says_text": "SELECT org_id, ts, CAST(memory_mb AS TEXT) AS memory_mb, "
    "CAST(interval_s AS TEXT) AS interval_s FROM written",
    "warehouse_cut_off": "SELECT org_id, ts, memory_mb, CASE WHEN rowid % 3 = 2 THEN abs(-9223372036854775807 - 1) "
    "ELSE interval_s END AS interval_s FROM written",
    "warehouse_column_renamed": "SELECT org_id, ts, memory_mb, interval_s AS seconds FROM written",
    "warehouse_column_retyped": "SELECT 1 AS org_id, ts, memory_mb, interval_s FROM written",
    "warehouse_away": "",
}
ROWS_CHANCE, PERSON_CHANCE, BROKEN_PROMISE = 0.6, 0.5, 0.2
FIRST_ROWS: Final = 6
"""How often rows came before anybody asked: many a life is too short for those that come later to be cut off."""
AT_ONCE: Final = 2
"""Samples that one transaction of a withdrawal takes back."""
STANDS: Final = re.compile("the batch ([0-9a-f]+) has this name and different content")
STANDING: Final = "SELECT 1 FROM batches WHERE batch = :batch AND withdrawn_ms IS NULL"
Row = tuple[str, int, int, int]
Sums = Counter[tuple[str, int, int]]
"""Seconds by organisation, window, size."""


def content(rows: list[Row]) -> str:
    """The batch that these rows are, in whatever order they lie there."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(("org_id", "ts", "memory_mb", "interval_s"))
    writer.writerows(sorted(tuple(map(str, row)) for row in rows))
    return hashlib.sha256(text.getvalue().encode()).hexdigest()[:32]


def sums_of(rows: list[Row]) -> Sums:
    sums = Sums()
    for org, ts, size, seconds in rows:
        if seconds > 0:
            sums[org, ts // WINDOW * WINDOW, size] += seconds
    return sums


class Asked:
    """A maker of worlds in which a warehouse is asked."""

    def __init__(self, folder: Path) -> None:
        self.path, self.gone = folder / "warehouse.db", folder / "away"
        self.rng = random.Random()
        self.manner, self.heals_now = "warehouse_well", False
        self.rows: dict[int, list[Row]] = defaultdict(list)
        """By the day that they are of."""
        self.contents: dict[str, Sums] = {content([]): Sums()}
        self.outcomes: Counter[str] = Counter()
        self.again_ms = END
        """From where on a person has to have it asked for again: a row came after the second asking."""
        self.cut_off: dict[str, str] = {}
        """Withdrawals that were cut off, and the last sample of each."""
        self.back: set[str] = set()
        """Samples of batches that were withdrawn. Others are withdrawn one by one, whatever they are of."""
        self.made: World | None = None
        self._insert, self._rates = actions.insert, add_rates

    def __call__(self, seed: int, *given: Any, **more: Any) -> World:
        world = self.made = new_world(seed, *given, **more)
        self.rng = random.Random(f"{seed}-warehouse")
        with closing(sqlite3.connect(self.path)) as warehouse:
            warehouse.execute("CREATE TABLE written (org_id TEXT, ts INTEGER, memory_mb INTEGER, interval_s INTEGER)")
        self._is("warehouse_well")
        databases = Databases({"warehouse": f"sqlite:///{self.path}"})
        for worker in world.workers:
            worker.context.databases = databases
        add = partial(add_query, source="calls", question=QUESTION, by=said(world), from_ms=FIRST)
        world.write(add)
        for _ in range(FIRST_ROWS):
            self._write(world)
        return world

    def judged(self, world: World, effect: Transaction, answer: Any) -> None:
        """As soon as it is committed."""
        still(world, effect, answer)
        if effect.name == "due_periods" and not self.heals_now:
            self._is(self.rng.choice([*MANNERS, "warehouse_cut_off", "warehouse_well", "warehouse_well"]), world)
        if effect.name == "take_batch":
            self._took(world, answer)

    def insert(self, world: World, made: list[Sample], box: str | None = None) -> None:
        """Hosts write samples; beside them rows come to the warehouse, and a person looks at what ticks said."""
        self._insert(world, made, box)
        if self.rng.random() < ROWS_CHANCE:
            self._write(world)
        if self.rng.random() < PERSON_CHANCE:
            self._person(world)

    def heals(self, world: World) -> str:
        """People do all that is left, until every day was asked for twice and is right."""
        self.heals_now = True
        self._is("warehouse_well")
        while self._person(world):
            pass
        if self._next_ms(world) >= END and self.again_ms == END:
            world.write(partial(pause_source, source="calls", by=said(world)))
        return self._rates(world)

    def _is(self, manner: str, world: World | None = None) -> None:
        if self.gone.exists():
            self.gone.rename(self.path)
        self.manner = manner
        if world is not None and manner != "warehouse_well":
            world.faults.note(manner)
        if manner == "warehouse_away":
            self.path.rename(self.gone)
            return
        with closing(sqlite3.connect(self.path)) as warehouse:
            warehouse.executescript(f"DROP VIEW IF EXISTS used; CREATE VIEW used AS {MANNERS[manner]};")

    def _write(self, world: World) -> None:
        """Some rows of one day; late ones also of an day that was asked for."""
        rng, now = self.rng, world.time.now
        day = rng.randrange(FIRST, min(now, END - DAY_MS) + 1, DAY_MS)
        closed_ms = day + DAY_MS + QUESTION.closes_after_ms
        if world.latest >= closed_ms + DAY_MS:
            if rng.random() > BROKEN_PROMISE:
                return
            self.again_ms = min(self.again_ms, day)
        size = rng.choice((1024, 2048, 4096))
        made: list[Row] = []
        for _ in range(rng.randint(1, 4)):
            ts = min(rng.randrange(day, day + DAY_MS), now)
            made.append((rng.choice((*ORGS, *STRANGERS)), ts, size, rng.choice((1, 60, 86_400))))
        if rng.random() < 0.2:
            made.append((rng.choice(ORGS), made[0][1], size, -1))  # refused
        self.rows[day] += made
        path = self.gone if self.gone.exists() else self.path
        with closing(sqlite3.connect(path)) as warehouse, warehouse:
            warehouse.executemany("INSERT INTO written VALUES (?, ?, ?, ?)", made)
            if rng.random() < 0.5:  # it says them in another order
                warehouse.execute("CREATE TABLE other AS SELECT * FROM written ORDER BY interval_s, ts DESC")
                warehouse.execute("DELETE FROM written")
                warehouse.execute("INSERT INTO written SELECT * FROM other")
                warehouse.execute("DROP TABLE other")
        self.contents[content(self.rows[day])] = sums_of(self.rows[day])
        world.faults.note("warehouse_late" if world.latest >= closed_ms else "warehouse_wrote")

    def _next_ms(self, world: World) -> int:
        return int(world.rows("SELECT next_ms FROM batch_sources WHERE source = 'calls'")[0][0])

    def _person(self, world: World) -> bool:
        """Does one thing that ticks asked a person for; whether there may be more."""
        if self.cut_off:
            self._withdraw(world, min(self.cut_off))
            return True
        told = world.read(partial(list_batches, source="calls", most=1_000))
        for one in told:
            stands = STANDS.search(one.said) if one.outcome == "conflict" else None
            if stands and world.rows(STANDING, batch=stands[1]):
                self.cut_off[stands[1]] = ""
                self._withdraw(world, stands[1])
                return True
        refused = [day for day in self.rows if any(one.name == _name(day) for one in told if one.outcome == "refused")]
        first = min([self.again_ms, *refused])
        if first < END and self.manner != "warehouse_column_retyped":
            # What lies before is asked for no more: the first that is open yet.
            first = min(first, self._next_ms(world))
            self.again_ms = END
            work = partial(add_query, source="calls", question=QUESTION, by=said(world), from_ms=first)
            world.write(work)
            world.faults.note("warehouse_asked_again")
            world.say("world", f"has the warehouse asked again from {_name(first)}")
        return False

    def _withdraw(self, world: World, batch: str) -> None:
        """Some portions, and perhaps no more of them: the same command is given again."""
        while True:
            after = self.cut_off[batch]
            done = world.write(partial(withdraw_some, batch=batch, by=said(world), after=after, at_most=AT_ONCE))
            last = done if isinstance(done, str) else "~"
            its = [one for one in world.oracle.samples if one.startswith(f"batch:{batch}:") and after < one <= last]
            world.oracle.withdraw(*its)
            self.back.update(its)
            if not isinstance(done, str):
                del self.cut_off[batch]
                world.faults.note("warehouse_withdrawn")
                return
            self.cut_off[batch] = done
            if self.rng.random() < 0.3:
                self.cut_off[batch] = ""  # from the beginning
                world.faults.note("warehouse_withdrawal_cut_off")
                return

    def _took(self, world: World, taken: TakenFile) -> None:
        self.outcomes[taken.outcome] += 1
        if taken.batch not in self.contents:
            world.breaches.append(f"{taken.name} is {taken.outcome}, with rows that the warehouse never said together")
        elif taken.outcome == "taken":
            number = 0
            for (org, window, size), seconds in sorted(self.contents[taken.batch].items()):
                for part in [86_400] * (seconds // 86_400) + [seconds % 86_400] * (seconds % 86_400 > 0):
                    number += 1
                    world.oracle.took(Sample(f"batch:{taken.batch}:{number}", org, window, size, part, good=True))

    def wrong(self) -> list[str]:
        """In the end: what counts is what the warehouse says, no more and no less."""
        assert self.made is not None
        counts = Sums()
        for name, one in self.made.oracle.samples.items():
            if name.startswith("batch:") and name not in self.back:
                counts[one.org, one.ts, one.memory_mb] += one.seconds
        want = sums_of([row for rows in self.rows.values() for row in rows])
        return [
            f"the warehouse says {want[spot]} of {spot}, and {counts[spot]} count"
            for spot in sorted(want.keys() | counts.keys())
            if want[spot] != counts[spot]
        ]


def _name(day: int) -> str:
    return period_name(day, DAY_MS)


def simulated(seed: int, ticks: int, folder: Path, monkeypatch: Any) -> tuple[list[str], Asked]:
    """One seed in such a world; what is wrong with it, a line each."""
    asked = Asked(folder)
    monkeypatch.setattr(scheduler, "new_world", asked)
    monkeypatch.setattr(scheduler, "still", asked.judged)
    monkeypatch.setattr(scheduler, "FINE", (*scheduler.FINE, "the database warehouse: "))
    monkeypatch.setattr(query_source, "ROWS_AT_ONCE", 1)  # what is cut off is cut off in the middle
    monkeypatch.setattr(actions, "insert", asked.insert)
    monkeypatch.setattr(healing, "add_rates", asked.heals)
    text = f"SELECT COUNT(*) FROM batch_sources WHERE query IS NOT NULL AND next_ms < {END}"
    monkeypatch.setitem(settled.LEFT, "days to be asked for", text)
    outcome = scheduler.simulate(seed, ticks, billing=(EMBEDDED, MEMORY), restores=False)
    return outcome.breaches or asked.wrong(), asked
