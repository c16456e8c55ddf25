"""openb: pods of a production GPU cluster as sandboxes that are metered once a minute.

A pod's life is cut into minutes from its start; the sample at `ts` covers the minute that begins there, the last one
what is left. So every sample is shorter than its window, and a pod's samples sum to its life exactly.
"""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from drawdown.schema.database import sqlite_file
from tests.whole import WHOLE

FILE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "openb_pods.csv"

EPOCH_S = 1_735_689_600
"""The trace's second zero is taken to be 2025-01-01T00:00:00Z."""
MINUTE_S = 60
ORGS = 5
LONG_S = 86_400

Row = tuple[str, str, str, str, int, int, int, int]
COLUMNS = "id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at"


@dataclass(frozen=True)
class Pod:
    """One pod that ran, in seconds of the trace."""

    name: str
    org: str
    memory_mb: int
    start_s: int
    end_s: int

    @property
    def seconds(self) -> int:
        return self.end_s - self.start_s

    def within(self, from_s: int, to_s: int) -> Pod:
        """What is left of it in the minutes that begin in a span: samples are of the moment that they begin at."""
        first = self.start_s + -(-max(0, from_s - self.start_s) // MINUTE_S) * MINUTE_S
        last = self.start_s + -(-max(0, to_s - self.start_s) // MINUTE_S) * MINUTE_S
        return replace(self, start_s=first, end_s=min(self.end_s, last))

    def samples(self, now_ms: int) -> Iterator[Row]:
        """A sample a minute."""
        for number, begin in enumerate(range(self.start_s, self.end_s, MINUTE_S)):
            seconds = min(MINUTE_S, self.end_s - begin)
            ts = (EPOCH_S + begin) * 1000
            yield f"{self.name}/{number}", self.org, self.name, "cell-1", self.memory_mb, seconds, ts, now_ms


def needed() -> list[pytest.MarkDecorator]:
    """The marks of tests that read the file."""
    reason = "needs the real usage data beside the project (../shared/data)"
    return [pytest.mark.data, pytest.mark.skipif(not FILE.exists(), reason=reason)]


def pods(*, whole: bool = WHOLE) -> list[Pod]:
    """The pods that were ever scheduled, which is minutes of work, or every 66th of them and the rare sizes, of lives
    of up to a day: one of months had two thirds of all samples. One organisation has every fifth."""
    with FILE.open(newline="") as file:
        ran = [row for row in csv.DictReader(file) if row["scheduled_time"]]
    found = [
        Pod(
            row["name"], f"org-{number % ORGS}", int(row["memory_mib"]), int(row["scheduled_time"]),
            int(row["deletion_time"]),
        )
        for number, row in enumerate(ran)
    ]  # fmt: skip
    rare = (pod for pod in found if pod.memory_mb in (0, 4_096) or pod.memory_mb > 131_072)
    few = {pod for pod in (*found[3::66], *rare) if pod.seconds <= LONG_S}
    return found if whole else sorted(few, key=lambda pod: pod.name)


def load(engine: sa.Engine, ran: Sequence[Pod], now_ms: int) -> int:
    """Insert every sample in one stream, as another program would that has its own way in; returns how many."""
    rows = (row for pod in ran for row in pod.samples(now_ms))
    file = sqlite_file(engine)
    if file is None:
        return _copy(engine, rows)
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA cache_size = -131072")
        marks = ", ".join("?" * len(COLUMNS.split(",")))
        count = connection.executemany(f"INSERT INTO usage_samples ({COLUMNS}) VALUES ({marks})", rows).rowcount
    connection.close()
    return count


def _copy(engine: sa.Engine, rows: Iterable[Row]) -> int:
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY usage_samples ({COLUMNS}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        return cursor.rowcount
