"""How long a file of many samples takes from the folder to the bill, and how much memory: a Parquet made of GenTD26's
requests, each so often as it takes, moved by up to ten minutes.

python -m tests.benchmarks.batches [MILLIONS] [--database URL] [--folder FOLDER]

One process takes the file, seals and bills it at the embedded ledger, and says how long each took and the most memory
it had. It proves what was billed against the file's own sum.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.schema.database import connect, read, write
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import DAY_MS
from drawdown.worker.batches.file_sums import add_up
from drawdown.worker.batches.files import found_file
from drawdown.worker.batches.take import take
from drawdown.worker.verify.verify import verify
from tests.world import Fleet

TRACE: Final = Path(__file__).resolve().parents[3] / "shared" / "data" / "gentd26_requests.csv"
REQUESTS: Final = 26_823
END_MS: Final = 1_733_788_800_000
"""2024-12-10: after the trace."""
MADE: Final = """
COPY (
    SELECT groupId AS org_id, epoch_ms(CAST(gmt_create AS TIMESTAMP)) + CAST(hash(i, rowid) % 1200000 AS BIGINT)
        AS ts, 4096 AS memory_mb, CAST(exec_time_seconds AS INTEGER) AS interval_s
    FROM trace, range({copies}) r(i) LIMIT {rows}
) TO '{path}' (FORMAT parquet, COMPRESSION zstd)
"""


def make(path: Path, rows: int) -> None:
    """Errors: SystemExit where the trace is not there."""
    import duckdb

    if not TRACE.exists():
        raise SystemExit(f"{TRACE} is not there: it is what the file is made of")
    duck = duckdb.connect(config={"memory_limit": "1GB", "threads": "2", "preserve_insertion_order": "false"})
    duck.execute(f"CREATE TABLE trace AS FROM read_csv('{TRACE}')")
    duck.execute(MADE.format(copies=-(-rows // REQUESTS), rows=rows, path=path))
    duck.close()


@contextmanager
def timed(into: dict[str, float], name: str) -> Iterator[None]:
    began, cpu = time.perf_counter(), time.process_time()
    yield
    into[name] = round(time.perf_counter() - began, 2)
    into[f"{name}_cpu"] = round(time.process_time() - cpu, 2)


def run(path: Path, url: str) -> dict[str, float]:
    """Take, seal and bill, in this process; seconds by step, the most memory in MB."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    engine, found = connect(url), dict[str, float]()
    upgrade(engine)
    fleet = Fleet(engine)
    fleet.clock.at_ms = END_MS
    file = found_file(path)
    with timed(found, "add_up"):
        sums = add_up(file, END_MS)
    found["rows"], found["samples"], total = sums.rows, sums.samples, sums.total
    with closing(sums), timed(found, "take"):
        write(engine, lambda c: take(c, sums, "", fleet.by))
    with engine.connect() as connection:
        orgs = connection.execute(sa.text("SELECT DISTINCT org_id FROM usage_samples")).scalars().all()
    found["memory_mb_to_take"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    fleet.assign(*map(str, orgs), from_ms=END_MS - 60 * DAY_MS)
    with timed(found, "seal_and_bill"):
        report = fleet.tick_windows(2)
    found["pushes"], found["accepted"] = report.sealed, report.accepted
    assert fleet.one("SELECT SUM(sealed_qty) FROM pushes WHERE state = 'accepted'") == total, "not all was billed"
    with timed(found, "verify"):
        assert read(engine, lambda c: verify(c, now_ms=fleet.clock.at_ms)).clean
    found["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return found


def main() -> None:
    """Make the file, and run in a process of its own, whose memory is told alone."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("millions", type=float, nargs="?", default=1.0)
    asked.add_argument("--database", default="", help="an empty one; by default SQLite in the folder")
    asked.add_argument("--folder", type=Path, help="for the file, which is deleted in the end")
    asked.add_argument("--of", type=Path, help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.of is not None:
        print(json.dumps(run(given.of, given.database)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="drawdown-bench-") as folder:
        path = Path(folder) / "usage.parquet"
        make(path, int(given.millions * 10**6))
        url = given.database or f"sqlite:///{folder}/bench.db"
        command = [sys.executable, "-m", "tests.benchmarks.batches", "--of", str(path), "--database", url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(f"{path.stat().st_size / 1e6:,.0f} MB of Parquet: {done.stdout or done.stderr}")


if __name__ == "__main__":
    main()
