"""The header of a large file is its first line, whichever thread reads what."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from drawdown.worker.batches.duck import READING_THREADS, shut_in
from drawdown.worker.batches.file_sums import Columns
from drawdown.worker.batches.files import found_file
from tests.cases import cases
from tests.world import T0

pytest.importorskip("duckdb")

ROWS = {
    "a.csv": "org_id,ts,memory_mb,interval_s\nacme,{ts},1024,60\n",
    "a.jsonl": '{{"org_id": "acme", "ts": {ts}, "memory_mb": 1024, "interval_s": 60}}\n',
}


class Recorded:
    """A connection that keeps the statements it is given."""

    def __init__(self, connection: object) -> None:
        self.connection, self.statements = connection, list[str]()

    def execute(self, statement: str, *values: object) -> object:
        self.statements.append(statement)
        return self.connection.execute(statement, *values)  # type: ignore[attr-defined]


@cases("name", ROWS)
def test_header_of_batch_is_read_without_parallelism(name: str, tmp_path: Path) -> None:
    """Without an order, `LIMIT 1` gives the line of whichever thread comes first. At 100 MB that was another line
    in 2 of 40 reads, which no test can wait for. So the test compares how the header is read."""
    (tmp_path / name).write_text(ROWS[name].format(ts=T0))
    file = found_file(tmp_path / name)
    assert READING_THREADS > 1
    with closing(shut_in(file, str(tmp_path), in_order=False)) as connection:
        recorded = Recorded(connection)
        Columns(file, T0).prepare(recorded)  # type: ignore[arg-type]
        assert connection.execute("SELECT org_id, quantity FROM understood").fetchall() == [("acme", 60)]
    (header,) = (said for said in recorded.statements if said.endswith("LIMIT 1"))
    assert "parallel = false" in header
