"""Bugs about orders: who has one, when it is over, and who tells of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from drawdown.worker.orders import doing, orders
from drawdown.worker.orders.doing import Turn
from tests.simulation.mutants_remote import Patches


def _done_unseen(patches: Patches) -> None:
    """Nothing is replayed."""

    def wrong(*_given: Any) -> Any:
        yield from ()
        return Turn("done")

    patches.put(doing, "_come", wrong)


def _half_is_all(patches: Patches) -> None:
    """Whatever time was up for stays undone."""
    right = vars(doing)["replay"]

    def wrong(*given: Any, **more: Any) -> Any:
        found = yield from right(*given, **more)
        return replace(found, unfinished=False)

    patches.put(doing, "replay", wrong)


def _each_tells(patches: Patches) -> None:
    """Whoever lay still for longer than its lease tells of what another one ended."""
    right = orders.end

    def wrong(*given: Any) -> bool:
        right(*given)
        return True

    patches.put(orders, "end", wrong)


ORDERS: Final[dict[str, Callable[[Patches], None]]] = {
    "an order is over and was never done": _done_unseen,
    "an order whose time is up is done": _half_is_all,
    "two ticks tell of one order": _each_tells,
    "an order whose tick died is nobody's": lambda p: p.query(orders, "free", "lease_ms <= :now_ms", "lease_ms < 0"),
    "an order that is put back is nobody's": lambda p: p.query(
        orders, "put_back", "state = 'waiting'", "state = 'under_way'"
    ),
}
