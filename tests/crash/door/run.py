"""The siege of the door at length; `make door`, of all that is sent in both ways on both databases, or of one:
`make door DATABASE=sqlite TRACE=openb SENT=events`.

    python -W ignore -m tests.crash.door.run --seed 1 --database sqlite --trace gentd26 --as events [--rows 2000]

Exit status 1 where anything was lost, doubled or left over, and where the run shows nothing: fewer than a third of all
connections were cut, no kill landed in the middle of a step, or the server or the clients were not killed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from tests import leftovers
from tests.crash.door.planted import PLANTED
from tests.crash.door.process import SERVER
from tests.crash.door.siege import Asked, Outcome, siege, stage
from tests.crash.door.usage import TRACES
from tests.postgres_server import Server

DATABASES: Final = ("sqlite", "postgresql")
WAYS: Final = ("samples", "events")
LEAST_CUT: Final = 1 / 3
MOST_S: Final = 7_200.0


def report(database: str, asked: Asked, found: Outcome) -> str:
    """What happened, for whoever reads it."""
    toll = found.toll
    steps = ", ".join(f"{count:,} {step}" for step, count in toll.steps.most_common())
    roles = ", ".join(f"{count:,} {role}" for role, count in found.killed.most_common())
    cuts = ", ".join(f"{count:,} in the {where}" for where, count in sorted(found.cuts.items()))
    told = ", ".join(f"{count:,} {status}" for status, count in found.told.statuses.most_common())
    struck = toll.strikes["postmaster killed"]
    return "\n".join(
        (
            f"{asked.trace} as {asked.sent_as} on {database}, seed {asked.seed}: {found.sent:,} sent in "
            f"{found.took_s:.0f} s, {found.seconds:,} seconds billed in {found.pushes:,} pushes: exact, each once",
            f"  {toll.kills:,} kills ({roles}), {toll.inside:,} in the middle of a step by their own logs: {steps}"
            + (f"; PostgreSQL killed {struck:,} times" if struck else ""),
            f"  {found.connections:,} connections with {found.calls:,} calls, {found.share:.0%} of them cut: {cuts}",
            f"  the clients were told: {told}; of {found.told.untold:,} items nothing, as they were killed",
        )
    )


def shortage(found: Outcome) -> str | None:
    """Why a run shows nothing; None where it does."""
    if found.share < LEAST_CUT:
        return f"{found.share:.0%} of all connections were cut"
    if not found.toll.inside:
        return "no kill landed inside a step"
    if not found.killed[SERVER] or not found.killed["client"]:
        return "the server and the clients were not both killed"
    return None


def _siege(database: str, asked: Asked) -> Outcome:
    with tempfile.TemporaryDirectory(dir=leftovers.folder("dd-door-")) as folder:
        place = Path(folder)
        with stage(place, asked) as nursery:
            if database == "sqlite":
                return siege(nursery, place, f"sqlite:///{folder}/drawdown.db", asked)
            with closing(Server()) as server:
                return siege(nursery, place, server.url, asked, server)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", choices=DATABASES, nargs="*", default=list(DATABASES))
    parser.add_argument("--trace", choices=TRACES, nargs="*", default=list(TRACES))
    parser.add_argument("--as", choices=WAYS, nargs="*", default=list(WAYS), dest="ways")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=None, help="so many of it at most")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between strikes")
    parser.add_argument("--planted", choices=PLANTED, default="", help="a bug, which has to be found")
    given = parser.parse_args()
    failed = False
    for trace, way, database in itertools.product(given.trace, given.ways, given.database):
        asked = Asked(trace, way, given.seed, given.rows, every_s=given.every, most_s=MOST_S, planted=given.planted)
        try:
            found = _siege(database, asked)
        except AssertionError as error:
            print(f"{trace} as {way} on {database}, seed {given.seed}: {error}", flush=True)
            failed = True
            continue
        print(report(database, asked, found), flush=True)
        if short := shortage(found):
            print(f"  {short}", flush=True)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
