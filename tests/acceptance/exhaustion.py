"""A fleet whose credit runs out, on a virtual clock: when each organisation truly spent its last, and when its cells
had acknowledged the halt.

Guarantee: what is true is computed from when each sandbox ran, apart from samples, pushes and balances. Times are whole
seconds, so that samples add up to exactly what was used. An error is what was used beyond the credit (or left of it)
in seconds of the organisation's burn right before its halt.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.providers.http import Answer, Call
from drawdown.providers.kit.emulator import FaultPlan
from drawdown.schema.audit import By, record
from drawdown.schema.database import write
from drawdown.schema.units import MINUTE_MS, SECOND_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import HaltRequest
from drawdown.worker.halts.cell_client import body_of, signature
from drawdown.worker.verdict.rules import HOLD_MS
from drawdown.worker.watch import ROUND_MS, Watcher, watch
from tests.acceptance.exhaustion_autumn import Account
from tests.acceptance.exhaustion_fleet import CLOCKS_OFF_S, Box, Lagging, Org, Plan, Result, planned, settle
from tests.emulators.cell import HALT_PATH, CellEmulator
from tests.prepaid import Moving
from tests.world import T0, Fleet

INTERVAL_MS = MINUTE_MS
STALE_SHARE = 0.5
"""Of the reads of a stale Autumn."""
TAIL_MS = HOLD_MS + 2 * MINUTE_MS
"""What is settled is judged so long after everybody went home: until then a small credit may resume nobody."""
LATE_SHARE = 0.005
"""Of the samples; they come half a minute to seven minutes after their time, all others within two seconds."""


def _grant_untold(connection: sa.Connection, customer: str, amount: int, key: str, now_ms: int) -> None:
    wallet.grant(connection, customer, amount, key=key, now_ms=now_ms, actor="t", reason="t")
    details = {"amount_micro": amount, "key": key}
    record(connection, "ledger_grant", customer, details, By(now_ms, "t", "t"))


class Exhaustion:
    """The fleet."""

    def __init__(self, engine: sa.Engine, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed)
        self.fleet = Fleet(engine, Moving(T0))
        self.clock = self.fleet.clock
        self.lagging = Lagging(self.clock)
        self.autumn = Account(self.clock, engine)
        self.fleet.extra = {"trailing": self.lagging, "autumn": self.autumn.provider}
        faults = {"answer_lost": 0.003, "broken": 0.003}
        self.cells = {
            f"cell-{n}": CellEmulator(f"cell-{n}", faults=FaultPlan(plan.seed * 1000 + n, faults))
            for n in range(plan.cells)
        }
        self.orgs = {org.name: org for org in (planned(n, plan, self.rng) for n in range(plan.orgs))}
        self.boxes = {box.name: box for org in self.orgs.values() for box in org.boxes}
        self.coming: list[tuple[int, int, dict[str, object]]] = []
        self.result = Result()
        self.watcher = Watcher()
        self.ends_ms = T0 + plan.minutes * MINUTE_MS
        """When everybody goes home."""
        self._samples = 0
        self._stopped: list[str] = []
        self._began_ms = T0
        self._calls: Counter[str] = Counter()
        """How often each cell was called since then, one call after the other."""
        settle(self.fleet, self.orgs.values(), self.cells, told=plan.sudden)
        for org in self.orgs.values():
            self._give(org, org.granted, "first")
        self.fleet.tick()
        if plan.stale:
            self.autumn.be_stale(STALE_SHARE)

    def _give(self, org: Org, amount: int, key: str) -> None:
        """Without a word to anybody: whoever is to notice has to ask."""
        if org.provider == "trailing":
            self.lagging.credit[org.name] = self.lagging.credit.get(org.name, 0) + amount
            return
        if org.provider == "autumn":
            self.autumn.give(org.name, amount)
            return
        write(
            self.fleet.engine,
            lambda c: _grant_untold(c, org.name, amount, f"{org.name}:{key}", self.clock.at_ms),
        )

    def run(self) -> Result:
        """From the first second to the last, five at a time; minute by minute once everybody went home."""
        end = self.ends_ms
        for now in chain(range(T0 + ROUND_MS, end, ROUND_MS), range(end, end + TAIL_MS, MINUTE_MS)):
            self.clock.at_ms = now
            self._begin(now)
            self._tell(now)
            if now < end:
                self._live(now)
            else:
                self._end(now)
            self._deliver(now)
            self._resume(now)
            world = runner.World(self.fleet.engine, self.fleet.providers, self, self.clock)
            if self.plan.watched:
                done = runner.run(watch(self.fleet.context("watch"), self.watcher), world)
                assert not done.failures, done.failures
                self.result.rounds += 1
                self.result.reads += done.read
            if now % WINDOW_MS < ROUND_MS:
                self._begin(self.clock.at_ms // SECOND_MS * SECOND_MS)
                self.fleet.cells = self  # type: ignore[assignment]
                self.fleet.tick()
        self._judge()
        return self.result

    def _begin(self, now: int) -> None:
        """Cells are free from now on."""
        self._began_ms = now
        self._calls.clear()

    def _live(self, now: int) -> None:
        for org in self.orgs.values():
            while org.starts and org.starts[0][0] <= now:
                org.running = max(org.running, org.starts.pop(0)[1])
                self._start(org, now)
            while org.pays_at and org.pays_at[0] <= now:
                org.pays_at.pop(0)
                self._pay(org)

    def _pay(self, org: Org) -> None:
        burn = org.burn or org.burns() or 1
        amount = burn * org.pays_minutes * 60
        org.granted += amount
        org.paid += 1
        self._give(org, amount, f"paid {org.paid}")

    def _start(self, org: Org, now: int) -> None:
        if org.halted_at is not None or now >= self.ends_ms:
            return
        fresh = [box for box in org.boxes[: org.running] if box.since_ms is None]
        for box in fresh:
            box.since_ms = box.told_ms = now - self.rng.randrange(0, 5) * SECOND_MS
        self._states([box.name for box in fresh], "running")
        if self.plan.sudden:
            self._sizes(fresh)

    def _end(self, now: int) -> None:
        """Everybody goes home; what is settled after it can be judged."""
        for box in self.boxes.values():
            if box.since_ms is not None:
                self._sample(box, now)
                box.ran_ms, box.since_ms = box.ran_ms + now - box.since_ms, None
                self._stopped.append(box.name)

    def _states(self, names: Sequence[str], state: str) -> None:
        if names:
            text = sa.text("UPDATE sandboxes SET state = :state WHERE sandbox_id = :box")
            write(self.fleet.engine, lambda c: c.execute(text, [{"state": state, "box": name} for name in names]))

    def _sizes(self, boxes: Sequence[Box]) -> None:
        """Hosts keep what they run, and since when by their own clocks."""
        text = sa.text("UPDATE sandboxes SET memory_mb = :mb, since_ms = :since WHERE sandbox_id = :box")
        rows = []
        for box in boxes:
            assert box.since_ms is not None
            off_ms = self.rng.randrange(-CLOCKS_OFF_S, CLOCKS_OFF_S + 1) * SECOND_MS
            rows.append({"box": box.name, "mb": box.memory_mb, "since": box.since_ms + off_ms})
        if rows:
            write(self.fleet.engine, lambda c: c.execute(text, rows))

    def _tell(self, now: int) -> None:
        """Each running sandbox's host takes a sample a minute, and a last one when it stops."""
        for box in self.boxes.values():
            while box.since_ms is not None and box.told_ms + INTERVAL_MS <= now:
                self._sample(box, box.told_ms + INTERVAL_MS)

    def _sample(self, box: Box, ts: int) -> None:
        seconds = (ts - box.told_ms) // SECOND_MS
        box.told_ms = ts
        if not seconds:
            return
        self._samples += 1
        late = self.rng.randrange(30, 400) if self.rng.random() < LATE_SHARE else self.rng.randrange(1, 3)
        row = {"id": f"s{self._samples}", "org": box.org, "box": box.name, "cell": box.cell, "mb": box.memory_mb}
        heapq.heappush(self.coming, (ts + late * SECOND_MS, self._samples, {**row, "s": seconds, "ts": ts}))

    def _deliver(self, now: int) -> None:
        rows = []
        while self.coming and self.coming[0][0] <= now:
            at, _, row = heapq.heappop(self.coming)
            rows.append({**row, "at": at})
        text = (
            "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
            "VALUES (:id, :org, :box, :cell, :mb, :s, :ts, :at)"
        )
        if rows:
            write(self.fleet.engine, lambda c: c.execute(sa.text(text), rows))

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        """The cells: each takes a second for a call, all beside each other; and stop what they acknowledge (and what
        they did without an answer)."""
        cells = {halt.cell_id for halt in halts}
        self._calls.update(cells)
        ends = self._began_ms + max(self._calls[cell] for cell in cells) * SECOND_MS
        self.clock.at_ms = max(self.clock.at_ms, ends)
        answers = []
        for halt in halts:
            cell = self.cells[halt.cell_id]
            body = body_of(halt)
            stamp = self.clock.at_ms // 1000
            headers = {"X-Timestamp": str(stamp), "X-Signature": signature(cell.secret, stamp, body)}
            answer = cell.handle(Call("POST", f"{halt.url}{HALT_PATH}", headers, body), self.clock.at_ms)
            if halt.org_id in cell.halted:
                self._stop(self.orgs[halt.org_id], halt, ends)
            answers.append(None if isinstance(answer, Answer) and answer.status == 200 else "not acknowledged")
        return answers

    def _stop(self, org: Org, halt: HaltRequest, now: int) -> None:
        cell = halt.cell_id
        if org.halted_at is None or org.halted_at < halt.halted_at:  # or one that was lifted before each cell had it
            org.halted_at, org.burn = halt.halted_at, org.burns()
            self.result.halts += 1
        stopped = [box for box in org.boxes if box.cell == cell and box.since_ms is not None]
        for box in stopped:
            self._sample(box, now)
            assert box.since_ms is not None
            box.ran_ms, box.since_ms = box.ran_ms + now - box.since_ms, None
        if stopped and not org.burns():  # its last cell has stopped it
            self.result.errors_s.append((org.used(now) - org.granted) / org.burn)
            if org.pays_after_ms is not None and org.paid < 3:
                org.pays_at.append(now + org.pays_after_ms)
                org.pays_at.sort()
        self._stopped.extend(box.name for box in stopped)

    def _resume(self, now: int) -> None:
        """Customers of organisations that may go on start their sandboxes again."""
        self._states(self._stopped, "stopped")
        self._stopped = []
        rows = self.fleet.rows("SELECT org_id, halted_at FROM orgs WHERE is_halted")
        halted = {str(org): int(str(at)) for org, at in rows}
        for org in self.orgs.values():
            if org.halted_at is not None and halted.get(org.name) != org.halted_at and not org.burns():
                org.halted_at = None
                for cell in self.cells.values():
                    cell.release(org.name)
                self.result.flaps += org.used(now) >= org.granted
                self._start(org, now)

    def _judge(self) -> None:
        """At the end nothing runs any more: what is settled must be right."""
        now = self.clock.at_ms
        halted = {str(org) for (org,) in self.fleet.rows("SELECT org_id FROM orgs WHERE is_halted")}
        for org in self.orgs.values():
            left = org.granted - org.used(now)
            if left > 0 and org.name in halted:
                self.result.paying_halted.append(f"{org.name} has {left}")
            if left <= 0 and org.name not in halted:
                self.result.spent_running.append(f"{org.name} owes {-left}")
