"""What the clients of a siege ask for: requests of GenTD26 as runs, each with an estimate that is wrong on purpose.

Guarantee: a request's whole plan follows from the seed and its line, so that a client that was killed gives the very
same calls again. What it has to come to (`charged`) is worked out here in decimals, and shares nothing with the ledger.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal

from drawdown.ledger.draws import Cost
from drawdown.ledger.reservations import Overage
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.executions.request import Request
from tests.acceptance import gentd26
from tests.crash.data import Row, rows_of

FEATURE, MICRO_FOR, UNITS = "render_s", 12_347, 10
"""A feature that only runs use: 1,234.7 micro-credits a second, so that each line is rounded."""
SUPPLIER, SHARE_PPM = "studio", 333_333
WRONG = 10.0
"""An estimate is a tenth to ten times of what the run will cost."""
MOST_PARTS = 3
LIVES_MS = (None, 10 * MINUTE_MS, 6 * 60 * MINUTE_MS)
ENDS = ("settled",) * 12 + ("given up", "given up at a cost", "left", "left", "late", "late")
METERED, METERED_LIFE_MS, AHEAD_MS = 0.15, 36 * 60 * MINUTE_MS, 12 * 60 * MINUTE_MS
"""A part of all are runs that the samples of their own sandboxes charge for, those that are left while they go on; they
are accepted so much sooner at most."""
LATE_MS = 8 * 60 * MINUTE_MS
"""After its acceptance a run that was left is settled late: each life is over by then."""


@dataclass(frozen=True)
class Planned:
    """One request and what is to become of it. Amounts are micro-credits; where `by_feature`, seconds of FEATURE. Of
    one that metering settles nothing is drawn."""

    line: str
    org: str
    at_ms: int
    seconds: int
    by_feature: bool
    estimate: int
    parts: tuple[int, ...]
    """What is drawn, part by part; then `last` at its end."""
    last: int
    overage: Overage
    life_ms: int | None
    end: str
    supplier: str | None
    metered: bool

    @property
    def sandbox(self) -> str:
        """Where it runs; one that metering settles has one of its own."""
        return f"box-{self.line}" if self.metered else self.org

    @property
    def key(self) -> str:
        return f"run-{self.line}"

    @property
    def total(self) -> int:
        """What it cost in all."""
        return sum(self.parts) + self.last

    @property
    def request(self) -> Request:
        if self.metered:
            return Request(
                self.org, self.estimate, project="gentd26", action="request", for_ms=self.life_ms,
                settled_by="metering", sandboxes=(self.sandbox,),
            )  # fmt: skip
        amount, quantities = (None, {FEATURE: self.estimate}) if self.by_feature else (self.estimate, None)
        return Request(
            self.org, amount, quantities, "gentd26", action="request", overage=self.overage, for_ms=self.life_ms,
            supplier=self.supplier,
        )  # fmt: skip

    def cost(self, quantity: int) -> Cost | None:
        """What to say that it cost; nothing of one that metering settles."""
        if self.metered:
            return None
        return Cost(quantities={FEATURE: quantity}) if self.by_feature else Cost(quantity)

    def micro(self, quantity: int) -> int:
        """What a quantity costs, rounded half up, as each line is."""
        if not self.by_feature:
            return quantity
        return int((Decimal(quantity) * MICRO_FOR / UNITS).quantize(Decimal(1), rounding=ROUND_HALF_UP))

    def charged(self, parts: int, *, ended: bool, held: int) -> int:
        """What it has to be charged where so many parts were drawn and `held` micro-credits held in the end; `ended`:
        it was told its whole cost."""
        lines = [*self.parts[:parts], *((self.total - sum(self.parts[:parts]),) if ended else ())]
        found = sum(map(self.micro, lines))
        return found if self.overage == "charge" else min(found, held)


def plan(row: Row, seed: int) -> Planned:
    """What one request asks for, and what becomes of it."""
    line, org, at_ms, seconds = row
    dice = random.Random(f"{seed}:{line}")
    by_feature = dice.random() < 0.5
    total = seconds if by_feature else seconds * 1_237 + (dice.randrange(1, 1_000) if seconds else 0)
    cuts = sorted(dice.randint(0, total) for _ in range(dice.randint(0, MOST_PARTS)))
    edges = [0, *cuts]
    planned = Planned(
        line=line,
        org=org,
        at_ms=at_ms,
        seconds=seconds,
        by_feature=by_feature,
        estimate=max(round(max(total, 1) * WRONG ** dice.uniform(-1, 1)), 1),
        parts=tuple(after - before for before, after in itertools.pairwise(edges)),
        last=total - edges[-1],
        overage=dice.choice(("charge", "charge", "cap", "refuse")),
        life_ms=dice.choice(LIVES_MS),
        end=dice.choice(ENDS),
        supplier=SUPPLIER if dice.random() < 0.2 else None,
        metered=False,
    )
    if dice.random() >= METERED:
        return planned
    nothing_drawn = {"by_feature": False, "parts": (), "last": 0, "overage": "charge", "supplier": None}
    end = "given up" if planned.end == "given up at a cost" else planned.end
    return replace(planned, **nothing_drawn, metered=True, end=end, life_ms=METERED_LIFE_MS)  # type: ignore[arg-type]


def requests(seed: int, *, most: int | None = None) -> list[Planned]:
    """The requests in the order of time; where fewer are wanted, those of the busiest organisations. Where the file is
    missing, as many that are made up in its likeness."""
    rows: Sequence[Row] = rows_of(random.Random(seed))
    if most is not None:
        busy = Counter(row[1] for row in rows).most_common()
        rank = {org: place for place, (org, _) in enumerate(busy)}
        wanted = [row for row in rows if rank[row[1]] < most // 15]
        rows = random.Random(seed).sample(wanted, most)
    made = [plan(row, seed) for row in sorted(rows, key=lambda row: (row[2], row[0]))]
    assert len({one.line for one in made}) == len(made) and (most is not None or len(made) == gentd26.SAMPLES)
    return made
