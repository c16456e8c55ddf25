"""The siege of programs: clients of the guard, senders of events, one who fills in the past and a ticker are killed,
and the server with them; what was used, charged and billed is exact in the end.

Guarantee: what has to be there is worked out from the plans and from what the journals say was answered.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from drawdown.providers.embedded import EmbeddedProvider
from drawdown.schema.audit import By
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect, read, write
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.features.actions import install_defaults, map_event
from drawdown.worker.guard import lists as views
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.tick import tick
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from tests.acceptance.gentd26 import Sums
from tests.acceptance.tables import billed_exactly, rows
from tests.crash.credit.shared import Board
from tests.crash.credit.trace import killed
from tests.crash.data import FROM_MS
from tests.crash.hunt import Hunt
from tests.crash.nursery import Nursery
from tests.crash.programs.plans import FEATURE, GIVEN, METRICS, NOW_MS, ORGS, TYPE, Ask, batches, fills, uses
from tests.crash.programs.process import TICKER, records
from tests.crash.toll import Toll, sound
from tests.postgres_server import Server
from tests.sqlite_databases import migrated
from tests.world import Cells

ASKERS: Final = ("asker-0", "asker-1", "asker-2")
SENDERS: Final = ("sender-0", "sender-1")
ACTORS: Final = (*ASKERS, *SENDERS, "filler-0")
STEPS: Final = {
    "asker": ("consume", "reserve", "settle"),
    "sender": ("intake",),
    "filler": ("open", "stage", "close", "revert"),
    TICKER: ("seal", "charge"),
}
BY_ORDER, ORDER_S = 0.6, 0.5
METERED: Final = "SELECT SUBSTR(from_account, 8), SUM(amount_micro) FROM ledger_entries WHERE kind = 'usage' GROUP BY 1"
WALLETS: Final = (
    r"SELECT SUBSTR(account_id, 8), balance_micro, held_micro FROM ledger_accounts WHERE account_id LIKE 'wallet\:%'"
)


@dataclass(frozen=True)
class Size:
    """How much each is to do. `limit`: a month, of each metric and organisation."""

    limit: int
    uses: int
    batches: int
    fills: int


@dataclass(frozen=True)
class Outcome:
    """What a siege came to; it is only returned where all was exact."""

    toll: Toll
    decisions: Counter[str]
    events: int
    filled: int
    reverted: int
    took_s: float


class Door(Hunt):
    """All of them, on one database."""

    def __init__(
        self, nursery: Nursery, dice: random.Random, at: Sequence[str], strikes: int, server: Server | None
    ) -> None:
        super().__init__(nursery, dice, no_kill=False)
        self.at, self.strikes, self.server = at, strikes, server
        self.board = Board(self.folder, clients=1, start_ms=NOW_MS)

    def besiege(self, kills: int, every_s: float, most_s: float) -> Toll:
        """Until all have come to their ends."""
        self.start(*ACTORS, TICKER)
        began = kill_at = time.monotonic()
        while alive := self._alive():
            assert time.monotonic() - began < most_s, f"no end within {most_s:.0f} s: {alive} go on"
            if self.toll.kills < kills and time.monotonic() >= kill_at + every_s:
                kill_at = time.monotonic()
                self.board.forward(self.board.now_ms() + 6 * MINUTE_MS)
                self._strike(alive)
            time.sleep(0.005)
        (self.folder / "stop").touch()
        self.end([TICKER])
        sound(self.nursery, (*ACTORS, TICKER))
        self.toll.starts = self.nursery.starts
        return self.toll

    def _alive(self) -> list[str]:
        found = []
        for role in ACTORS:
            status = self.running[role].poll()
            assert status in (None, 0), f"{role} ended with {status}: {self.said(self.running[role])}"
            found += [role] if status is None else []
        assert self.running[TICKER].poll() is None, self.said(self.running[TICKER])
        return found

    def _strike(self, alive: Sequence[str]) -> None:
        if self.server is not None and self.strikes and self.dice.random() < 0.2:
            self.strikes -= 1
            killed(self.server, self.dice)
            self.toll.strikes["postmaster killed"] += 1
            return
        kinds = sorted({role.split("-")[0] for role in alive} | {TICKER})
        if self.at:
            kind, step = self.dice.choice([one.split(" ", 1) for one in self.at])
            if kind in kinds:
                self.kill_by_order(kind, step, ORDER_S)
            return
        if self.dice.random() < BY_ORDER:
            kind = self.dice.choice(kinds)
            when = self.dice.choice(("begin", "inside", "inside", "end"))
            if self.kill_by_order(kind, f"{when} {self.dice.choice(STEPS[kind])}", ORDER_S):
                return
        child = self.running[self.dice.choice([*alive, TICKER])]
        if child.log.exists() and child.kill() != 0:
            self._killed(child, ordered=False)


def besieged(
    folder: Path, url: str, *, seed: int, size: Size, kills: int, every_s: float = 0.1, most_s: float = 240.0,
    strikes: int = 0, server: Server | None = None, planted: str = "", at: Sequence[str] = (),
) -> Outcome:  # fmt: skip
    """A strike every `every_s` seconds while anybody is at work, so many at most; `at`: at these steps of these kinds
    alone ("asker inside consume").

    Errors: AssertionError where anything is lost, doubled, left over or broken.
    """
    _set_up(url, size.limit)
    (folder / "siege.json").write_text(json.dumps({"seed": seed, **vars(size)}))
    began = time.monotonic()
    env = {"CRASH_PLANTED": planted}
    with closing(Nursery(folder, url, env, work="tests.crash.programs.process")) as nursery:
        toll = Door(nursery, random.Random(seed), at, strikes, server).besiege(kills, every_s, most_s)
    took = time.monotonic() - began
    engine = connect(url)
    later = FixedClock(NOW_MS + 3 * DAY_MS)
    provider = {"embedded": EmbeddedProvider(engine, later)}
    world = runner.World(engine, provider, Cells(), later)
    for _ in range(3):
        runner.run(tick(Context("last", later, {"embedded": provider["embedded"].capabilities})), world)
    asked = {one.key: one for number in range(len(ASKERS)) for one in uses(seed, number, size.uses)}
    decisions = _used(url, folder, asked, size.limit)
    events, reverted = _billed(url, seed, size)
    breaches = read(engine, verify).breaches
    engine.dispose()
    assert breaches == [], breaches
    return Outcome(toll, decisions, events, size.fills, reverted, took)


def _set_up(url: str, limit: int) -> None:
    engine, by = connect(migrated(url)), By(FROM_MS, "test", "the siege")
    upgrade(engine)
    write(engine, lambda c: install_defaults(c, by))

    def begin(connection: sa.Connection) -> None:
        assign(connection, list(ORGS), "embedded", by, from_ms=FROM_MS)
        map_event(connection, TYPE, FEATURE, by, from_ms=FROM_MS, confirmed=True)
        credit.set_rate(connection, FEATURE, 1, 1, by, from_ms=FROM_MS)
        for org in ORGS:
            credit.grant(connection, org, GIVEN, by, key=f"first of {org}", plan=None)
        for metric, (micro, per) in METRICS.items():
            guard_terms.set_metric(connection, metric, Change(price_micro=micro, per_units=per, phase=3), by)
            guard_terms.set_limit(connection, PlanLimit(metric, "*", "month", limit), by)

    write(engine, begin)
    engine.dispose()


def _used(url: str, folder: Path, asked: dict[str, Ask], limit: int) -> Counter[str]:
    """Each use has the end that its client was told, is counted and charged so, and no limit was passed before what was
    held was known. Errors: AssertionError."""
    told = {one["key"]: one["decision"] for role in ASKERS for one in records(folder / f"{role}.journal")}
    assert told.keys() == asked.keys(), "each use has an end, and no other has one"
    engine = connect(url)
    found = {one.use_key: one for one in read(engine, lambda c: views.list_uses(c, "", "", 0, 10**6))}
    drifts = read(engine, lambda c: views.drifts(c, 0, 10**6))
    engine.dispose()
    assert drifts == [], f"counters are not the sums of their uses: {drifts}"
    allowed = {key: one for key, one in asked.items() if told[key] != "block"}
    assert found.keys() == allowed.keys(), f"uses are not those that were allowed: {found.keys() ^ allowed.keys()}"
    sums, at_once, charged = Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[str]()
    for key, one in allowed.items():
        micro, per = METRICS[one.metric]
        price, use = int(Fraction(one.actual * micro, per) + Fraction(1, 2)), found[key]
        assert (use.state, use.quantity, use.charged_micro) == (one.end, one.actual, price), f"{use} should be {one}"
        sums[one.org, one.metric] += one.actual
        at_once[one.org, one.metric] += one.actual if one.end == "used" else 0
        charged[one.org] += price
    assert all(used <= limit for used in at_once.values()), f"more than {limit} were used: {at_once}"
    metered = {str(org): int(str(micro)) for org, micro in rows(url, METERED)}
    for org, balance, held in rows(url, WALLETS):
        left = GIVEN - charged[str(org)] - metered.get(str(org), 0)
        assert (balance, held) == (left, 0), f"{org}: (balance, held) is {balance, held}, and has to be {left, 0}"
    return Counter(told.values())


def _billed(url: str, seed: int, size: Size) -> tuple[int, int]:
    """Each event is billed once, and what was taken back is not. How many events, and how many backfills taken back.
    Errors: AssertionError."""
    made = [batch for number in range(len(SENDERS)) for batch in batches(seed, number, size.batches)]
    sent = {one for batch in made for one in _keyed(batch)}
    filled = fills(seed, size.fills)
    kept = sent | {one for fill in filled if not fill.reverted for one in _keyed(fill.events)}
    expected: Sums = defaultdict(int)
    for org, _, quantity, ts in kept:
        expected[org, ts - ts % WINDOW_MS] += quantity
    billed_exactly(url, dict(expected))
    states = {str(name): state for name, state in rows(url, "SELECT backfill, state FROM backfills")}
    assert states == {one.name: "reverted" if one.reverted else "closed" for one in filled}, states
    return len(kept), sum(one.reverted for one in filled)


def _keyed(events: Sequence[object]) -> list[tuple[str, str, int, int]]:
    return [(one.org_id, one.event_id, one.quantity, one.occurred_ms) for one in events]  # type: ignore[attr-defined]
