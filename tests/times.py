"""What each test costs: `make test-times TESTS=tests/server`. It prints tables of folders, files and tests.

Guarantee: CPU counts this process, its children and its PostgreSQL server. The rest of the time is waiting, which grows
on a busy machine. The first test of a process pays for the session fixtures.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests import leftovers

MOST: Final = 40
"""Lines of a table."""
TICKS: Final = os.sysconf("SC_CLK_TCK")
LIVE_AND_GONE: Final = slice(11, 15)
"""The fields utime, stime, cutime and cstime of /proc/PID/stat, counted after the name."""
_taken: Final = list["Taken"]()


@dataclass(frozen=True)
class Taken:
    """The cost of one test with its fixtures, in seconds."""

    test: str
    cpu_s: float
    wall_s: float


def _spent_s(pid: int, *, itself: bool) -> float:
    """Return the CPU of a process and its descendants."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[LIVE_AND_GONE]
        below = " ".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")).split()
    except OSError:  # it ended: its parent has its time
        return 0.0
    counted = stat if itself else stat[2:]
    return sum(map(int, counted)) / TICKS + sum(_spent_s(int(child), itself=True) for child in below)


def _servers() -> Iterable[int]:
    for folder in leftovers.made:
        for file in folder.glob("data/postmaster.pid"):
            yield int(file.read_text().split()[0])


def _cpu_s() -> float:
    return (
        time.process_time()
        + _spent_s(os.getpid(), itself=False)
        + sum(_spent_s(server, itself=True) for server in _servers())
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Measure a test from before its first fixture to after its last."""
    cpu_s, wall_s = _cpu_s(), time.monotonic()
    try:
        return (yield)
    finally:
        taken_s = max(0.0, _cpu_s() - cpu_s)  # less than nothing where a server ended meanwhile
        _keep(item.config, Taken(item.nodeid, taken_s, time.monotonic() - wall_s))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Measure the collection in each process."""
    if session.config.getoption("dist", "no") == "no" or hasattr(session.config, "workerinput"):
        _keep(session.config, Taken("(reading all tests)", time.process_time(), 0.0))


def _keep(config: pytest.Config, taken: Taken) -> None:
    _taken.append(taken)
    if file := config.getoption("--times"):
        with Path(file).open("a") as kept:
            kept.write(f"{json.dumps(vars(taken))}\n")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send a worker's figures to the controller."""
    told: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["times"] = [[taken.test, taken.cpu_s, taken.wall_s] for taken in _taken]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take a worker's figures."""
    _taken.extend(Taken(*told) for told in getattr(node, "workeroutput", {}).get("times", []))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --times."""
    parser.addoption("--times", metavar="FILE", help="append each test's figures as JSON lines")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables, the highest CPU first."""
    for title, depth in (("folders", 2), ("files", 3), ("tests", None)):
        terminalreporter.section(f"CPU and time of {title}")
        terminalreporter.line(f"{'cases':>7} {'CPU s':>8} {'time s':>8} {'ms CPU a case':>14}")
        for name, cases, cpu_s, wall_s in _table(depth)[:MOST]:
            terminalreporter.line(f"{cases:>7,} {cpu_s:>8.1f} {wall_s:>8.1f} {cpu_s / cases * 1000:>14.0f}  {name}")


def _table(depth: int | None) -> list[tuple[str, int, float, float]]:
    rows = defaultdict[str, list[Taken]](list)
    for taken in _taken:
        name = taken.test.partition("[")[0].partition("@")[0]
        rows[name if depth is None else "/".join(name.partition("::")[0].split("/")[:depth])].append(taken)
    table = [
        (name, len(of), sum(taken.cpu_s for taken in of), sum(taken.wall_s for taken in of))
        for name, of in rows.items()
    ]
    return sorted(table, key=lambda row: -row[2])
