"""Runs in any order of acts and times; bugs planted in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis.stateful import run_state_machine_as_test

from drawdown.ledger import draws, reservations
from drawdown.ledger.reservations import Denied, Reservation, Room
from drawdown.worker.executions import actions as executions
from tests.stateful.runs import Runs
from tests.stateful.scale import scale, until_red
from tests.whole import share


def test_execution_operations_in_any_order_match_model() -> None:
    run_state_machine_as_test(Runs, settings=scale(share(3, whole=400), 30))


def _matures_nothing(connection: Any, customers: Any, now_ms: int) -> bool:
    return True


def _frees_too_little(connection: Any, before: Reservation, after: Reservation) -> None:
    _free(connection, before, replace(after, state="held", drawn_micro=after.drawn_micro))


def _frees_all_at_a_draw(connection: Any, before: Reservation, after: Reservation) -> None:
    _free(connection, before, replace(after, state="released"))


def _holds_for_ever(connection: Any, *values: Any) -> bool:
    account, amount, _, now_ms, most = values
    return _hold(connection, account, amount, 2**61, now_ms, most)


def _holds_beyond(connection: Any, *values: Any) -> bool:
    account, _, expires_ms, now_ms, most = values
    return _hold(connection, account, 1, expires_ms, now_ms, most)


def _counts_the_end_twice(connection: Any, found: Any, number: str, lines: Any, by: Any) -> tuple[int, int]:
    charged, off = _charge(connection, found, number, lines, by)
    return (2 * charged if number == draws.FINAL else charged), off


def _charges_the_whole(connection: Any, found: Any, cost: Any, card: Any, last: Any = ()) -> Any:
    return draws.priced(found, cost, card)


def _caps_nothing(connection: Any, found: Any, number: str, lines: Any, by: Any) -> tuple[int, int]:
    return _charge(connection, replace(found, overage="charge"), number, lines, by)


_free, _hold, _charge = reservations.free, reservations._hold, draws._charge
PLANTED: dict[str, tuple[object, str, Any]] = {
    "what is over is not expired before a balance is believed": (reservations, "mature", _matures_nothing),
    "a settlement frees nothing": (draws, "free", _frees_too_little),
    "a draw frees the whole hold": (draws, "free", _frees_all_at_a_draw),
    "a wallet that does not know when a hold ends": (reservations, "_hold", _holds_for_ever),
    "less is held than was reserved": (reservations, "_hold", _holds_beyond),
    "an end that counts twice": (draws, "_charge", _counts_the_end_twice),
    "what was drawn is charged again at the end": (draws, "_rest", _charges_the_whole),
    "an overage that nobody asks about": (draws, "_charge", _caps_nothing),
    "a repeated draw that is charged": (draws, "_lines_of", lambda *_: []),
    "a key that is taken for any run": (executions, "fingerprint", lambda request: "the same"),
    "a hold that is over and goes on": (reservations, "expire_one", lambda c, found, now: found),
    "holds of a plan without an end": (
        reservations, "_hold", lambda c, a, m, e, n, room: _hold(c, a, m, e, n, Room())),
}  # fmt: skip
"""What is put in the place of what."""
OF_THE_DAY = "a wallet that does not know when a hold ends"
"""Shown by the first lives; others are shown by few."""


@pytest.mark.parametrize("bug", share([OF_THE_DAY], whole=list(PLANTED)))
def test_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    module, name, wrong = PLANTED[bug]
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(Exception) as seen:
        run_state_machine_as_test(Runs, settings=until_red(200, 30))
    assert not isinstance(seen.value, Denied)
