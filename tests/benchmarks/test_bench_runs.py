"""Every benchmark runs, settles what it should, and gives figures. How fast is not asserted: machines differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.databases import KINDS, Databases
from tests.benchmarks.run import CASES, Options, show
from tests.whole import share

SMALL = share(Options(scale=0.001, runs=1), whole=Options(scale=0.005, runs=2))


@pytest.fixture
def made(postgres_server: str, tmp_path: Path) -> Iterator[Databases]:
    found = Databases(tmp_path, postgres_server)
    yield found
    found.dispose()


BOTH = [(name, kind) for name in CASES for kind in KINDS]


@pytest.mark.parametrize(("name", "kind"), share([("tick", "sqlite"), ("seal", "sqlite")], whole=BOTH))
def test_benchmark_settles_all_and_returns_figures(name: str, kind: str, made: Databases) -> None:
    results = CASES[name](made, kind, SMALL)
    assert results
    for result in results:
        assert result.totals, "each case checks its totals and reports them"
        assert all(number > 0 for number in result.totals.values())
        for figure in result.figures:
            assert figure.values
            assert all(math.isfinite(value) and value >= 0 for value in figure.values)
        assert result.case in show(result, SMALL.scale)
