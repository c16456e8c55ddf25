"""Any order of allotting, using, expiring and late use; and planted bugs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis.stateful import run_state_machine_as_test

from drawdown.ledger import due_changes, lots, pools, reservations
from drawdown.ledger.accounts import Wallet
from tests.stateful.pools import Pools
from tests.stateful.scale import scale, until_red
from tests.whole import share


def test_pool_operations_in_any_order_match_model() -> None:
    run_state_machine_as_test(Pools, settings=scale(share(3, whole=100), 25))


right = lots._expiry


def _to_the_breakage(lot: Any, amount_micro: int, now_ms: int) -> dict[str, object]:
    return {**right(lot, amount_micro, now_ms), "to_account": lots.BREAKAGE}


def _dated_at_the_end(lot: Any, amount_micro: int, now_ms: int) -> dict[str, object]:
    return {**right(lot, amount_micro, now_ms), "ts": lot.expires_ms}


def _endless(_connection: Any, names: Any) -> dict[str, Wallet]:
    return {name: Wallet(10**9, None, None) for name in names}


CODE: dict[str, tuple[object, str, Any]] = {
    "what nobody used of an allotment goes to nobody": (lots, "_expiry", _to_the_breakage),
    "what comes back is dated as it does": (lots, "_expiry", _dated_at_the_end),
    "a pool allots what is not there": (pools, "read_wallets", _endless),
    "allotments are used last": (pools, "ALLOTTED_PRIORITY", 60),
}
TEXTS: dict[str, tuple[Any, str, str, str]] = {
    "a pool never uses what it allots": (lots.SQL, "used", "WHERE e.kind = 'grant' GROUP BY", "WHERE 1 = 0 GROUP BY"),
    "what comes back was used all the same": (lots.SQL, "used", "e.kind = 'expiry' AND", "1 = 0 AND"),
    "an allotment that is over is reserved": (
        reservations.SQL,
        "hold",
        "{available_micro}",
        "balance_micro - held_micro",
    ),
    "a pool does not wait for what comes back": (due_changes.SQL, "next_due", "l.pool = r.customer_id", "1 = 0"),
    "a payer is not asked": (pools.SQL, "newest", "ORDER BY number DESC", "AND 1 = 0 ORDER BY number DESC"),
}


@pytest.mark.parametrize("bug", share(list(CODE)[:1], whole=[*CODE, *TEXTS]))
def test_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    if bug in CODE:
        monkeypatch.setattr(*CODE[bug])
    else:
        sql, name, old, new = TEXTS[bug]
        text = sql.pieces[name, ""]
        assert old in text
        monkeypatch.setattr(sql, "_ready", {})
        monkeypatch.setitem(sql.pieces, (name, ""), text.replace(old, new))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Pools, settings=until_red(200, 30))
