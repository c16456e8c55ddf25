"""Bugs about what happens between ticks: the watch, the server's webhooks and gate, cells in trouble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.providers.protocol import CustomerState, ReadFailed
from drawdown.server.api import gate, webhooks
from drawdown.worker import watch
from drawdown.worker.halts import dispatch
from drawdown.worker.push import webhooks as stored_webhooks
from drawdown.worker.verdict import project, refresh_requests
from tests.simulation.mutants_remote import Patches


def _halts_by_itself(patches: Patches) -> None:
    right = watch._look_at

    def wrong(connection: Any, context: Any, provider: str, now: int, done: Any, at_most: int) -> list[str]:
        wanted = right(connection, context, provider, now, done, at_most)
        halt = "UPDATE orgs SET is_halted = true, halted_at = :now, halt_reason = 'estimate' WHERE org_id = :org"
        for org in wanted:
            connection.execute(sa.text(halt), {"org": org, "now": now})
        return wanted

    patches.put(watch, "_look_at", wrong)


def _applied_later(patches: Patches) -> None:
    def wrong(connection: Any, event: Any, notices: Any, now_ms: int) -> list[str] | None:
        return [] if stored_webhooks._store(connection, event, "done", None, now_ms) else None

    patches.put(webhooks, "take_event", wrong)


def _not_fetched_is_done(patches: Patches) -> None:
    right = stored_webhooks._store
    patches.put(stored_webhooks, "_store", lambda c, event, state, error, now: right(c, event, "done", error, now))


def _repeats_count(patches: Patches) -> None:
    patches.query(stored_webhooks, "taken", "state <> 'failed'", "state = 'none'")
    patches.query(stored_webhooks, "store", "webhooks.state = 'failed'", "webhooks.state <> 'none'")


def _open_to_the_halted(patches: Patches) -> None:
    right = gate.Gate._verdict

    def wrong(self: Any, org_id: str, found: Any) -> dict[str, object]:
        return right(self, org_id, replace(found, is_halted=False))

    patches.put(gate.Gate, "_verdict", wrong)


def _one_failure_is_enough(patches: Patches) -> None:
    right = dispatch._DispatchRun.lane

    def wrong(self: Any, lane: Any) -> Any:
        if not any(one.failures for one in self.context.cell_breakers.values()):
            yield from right(self, lane)

    patches.put(dispatch._DispatchRun, "lane", wrong)


def _unread_is_zero(patches: Patches) -> None:
    right = refresh_requests.find_answer

    def wrong(states: Any, customer_id: str) -> Any:
        state = right(states, customer_id)
        return CustomerState(0, None, None) if isinstance(state, ReadFailed) else state

    patches.put(project, "find_answer", wrong)


def _gate_asks_whenever(patches: Patches) -> None:
    """Neither what the process remembers nor what the database has on record keeps it from asking."""
    patches.put(gate, "ASK_EVERY_MS", 0)
    patches.put(refresh_requests, "ASK_EVERY_MS", 0)


SECONDS: Final[dict[str, Callable[[Patches], None]]] = {
    "a watch halts on its estimate, and asks nobody": _halts_by_itself,
    "the halted are never asked again": lambda p: p.query(watch, "halted", "WHERE o.is_halted", "WHERE 0 = 1"),
    "an unread balance is zero": _unread_is_zero,
    "a webhook is kept, and applied later": _applied_later,
    "a webhook that was not fetched is done": _not_fetched_is_done,
    "a repeated webhook counts again": _repeats_count,
    "the gate is open to the halted": _open_to_the_halted,
    "the gate asks whenever it is asked": _gate_asks_whenever,
    "once a cell does not answer, none is told": _one_failure_is_enough,
}
