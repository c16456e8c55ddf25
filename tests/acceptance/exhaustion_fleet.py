"""Who takes part in an exhaustion: organisations, their sandboxes and what they will do, a provider whose balances
trail; and what came of it.

Guarantee: what was truly used is computed from when each sandbox ran, apart from samples, pushes and balances.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from drawdown.providers.protocol import CustomerRead, CustomerState, Outcome, PushRequest
from drawdown.schema.database import write
from drawdown.schema.units import MINUTE_MS, SECOND_MS
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.provider.actions import set_rate
from drawdown.worker.wallets import actions as credit
from tests.fake_provider import FakeProvider, capabilities
from tests.prepaid import tell_cost
from tests.world import T0, Fleet

SIZES = {1024: 1, 4096: 4, 8192: 8, 16384: 16}
"""Memory in MB, and micro-credits a second."""
BIG_MB = 64 * 1024
PRICES = {**SIZES, BIG_MB: 6_400}
"""The same, with the size of a sudden start."""
SUDDEN = 10
"""Sandboxes of a sudden start; together they use one credit in 15.6 s."""
ONE_CREDIT = 1_000_000
CLOCKS_OFF_S = 5
"""By how much hosts' clocks are off at most, ahead or behind."""
LAG_MS = 45 * SECOND_MS
DECLARED_LAG_MS = MINUTE_MS


@dataclass
class Plan:
    """What to try."""

    orgs: int
    cells: int
    minutes: int
    seed: int
    watched: bool
    sudden: bool = False
    """Everybody has one credit, begins at once on SUDDEN large sandboxes, and hosts keep size and begin."""
    autumn: bool = False
    """A sudden start is billed by the Autumn provider and its emulated server."""
    stale: bool = False
    """Half of Autumn's reads show the customer as of up to 30 s ago."""


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
        return (self.ran_ms + running) * PRICES[self.memory_mb] // SECOND_MS


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
        return sum(PRICES[box.memory_mb] for box in self.boxes if box.since_ms is not None)


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
            price = one.quantity * PRICES[int(one.feature.removeprefix("compute_").removesuffix("gb")) * 1024]
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

    def times(self, decimals: int = 0) -> str:
        points = [f"p{share:g} {self.percentile(share / 100):+.{decimals}f} s" for share in (1, 50, 90, 99)]
        return f"{self.halts} halts: {', '.join(points)}, worst {max(self.errors_s):+.{decimals}f} s"

    def line(self) -> str:
        return (
            f"{self.times()}; {self.flaps} flaps, "
            f"{len(self.paying_halted)} paying left halted, {len(self.spent_running)} spent left running; "
            f"{self.rounds} rounds, {self.reads} customers read"
        )


def planned(number: int, plan: Plan, draw: random.Random) -> Org:
    """One organisation: drawn at random, the same for the same seed."""
    if plan.sudden:
        return _sudden(number, plan, draw)
    name = f"org-{number:05d}"
    boxes = [
        Box(f"{name}-{n}", name, f"cell-{draw.randrange(plan.cells)}", draw.choice(list(SIZES)))
        for n in range(draw.choice((1, 1, 2, 3, 5, 8)))
    ]
    org = Org(name, "embedded" if number % 2 else "trailing", boxes)
    begins = T0 + draw.randrange(5 * 60) * SECOND_MS
    few = draw.randrange(1, len(boxes) + 1) if draw.random() < 0.3 else len(boxes)
    org.starts = [(begins, few)]
    burn = sum(SIZES[box.memory_mb] for box in boxes[:few])
    if few < len(boxes):  # a burst: the rest begin later, all at once
        org.starts.append((begins + draw.randrange(60, 1200) * SECOND_MS, len(boxes)))
    org.granted = burn * draw.randrange(120, max(plan.minutes * 80, 240))
    org.pays_minutes = draw.randrange(3, 15)
    if draw.random() < 0.5:
        org.pays_after_ms = draw.randrange(20, 600) * SECOND_MS
    if draw.random() < 0.2:  # around the moment its credit would be gone
        org.pays_at = [begins + org.granted // burn * SECOND_MS + draw.randrange(-60, 60) * SECOND_MS]
    return org


def _sudden(number: int, plan: Plan, draw: random.Random) -> Org:
    """One credit, used up by ten large sandboxes that begin together; some pay for three minutes more."""
    name = f"org-{number:05d}"
    boxes = [Box(f"{name}-{n}", name, f"cell-{draw.randrange(plan.cells)}", BIG_MB) for n in range(SUDDEN)]
    org = Org(name, "autumn" if plan.autumn else "trailing", boxes, granted=ONE_CREDIT, pays_minutes=3)
    org.starts = [(T0 + draw.randrange(60, max(plan.minutes * 60 - 60, 61)) * SECOND_MS, SUDDEN)]
    org.pays_after_ms = draw.randrange(20, 300) * SECOND_MS if draw.random() < 0.3 else None
    if plan.stale and draw.random() < 0.5:  # around the moment its credit would be gone
        org.pays_at = [org.starts[0][0] + draw.randrange(5, 40) * SECOND_MS]
        org.pays_minutes = draw.choice((1, 3, 6))
    return org


def settle(fleet: Fleet, orgs: Iterable[Org], cells: Iterable[str], *, told: bool) -> None:
    """Put them into the database: who bills them at which rates, and where their sandboxes are. `told`: the provider
    told the costs in its credits itself."""
    for provider in ("embedded", "trailing", "autumn"):
        names = [org.name for org in orgs if org.provider == provider]
        if names:
            write(fleet.engine, lambda c, n=names, p=provider: assign(c, n, p, fleet.by, from_ms=T0))  # type: ignore[misc]
    for memory, micro in SIZES.items():
        _rate(fleet, f"compute_{memory // 1024}gb", micro)
    if told:
        feature, by = f"compute_{BIG_MB // 1024}gb", fleet.by
        tell_cost(fleet, "trailing", feature, PRICES[BIG_MB])
        write(fleet.engine, lambda c: credit.set_rate(c, feature, PRICES[BIG_MB], 1, by, from_ms=1))
    boxes = [{"box": box.name, "org": box.org, "cell": box.cell} for org in orgs for box in org.boxes]

    def place(connection: sa.Connection) -> None:
        connection.execute(
            sa.text("INSERT INTO cells (cell_id, url) VALUES (:cell, :url)"),
            [{"cell": name, "url": f"http://{name}"} for name in cells],
        )
        connection.execute(
            sa.text("INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES (:box, :org, :cell, 'stopped')"),
            boxes,
        )

    write(fleet.engine, place)


def _rate(fleet: Fleet, feature: str, micro: int) -> None:
    def both(connection: sa.Connection) -> None:
        set_rate(connection, "trailing", feature, (micro, 1), fleet.by, from_ms=None)
        credit.set_rate(connection, feature, micro, 1, fleet.by, from_ms=1)

    write(fleet.engine, both)
