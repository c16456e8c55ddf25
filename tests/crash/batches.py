"""Ticks that are killed while they take files and the answers of a query, and a fold that is killed between and within
its portions. What was written and said is the judge.

    make crash
"""

from __future__ import annotations

import importlib
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from drawdown.cli.main import run
from drawdown.schema.audit import By
from drawdown.schema.database import connect, read, write
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.batches.query_source import Question
from drawdown.worker.batches.sources import add_query, add_source
from drawdown.worker.usage import prune as pruning
from drawdown.worker.usage.prune import fold
from drawdown.worker.verify.verify import verify
from tests.acceptance.commands import drawdown, must
from tests.acceptance.tables import CHARGED, billed_exactly, by_window, difference, number
from tests.crash.hunt import wait
from tests.crash.nursery import Nursery
from tests.crash.observer import Observer
from tests.crash.planted import PLANTED
from tests.sqlite_databases import migrated

READ_AT: Final = ("begin add_up", "inside take_batch", "end take_batch")
"""Each content is killed at these, one after the other: as often as it may be read (`readings.MAX_READINGS`)."""
FOLD_AT: Final = ("inside prune3", "begin fold3", "inside fold4", "end fold5")
"""By how many transactions each has had."""
FOLDED_AT_ONCE_MS: Final = 6 * 60 * MINUTE_MS
LATER_MS: Final = 5 * MINUTE_MS
"""The reading of a dead tick is over by then."""
CLOSED_MS: Final = 60 * MINUTE_MS
"""A period is closed so long after its end, at the latest."""
FOLD_BEFORE: Final = 1_769_904_000_000
"""2026-02-01: all is of the month before."""
FOLD_NOW: Final = FOLD_BEFORE + 430 * DAY_MS
QUESTION: Final = Question(
    "SELECT org_id, ts, memory_mb, interval_s FROM used WHERE ts >= :from_ms AND ts < :until_ms",
    "warehouse",
    DAY_MS,
    30 * MINUTE_MS,
)
Sums = Counter[tuple[str, int]]


def killed_in_turn(folder: Path, url: str, rounds: int, marks: Sequence[str] = READ_AT, planted: str = "") -> int:
    """`rounds` periods of a query, and as many files, killed while each is read and taken; then a fold of it all is.
    How many were killed. Errors: AssertionError where anything is lost, doubled or left.

    A period and a file come with each round: what could not be read is tried again after all others, so that of more at
    once none would be killed at each mark, and one more often than it may be read."""
    from_ms = FOLD_BEFORE - rounds * DAY_MS
    expected = _made(folder, url, rounds, from_ms)
    now_ms, kills = from_ms, 0
    environment = _environment(folder)
    with closing(Nursery(folder, url, environment | {"CRASH_PLANTED": planted}, work="tests.crash.batches")) as nursery:
        for number_ in range(rounds):
            now_ms = from_ms + (number_ + 1) * DAY_MS + CLOSED_MS
            (folder / "made" / f"f{number_}.csv").rename(folder / "files" / f"f{number_}.csv")
            for mark in [*marks] * 2:
                now_ms += LATER_MS
                _killed(nursery, "tick", now_ms, mark)
                kills += 1
        for _ in range(3):  # what is left, its pushes, and each period once more
            now_ms += DAY_MS
            ended = drawdown(url, "tick", at=str(now_ms), env=environment)
            assert ended.status in (0, 75), ended
        assert ended.status == 0, ended
        billed_exactly(url, expected)
        assert number(url, "SELECT COUNT(*) FROM batches WHERE row_count > 0") == 2 * rounds
        must(url, "verify", at=str(now_ms))
        for mark in FOLD_AT:
            _killed(nursery, "fold", FOLD_NOW, mark)
            kills += 1
        engine = connect(url)
        _folds(lambda _name: partial(write, engine))
    wrong = difference(by_window(url, CHARGED), dict(expected))
    assert not wrong, f"folded: {wrong}"
    assert number(url, "SELECT COUNT(*) FROM pushes") == 0
    assert number(url, "SELECT SUM(sealed_qty) FROM folded_pushes") == expected.total()
    assert not read(engine, partial(verify, now_ms=FOLD_NOW)).breaches
    engine.dispose()
    return kills


def _environment(folder: Path) -> dict[str, str]:
    return {"DRAWDOWN_QUERY_WAREHOUSE_URL": f"sqlite:///{folder}/warehouse.db"}


def _made(folder: Path, url: str, rounds: int, from_ms: int) -> Sums:
    """A warehouse, a watched folder, and files for it; what they come to."""
    sums, files, made = Sums(), folder / "files", folder / "made"
    files.mkdir()
    made.mkdir()
    must(migrated(url), "init", at=str(from_ms))
    must(
        url,
        "org",
        "assign",
        "acme",
        "bolt",
        "--provider",
        "embedded",
        "--from",
        str(from_ms),
        "--new",
        at=str(from_ms),
    )
    by = By(from_ms, "test", "a test")
    engine = connect(url)
    write(engine, partial(add_source, source="exports", folder=files, by=by))
    write(engine, partial(add_query, source="calls", question=QUESTION, by=by, from_ms=from_ms))
    engine.dispose()
    with closing(sqlite3.connect(folder / "warehouse.db")) as warehouse, warehouse:
        warehouse.execute("CREATE TABLE used (org_id TEXT, ts INTEGER, memory_mb INTEGER, interval_s INTEGER)")
        for number_ in range(rounds):
            rows = [
                (org, from_ms + number_ * DAY_MS + place * 12 * WINDOW_MS, 1024, 10 + number_ + place)
                for place in range(20)
                for org in ("acme", "bolt")
            ]
            sums.update({(org, ts): seconds for org, ts, _, seconds in rows})
            warehouse.executemany("INSERT INTO used VALUES (?, ?, ?, ?)", rows)
            of_file = [(org, ts, size, 2 * seconds) for org, ts, size, seconds in rows]
            sums.update({(org, ts): seconds for org, ts, _, seconds in of_file})
            path = made / f"f{number_}.csv"
            lines = ["org_id,ts,memory_mb,interval_s", *(",".join(map(str, row)) for row in of_file)]
            path.write_text("\n".join(lines) + "\n")
            os.utime(path, (from_ms / 1000 + number_,) * 2)
    return sums


def _killed(nursery: Nursery, role: str, now_ms: int, mark: str) -> None:
    """A process that comes to the mark, and ends there."""
    (nursery.folder / "now").write_text(str(now_ms))
    (nursery.folder / "order").write_text(f"kill {mark}")
    child = nursery.start(role)
    wait(lambda: child.poll() is not None, f"{role} to die at {mark}")
    said = f"{mark}: {child.status}: {child.log.read_text()[-600:]}{nursery.said(role)[-2_000:]}"
    assert child.status == -signal.SIGKILL and child.log.read_text().endswith(f"killed {mark}\n"), said


def _folds(transact: Callable[[str], Any]) -> None:
    by = By(FOLD_NOW, "test", "a test")
    vars(pruning)["HOUR_MS"] = FOLDED_AT_ONCE_MS
    pruning.prune(transact("prune"), FOLD_BEFORE, by)
    fold(transact("fold"), FOLD_BEFORE, by)


def work(role: str, number_: int, folder: Path) -> int:
    """A process's whole life; its exit status."""
    observer = Observer(folder / f"{role}.{number_}.log", folder / "order")
    observer.install()
    if os.environ["CRASH_PLANTED"]:
        PLANTED[os.environ["CRASH_PLANTED"]]()
    if role == "tick":
        return run(["--at", (folder / "now").read_text(), "tick"])
    engine = connect(os.environ["DRAWDOWN_DATABASE_URL"])

    def transact(name: str) -> Any:
        numbers = count()
        return lambda work_, rollback=False: observer.written(f"{name}{next(numbers)}")(
            engine, work_, rollback=rollback
        )

    _folds(transact)
    return 0


def prepare(_folder: Path) -> None:
    """What each tick would import anew."""
    for module in ("duckdb", "drawdown.worker.batches.folders", "drawdown.worker.tick", "drawdown.cli.nouns.tick"):
        importlib.import_module(module)
