"""Runs that metering settles, in any order of acts, usage and ticks; bugs planted in them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis.stateful import run_state_machine_as_test

from drawdown.ledger import draws, reservations
from drawdown.worker.verdict import effective_balance, holds
from tests.stateful.metering import SCRIPTS, Metering, Shrunk, act_out
from tests.stateful.scale import scale, until_red
from tests.whole import share


@pytest.mark.parametrize("machine", [Metering, Shrunk])
def test_metered_executions_in_any_order_are_not_paid_twice(machine: Any) -> None:
    run_state_machine_as_test(machine, settings=scale(share(2, whole=200), 20))


@pytest.mark.parametrize("name", SCRIPTS)
def test_metering_scripts_of_rare_cases_match_model(name: str) -> None:
    act_out(SCRIPTS[name])


def _shrinks_twice(connection: Any, runs: Any, now_ms: int) -> None:
    changed = holds._drawn(connection, runs, now_ms)
    _shrink(connection, runs, now_ms)
    for one in changed:
        values = {"account_id": f"wallet:{one.customer_id}", "freed_micro": one.freed_micro}
        reservations.SQL.run(connection, "free", values)


def _takes_the_whole_window(run: Any, uses: Any, charged: Any, card: Any) -> Any:
    rows = {spot: charged.get((run.customer_id, spot.window_ms, spot.feature)) for spot in uses.of_run[run.reservation]}
    return {spot: int(row.amount_micro) for spot, row in rows.items() if row is not None}


def _before_the_charge(run: Any, uses: Any, charged: Any, card: Any) -> Any:
    used = uses.of_run[run.reservation]
    return {spot: card.price(spot.feature, spot.window_ms, quantity) for spot, quantity in used.items()}


def _adds_up(connection: Any, runs: Any, now_ms: int) -> Any:
    """What was drawn before is drawn again."""
    before = {run.reservation: run.drawn_micro for run in runs}
    return [
        holds.Drawn(one.reservation, one.customer_id, one.drawn + before[one.reservation], one.before, one.to_ms,
                      one.freed_micro)
        for one in _drawn(connection, runs, now_ms)
    ]  # fmt: skip


_shrink, _drawn = holds._shrink, holds._drawn
PLANTED: dict[str, tuple[object, str, Any]] = {
    "settling a run that metering settles charges it": (draws, "_require_unmetered", lambda found, cost: None),
    "a hold that shrinks twice": (holds, "_shrink", _shrinks_twice),
    "a hold that shrinks by what it had shrunk by before": (holds, "_drawn", _adds_up),
    "a hold that shrinks by what others used": (holds, "_parts", _takes_the_whole_window),
    "a hold that shrinks before anything is charged": (holds, "_parts", _before_the_charge),
    "a hold that never shrinks": (holds, "_parts", lambda *_: {}),
    "a verdict that takes usage off twice": (holds, "used_up", lambda *_: {}),
    "an estimate by the balance that was read last": (effective_balance, "read_in_wallets", lambda *_: {}),
    "a sandbox that stays taken": (draws, "NO_SANDBOXES", '["one"]'),
}  # fmt: skip
"""What is put in the place of what."""


@pytest.mark.parametrize("bug", share(list(PLANTED)[:1], whole=list(PLANTED)))
def test_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    module, name, wrong = PLANTED[bug]
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(Exception) as seen:
        for steps in SCRIPTS.values():
            act_out(steps)
        run_state_machine_as_test(Shrunk, settings=until_red(60, 30))
    assert isinstance(seen.value, Exception)
