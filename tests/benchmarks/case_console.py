"""The console's budgets at 100,000 organisations and 900,000 pushes: statements and time of each page, rows a second
and memory of its files, and the gate's time beside five people who click."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from time import perf_counter, sleep
from typing import Final

import sqlalchemy as sa

from drawdown.server.console.pages import PAGES
from tests.benchmarks.console_fleet import fill
from tests.benchmarks.console_visitor import CLICKS_EVERY_S, PEOPLE, Visitor, paths
from tests.benchmarks.databases import Databases, tidy, url_of
from tests.benchmarks.measure import Figure, Result

STATEMENTS: Final = 13
PAGE_MS: Final = 150.0
ROWS_A_S: Final = 30_000
GROWN_MB: Final = 16.0
"""How much a file of all organisations may add to the process: pieces, and what the allocator keeps."""
GATE_RATIO: Final = 1.1
VISITS: Final = 20
ROUND_S: Final = 20.0
GATE_EVERY_S: Final = 0.02
ROOT: Final = Path(__file__).resolve().parents[2]


def run(databases: Databases, kind: str, scale: float, runs: int) -> list[Result]:
    """One server on one database."""
    engine = databases.new(kind)
    count = fill(engine, scale)
    tidy(engine)
    seconds = max(ROUND_S * scale, 0.2)
    with _server(engine) as (port, process), _server(engine) as (other, _):
        found = [
            _pages(kind, port, max(int(VISITS * min(scale, 1)), 2)),
            _files(kind, port, process, count),
            _gate(kind, port, port, count, seconds, runs),
            _gate(kind, port, other, count, seconds, runs),
        ]
    databases.drop(engine)
    return found


@contextmanager
def _server(engine: sa.Engine) -> Iterator[tuple[int, int]]:
    """Its port and process."""
    command = [sys.executable, "-m", "tests.benchmarks.console_server", url_of(engine.url)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid
    finally:
        process.kill()
        process.wait()


def _pages(kind: str, port: int, visits: int) -> Result:
    visitor, figures = Visitor(port), []
    asked = paths()
    for path in asked:
        visitor.visit(path)  # what is read for the first time is read once
        seen = [visitor.visit(path) for _ in range(visits)]
        name = path.removeprefix("/console")
        figures += [
            Figure(f"{name}: statements", "", [max(statements for _, statements in seen)], STATEMENTS),
            Figure(f"{name}: p50", "ms", [_cut([ms for ms, _ in seen], 50)]),
            Figure(f"{name}: p95", "ms", [_cut([ms for ms, _ in seen], 95)], PAGE_MS),
        ]
    compares = f"each page of the console, {visits} times, over HTTP on one connection"
    return Result(case="console", database=kind, compares=compares, figures=figures, totals={"pages": len(asked)})


def _files(kind: str, port: int, process: int, count: int) -> Result:
    """Of each file: the rows a second, and by how much the process grew at most."""
    visitor, figures = Visitor(port), []
    files = [page.file_path("csv") for page in PAGES if page.lines and not page.example]
    rows = 0
    for path in files:
        visitor.take(path)
        _forget_peak(process)
        before = _memory_mb(process, "VmRSS")
        seconds, lines = visitor.take(path)
        figures += [
            Figure(f"{path}: rows a second", "", [(lines - 1) / seconds], at_least=ROWS_A_S if lines > 1000 else None),
            Figure(f"{path}: grown by", "MB", [max(_memory_mb(process, "VmHWM") - before, 0)], GROWN_MB),
        ]
        rows += lines - 1
    compares = f"files of pages over HTTP, taken once before; {count:,} organisations"
    return Result(case="console files", database=kind, compares=compares, figures=figures, totals={"rows": rows})


def _forget_peak(process: int) -> None:
    Path(f"/proc/{process}/clear_refs").write_text("5")


def _memory_mb(process: int, name: str) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(f"{name}:")).split()[1]) / 1024


def _gate(kind: str, port: int, clicked: int, count: int, seconds: float, runs: int) -> Result:
    """Rounds without and with clicks at the server of port `clicked`, in turn; the gate is asked at its moments. Each
    organisation was asked about before: of the halted ones the provider is asked at the first time, and not again at a
    clock that stands still."""
    alone: list[float] = []
    beside: list[float] = []
    clicks = 0
    _asked(port, count, seconds)
    for number in range(2 * runs):
        if number % 2 == 0:
            alone += _asked(port, count, seconds)
        else:
            with _clicking(clicked) as done:
                beside += _asked(port, count, seconds)
            clicks += done()
    ratio = _cut(beside, 99) / _cut(alone, 99)
    figures = [Figure("times the p99 without clicks", "", [ratio], GATE_RATIO)]
    figures += [
        Figure(f"{cut}, {name}", "ms", [_cut(found, int(cut[1:]))])
        for name, found in (("alone", alone), ("beside clicks", beside))
        for cut in ("p50", "p99")
    ]
    where = "in the same process" if clicked == port else "in another process"
    compares = f"GET /v1/gate every {GATE_EVERY_S * 1000:g} ms, beside {PEOPLE} people who click every "
    compares += f"{CLICKS_EVERY_S:g} s {where}, and without them, {runs} rounds of {seconds:g} s each"
    totals = {"asked": len(alone) + len(beside), "clicks": clicks}
    case = "console gate" if clicked == port else "console gate apart"
    return Result(case=case, database=kind, compares=compares, figures=figures, totals=totals)


def _asked(port: int, count: int, seconds: float) -> list[float]:
    """Milliseconds from the moment at which each was to be asked."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    began, found = perf_counter() + 0.05, []
    for number in range(int(seconds / GATE_EVERY_S)):
        due = began + number * GATE_EVERY_S
        sleep(max(due - perf_counter(), 0))
        connection.request("GET", f"/v1/gate/org-{number * 7919 % count}")
        assert connection.getresponse().read()
        found.append((perf_counter() - due) * 1000)
    connection.close()
    return found


@contextmanager
def _clicking(port: int) -> Iterator[Callable[[], int]]:
    """Five people, in a process of their own: what they read costs the one who asks the gate nothing. Called at the
    end: how often they clicked."""
    command = [sys.executable, "-m", "tests.benchmarks.console_visitor", str(port)]
    people = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert people.stdout is not None
    assert people.stdout.readline() == "here\n"
    clicked: list[int] = []
    try:
        yield lambda: clicked[0]
        clicked.append(int(people.communicate(timeout=60)[0]))
    finally:
        people.kill()
        people.wait()


def _cut(found: Sequence[float], percent: int) -> float:
    return quantiles(found, n=100, method="inclusive")[percent - 1]
