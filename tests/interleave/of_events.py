"""Usage events: batches that are taken, one that is withdrawn, a type that is given a feature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import write
from drawdown.worker.commands.events import withdraw_events
from drawdown.worker.commands.features import map_event
from drawdown.worker.sources.events.store import take
from tests.interleave.party import Act, Party, plain
from tests.interleave.stage import FLIP, NOW, OLD, Stage


def _event(name: str, quantity: int, ts: int = FLIP + 3, event_type: str = "page.render") -> UsageEvent:
    return UsageEvent("app", name, event_type, "acme", quantity, ts)


BATCH: Final = (_event("e-1", 3), _event("e-2", 4, NOW - 1), _event("e-3", 5, event_type="page.view"))
OTHERS: Final = (_event("e-3", 6, event_type="page.new"), _event("e-2", 4, NOW - 1), _event("e-4", 7), _event("e-1", 3))
"""In another order: one says other than a batch did, one is of a type that nobody has seen."""
ANCIENT: Final = (_event("e-9", 9, OLD + 7), _event("e-1", 3))


def _takes(batch: tuple[UsageEvent, ...]) -> Callable[[Stage, sa.Connection], object]:
    return lambda _stage, connection: take(connection, batch, NOW)


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


EVENTS: Final = (
    plain("host takes events", _takes(BATCH), _each_once),
    plain("host takes others of their keys", _takes(OTHERS), _each_once),
    plain("host takes ancient events", _takes(ANCIENT)),
    _after_a_batch("cli.nouns.events:withdraw", lambda s, c: withdraw_events(c, "app", ["e-1", "e-2"], s.by)),
    _after_a_batch(
        "cli.nouns.features:map_event_",
        lambda s, c: map_event(c, "page.render", "render", s.by, from_ms=FLIP, confirmed=True),
    ),
)
