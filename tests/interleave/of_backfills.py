"""Backfills: one that is open, beside whoever sends the same events; and one that went in, taken back."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import read, write
from drawdown.worker.commands import backfills
from drawdown.worker.sources.events.store import take
from tests.interleave.party import Act, Party, plain
from tests.interleave.stage import NOW, T0, Stage

FROM: Final = T0
TO: Final = T0 + 300_000
HELD: Final = "later"
"""Has a backfill that went in; acme has one that is open."""


def _event(event_id: str, org_id: str = "acme") -> UsageEvent:
    return UsageEvent("app", event_id, "page.render", org_id, 3, T0 + 1)


def begin(stage: Stage) -> None:
    """What every case finds."""

    def work(connection: sa.Connection) -> None:
        for name, org in (("june", "acme"), ("may", HELD)):
            backfills.open_backfill(connection, name, org, FROM, TO, stage.by)
            backfills.stage(connection, name, [_event(f"{org}-1", org), _event(f"{org}-2", org)], NOW)
        backfills.close(connection, "may", backfills.diff(connection, "may").hash, stage.by)

    write(stage.engine, work)


def _closing(stage: Stage) -> Act:
    """By the hash that was shown before the other one began."""
    shown = read(stage.engine, lambda c: backfills.diff(c, "june").hash)
    return Act(lambda engine: write(engine, lambda c: backfills.close(c, "june", shown, stage.by)))


BACKFILLS: Final = (
    plain(
        "cli.nouns.backfills:open_",
        lambda s, c: backfills.open_backfill(c, "july", "drifter", FROM, TO, s.by),
    ),
    plain("cli.nouns.backfills:_stage", lambda s, c: backfills.stage(c, "june", [_event("acme-3")], NOW)),
    Party("cli.nouns.backfills:close", _closing),
    plain("cli.nouns.backfills:revert", lambda s, c: backfills.revert(c, "may", s.by)),
    plain("cli.nouns.backfills:revert an open one", lambda s, c: backfills.revert(c, "june", s.by)),
    plain("server.usage.intake:_done what is staged", lambda s, c: take(c, [_event("acme-2"), _event("acme-9")], NOW)),
)
