"""What tells the two trees apart, and the table: how fast either is, is not asserted."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from drawdown.schema.database import read, write
from drawdown.worker.engine.effects import Transaction
from tests import leftovers
from tests.benchmarks import sides, sides_script, sides_seed, sides_trees
from tests.benchmarks.databases import Databases
from tests.benchmarks.quick_server import serving
from tests.benchmarks.sides_table import FASTER, Goal, Line, row
from tests.benchmarks.sides_trees import ROOT, Failed, Tree

BEGINS = """
from pathlib import Path
from tests.benchmarks.quick_server import serving
from tests.benchmarks.sides_trees import end_on_signals, whole
end_on_signals()
with serving(0) as service:
    print(service, flush=True)
    whole(["sh", "-c", "sleep 60 & echo $! > begun; wait"], Path.cwd())
"""


def _row(line: Line, *, judged: bool = True) -> list[str]:
    return row(line.cells(judged=judged)).strip("| ").split(" | ")


def test_comparison_row_shows_medians_ratio_and_goal() -> None:
    line = Line("CPU", "sqlite", [2.0, 4.0, 1.0], [5.0, 4.0, 4.0], [30.0], FASTER, "100 done")
    seen = _row(line)
    assert seen == ["CPU", "sqlite", "30 (100 done)", "4 [4, 5]", "2 [1, 4]", "0.50", "after/before ≤ 1", "yes"]
    assert _row(line, judged=False)[-1] == "-", "a goal is for the full size"


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal("after", 70), "yes"),
        (Goal("after", 71), "**no**"),
        (Goal("after/before", 2.5), "**no**"),
        (Goal("after/before", 2), "yes"),
        (Goal("after/seed", 100), "**no**"),
        (Goal("after/seed", 7), "yes"),
        (None, "-"),
    ],
)
def test_comparison_goal_is_judged_by_its_subject(goal: Goal | None, met: str) -> None:
    assert _row(Line("rate", "sqlite", [70.0], [35.0], [10.0], goal))[-1] == met


def test_comparison_with_missing_side_shows_dash() -> None:
    assert _row(Line("stream", "sqlite", [9.0], goal=FASTER))[2:] == ["-", "-", "9", "-", "after/before ≤ 1", "-"]


def test_comparison_adapter_prefers_current_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, places in sides_script.ADAPTERS.items():
        module, _, attribute = places[0].partition(":")
        found = sides_script.adapted(name)
        assert found is (getattr(sys.modules[module], attribute) if attribute else sys.modules[module])
    monkeypatch.setitem(sides_script.ADAPTERS, "By", ("drawdown.no_such:By", "drawdown.schema.audit:no_such"))
    with pytest.raises(LookupError):
        sides_script.adapted("By")


def test_comparison_trace_is_reproducible_with_expected_shape() -> None:
    windows = 60
    rows = list(sides_script.trace(windows))
    assert rows == list(sides_script.trace(windows))
    assert len({row["id"] for row in rows}) == len(rows)

    def push_of(row: dict[str, Any]) -> tuple[str, int, int]:
        return row["org"], row["mb"], row["ts"] // 300_000

    pushes = [key for key, _ in groupby(rows, push_of)]
    assert len(set(pushes)) == len(pushes)
    assert 50 <= len(pushes) / windows <= 60
    assert 3 <= len(rows) / len(pushes) <= 3.5
    busiest = Counter(org for org, _, _ in pushes).most_common(20)
    assert sum(count for _, count in busiest) > len(pushes) / 3, "a tenth of the organisations use much of it"


def test_comparison_figure_from_foreign_files_is_refused(tmp_path: Path) -> None:
    stranger = Tree("before", tmp_path, Path(sys.executable), (ROOT,))
    with pytest.raises(Failed, match="none of"):
        stranger.measure("empty", url=f"sqlite:///{tmp_path}/one.db")


def test_comparison_tree_with_top_level_packages_is_found_by_links(tmp_path: Path) -> None:
    older, newer = tmp_path / "older", tmp_path / "newer"
    (older / "worker").mkdir(parents=True)
    (newer / "drawdown").mkdir(parents=True)
    tree = sides_trees.borrowed(older, tmp_path / "beside")
    assert tree.path[0] == older
    assert [link.name for link in (tree.path[1] / "drawdown").iterdir()] == ["worker"]
    assert (tree.path[1] / "drawdown" / "worker").resolve() == older / "worker"
    assert not (sides_trees.borrowed(newer, tmp_path / "other").path[1]).exists()


def test_comparison_of_bench_cases_has_figures_of_both_trees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    medians = {"before": {"ratio": 2.0, "gone": 1.0}, "after": {"ratio": 1.0, "new": 1.0}}

    def bench(self: Tree, case: str, kind: str, scale: float) -> list[dict[str, Any]]:
        figures = [{"name": name, "unit": "s", "median": scale * one} for name, one in medians[self.name].items()]
        return [{"case": case, "database": kind, "figures": figures}]

    monkeypatch.setattr(Tree, "bench", bench)
    trees = [Tree(name, tmp_path, Path(sys.executable), ()) for name in medians]
    found = list(sides.cases(sides.Sides(Databases(tmp_path, ""), {}, trees, sides.Sizes(2, case_scale=0.5)), "sqlite"))
    assert [one.figure for one in found] == [f"`make bench` ({case}): ratio s" for case in sides.CASES]
    assert {(*one.before, *one.after) for one in found} == {(1.0, 1.0, 0.5, 0.5)}


@pytest.mark.parametrize("broken", ["before", "after"])
def test_comparison_omits_case_that_only_older_tree_cannot_run(
    broken: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def bench(self: Tree, case: str, kind: str, scale: float) -> list[dict[str, Any]]:
        if self.name == broken and case == "seal":
            raise Failed(self.name, "it ended with 1")
        return [{"case": case, "database": kind, "figures": [{"name": "ratio", "unit": "s", "median": scale}]}]

    monkeypatch.setattr(Tree, "bench", bench)
    trees = [Tree(name, tmp_path, Path(sys.executable), ()) for name in ("before", "after")]
    compared = sides.cases(sides.Sides(Databases(tmp_path, ""), {}, trees, sides.Sizes(1)), "sqlite")
    if broken == "after":
        with pytest.raises(Failed):
            list(compared)
    else:
        assert [one.figure for one in compared] == [
            f"`make bench` ({case}): ratio s" for case in sides.CASES if case != "seal"
        ]


def test_seed_billing_pushes_and_reads_each_org(tmp_path: Path) -> None:
    made = Databases(tmp_path, "")
    engine = made.new("sqlite")
    sides_seed.prepare(engine, 3)
    write(engine, lambda c: c.execute(sa.text("UPDATE seed_orgs SET is_halted = TRUE")))
    with serving(0) as service:
        done = sides_seed.bill(engine, service, 3, asks=True)
        assert len(httpx.get(f"{service}/arrivals").json()) == done.count == 3
    rows = read(engine, lambda c: [tuple(row) for row in c.execute(sa.text("SELECT billed, is_halted FROM seed_orgs"))])
    assert rows == [(1, 0)] * 3
    made.dispose()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_comparison_signal_ends_all_processes(number: signal.Signals, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with subprocess.Popen(
        [sys.executable, "-c", BEGINS], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        service = process.stdout.readline().strip()
        assert httpx.get(f"{service}/arrivals").json() == []
        _until(lambda: begun.exists() and begun.read_text().strip())
        process.send_signal(number)
    if number == signal.SIGKILL:  # only the services hear of that: a figure comes to its end
        os.kill(int(begun.read_text()), number)
    else:
        assert process.returncode == 128 + number
        assert leftovers.command_line(int(begun.read_text())) == ""
    _until(lambda: not _answers(service))


def _answers(service: str) -> bool:
    try:
        return bool(httpx.get(f"{service}/arrivals"))
    except httpx.HTTPError:
        return False


def _until(true: Callable[[], object]) -> None:
    ends = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_comparison_time_is_attributed_to_reads_only_without_pushes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def take(_effect: object, seconds: float) -> None:
        await asyncio.sleep(seconds)

    runner = sides_script.adapted("runner")
    monkeypatch.setattr(runner, "_do", take)

    async def both() -> None:
        read, charge = (Transaction(name, lambda _: None) for name in ("project", "charge"))
        await asyncio.gather(runner._do(read, 0.3), runner._do(charge, 0.1))

    with sides_script.divided() as spent:
        asyncio.run(both())
    assert runner._do is take
    assert 0.1 <= spent["push"] < 0.2 <= spent["project"] + 0.05 < 0.3
