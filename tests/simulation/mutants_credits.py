"""Bugs that only a customer who pays in credits can show: one balance for all features, at a cost each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from drawdown.providers.autumn import events, wire
from drawdown.providers.autumn.credits import Units, charged
from drawdown.worker.catalog import costs
from drawdown.worker.push import evidence
from drawdown.worker.reconcile import balances as reconcile_drawn
from tests.simulation.mutants_remote import Patches


def _one_for_one(patches: Patches) -> None:
    """Each unit of any feature counts as one part of a credit."""
    patches.put(costs.Pools, "weight", lambda self, pool, feature, first, last: (1, 1))


def _used_up_forgotten(patches: Patches) -> None:
    """What was used up to the last digit, and is shown no more, counts as given back."""
    right = evidence.levels
    patches.put(evidence, "levels", lambda read, pools, known, now_ms: right(read, pools, (), now_ms))


def _own_used_up_forgotten(patches: Patches) -> None:
    """The same of a feature's own units alone."""
    right = evidence.levels

    def wrong(read: Any, pools: Any, known: Any, now_ms: int, *more: Any) -> Any:
        return right(read, pools, [part for part in known if part.balance in read], now_ms, *more)

    patches.put(evidence, "levels", wrong)


def _losses_taken_in(patches: Patches) -> None:
    """What the store lost is neither sent again nor told: the balance is compared with what it shows now."""

    def wrong(connection: Any, asked: Any, line: Any, lost: Any) -> Any:
        return None, None

    patches.put(reconcile_drawn, "_of_lost", wrong)


def _told_by_half(patches: Patches) -> None:
    right = evidence.write_marks

    def wrong(connection: Any, provider: str, marks: Any, now_ms: int) -> None:
        right(
            connection, provider, [replace(one, reported_quantity=one.reported_quantity // 2) for one in marks], now_ms
        )

    patches.put(reconcile_drawn, "write_marks", wrong)


def _asked_is_charged(patches: Patches) -> None:
    """What was asked for counts as charged, whatever the deductions come to."""

    def wrong(taken: Any, asked: Any, known: Any) -> Any:
        return charged(taken, asked, known) if asked is None else Units(asked, exact=True)

    for module in (wire, events):
        patches.put(module, "charged", wrong)


CREDITS: Final[dict[str, Callable[[Patches], None]]] = {
    "what was asked for counts as charged": _asked_is_charged,
}
BY_SCENARIO: Final[dict[str, Callable[[Patches], None]]] = {
    "each feature costs one": _one_for_one,
    "half of what a balance is apart is told": _told_by_half,
    "what a balance store lost is neither sent again nor told": _losses_taken_in,
    "what is used up counts as given back": _used_up_forgotten,
    "own units that are used up count as given back": _own_used_up_forgotten,
}
"""Bugs that seeds show too rarely: `test_scenarios_credits` plants them."""
