"""Backfills: one that is open, beside whoever sends the same events; and one that went in, taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import read, write
from drawdown.worker.sources.events.store import take
from drawdown.worker.usage import backfills
from tests.interleave.party import Act, Party, plain
from tests.interleave.stage import NOW, OLD, T0, Stage

FROM: Final = T0
TO: Final = T0 + 300_000
HELD: Final = "later"
"""Has a backfill that went in; acme has one that is open."""
ANCIENT: Final = "spent"
"""Has one open of windows that are old enough to be pruned."""


def _event(event_id: str, org_id: str = "acme", from_ms: int = FROM) -> UsageEvent:
    return UsageEvent("app", event_id, "page.render", org_id, 3, from_ms + 1)


def begin(stage: Stage) -> None:
    """What every case finds."""

    def work(connection: sa.Connection) -> None:
        for name, org, start in (("june", "acme", FROM), ("may", HELD, FROM), ("january", ANCIENT, OLD)):
            backfills.open_backfill(connection, name, org, start, start + TO - FROM, stage.by)
            backfills.stage(connection, name, [_event(f"{org}-{at}", org, start) for at in (1, 2)], NOW)
        backfills.close(connection, "may", backfills.diff(connection, "may").hash, stage.by)

    write(stage.engine, work)


def _closing(name: str) -> Callable[[Stage], Act]:
    """By the hash that was shown before the other one began."""

    def ready(stage: Stage) -> Act:
        shown = read(stage.engine, lambda c: backfills.diff(c, name).hash)
        return Act(lambda engine: write(engine, lambda c: backfills.close(c, name, shown, stage.by)))

    return ready


def _is_usage(stage: Stage) -> Iterator[str]:
    """What was shown with its price, and went in, was not too late for good."""
    for name, event_id in stage.rows(
        "SELECT b.backfill, b.event_id FROM backfill_events b JOIN late_quarantine q ON q.sample_id = b.sample_id"
    ):
        yield f"{event_id} went in by {name}, and is too late to be billed"


BACKFILLS: Final = (
    plain(
        "cli.declared:run backfill open",
        lambda s, c: backfills.open_backfill(c, "july", "drifter", FROM, TO, s.by),
    ),
    plain("cli.nouns.backfills:_stage", lambda s, c: backfills.stage(c, "june", [_event("acme-3")], NOW)),
    Party("cli.declared:run backfill close", _closing("june"), _is_usage),
    Party("cli.declared:run backfill close what is old", _closing("january"), _is_usage),
    plain("cli.declared:run backfill revert", lambda s, c: backfills.revert(c, "may", s.by)),
    plain("cli.declared:run backfill revert an open one", lambda s, c: backfills.revert(c, "june", s.by)),
    plain("server.usage.intake:_store what is staged", lambda s, c: take(c, [_event("acme-2"), _event("acme-9")], NOW)),
)
