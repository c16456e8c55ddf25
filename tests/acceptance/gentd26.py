"""GenTD26: 26,823 requests of 4,247 tenants. Its sums are taken here from the file alone, by the csv module."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
FILE = DATA / "gentd26_requests.csv"

SAMPLES, ORGS, PUSHES, SECONDS = 26_823, 4_247, 12_798, 768_899
FROM, AT = "2024-11-15", "2024-12-09"
AT_MS = 1_733_702_400_000
"""2024-12-09T00:00:00Z: every window of the file has been closed for hours."""

MAPPED = (
    "--map", "org_id=groupId", "--map", "sandbox_id=groupId", "--map", "interval_s=exec_time_seconds",
    "--map", "ts=gmt_create", "--set", "cell_id=cell-1", "--set", "memory_mb=1024",
)  # fmt: skip

Sums = dict[tuple[str, int], int]
"""Seconds by (organisation, window's start in milliseconds)."""


def needed(marked: pytest.MarkDecorator = pytest.mark.data) -> list[pytest.MarkDecorator]:
    """The marks of tests that read the file."""
    missing = not FILE.exists()
    return [marked, pytest.mark.skipif(missing, reason="needs the real usage data beside the project (../shared/data)")]


@cache
def moments() -> tuple[tuple[int, str, int, int], ...]:
    """(line, organisation, time in milliseconds, seconds) of each request; the header is line 1."""

    def read() -> Iterator[tuple[int, str, int, int]]:
        with FILE.open(newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                time = datetime.fromisoformat(row["gmt_create"]).replace(tzinfo=UTC)
                yield number, row["groupId"], int(time.timestamp()) * 1000, int(Decimal(row["exec_time_seconds"]))

    return tuple(read())


def sums() -> Sums:
    """What is to be billed. Windows that sum to zero are left out: they make no push."""
    found: Sums = defaultdict(int)
    for _line, org, ts, seconds in moments():
        found[org, ts - ts % 300_000] += seconds
    return {key: seconds for key, seconds in found.items() if seconds}
