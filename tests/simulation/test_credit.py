"""Top-ups in the simulated world: whatever crashes, stalls or is lost, the payment service's own books judge."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.credit import judged, settle, simulated
from tests.whole import share

SEEDS = share(3, whole=100)
TICKS = 20


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_was_paid_and_nothing_else_is_credited_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, world, filled = simulated(seed, TICKS, monkeypatch)
    assert outcome.breaches == []
    settle(world)
    assert judged(world) == []
    states = Counter(state for (state,) in world.rows("SELECT state FROM topups"))
    assert states["credited"] == len(world.payments.taken) and states.total() > states["credited"] > 0
    assert world.payments.struck.total() > 0
    filled.end()
