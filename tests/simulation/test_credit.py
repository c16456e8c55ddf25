"""Top-ups in the simulated world: whatever crashes, stalls or is lost, the payment service's own books judge."""

from __future__ import annotations

from collections import Counter

import pytest

from drawdown.providers.payments.protocol import ChargeResult, Declined, InDoubt, Payment
from drawdown.worker.topup import fill as settling
from drawdown.worker.topup.outcome import End
from tests.simulation.credit import judged, settle, simulated
from tests.whole import share

BUSY = (1, 2, 3)
"""Lives in which calls fail, and some are paid all the same."""
SEEDS = share(BUSY[:1], whole=tuple(range(100)))
WITH_JOBS = 8
"""A life in which a tick does a job of top-ups."""
TICKS = 20


@pytest.mark.parametrize("seed", SEEDS)
def test_topup_payments_are_each_credited_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, world, filled = simulated(seed, TICKS, monkeypatch)
    assert outcome.breaches == []
    settle(world)
    assert judged(world) == []
    states = Counter(state for (state,) in world.rows("SELECT state FROM topups"))
    assert states["credited"] == len(world.payments.taken)
    if seed in BUSY:
        assert states.total() > states["credited"] > 0 and world.payments.struck.total() > 0
    filled.end()


@pytest.mark.parametrize("seed", share((WITH_JOBS,), whole=tuple(range(100))))
def test_topup_jobs_for_new_card_and_start_do_not_charge_twice(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, world, filled = simulated(seed, TICKS, monkeypatch, orders=True)
    assert outcome.breaches == []
    done = world.rows("SELECT COUNT(*) FROM jobs WHERE kind = 'topup' AND state = 'done'")
    settle(world)
    assert judged(world) == []
    assert done[0][0] > 0 or seed != WITH_JOBS
    filled.end()


def a_doubt_that_is_paid(found: settling.Topup, result: ChargeResult, now_ms: int) -> End:
    paid = Payment(f"pay_x:{found.charge.charge_id}", found.charge.amount, found.charge.currency)
    return _end(found, paid if isinstance(result, InDoubt) else result, now_ms)


def a_doubt_that_is_a_decline(found: settling.Topup, result: ChargeResult, now_ms: int) -> End:
    declined = Declined("x", "no answer", True)
    return _end(found, declined if isinstance(result, InDoubt) else result, now_ms)


_end = settling.end_of_charge
PLANTED = {
    "was credited, and not paid": a_doubt_that_is_paid,
    "was paid, and not credited": a_doubt_that_is_a_decline,
}


@pytest.mark.parametrize("text", share(list(PLANTED)[:1], whole=list(PLANTED)))
def test_planted_bug_is_found(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drawdown.worker.topup.fill.end_of_charge", PLANTED[text])
    seen: list[str] = []
    for seed in range(4):
        _, world, filled = simulated(seed, TICKS, monkeypatch)
        settle(world)
        seen += judged(world)
        filled.end()
        if any(text in line for line in seen):
            return
    raise AssertionError(seen)
