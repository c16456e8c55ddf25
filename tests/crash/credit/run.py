"""The siege of the trace at length; `make trace`, on both databases, or on one: `make trace DATABASE=sqlite`.

    python -m tests.crash.credit.run --database postgresql --seed 1 [--requests 2000]

Exit status 1 where anything was lost, doubled or left over, and where the run shows nothing: no kill landed, or in all
of the trace metering drew of no hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from tests import leftovers
from tests.crash.credit.trace import Outcome, trace
from tests.postgres_server import Server

DATABASES = ("sqlite", "postgresql")
MOST_S = 7_200.0


def report(database: str, seed: int, found: Outcome) -> str:
    """What happened, for whoever reads it."""
    toll, books = found.toll, found.books
    ends = ", ".join(f"{count:,} {end}" for end, count in books.ends.most_common())
    steps = ", ".join(f"{count:,} {step}" for step, count in toll.steps.most_common())
    return "\n".join(
        (
            f"{database}, seed {seed}: {found.requests:,} requests in {found.took_s:.0f} s, {toll.kills:,} kills, "
            f"{toll.starts:,} processes started",
            f"  {toll.inside:,} killed in the middle of a step, by their own logs: {steps}",
            f"  {ends}",
            f"  charged to the micro-credit: {books.charged_micro / 1_000_000:,.6f} credits by runs, "
            f"{books.metered_micro / 1_000_000:,.6f} by {found.pushes:,} pushes",
            f"  of {books.shrunk:,} holds metering had drawn",
        )
    )


def _siege(database: str, seed: int, most: int | None) -> Outcome:
    with tempfile.TemporaryDirectory(dir=leftovers.folder("dd-trace-")) as folder:
        if database == "sqlite":
            return trace(Path(folder), f"sqlite:///{folder}/drawdown.db", seed=seed, most=most, most_s=MOST_S)
        with closing(Server()) as server:
            return trace(Path(folder), server.url, seed=seed, most=most, most_s=MOST_S)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", choices=DATABASES, nargs="*", default=list(DATABASES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests", type=int, default=None)
    given = parser.parse_args()
    failed = False
    for database in given.database:
        try:
            found = _siege(database, given.seed, given.requests)
        except AssertionError as error:
            print(f"{database}, seed {given.seed}: {error}", flush=True)
            failed = True
            continue
        print(report(database, given.seed, found), flush=True)
        if given.requests is None and not found.books.shrunk:
            print("  metering drew of no run's hold")
            failed = True
        if not found.toll.inside:
            print("  no kill landed inside a step")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
