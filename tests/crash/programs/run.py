"""The siege of programs at length, as a part of `make crash`, on PostgreSQL and on SQLite.

    python -W ignore -m tests.crash.programs.run --kills 200 --server-kills 5 --seed 1

Exit status 1 where anything was lost, doubled or left over, and where no kill landed inside a step.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

import structlog

from tests.crash.programs.siege import Outcome, Size, besieged
from tests.postgres_server import Server

EVERY_S, MOST_S, LIKELY_A_KILL = 0.15, 3_600.0, 6
SQLITE_SHARE: Final = 4


def _size(kills: int) -> Size:
    """So much to do that as many kills land."""
    uses = LIKELY_A_KILL * kills
    return Size(limit=uses // 2, uses=uses, batches=3 * kills, fills=max(kills // 4, 3))


def _siege(database: str, kills: int, strikes: int, seed: int) -> Outcome:
    more = {"seed": seed, "size": _size(kills), "kills": kills, "every_s": EVERY_S, "most_s": MOST_S}
    with tempfile.TemporaryDirectory(prefix="dd-crash-") as folder:
        if database == "sqlite":
            return besieged(Path(folder), f"sqlite:///{folder}/drawdown.db", **more)  # type: ignore[arg-type]
        with closing(Server(durable=True)) as server:
            found = besieged(Path(folder), server.url, strikes=strikes, server=server, **more)  # type: ignore[arg-type]
            assert server.recoveries() == found.toll.strikes.total(), "the server says how often it had to recover"
            return found


def by_programs(kills: int, server_kills: int, seed: int) -> bool:
    """Whether anything failed; says what happened."""
    failed = False
    for database, share, strikes in (("postgresql", kills, server_kills), ("sqlite", -(-kills // SQLITE_SHARE), 0)):
        try:
            found = _siege(database, share, strikes, seed)
        except AssertionError as error:
            print(f"the door on {database}, seed {seed}: FAILED: {error}", flush=True)
            failed = True
            continue
        toll = found.toll
        steps = ", ".join(f"{count:,} {step}" for step, count in toll.steps.most_common())
        said = ", ".join(f"{count:,} {decision}" for decision, count in found.decisions.most_common())
        print(
            f"the door on {database}, seed {seed}: {toll.kills:,} processes killed in {found.took_s:.0f} s, "
            f"{toll.inside:,} in the middle of a step: {steps}; the server {toll.strikes.total():,} times\n"
            f"  {found.events:,} events, {found.filled:,} backfills, {found.reverted:,} of them taken back; {said}",
            flush=True,
        )
        failed |= not toll.inside
        print("  0 lost, 0 doubled" if toll.inside else "  FAILED: no kill landed inside a step", flush=True)
    return failed


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--server-kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    return int(by_programs(given.kills, given.server_kills, given.seed))


if __name__ == "__main__":
    sys.exit(main())
