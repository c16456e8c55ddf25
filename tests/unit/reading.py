"""What the tests of reading files share: rows, and what is read from bytes."""

from __future__ import annotations

import io
import json

from drawdown.worker.sources.samples.importer import Record, open_lines, read_records
from drawdown.worker.sources.samples.rows import FIELDS, BadRow, ImportOptions

NOW = 1_733_700_000_000
HEADER = ",".join(FIELDS) + ",prompt\n"


def row(number: int, org: str = "acme", prompt: str = "hi") -> str:
    return f"s{number},{org},sb1,c1,1024,,60,2024-11-15 16:57:50,{prompt}\n"


def records(data: bytes | str, name: str = "u.csv", **options: object) -> list[Record]:
    raw = data.encode() if isinstance(data, str) else data
    with open_lines("-", io.BytesIO(raw)) as lines:
        lines.name = name
        return list(read_records(lines, ImportOptions(**options), NOW))  # type: ignore[arg-type]


def outcomes(data: bytes | str, name: str = "u.csv", **options: object) -> dict[int, str]:
    """Line -> the sample's id, or the reason of its refusal."""
    return {
        line: outcome.reason if isinstance(outcome, BadRow) else outcome[0]
        for line, _, outcome in records(data, name, **options)
    }


JSON = {"id": "s1", "org_id": "o", "sandbox_id": "b", "cell_id": "c", "memory_mb": 1024, "interval_s": 60}
JSON |= {"ts": "2024-11-15T16:57:50Z"}


def changed(**changes: object) -> str:
    return json.dumps({**JSON, **changes})
