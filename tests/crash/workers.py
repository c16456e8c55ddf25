"""The siege of workers: `drawdown worker`, twice, killed between claim, send and settle at an Autumn and a Stripe on
sockets, which fail one call in eight until the last kill.

What was charged is read from the emulated services, as in `billers`. Before it ends, two workers that nobody kills have
to come to the end of all that is there: what a dead one held is taken over by them, and by nobody else.

    python -m tests.crash.workers --kills 200 --seed 1     `make cluster KILLS=200`
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from drawdown.cli import cluster, scheduler, startup
from drawdown.cli.app import App
from drawdown.cli.main import run
from drawdown.providers.registry import Registry
from drawdown.worker.cluster import membership
from tests.acceptance.drain import LEASE_MS, SharedClock
from tests.acceptance.tables import SEALED, by_window, difference, number
from tests.crash.billers import BOTH, HOUR_MS, Blockade, blockade
from tests.crash.data import Usage
from tests.crash.observer import Observer
from tests.crash.run import report
from tests.postgres_server import Server

SHARDS = 3
LIVES_S, BEAT_S, TAKE_OVER_S = 2.0, 0.5, 1
"""A machine that died is missed within seconds, while we watch."""
STAND_STILL_S = 60.0
JUMPS = 0.2
"""A second, at the end: a claim that ends before its pushes are sent sends none of them."""
OPEN = "SELECT COUNT(*) FROM pushes WHERE state NOT IN ('accepted', 'voided')"
STUCK = "SELECT COUNT(*) FROM drawdown_cluster.procrastinate_jobs"


class Workers(Blockade):
    """Two of them, and three shards."""

    ROLES = ("worker-a", "worker-b")
    WORK = "tests.crash.workers"

    def before_the_end(self, made: Usage) -> None:
        """All is sealed and settled by the workers alone, however long that takes: they may not stand still."""
        url, expected, least, since = self.nursery.url, made.sums(), sys.maxsize, time.monotonic()
        while left := len(difference(by_window(url, SEALED), expected)) + number(url, OPEN):
            if left < least:
                least, since = left, time.monotonic()
            standing_s = time.monotonic() - since
            assert standing_s < STAND_STILL_S, f"workers stand still with {left} left; {number(url, STUCK)} jobs"
            self.watch()
            if self.dice.random() < JUMPS:
                self.clock.jump(LEASE_MS if self.dice.random() < 0.8 else HOUR_MS)
            time.sleep(1)


def _left_alone() -> None:
    """What dead workers held."""

    async def nothing(_engine: object) -> None:
        pass

    vars(cluster)["take_over"] = nothing


def _one_lock() -> None:
    """All shards have the lock of one."""
    original = vars(cluster)["_schedule"]
    vars(cluster)["_schedule"] = lambda made, task, when, name, given: original(made, task, when, name[:4], given)


PLANTED: dict[str, Callable[[], None]] = {"left alone": _left_alone, "one lock": _one_lock}


def work(role: str, number: int, folder: Path) -> int:
    """The whole life of a worker, by the command line's own function; returns its exit status."""
    observer = Observer(folder / f"{role}.{number}.log", folder / "order.tick")
    if (bug := os.environ.get("CRASH_PLANTED", "")) != "":
        PLANTED[bug]()
    vars(startup)["SystemClock"] = lambda: SharedClock(folder / "clock")
    for module in (membership, cluster):
        vars(module)["LIVES_S"] = LIVES_S
    vars(cluster)["TAKE_OVER_EVERY_S"], vars(cluster)["BEAT_S"] = TAKE_OVER_S, BEAT_S
    vars(scheduler)["WITHIN"] = HOUR_MS  # the clock jumps further than a second's tick may take
    load: Callable[[App], Registry] = App._load
    setattr(App, "_load", lambda app: _unhurried(load(app)))  # noqa: B010
    observer.install()
    observer.note("ready")
    threading.Thread(target=_end_when_told, args=(folder / "stop",), daemon=True).start()
    return run(["worker", "--shards", str(SHARDS), "--every", "1"])


def _unhurried(registry: Registry) -> Registry:
    """Seconds of the siege's clock are not the machine's, so no rate is kept to."""
    for one in registry.providers.values():
        one.capabilities = replace(one.capabilities, calls_per_s=None, reads_per_s=None, lookups_per_s=None)
    return registry


def _end_when_told(stop: Path) -> None:
    while not stop.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dd-crash-") as folder, closing(Server(durable=True)) as server:
        try:
            found = blockade(
                Path(folder), server.url, BOTH, kills=given.kills, seed=given.seed, how=Workers, faulty=True
            )
        except AssertionError as error:
            print(f"workers, seed {given.seed}: FAILED: {error}")
            return 1
    short = found.toll.short_of(given.kills, 0)
    print(report("workers at Autumn and Stripe, PostgreSQL", given.seed, found))
    print(f"  faults of the services: {', '.join(f'{count} {kind}' for kind, count in sorted(found.struck.items()))}")
    print(f"  FAILED: {short}: this run shows nothing" if short else "  0 lost, 0 doubled", flush=True)
    return int(short is not None)


if __name__ == "__main__":
    sys.exit(main())
