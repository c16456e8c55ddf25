"""Usage events: batches that are taken, one that is withdrawn, a type that is given a feature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import write
from drawdown.worker.features.actions import map_event
from drawdown.worker.sources.events.store import take
from drawdown.worker.sources.events.types import Bringer
from drawdown.worker.usage.withdrawals import withdraw_events
from tests.interleave.party import Act, Party, plain
from tests.interleave.stage import FLIP, NOW, OLD, Stage


def _event(
    name: str, quantity: int, ts: int = FLIP + 3, event_type: str = "page.render", org_id: str = "acme"
) -> UsageEvent:
    return UsageEvent("app", name, event_type, org_id, quantity, ts)


BATCH: Final = (_event("e-1", 3), _event("e-2", 4, NOW - 1), _event("e-3", 5, event_type="page.view"))
OTHERS: Final = (_event("e-3", 6, event_type="page.new"), _event("e-2", 4, NOW - 1), _event("e-4", 7), _event("e-1", 3))
"""In another order: one says other than a batch did, one is of a type that nobody has seen."""
ELSEWHERE: Final = tuple(_event(f"e-{number}", 9, org_id="later") for number in (3, 2, 1))
"""Another organisation's, by the same ids."""
ANCIENT: Final = (_event("e-9", 9, OLD + 7), _event("e-1", 3))


def _takes(batch: tuple[UsageEvent, ...], *, own: bool = False) -> Callable[[Stage, sa.Connection], object]:
    """`own`: by a key that is bound to their organisation."""
    types_by = Bringer(batch[0].org_id if own else None)
    return lambda _stage, connection: take(connection, batch, NOW, own=own, types_by=types_by)


def _after_a_batch(name: str, work: Callable[[Stage, sa.Connection], object]) -> Party:
    def ready(stage: Stage) -> Act:
        write(stage.engine, lambda c: take(c, BATCH, NOW))
        return Act(lambda engine: write(engine, lambda c: work(stage, c)))

    return Party(name, ready)


def _each_once(stage: Stage) -> Iterator[str]:
    """Each key is there, whoever came first."""
    there = {row[0] for row in stage.rows("SELECT event_id FROM usage_events")}
    gone = {f"e-{number}" for number in (1, 2, 3)} - there
    if gone:
        yield f"{sorted(gone)} were taken, and are not there"


def _each_once_of_both(stage: Stage) -> Iterator[str]:
    """One key is one event of an organisation, and a claim is of one organisation."""
    for org, event_id, times in stage.rows(
        "SELECT org_id, event_id, COUNT(*) FROM usage_events GROUP BY 1, 2 HAVING COUNT(*) > 1"
    ):
        yield f"{org} has {event_id} {times} times"
    there = "SELECT COUNT(*) FROM usage_events WHERE org_id = 'later' AND event_id IN ('e-1', 'e-2', 'e-3')"
    if stage.rows(there)[0][0] != len(ELSEWHERE):
        yield "events of one organisation were kept out by another's"


EVENTS: Final = (
    plain("host takes an organisation's own", _takes(BATCH[::-1], own=True), _each_once),
    plain("host takes another one's own of the same ids", _takes(ELSEWHERE, own=True), _each_once_of_both),
    plain("host takes another one's of the same ids", _takes(ELSEWHERE)),
    plain("host takes events", _takes(BATCH), _each_once),
    plain("host takes others of their keys", _takes(OTHERS), _each_once),
    plain("host takes ancient events", _takes(ANCIENT)),
    _after_a_batch("cli.declared:run event withdraw", lambda s, c: withdraw_events(c, "app", ["e-1", "e-2"], s.by)),
    _after_a_batch(
        "cli.declared:run feature map-event",
        lambda s, c: map_event(c, "page.render", "render", s.by, from_ms=FLIP, confirmed=True),
    ),
)
