"""Bugs of backfills planted on purpose, one at a time: each has to be seen by what people were told, or billed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.audit import By
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.sources.events.store import EventResult
from drawdown.worker.usage import backfills
from drawdown.worker.usage.backfills import Backfill, Diff
from tests.simulation.backfilling.life import lived
from tests.simulation.mutants_remote import Patches
from tests.simulation.planting import Kind


def _closed_by_any_hash(patches: Patches) -> None:
    right = backfills.close

    def wrong(connection: sa.Connection, name: str, shown: str, by: By) -> Diff:
        found = backfills._hold(connection, name)
        now = backfills._diff(connection, found).hash if found.state == "open" else shown
        return right(connection, name, now, by)

    patches.put(backfills, "close", wrong)


def _closed_is_closed(patches: Patches) -> None:
    right = backfills.close

    def wrong(connection: sa.Connection, name: str, shown: str, by: By) -> Diff:
        found = backfills._hold(connection, name)
        return right(connection, name, (found.diff_hash or shown) if found.state == "closed" else shown, by)

    patches.put(backfills, "close", wrong)


def _outside_is_staged(patches: Patches) -> None:
    right = backfills._outside

    def wrong(found: Backfill, event: UsageEvent) -> EventResult | None:
        return right(replace(found, from_ms=0, to_ms=2**60), event)

    patches.put(backfills, "_outside", wrong)


def _an_event_of_each_batch_is_lost(patches: Patches) -> None:
    right = vars(backfills)["take"]

    def wrong(connection: sa.Connection, events: Sequence[UsageEvent], now_ms: int, **more: Any) -> list[EventResult]:
        answers: list[EventResult] = right(connection, events[:-1], now_ms, **more)
        return answers

    patches.put(backfills, "take", wrong)


def _put_in_as(patches: Patches, change: Callable[[UsageEvent], UsageEvent]) -> None:
    right = backfills._event

    def wrong(org_id: str, row: Mapping[Any, Any]) -> UsageEvent:
        return change(right(org_id, row))

    patches.put(backfills, "_event", wrong)


PLANTED: Final[dict[str, tuple[Callable[[Patches], None], str]]] = {
    "closing puts in whatever there is": (_closed_by_any_hash, "was closed by"),
    "what is closed is closed by any hash": (_closed_is_closed, "was closed by"),
    "what came in otherwise is new": (
        lambda p: p.query(backfills, "standing", "WHEN s.id IS NULL THEN 'new'", "WHEN s.id <> '' THEN 'new'"),
        "comes to",
    ),
    "an event of the same key is the same": (
        lambda p: p.query(backfills, "same", "AND e.quantity = b.quantity", "AND e.quantity >= 0"),
        "comes to",
    ),
    "reverting ends with its first part": (
        lambda p: p.query(backfills, "in_force", "LIMIT :at_most", "LIMIT :at_most - 1"),
        "were taken back",
    ),
    "reverting withdraws nothing": (lambda p: p.put(backfills, "withdraw", lambda *given: []), "were taken back"),
    "what is over is open": (lambda p: p.put(backfills, "_require_open", lambda found: found), "backfill:"),
    "the biller of now is shown for old windows": (
        lambda p: p.query(backfills, "windows", "AND a.start_ms <= k.window_ms", "AND a.end_ms IS NULL"),
        "comes to",
    ),
    "what lies outside is staged": (_outside_is_staged, "should be invalid"),
    "what is staged again is said to be new": (
        lambda p: p.put(backfills, "_staged", lambda row, stored, new: EventResult("accepted")),
        "was staged",
    ),
    "an event of each batch is lost": (_an_event_of_each_batch_is_lost, "is there 0 times"),
    "events go in a window later": (
        lambda p: _put_in_as(p, lambda event: replace(event, occurred_ms=event.occurred_ms + WINDOW_MS)),
        "",
    ),
    "labels are lost on the way in": (lambda p: _put_in_as(p, lambda event: replace(event, subject=None)), "was sent"),
    "a price counts each event once more": (
        lambda p: p.put(backfills, "add", lambda one, other: None if None in (one, other) else one + 2 * other),
        "comes to",
    ),
}
"""Each bug, and a part of what is said of it."""
TICKS: Final = 10
SEEN_AT: Final[dict[str, int]] = {
    "what is closed is closed by any hash": 1,
    "an event of the same key is the same": 7,
    "what is over is open": 20,
}
"""Where a bug showed last, if not in the first life."""


def _wrong(seed: int) -> list[str]:
    life, wrong = lived(seed, TICKS)
    life.world.close()
    return wrong


KIND: Final = Kind(_wrong, PLANTED, SEEN_AT)
