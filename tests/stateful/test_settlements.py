"""What suppliers are owed, in any order of runs, freezes, reversals and batches; planted bugs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis.stateful import run_state_machine_as_test

from drawdown.ledger import draws, payouts, settlements
from drawdown.ledger import entries as ledger_entries
from drawdown.ledger.accounts import wallet_account
from drawdown.ledger.reservations import Reservation
from drawdown.ledger.settlements import PPM, Reversal, Settlement, net_of, owe, settlement_of
from drawdown.schema.sql import Queries
from drawdown.schema.units import DAY_MS
from tests.stateful.scale import scale, until_red
from tests.stateful.settlements import Settling
from tests.whole import share


def test_settlements_in_any_order_add_up() -> None:
    run_state_machine_as_test(Settling, settings=scale(share(3, whole=100), 30))


def _owing(change: Callable[[Reservation], Reservation]) -> Callable[[sa.Connection, Reservation, int], None]:
    return lambda connection, ended, now_ms: owe(connection, change(ended), now_ms)


def _deducting(connection: sa.Connection, ended: Reservation, now_ms: int) -> None:
    owe(connection, ended, now_ms)
    if ended.supplier:
        net = net_of(ended.drawn_micro, PPM // 2)
        account = wallet_account(ended.customer_id)
        ledger_entries._move(connection, {account: -net}, {account: now_ms})


def _never_clawed_back(*values: Any, **named: Any) -> Reversal:
    made = Reversal(*values, **named)
    return replace(made, is_clawback=False)


SHARE, DONE = "a share is another one", "where the model says"
TOTAL = "a batch comes to something else"
PLANTED: dict[str, tuple[object, str, Any, str]] = {
    "a share rounded up": (settlements, "net_of", lambda gross, ppm: -(-gross * ppm // PPM), f"{SHARE}|{TOTAL}"),
    "a share of what was reserved": (
        draws, "owe", _owing(lambda run: replace(run, drawn_micro=run.amount_micro)), f"{SHARE}|{TOTAL}|{DONE}"),
    "what was free is settled": (
        draws, "owe", _owing(lambda run: replace(run, state="settled")), "another run is settled"),
    "a hold that counts from its acceptance": (
        draws, "owe", lambda c, run, now: owe(c, run, run.accepted_ms), "other terms"),
    "a wallet that pays the share, too": (draws, "owe", _deducting, "the wallet moved a second time"),
    "reversals that forget those before": (
        Settlement, "left_micro", property(lambda one: one.net_micro), f"{DONE}|another"),
    "claw-backs from all": (
        settlements, "settlement_of", lambda row: replace(settlement_of(row), takes_clawbacks=True), DONE),
    "what was released is reversed as if it had not been": (settlements, "Reversal", _never_clawed_back,
        f"another part was taken back|{TOTAL}"),
    "a hold that ends a day late": (
        settlements, "SQL", ("insert", ":hold_until_ms", f":hold_until_ms + {DAY_MS}"), "other terms"),
    "what is held is released": (
        payouts, "SQL", ("release", "= 'eligible'", "IN ('eligible', 'hold')"), f"{TOTAL}|{DONE}"),
    "what is frozen is released": (
        payouts, "SQL", ("release", "= 'eligible'", "IN ('eligible', 'frozen')"), f"{TOTAL}|{DONE}"),
    "released without what was taken back": (
        payouts, "SQL", ("release", "x.owed_micro", "x.net_micro"), f"{TOTAL}|{DONE}"),
    "claw-backs that no batch takes off": (payouts, "SQL", ("carry", "v.is_clawback", "1 = 0"), f"{TOTAL}|{DONE}"),
    "a batch of the threshold and no more": (
        payouts, "SQL", ("sums", "THEN s.threshold_micro END", "THEN MAX(s.threshold_micro - 1, 0) END"), DONE),
    "one batch for all months": (
        payouts, "payout_id", lambda supplier, period: f"payout:{supplier}", f"{TOTAL}|{DONE}"),
}  # fmt: skip
"""What is put in the place of what (of `SQL`: in a piece, which words in the place of which), and what the machine says
of it."""


@pytest.mark.parametrize("bug", share(list(PLANTED)[:1], whole=list(PLANTED)))
def test_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    module, name, wrong, said = PLANTED[bug]
    if name == "SQL":
        sql: Queries = module.SQL  # type: ignore[attr-defined]
        piece, right, instead = wrong
        assert right in sql.pieces[piece, ""]
        monkeypatch.setitem(sql.pieces, (piece, ""), sql.pieces[piece, ""].replace(right, instead))
        monkeypatch.setattr(sql, "_ready", {})
    else:
        monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError, match=said):
        run_state_machine_as_test(Settling, settings=until_red(200, 30))
