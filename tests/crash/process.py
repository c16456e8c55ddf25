"""One real process under observation.

    main: [--slow 'begin push=2'] [--at-once 9] once FOLDER -- COMMAND...   one command line, and its status

In a siege, processes are forked by `tests.crash.nursery` and do `work`: the importer imports each part of the data as
it is released; tickers tick, on and on, until told to stop, each tick as cron would start it; drainers do so as one
long-lived process each. The database comes from DRAWDOWN_DATABASE_URL, as for any other process. CRASH_PLANTED names a
bug to plant.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import partial
from itertools import cycle
from pathlib import Path

from drawdown.cli.main import global_options_first, run
from drawdown.cli.nouns import imports
from drawdown.schema.errors import DatabaseBusy
from drawdown.worker.push import push
from drawdown.worker.sources.samples.rows import ImportOptions
from tests.acceptance import drain
from tests.crash.observer import Observer
from tests.crash.planted import PLANTED

SHARDS = {"ticker-a": ("0/1",), "ticker-b": ("0/2", "1/2")}
"""Two workers whose shards overlap: every organisation is in both."""
FASTER = 60
"""The siege's minutes pass in seconds, so that a dead worker's lease ends while we watch."""
CHUNK_ROWS = 15
TRY_AGAIN = 75
NIGHT_S = 2.0
"""Between two nights of a siege."""


class Siege:
    """What the controller has put into the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.folder / "state.json").read_text())
        return found

    def now(self) -> str:
        """The siege's present moment, in milliseconds, as --at takes it."""
        state = self.state()
        return str(state["now_ms"] + (time.time_ns() // 1_000_000 - state["began_ms"]) * FASTER)

    def stopped(self) -> bool:
        return (self.folder / "stop").exists()


def _import_parts(siege: Siege, observer: Observer) -> int:
    vars(imports)["ImportOptions"] = partial(ImportOptions, chunk_rows=CHUNK_ROWS)
    number = 0
    while number < siege.state()["parts"]:
        while siege.state()["released"] <= number:
            if siege.stopped():
                return 1
            time.sleep(0.02)
        part, done = siege.folder / f"part{number}.csv", siege.folder / f"part{number}.done"
        if done.exists():
            number += 1
            continue
        status = run(["--at", siege.now(), "import", str(part), "--time-format", "ms"])
        observer.note(f"status {status}")
        if status == TRY_AGAIN:
            time.sleep(0.02)
        elif status:
            return status
        else:
            done.touch()
            number += 1
    return 0


def _tick_on(siege: Siege, observer: Observer, role: str) -> int:
    start = str(siege.state()["from_ms"])
    for shard in cycle(SHARDS[role]):
        if siege.stopped():
            return 0
        at = ["--at", siege.now(), "tick", "--shard", shard]
        status = run([*at, "--new-org-provider", "embedded", "--new-org-from", start])
        observer.note(f"status {status}")
        if status not in (0, TRY_AGAIN):
            return status
        time.sleep(0.02)
    raise AssertionError("shards come round for ever")


def _drain_on(folder: Path, observer: Observer) -> int:
    worker = drain.Worker(folder)
    while not worker.stop.exists():
        try:
            observer.note(f"status {worker.tick()['exit_status']}")
        except DatabaseBusy:  # a command would say so, and end
            observer.note(f"status {TRY_AGAIN}")
        time.sleep(0.02)
    return 0


def _reconcile_on(folder: Path, observer: Observer) -> int:
    """`reconcile --correct`, again and again, beside the ticks."""
    worker = drain.Worker(folder)
    while not worker.stop.exists():
        try:
            observer.note(f"status {worker.reconcile()['exit_status']}")
        except DatabaseBusy:
            observer.note(f"status {TRY_AGAIN}")
        time.sleep(NIGHT_S)
    return 0


def work(role: str, number: int, folder: Path) -> int:
    """What a process of the siege does until it ends; returns its exit status."""
    order = folder / ("order.import" if role == "importer" else "order.tick")
    observer = Observer(folder / f"{role}.{number}.log", order)
    if (bug := os.environ.get("CRASH_PLANTED", "")) != "":
        PLANTED[bug]()
    observer.install()
    observer.note("ready")
    if role == "importer":
        return _import_parts(Siege(folder), observer)
    if role in SHARDS:
        return _tick_on(Siege(folder), observer, role)
    if role == "nightly":
        return _reconcile_on(folder, observer)
    return _drain_on(folder, observer)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("once",))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slow", action="append", default=[])
    parser.add_argument("--at-once", type=int, default=push.AT_ONCE)
    parser.add_argument("command", nargs="*")
    given = parser.parse_args()
    slow = {mark: float(seconds) for mark, _, seconds in (one.partition("=") for one in given.slow)}
    vars(push)["AT_ONCE"] = given.at_once
    Observer(given.folder / f"once.{os.getpid()}.log", slow=slow).install()
    return run(global_options_first(given.command))
