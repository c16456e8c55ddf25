"""In some lives on-call orders a replay instead of doing it at once: ticks do it, through crashes and at once.

Guarantee: it draws from a stream of its own, so that other lives stay what they are. An order is told of once by all
ticks together, and once all is healed each one is over, with a replay that came to its end.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from drawdown.schema.audit import By
from drawdown.worker.orders import orders
from drawdown.worker.orders.asked import AskedReplay
from drawdown.worker.replay.plan import ReplayPlan
from tests.simulation.operators import attempt
from tests.simulation.world import World

LIVES: Final = 0.3
SHARE: Final = 0.6
"""Of the replays of such a life."""
_UNDONE: Final = (
    "SELECT order_id FROM orders o WHERE state = 'done' AND NOT EXISTS "
    "(SELECT 1 FROM replays r WHERE r.order_id = o.order_id AND r.finished_ms IS NOT NULL) ORDER BY order_id"
)


class Ordering:
    """Who orders replays in one life."""

    def __init__(self, seed: int | None = None) -> None:
        self.rng = random.Random(f"{seed}-orders")
        self.share = SHARE if seed is not None and self.rng.random() < LIVES else 0.0
        self.told = 0
        """Orders that ticks said to have ended."""

    def instead(self, world: World, plan: ReplayPlan, now_ms: int) -> bool:
        """Whether it was ordered, or refused as an order, and is not done at once."""
        if self.rng.random() >= self.share:
            return False
        asked = AskedReplay(plan.scope, plan.asked_from_ms, plan.asked_to_ms)
        by = By(now_ms, "sim", "orders a replay")
        number = attempt(world, lambda c: orders.place(c, asked, by))
        world.faults.note("replay_ordered")
        world.say("world", f"orders a {asked}: {number}")
        return True

    def wrong(self, world: World, *, restored: bool) -> Iterator[str]:
        """What does not hold once all is healed. What a restore forgot is told of again, or by nobody."""
        ended = int(world.rows("SELECT COUNT(*) FROM orders WHERE ended_ms IS NOT NULL")[0][0])
        if self.told > ended and not restored:
            yield f"orders: {self.told} were told of, and {ended} have ended"
        for (order_id,) in world.rows(_UNDONE):
            yield f"orders: {order_id} is done, and no replay of it came to its end"
