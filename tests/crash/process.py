"""One real process under observation.

    python -m tests.crash.process [--slow 'begin push=2'] once FOLDER -- COMMAND...   one command line, and its status
    python -m tests.crash.process importer FOLDER         imports each part of the siege's data as it is released
    python -m tests.crash.process ticker-a|ticker-b FOLDER     ticks, on and on, until told to stop

The database comes from DRAWDOWN_DATABASE_URL, as for any other process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from functools import partial
from itertools import cycle
from pathlib import Path

from drawdown.cli import imports
from drawdown.cli.main import global_options_first, run
from drawdown.worker.sample_rows import ImportOptions
from tests.crash.observer import Observer

SHARDS = {"ticker-a": ("0/1",), "ticker-b": ("0/2", "1/2")}
"""Two workers whose shards overlap: every organisation is in both."""
FASTER = 60
"""The siege's minutes pass in seconds, so that a dead worker's lease ends while we watch."""
CHUNK_ROWS = 40


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
    for number in range(siege.state()["parts"]):
        while siege.state()["released"] <= number:
            if siege.stopped():
                return 1
            time.sleep(0.02)
        part, done = siege.folder / f"part{number}.csv", siege.folder / f"part{number}.done"
        if done.exists():
            continue
        status = run(["--at", siege.now(), "import", str(part), "--time-format", "ms"])
        observer.note(f"status {status}")
        if status:
            return status
        done.touch()
    return 0


def _tick_on(siege: Siege, observer: Observer, role: str) -> int:
    start = str(siege.state()["from_ms"])
    for shard in cycle(SHARDS[role]):
        if siege.stopped():
            return 0
        at = ["--at", siege.now(), "tick", "--shard", shard]
        status = run([*at, "--new-org-provider", "embedded", "--new-org-from", start])
        observer.note(f"status {status}")
        if status not in (0, 75):
            return status
        time.sleep(0.02)
    raise AssertionError("shards come round for ever")


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("once", "importer", *SHARDS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slow", action="append", default=[])
    parser.add_argument("command", nargs="*")
    given = parser.parse_args()
    slow = {mark: float(seconds) for mark, _, seconds in (one.partition("=") for one in given.slow)}
    log = given.folder / f"{given.role}.{os.getpid()}.log"
    order = given.folder / ("order.import" if given.role == "importer" else "order.tick")
    observer = Observer(log, order, slow)
    observer.install()
    if given.role == "once":
        return run(global_options_first(given.command))
    siege = Siege(given.folder)
    observer.note("ready")
    return _import_parts(siege, observer) if given.role == "importer" else _tick_on(siege, observer, given.role)


if __name__ == "__main__":
    sys.exit(main())
