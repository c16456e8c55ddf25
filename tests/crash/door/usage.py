"""What the clients of a siege of the door send, and what it has to come to.

Guarantee: an act of use has the same id and content in every life of its client. What is to be billed (`expected`) is
worked out from the files alone: of GenTD26 by the requests' own seconds, of openb by the pods' lives.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from drawdown_client import Event
from tests.acceptance import gentd26, openb
from tests.acceptance.gentd26 import Sums
from tests.acceptance.openb import EPOCH_S, MINUTE_S
from tests.crash.data import rows_of

As = Literal["samples", "events"]
TRACES: Final = ("gentd26", "openb", "openb-hours")
"""The whole of GenTD26; the busiest day of openb by the minute; the whole of openb by the hour."""
SOURCE: Final = "/trace"
DAY_S: Final = 86_400
BUSIEST_DAY: Final = 145
"""Of openb: 65,908 minutes of 247 pods."""
SIZES: Final = {1_024: "1gb", 4_096: "4gb", 16_384: "16gb", 65_536: "64gb"}
"""Sizes that openb has and that have a feature of their own."""
UP_TO: Final = {8_192: "8gb", 32_768: "32gb", 131_072: "128gb"}
TOP: Final = "top"
Features = dict[tuple[str, str], int]
"""Seconds by (organisation, feature)."""


@dataclass(frozen=True)
class Used:
    """One act of use: a request, or a stretch of a pod's life."""

    name: str
    org: str
    box: str
    memory_mb: int
    seconds: int
    at_ms: int

    @property
    def tier(self) -> str:
        """Its size's own, the nearest one above it, or the open top."""
        above = [size for size in UP_TO if size >= self.memory_mb]
        return SIZES.get(self.memory_mb) or (UP_TO[min(above)] if above else TOP)

    @property
    def event_type(self) -> str:
        return f"use.{self.tier}"

    def feature(self, sent_as: As) -> str:
        return f"compute_{self.tier}" if sent_as == "samples" else f"used_{self.tier}"

    def sample(self) -> dict[str, object]:
        return {
            "id": self.name, "org_id": self.org, "sandbox_id": self.box, "cell_id": "cell-1",
            "memory_mb": self.memory_mb, "interval_s": self.seconds, "ts": self.at_ms,
        }  # fmt: skip

    def event(self) -> Event:
        return Event(self.event_type, self.seconds, self.org, self.at_ms, self.name, SOURCE, subject=self.box)


@dataclass(frozen=True)
class Usage:
    """What is sent, in the order in which it is sent, and what it sums to."""

    all: Sequence[Used]
    by_window: Sums
    """Seconds; windows that sum to nothing are left out: they make no push."""

    def by_feature(self, sent_as: As) -> Features:
        found: Features = defaultdict(int)
        for one in self.all:
            found[one.org, one.feature(sent_as)] += one.seconds
        return {key: seconds for key, seconds in found.items() if seconds}

    @property
    def seconds(self) -> int:
        return sum(self.by_window.values())

    @property
    def from_ms(self) -> int:
        return min(one.at_ms for one in self.all)

    def tiers(self) -> Mapping[str, str]:
        """Event types by tier."""
        return {one.tier: one.event_type for one in self.all}


def usage(trace: str, seed: int, *, rows: int | None = None) -> Usage:
    """In random order; so many of it at most, those of the busiest organisations."""
    made = _requests(seed) if trace == "gentd26" else _stretches(whole=trace == "openb-hours")
    if rows is not None and rows < len(made):
        made = random.Random(seed).sample(_of_the_busiest(made, rows), rows)
    elif trace != "gentd26":
        assert _sum(made) == seconds_of_lives(whole=trace == "openb-hours"), "each life is cut without a rest"
    random.Random(seed).shuffle(made)
    if trace == "gentd26" and rows is None and gentd26.FILE.exists():
        return Usage(made, gentd26.sums())
    by_window: Sums = defaultdict(int)
    for one in made:
        by_window[one.org, one.at_ms - one.at_ms % 300_000] += one.seconds
    return Usage(made, {key: seconds for key, seconds in by_window.items() if seconds})


def _requests(seed: int) -> list[Used]:
    """By its line, which alone tells twins apart. Made up in its likeness where the file is missing."""
    return [Used(name, org, org, 1_024, seconds, ts) for name, org, ts, seconds in rows_of(random.Random(seed))]


def _stretches(*, whole: bool) -> list[Used]:
    """The pods' lives, cut from their begin: hours, or the minutes that begin on the busiest day."""
    found = []
    for pod in openb.pods(whole=True):
        step = 60 * MINUTE_S if whole else MINUTE_S
        for number in range(*_places(pod, step, whole=whole)):
            begin = pod.start_s + number * step
            seconds = min(step, pod.end_s - begin)
            at_ms = (EPOCH_S + begin) * 1000
            found.append(Used(f"{pod.name}/{number}", pod.org, pod.name, pod.memory_mb, seconds, at_ms))
    return found


def _places(pod: openb.Pod, step: int, *, whole: bool) -> tuple[int, int]:
    """Which stretches of a pod are sent: from, and before."""
    from_s, to_s = (0, pod.end_s) if whole else (BUSIEST_DAY * DAY_S, (BUSIEST_DAY + 1) * DAY_S)
    first = max(-(-(from_s - pod.start_s) // step), 0)
    return first, max(-(-(min(to_s, pod.end_s) - pod.start_s) // step), first)


def seconds_of_lives(*, whole: bool) -> int:
    """Of the pods' lives alone: no stretch is made. A life goes on to the end of the stretch that the day ends in."""
    if whole:
        return sum(pod.seconds for pod in openb.pods(whole=True))
    found = 0
    for pod in openb.pods(whole=True):
        first, last = _places(pod, MINUTE_S, whole=False)
        found += max(min(pod.end_s, pod.start_s + last * MINUTE_S) - pod.start_s - first * MINUTE_S, 0)
    return found


def _sum(made: Sequence[Used]) -> int:
    return sum(one.seconds for one in made)


def _of_the_busiest(made: Sequence[Used], rows: int) -> list[Used]:
    count: dict[str, int] = defaultdict(int)
    for one in made:
        count[one.org] += 1
    found: list[Used] = []
    for org in sorted(count, key=lambda org: (-count[org], org)):
        found += [one for one in made if one.org == org]
        if len(found) >= 2 * rows:
            break
    return found
