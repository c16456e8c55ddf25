"""A fleet whose credit runs out, on a virtual clock: when each organisation truly spent its last, and when its cells
had acknowledged the halt.

Guarantee: what is true is computed from when each sandbox ran, apart from samples, pushes and balances. Times are whole
seconds, so that samples add up to exactly what was used. An error is what was used beyond the credit (or left of it)
in seconds of the organisation's burn right before its halt.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.providers.http import Answer, Call
from drawdown.providers.protocol import CustomerRead, CustomerState, Outcome, PushRequest
from drawdown.schema.database import write
from drawdown.schema.units import MINUTE_MS, SECOND_MS, WINDOW_MS
from drawdown.worker import runner
from drawdown.worker.cells import signature
from drawdown.worker.effects import HaltRequest
from drawdown.worker.orgs import assign
from drawdown.worker.provider_rates import set_rate
from drawdown.worker.watch import ROUND_MS, Watcher, watch
from tests.emulators.cell import HALT_PATH, CellEmulator
from tests.emulators.wire import FaultPlan
from tests.fake_provider import FakeProvider, capabilities
from tests.prepaid import Moving
from tests.world import T0, Fleet

SIZES = {1024: 1, 4096: 4, 8192: 8, 16384: 16}
"""Memory in MB, and micro-credits a second."""
INTERVAL_MS = MINUTE_MS
LAG_MS = 45 * SECOND_MS
DECLARED_LAG_MS = MINUTE_MS
LATE_SHARE = 0.005
"""Of the samples; they come half a minute to seven minutes after their time, all others within two seconds."""


@dataclass
class Plan:
    """What to try."""

    orgs: int
    cells: int
    minutes: int
    seed: int
    watched: bool


@dataclass
class Box:
    """A sandbox, and how long it ran."""

    name: str
    org: str
    cell: str
    memory_mb: int
    ran_ms: int = 0
    since_ms: int | None = None
    told_ms: int = 0

    def used(self, now_ms: int) -> int:
        """Micro-credits."""
        running = 0 if self.since_ms is None else max(now_ms - self.since_ms, 0)
        return (self.ran_ms + running) * SIZES[self.memory_mb] // SECOND_MS


@dataclass
class Org:
    """An organisation, its credit and what it will do."""

    name: str
    provider: str
    boxes: list[Box]
    granted: int = 0
    starts: list[tuple[int, int]] = field(default_factory=list)
    """(when, how many of its sandboxes run from then on)."""
    pays_after_ms: int | None = None
    pays_minutes: int = 0
    pays_at: list[int] = field(default_factory=list)
    paid: int = 0
    burn: int = 0
    running: int = 0
    """How many of its sandboxes run while it may."""
    halted_at: int | None = None

    def used(self, now_ms: int) -> int:
        return sum(box.used(now_ms) for box in self.boxes)

    def burns(self) -> int:
        """Micro-credits a second."""
        return sum(SIZES[box.memory_mb] for box in self.boxes if box.since_ms is not None)


class Lagging(FakeProvider):
    """A prepaid provider whose balances trail behind what it accepted."""

    def __init__(self, clock: Any) -> None:
        can = capabilities(
            batch_size=50, in_flight=16, reads_a_call=50, key_retention_ms=None, balance_lag_ms=DECLARED_LAG_MS
        )
        super().__init__(can, name="trailing")
        self.clock = clock
        self.credit: dict[str, int] = {}
        self.taken: dict[str, list[tuple[int, int]]] = {}

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        new = [one for one in batch if one.key not in self.charged]
        answers = await super().push(batch)
        for one in new:
            price = one.quantity * SIZES[int(one.feature.removeprefix("compute_").removesuffix("gb")) * 1024]
            self.taken.setdefault(one.customer_id, []).append((self.clock.now_ms(), price))
        return answers

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        shown = self.clock.now_ms() - LAG_MS
        return {
            name: CustomerState(
                self.credit[name] - sum(price for at, price in self.taken.get(name, ()) if at <= shown), "prepaid", 50
            )
            for name in customer_ids
        }


@dataclass
class Result:
    """What came of it."""

    errors_s: list[float] = field(default_factory=list)
    halts: int = 0
    flaps: int = 0
    """Halts lifted though nobody had paid since."""
    paying_halted: list[str] = field(default_factory=list)
    spent_running: list[str] = field(default_factory=list)
    rounds: int = 0
    reads: int = 0

    def percentile(self, share: float) -> float:
        ordered = sorted(self.errors_s)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    def line(self) -> str:
        points = ", ".join(f"p{share:g} {self.percentile(share / 100):+.0f} s" for share in (1, 50, 90, 99))
        return (
            f"{self.halts} halts: {points}, worst {max(self.errors_s):+.0f} s; {self.flaps} flaps, "
            f"{len(self.paying_halted)} paying left halted, {len(self.spent_running)} spent left running; "
            f"{self.rounds} rounds, {self.reads} customers read"
        )


class Exhaustion:
    """The fleet."""

    def __init__(self, engine: sa.Engine, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed)
        self.fleet = Fleet(engine, Moving(T0))
        self.clock = self.fleet.clock
        self.lagging = Lagging(self.clock)
        self.fleet.extra = {"trailing": self.lagging}
        faults = {"answer_lost": 0.003, "broken": 0.003}
        self.cells = {
            f"cell-{n}": CellEmulator(faults=FaultPlan(plan.seed * 1000 + n, faults)) for n in range(plan.cells)
        }
        self.orgs = {org.name: org for org in (self._org(number) for number in range(plan.orgs))}
        self.boxes = {box.name: box for org in self.orgs.values() for box in org.boxes}
        self.coming: list[tuple[int, int, dict[str, object]]] = []
        self.result = Result()
        self.watcher = Watcher()
        self._samples = 0
        self._stopped: list[str] = []
        self._set_up()

    def _org(self, number: int) -> Org:
        name = f"org-{number:05d}"
        draw = self.rng
        boxes = [
            Box(f"{name}-{n}", name, f"cell-{draw.randrange(self.plan.cells)}", draw.choice(list(SIZES)))
            for n in range(draw.choice((1, 1, 2, 3, 5, 8)))
        ]
        org = Org(name, "embedded" if number % 2 else "trailing", boxes)
        begins = T0 + draw.randrange(5 * 60) * SECOND_MS
        few = draw.randrange(1, len(boxes) + 1) if draw.random() < 0.3 else len(boxes)
        org.starts = [(begins, few)]
        burn = sum(SIZES[box.memory_mb] for box in boxes[:few])
        if few < len(boxes):  # a burst: the rest begin later, all at once
            org.starts.append((begins + draw.randrange(60, 1200) * SECOND_MS, len(boxes)))
        org.granted = burn * draw.randrange(120, max(self.plan.minutes * 80, 240))
        org.pays_minutes = draw.randrange(3, 15)
        if draw.random() < 0.5:
            org.pays_after_ms = draw.randrange(20, 600) * SECOND_MS
        if draw.random() < 0.2:  # around the moment its credit would be gone
            org.pays_at = [begins + org.granted // burn * SECOND_MS + draw.randrange(-60, 60) * SECOND_MS]
        return org

    def _set_up(self) -> None:
        for provider in ("embedded", "trailing"):
            names = [org.name for org in self.orgs.values() if org.provider == provider]
            write(
                self.fleet.engine,
                lambda c, n=names, p=provider: assign(c, n, p, self.fleet.said, from_ms=T0),  # type: ignore[misc]
            )
        said = self.fleet.said
        for memory, micro in SIZES.items():
            feature = f"compute_{memory // 1024}gb"
            write(
                self.fleet.engine,
                lambda c, f=feature, m=micro: (  # type: ignore[misc]
                    set_rate(c, "trailing", f, (m, 1), said, from_ms=None),
                    c.execute(
                        sa.text(
                            "INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, "
                            "reason) VALUES (:f, 1, :m, 1, 0, 't', 't')"
                        ),
                        {"f": f, "m": m},
                    ),
                ),
            )
        cells = [{"cell": name, "url": f"http://{name}"} for name in self.cells]
        boxes = [{"box": b.name, "org": b.org, "cell": b.cell} for b in self.boxes.values()]
        write(
            self.fleet.engine,
            lambda c: (
                c.execute(sa.text("INSERT INTO cells (cell_id, url) VALUES (:cell, :url)"), cells),
                c.execute(
                    sa.text(
                        "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) "
                        "VALUES (:box, :org, :cell, 'stopped')"
                    ),
                    boxes,
                ),
            ),
        )
        for org in self.orgs.values():
            self._give(org, org.granted, "first")
        self.fleet.tick()

    def _give(self, org: Org, amount: int, key: str) -> None:
        """Without a word to anybody: whoever is to notice has to ask."""
        if org.provider == "trailing":
            self.lagging.credit[org.name] = self.lagging.credit.get(org.name, 0) + amount
            return
        write(
            self.fleet.engine,
            lambda c: wallet.grant(
                c, org.name, amount, key=f"{org.name}:{key}", now_ms=self.clock.at_ms, actor="t", reason="t"
            ),
        )

    def run(self) -> Result:
        """From the first second to the last, five at a time."""
        end = T0 + self.plan.minutes * MINUTE_MS
        steps = range(T0 + ROUND_MS, end + 14 * MINUTE_MS, ROUND_MS)
        for now in steps:
            self.clock.at_ms = now
            self._tell(now)
            if now < end:
                self._live(now)
            else:
                self._end(now)
            self._deliver(now)
            self._resume(now)
            world = runner.World(self.fleet.engine, self.fleet.providers, self, self.clock)  # type: ignore[arg-type]
            if self.plan.watched:
                done = runner.run(watch(self.fleet.context("watch"), self.watcher), world)
                assert not done.failures, done.failures
                self.result.rounds += 1
                self.result.reads += done.read
            if now % WINDOW_MS < ROUND_MS:
                self.clock.at_ms = max(self.clock.at_ms, now)
                self.fleet.cells = self  # type: ignore[assignment]
                self.fleet.tick()
        self._judge()
        return self.result

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
        if org.halted_at is not None:
            return
        fresh = [box for box in org.boxes[: org.running] if box.since_ms is None]
        for box in fresh:
            box.since_ms = box.told_ms = now - self.rng.randrange(0, 5) * SECOND_MS
        self._states([box.name for box in fresh], "running")

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
        """The cells: they take a second, and stop what they acknowledge (and what they did without an answer)."""
        self.clock.at_ms = (self.clock.at_ms // SECOND_MS + 1) * SECOND_MS
        answers = []
        for halt in halts:
            cell = self.cells[halt.cell_id]
            body = json.dumps({"org_id": halt.org_id, "halted_at": halt.halted_at}).encode()
            stamp = self.clock.at_ms // 1000
            headers = {"X-Timestamp": str(stamp), "X-Signature": signature(cell.secret, stamp, body)}
            answer = cell.handle(Call("POST", f"{halt.url}{HALT_PATH}", headers, body), self.clock.at_ms)
            if halt.org_id in cell.halted:
                self._stop(self.orgs[halt.org_id], halt.cell_id, halt.halted_at)
            answers.append(None if isinstance(answer, Answer) and answer.status == 200 else "not acknowledged")
        return answers

    def _stop(self, org: Org, cell: str, halted_at: int) -> None:
        now = self.clock.at_ms // SECOND_MS * SECOND_MS
        if org.halted_at is None:
            org.halted_at, org.burn = halted_at, org.burns()
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
