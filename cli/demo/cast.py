"""The organisations of the demo, their sandboxes, and their use in an hour.

Guarantee: the use depends only on the organisation and the hour. The times of ticks do not change the samples.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from drawdown.providers.protocol import HOUR_MS
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS, WINDOW_MS
from drawdown.worker.sources.demo_host import Sandbox, SandboxSample

SEED: Final = 7
DAYS: Final = 30
CELLS: Final = ("cell-1", "cell-2", "cell-3")
WHOLE_DAY: Final = (0, 24)
HOSTILE: Final = '<b>Bobby</b>/../?id=acme&"\u202etxt.exe'
"""An id with tags, a path, a query, and a character that reverses text.

A customer may choose such an id.
"""
QUIET_WINDOWS: Final = 2
"""Windows at the end of an hour without the members' samples.

The story adds its own samples to these windows.
"""


@dataclass(frozen=True)
class Member:
    """An organisation of the demo.

    `sandboxes`: the number of sandboxes. Each is used for about `busy_s` seconds of every hour in `hours` (UTC), from
    day `since` on.
    """

    org_id: str
    provider: str
    sandboxes: int
    memory_mb: int
    busy_s: int
    hours: tuple[int, int]
    customer_id: str | None = None
    plan: str | None = None
    steady: bool = False
    """True if all hours are alike.

    Then the member's credit ends when the story needs it.
    """
    since: int = 0


MEMBERS: Final = (
    Member("acme", "embedded", 8, 4096, 420, (6, 22), plan="team"),
    Member("globex", "embedded", 6, 8192, 300, (4, 22), plan="pro"),
    Member("initech", "embedded", 2, 1024, 600, (8, 18), plan="hobby"),
    Member("hooli", "embedded", 5, 16384, 400, (7, 21), plan="starter", steady=True),
    Member("umbrella", "embedded", 4, 4096, 900, WHOLE_DAY, plan="starter", steady=True),
    Member("vandelay", "embedded", 3, 4096, 500, (9, 21), plan="starter", steady=True),
    Member("piedpiper", "embedded", 1, 4096, 240, (10, 20), plan="hobby"),
    Member(HOSTILE, "embedded", 1, 1024, 500, (8, 20), plan="hobby"),
    Member("stark", "stripe", 4, 8192, 200, WHOLE_DAY, "cus_Stark01"),
    Member("wayne", "stripe", 3, 4096, 260, WHOLE_DAY, "cus_Wayne02"),
    Member("wonka", "stripe", 1, 4096, 180, WHOLE_DAY, "cus_Wonka03"),
    Member("cyberdyne", "autumn", 4, 4096, 300, WHOLE_DAY, "cyberdyne"),
    Member("tyrell", "autumn", 2, 8192, 240, (0, 12), "tyrell"),
    Member("soylent", "", 1, 1024, 300, (8, 20), since=26),
)
"""The members. `soylent` does not have an assignment, so its usage waits."""
MEMBER: Final = {member.org_id: member for member in MEMBERS}


def sandboxes_of(member: Member, generation: int = 0) -> list[Sandbox]:
    """Return the sandboxes of a member.

    After a halt, the product makes new sandboxes, which are the next generation.
    """
    return [
        Sandbox(f"{member.org_id}-{number}.{generation}", member.org_id, CELLS[number % len(CELLS)], member.memory_mb)
        for number in range(member.sandboxes)
    ]


def samples_of(
    member: Member, sandboxes: list[Sandbox], hour_ms: int, *, often: bool = False
) -> Iterator[SandboxSample]:
    """Yield a sample of each sandbox, all in one window of the hour.

    The function does not yield samples outside the member's hours. `often`: yield a sample each minute, so that the
    watch can estimate the present use.
    """
    if not member.hours[0] <= hour_ms % DAY_MS // HOUR_MS < member.hours[1]:
        return
    chance = random.Random(f"{SEED} {member.org_id} {hour_ms}")  # noqa: S311, a demo's jitter
    window_ms = hour_ms + chance.randrange(HOUR_MS // WINDOW_MS - QUIET_WINDOWS) * WINDOW_MS
    if often:
        yield from _each_minute(member, sandboxes, hour_ms)
        return
    level = 1.0 if member.steady else chance.choice((0.5, 0.8, 1.0, 1.0, 1.3))
    for sandbox in sandboxes:
        seconds = member.busy_s if member.steady else max(1, round(member.busy_s * level * chance.uniform(0.7, 1.3)))
        ts = window_ms + chance.randrange(WINDOW_MS // MINUTE_MS) * MINUTE_MS + chance.randrange(60) * SECOND_MS
        yield SandboxSample(f"{sandbox.sandbox_id}@{hour_ms // HOUR_MS}", sandbox, seconds, ts)


def _each_minute(member: Member, sandboxes: list[Sandbox], hour_ms: int) -> Iterator[SandboxSample]:
    """Yield the member's use in an hour as samples of a minute."""
    minutes = HOUR_MS // MINUTE_MS
    for minute in range(minutes):
        seconds = (minute + 1) * member.busy_s // minutes - minute * member.busy_s // minutes
        at_ms = hour_ms + minute * MINUTE_MS
        for number, sandbox in enumerate(sandboxes):
            name = f"{sandbox.sandbox_id}@{at_ms // MINUTE_MS}m"
            yield SandboxSample(name, sandbox, seconds, at_ms + number * SECOND_MS)
