"""The month's story: what people do, and each day's runs, events and builds, in the order of time.

Guarantee: it follows from the month's last moment and length alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa

from drawdown.cli.demo.acts import Act, Work
from drawdown.cli.demo.cast import HOSTILE, SEED
from drawdown.cli.demo.moments import Calendar
from drawdown.cli.demo.opening import SUPPLIER
from drawdown.cli.demo.people import PRODUCT, at, run_of, whole_story
from drawdown.cli.demo.stage import Stage
from drawdown.events.envelope import UsageEvent
from drawdown.ledger.draws import Cost
from drawdown.providers.protocol import HOUR_MS
from drawdown.schema.audit import By
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.terms import Wish
from drawdown.worker.sources.events.store import take

RUN_HOURS: Final = (9, 14, 19)
RUN_BY: Final = (("acme", "globex"), ("acme", "globex", "initech", HOSTILE), ("acme", "globex"))
"""Whose runs begin in these hours."""
EVENTS: Final = (
    ("acme", "llm.completion", 40_000),
    ("globex", "render.finished", 20),
    ("initech", "llm.completion", 9_000),
)
"""Whose product tells of what, and the most that one event counts."""


def story(stage: Stage, calendar: Calendar) -> list[Act]:
    """All acts of the month."""
    acts = list(whole_story(stage, calendar))
    for day in range(calendar.days + 1):
        acts += _runs(calendar.first_day_ms, day)
        acts += _events(calendar, day)
        acts += _uses(calendar.first_day_ms, day)
    within = (act for act in acts if calendar.start_ms < act.at_ms < calendar.now_ms)
    return sorted(within, key=lambda act: act.at_ms)


def _runs(start: int, day: int) -> Iterator[Act]:
    """Builds and renders on credit: most are settled, some given up, some forgotten until they expire."""
    chance = random.Random(f"{SEED} runs {day}")  # noqa: S311
    for number, hour in enumerate(RUN_HOURS):
        for org in RUN_BY[number]:
            begun = at(start, day, hour, chance.randrange(50))
            key, estimate = f"run-{day:02}-{number}-{org}", chance.randrange(4, 30) * 100_000
            supplier = SUPPLIER if org == "acme" and number == 1 else None
            action = "build" if supplier is None else "render"
            project = chance.choice(("site", "app", "shop"))
            request = Request(org, amount_micro=estimate, project=project, action=action, supplier=supplier)
            yield Act(begun, PRODUCT, "a run", run_of(request, key), may_fail=True)
            # Those of a supplier are all settled: what becomes of settlements is told of some by their names.
            luck = 0.4 if supplier else chance.random()
            ended = begun + chance.randrange(2, 40) * MINUTE_MS
            yield Act(ended, PRODUCT, "it ended", _end_of(key, estimate, luck), may_fail=True)


def _end_of(key: str, estimate: int, luck: float) -> Work:
    def end(connection: sa.Connection, by: By) -> None:
        if luck < 0.8:
            executions.settle(connection, key, Cost(round(estimate * (0.5 + luck))), by)
        elif luck < 0.95:
            executions.release(connection, key, Cost(estimate // 5) if luck < 0.9 else None, by)

    return end


def _events(calendar: Calendar, day: int) -> Iterator[Act]:
    chance = random.Random(f"{SEED} events {day}")  # noqa: S311
    told = at(calendar.first_day_ms, day, 12)
    found = [
        UsageEvent(
            "products",
            f"{day:02}-{org}-{number}",
            kind,
            org,
            chance.randrange(1, most),
            max(told - chance.randrange(6 * HOUR_MS), calendar.start_ms),
            project=chance.choice(("site", "app")),
            subject=f"user-{chance.randrange(9)}",
        )
        for org, kind, most in EVENTS
        for number in range(6)
    ]
    yield Act(told, PRODUCT, "events", lambda c, by: take(c, found, by.now_ms))


def _uses(start: int, day: int) -> Iterator[Act]:
    """What the guard counts: builds cost credit and end at a limit, exports would be blocked by one."""
    chance = random.Random(f"{SEED} builds {day}")  # noqa: S311
    for org, usual in (("acme", 3), ("initech", 4), ("vandelay", 2)):
        for number in range(usual):
            wish = Wish(org, "builds", chance.randrange(1, 9))
            begun = at(start, day, 8 + number, chance.randrange(60))
            yield Act(begun, PRODUCT, "builds", _consume(f"build-{day:02}-{number}-{org}", wish))
    for number in range(3):
        wish = Wish("globex", "exports", 2)
        yield Act(at(start, day, 10 + number), PRODUCT, "exports", _consume(f"export-{day:02}-{number}", wish))


def _consume(key: str, wish: Wish) -> Work:
    return lambda c, by: guard.consume(c, key, wish, by)
