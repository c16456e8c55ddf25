"""The sieges at length; `make crash KILLS=1000 SERVER_KILLS=50`.

    python -m tests.crash.run --kills 60 --server-kills 6 --seed 1 [--no-kill]

`--kills` are of workers on PostgreSQL; SQLite and each of the two billers over HTTP get a share of as many. Exit status
1 where anything was lost, doubled or left over, and where the kills did not land: then the run shows nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from tests.crash.batches import killed_in_turn
from tests.crash.billers import blockade
from tests.crash.controller import CUT, Plan
from tests.crash.credit.topups import till
from tests.crash.credit.trace import trace
from tests.crash.programs.run import by_programs
from tests.crash.siege import Outcome, siege
from tests.postgres_server import Server

SQLITE_SHARE, BILLER_SHARE = 5, 20
KINDS = ("postgresql", "sqlite", "autumn", "stripe")
CREDIT_SHARE, REQUESTS_A_KILL, PROGRAMS_SHARE, BATCHES_SHARE = 10, 10, 3, 30
K = TypeVar("K", int, str)


def report(name: str, seed: int, found: Outcome) -> str:
    """What happened, for whoever reads it."""
    toll = found.toll
    each = f", {found.took_s / toll.kills:.2f} s a kill" if toll.kills else ""
    lines = [
        f"{name}, seed {seed}: {toll.kills:,} workers killed in {found.took_s:.0f} s{each}; {toll.starts:,} started",
        f"  {toll.inside:,} in the middle of a step, by the worker's own log: {_told(toll.steps)}",
        f"  {toll.ordered:,} at a named step, the others at random moments",
    ]
    if toll.strikes:
        cut = toll.strikes[CUT]
        lines += [
            f"  {toll.strikes.total() - cut:,} kills of the server and {cut:,} cut connections: {_told(toll.strikes)}",
            f"  each with a worker in the middle of a transaction: {_told(toll.held)}",
            f"  whose ticks and imports ended with exit status: {_told(toll.struck_ends)}",
        ]
    lines += [
        f"  all ticks and imports that ended did so with exit status: {_told(toll.ends)}",
        f"  {found.samples:,} samples, {found.seconds:,} s in {found.pushes:,} pushes, {found.sent_again:,} sent again",
    ]
    return "\n".join(lines)


def _told(counts: Counter[K]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common()) or "none"


def _on_postgresql(plan: Plan, seed: int) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="dd-crash-") as folder, closing(Server(durable=True)) as server:
        found = siege(Path(folder), server.url, plan, seed=seed, server=server)
        kills = found.toll.strikes.total() - found.toll.strikes[CUT]
        assert server.recoveries() == kills, "the server itself says how often it had to recover"
        return found


def _in_a_file(kind: str, plan: Plan, seed: int) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="dd-crash-") as folder:
        url = f"sqlite:///{folder}/drawdown.db"
        if kind == "sqlite":
            return siege(Path(folder), url, plan, seed=seed)
        return blockade(Path(folder), url, kind, kills=plan.kills, seed=seed, no_kill=plan.no_kill)


def sieges(kinds: list[str], whole: Plan, seed: int) -> Iterator[tuple[str, Plan, Callable[[], Outcome]]]:
    """Each siege of a run, its plan, and how to do it."""
    for kind in kinds:
        if kind == "postgresql":
            yield kind, whole, lambda: _on_postgresql(whole, seed)
        else:
            share = SQLITE_SHARE if kind == "sqlite" else BILLER_SHARE
            plan = Plan(-(-whole.kills // share), no_kill=whole.no_kill)
            yield kind, plan, lambda kind=kind, plan=plan: _in_a_file(kind, plan, seed)  # type: ignore[misc]


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--server-kills", type=int, default=6)
    parser.add_argument("--only", choices=KINDS, action="append")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-kill", action="store_true", help="leave out the kill: the run has to say so, and fail")
    given = parser.parse_args()
    whole, failed = Plan(given.kills, given.server_kills, given.no_kill), False
    for name, plan, do in sieges(given.only or list(KINDS), whole, given.seed):
        try:
            found = do()
        except AssertionError as error:
            print(f"{name}, seed {given.seed}: FAILED: {error}", flush=True)
            failed = True
            continue
        print(report(name, given.seed, found), flush=True)
        short = found.toll.short_of(plan.kills, 2 * plan.strikes)
        print(f"  FAILED: {short}: this run shows nothing" if short else "  0 lost, 0 doubled", flush=True)
        failed |= short is not None
    if not given.only and not given.no_kill:
        failed |= _on_credit(-(-given.kills // CREDIT_SHARE), given.server_kills, given.seed)
        failed |= by_programs(-(-given.kills // PROGRAMS_SHARE), -(-given.server_kills // PROGRAMS_SHARE), given.seed)
        failed |= _of_batches(-(-given.kills // BATCHES_SHARE))
    return int(failed)


def _of_batches(rounds: int) -> bool:
    """Files, queries and a fold, while what takes them is killed; whether that failed."""
    with tempfile.TemporaryDirectory(prefix="dd-crash-") as folder:
        try:
            kills = killed_in_turn(Path(folder), f"sqlite:///{folder}/drawdown.db", rounds)
        except AssertionError as error:
            print(f"batches: FAILED: {error}", flush=True)
            return True
    print(f"batches, queries and a fold: {kills:,} processes killed at a named step\n  0 lost, 0 doubled", flush=True)
    return False


def _on_credit(kills: int, server_kills: int, seed: int) -> bool:
    """Runs on credit, and wallets that fill themselves, while their clients, workers and server are killed; whether
    that failed."""
    failed = False
    for what in ("runs", "top-ups"):
        with tempfile.TemporaryDirectory(prefix="dd-crash-") as folder, closing(Server(durable=True)) as server:
            try:
                if what == "runs":
                    most = REQUESTS_A_KILL * kills
                    runs = trace(
                        Path(folder), server.url, seed=seed, every_s=0.5, most=most, strikes=kills, server=server
                    )
                    said, toll = f"{runs.requests:,} runs, {runs.books.charged_micro:,} micro-credits", runs.toll
                else:
                    filled = till(Path(folder), server.url, kills=kills, seed=seed, server=server, strikes=server_kills)
                    said, toll = f"{filled.topups:,} top-ups, {filled.payments:,} payments", filled.toll
                assert server.recoveries() == toll.strikes.total()
            except AssertionError as error:
                print(f"{what}, seed {seed}: FAILED: {error}", flush=True)
                failed = True
                continue
        print(
            f"{what}, seed {seed}: {said}; {toll.kills:,} processes killed, {toll.inside:,} in the middle of a step: "
            f"{_told(toll.steps)}; the server {toll.strikes.total():,} times\n  0 lost, 0 doubled",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
