"""What a siege imports: GenTD26 where it is there, else usage made up in its likeness, in parts as time goes by."""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance import gentd26
from tests.acceptance.gentd26 import Sums

FROM_MS = 1_731_628_800_000
"""2024-11-15T00:00:00Z."""
LATE_SHARE = 0.2
HEADER = ("id", "org_id", "sandbox_id", "cell_id", "memory_mb", "interval_s", "ts")

Row = tuple[str, str, int, int]
"""(id, organisation, time in milliseconds, seconds)."""


@dataclass(frozen=True)
class Usage:
    """Samples in parts. `released_ms` of a part: the moment its newest sample was taken."""

    parts: list[list[Row]]
    released_ms: list[int]

    def sums(self) -> Sums:
        """What is to be billed, from the rows alone."""
        found: Sums = defaultdict(int)
        for part in self.parts:
            for _id, org, ts, seconds in part:
                found[org, ts - ts % 300_000] += seconds
        return {key: seconds for key, seconds in found.items() if seconds}

    @property
    def samples(self) -> int:
        return sum(len(part) for part in self.parts)

    def write(self, folder: Path) -> None:
        """A CSV file a part."""
        for number, part in enumerate(self.parts):
            with (folder / f"part{number}.csv").open("w", newline="") as out:
                writer = csv.writer(out)
                writer.writerow(HEADER)
                writer.writerows((name, org, org, "cell-1", 1024, seconds, ts) for name, org, ts, seconds in part)


def usage(parts: int, dice: random.Random, *, most: int | None = None) -> Usage:
    """Rows in the order of time, but that every fifth or so comes some parts late; `most` rows at most."""
    rows = sorted(rows_of(dice)[:most], key=lambda row: row[2])
    split: list[list[Row]] = [[] for _ in range(parts)]
    for at, row in enumerate(rows):
        part = at * parts // len(rows)
        late = dice.random() < LATE_SHARE
        split[dice.randrange(part, parts) if late else part].append(row)
    ends = [rows[-(-(part + 1) * len(rows) // parts) - 1][2] for part in range(parts)]
    return Usage(split, ends)


def rows_of(dice: random.Random) -> list[Row]:
    """The real requests where the file is there, else as many that are made up."""
    return _real() if gentd26.FILE.exists() else _made_up(dice)


def _real() -> list[Row]:
    return [(f"line-{line}", org, ts, seconds) for line, org, ts, seconds in gentd26.moments()]


def _made_up(dice: random.Random) -> list[Row]:
    """As many rows, organisations and days, and a few busy organisations among many quiet ones."""
    span = gentd26.AT_MS - FROM_MS - 86_400_000
    return [
        (
            f"line-{number}",
            f"G{int(dice.paretovariate(0.6)) % gentd26.ORGS:04}",
            FROM_MS + dice.randrange(span) // 1000 * 1000,
            dice.choice((0, 3, 8, 20, 28, 29, 32, 60, 120)),
        )
        for number in range(gentd26.SAMPLES)
    ]
