"""The lots of a wallet, in any order of giving, using, reserving, taking back and waiting; and planted bugs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis.stateful import run_state_machine_as_test

from drawdown.ledger import accounts, allocation, due_changes, entries, expiry, grants, lots, reservations, tiers
from drawdown.ledger.allocation import Allocation, Lot, Uses, allocate
from tests.stateful.lots import SCRIPTS, Lots, act_out
from tests.stateful.scale import scale, until_red
from tests.whole import share


def test_lot_operations_in_any_order_match_model() -> None:
    run_state_machine_as_test(Lots, settings=scale(share(3, whole=100), 30))


@pytest.mark.parametrize("script", SCRIPTS)
def test_lot_scripts_of_rare_cases_match_model(script: str) -> None:
    act_out(SCRIPTS[script])


def _of(change: Callable[[Lot], Lot]) -> Callable[[Sequence[Lot], Uses, int], Allocation]:
    """Lots are allocated as if they were others."""
    return lambda those, uses, now_ms: allocate([change(one) for one in those], uses, now_ms)


def _without_what_was_given_back(those: Sequence[Lot], uses: Uses, now_ms: int) -> Allocation:
    return allocate(those, {part: {f: max(n, 0) for f, n in used.items()} for part, used in uses.items()}, now_ms)


def _never_owing(
    open_lots: list[Lot], left: dict[str, int], found: Allocation, payers: Counter[str], moment_ms: int
) -> None:
    right(open_lots, left, found, payers, moment_ms)
    found.unpaid.clear()


right = allocation._draw
begins, roll = grants._begins, expiry._roll


def _rolls_while_anything_waits(*given: Any, grows: bool) -> tuple[Lot | None, int]:
    return roll(*given, grows=True)


def _rolls_once_booked(now: Any, allocation: Any, rest: Any, over_ms: int, now_ms: int, *, grows: bool) -> Any:
    return (None, 0) if over_ms == now_ms else roll(now, allocation, rest, over_ms, now_ms, grows=grows)


def _paying(rows: Sequence[Any], available: Any) -> list[tiers.Turn]:
    return [tiers.Turn(one["customer_id"], one["tier"], one["price_micro"], True, None) for one in rows]


def _at_once(is_over: Sequence[Lot], found: Allocation, *_: int) -> list[tuple[Lot, int, int]]:
    return [(lot, expiry.unused_micro(lot, found), expiry.unused_micro(lot, found)) for lot in is_over]


def _all_of_it(lot: Lot, found: Allocation) -> int:
    return lot.amount_micro - lot.taken_micro - found.used[lot.lot]


SAYS = (
    "is not what the model says|the wallet is not|what is over is not|what is available is not|what is owed is not"
    "|what waits is not|another amount|room|another one|for ever"
)
CODE: dict[str, tuple[object, str, Any]] = {
    "a hold is expired from under its run": (expiry, "changes", _at_once),
    "what was booked before is booked again": (expiry, "unused_micro", _all_of_it),
    "restricted lots pay for all": (expiry, "allocate", _of(lambda lot: replace(lot, features=None))),
    "what was taken back pays": (expiry, "allocate", _of(lambda lot: replace(lot, taken_micro=0))),
    "the order forgets the priorities": (expiry, "allocate", _of(lambda lot: replace(lot, priority=50))),
    "what was given back is forgotten": (expiry, "allocate", _without_what_was_given_back),
    "debts are forgotten": (allocation, "_draw", _never_owing),
    "no window is waited for": (lots, "EXPIRY_WAIT_MS", 0),
    "months that were slept through are lost": (grants, "_begins", lambda *given: list(begins(*given))[-1:]),
    "who comes during a month waits for the next": (grants, "_begins", lambda *given: list(begins(*given))[1:]),
    "all that expired rolls over": (expiry, "rolls", lambda expired, last: max(expired, 0)),
    "what rolled over is used last": (expiry, "ROLLED_PRIORITY", 60),
    "what waits for runs rolls over, too": (expiry, "_roll", _rolls_while_anything_waits),
    "what is over is available": (lots, "leaves", lambda *_: 0),
    "what is to roll over is over": (expiry, "_roll", _rolls_once_booked),
    "a tier goes on unpaid": (tiers, "_allocate_turns", _paying),
}
TEXTS: dict[str, tuple[Any, str, str, str]] = {
    "late use re-opens nothing": (entries.SQL, "move", "r.first_ms < lots_over_ms OR", ""),
    "late use leaves what is over": (entries.SQL, "move", "r.first_ms < lots_over_ms OR",
                                     "r.first_ms < lots_ended_ms OR"),
    "what is over may be reserved": (reservations.SQL, "hold", "{available_micro}", "balance_micro - held_micro"),
    "nobody knows when a lot ends": (due_changes.SQL, "next_due", "AND l.expires_ms > :now_ms\n", "AND 1 = 0\n"),
    "what waited for a run is forgotten": (reservations.SQL, "free", "deferred_micro > 0", "1 = 0"),
    "what comes in leaves what waits": (entries.SQL, "move", "(deferred_micro > 0 AND r.amount > 0)", "1 = 0"),
    "runs are no use": (lots.SQL, "used", "('usage', 'execution', 'tier')", "('usage', 'tier')"),
    "tiers are no use": (lots.SQL, "used", "('usage', 'execution', 'tier')", "('usage', 'execution')"),
    "what late use took is forgotten": (lots.SQL, "of_wallets", "e.key LIKE 'reduced:%'", "1 = 0"),
    "the next month is never due": (due_changes.SQL, "next_due", "THEN :month_ms", "THEN NULL"),
    "another plan gives nothing this month": (accounts.SQL, "set_plan", "given_to_ms = NULL,", ""),
    "a tier is paid from what is over": (tiers.SQL, "due", "+ CASE WHEN t.renews THEN :wait_ms ELSE 0 END", ""),
    "a tier that was not paid goes on": (tiers.SQL, "end", "SET ended_ms = :now_ms, ", "SET "),
    "runs are dated as they end": (lots.SQL, "used", "e.ts >= p.from_ms AND e.ts < p.to_ms\nWHERE e.kind IN",
                                   "e.at_ms >= p.from_ms AND e.at_ms < p.to_ms\nWHERE e.kind IN"),
    "what was taken of no lot is no use": (lots.SQL, "used", "e.amount_micro < 0 AND", "1 = 0 AND"),
    "lots to come are there at once": (lots.SQL, "to_begin", "AND l.begins_ms <= :now_ms", ""),
    "lots to come never come": (due_changes.SQL, "next_due", "l.begins_ms > :now_ms", "1 = 0"),
    "nothing is ever over": (due_changes.SQL, "next_due", "l.expires_ms > :now_ms - :wait_ms", "1 = 0"),
}  # fmt: skip
"""What is put in the place of what."""


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
    with pytest.raises(AssertionError, match=SAYS):
        for steps in SCRIPTS.values():
            act_out(steps)
        run_state_machine_as_test(Lots, settings=until_red(200, 30))
