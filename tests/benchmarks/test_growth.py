"""What the growth of the tables is measured on holds by `verify`, and all figures are there. Speed is not asserted."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.databases import Databases
from tests.benchmarks.grown import Size
from tests.benchmarks.growth import exponents, measure, table
from tests.whole import at_length


@at_length("make bench")
def test_growth_measurement_of_small_table_returns_figures(postgres_server: str, tmp_path: Path) -> None:
    made = Databases(tmp_path, postgres_server)
    found = measure(made.new("postgresql"), Size(samples=9_000, orgs=50, new=500, runs=1))
    made.dispose()
    assert found["pruned"] == 250, "one day of 36"
    assert min(found.values()) > 0
    assert "prune_s" in table([found])


def test_growth_exponent_equals_power() -> None:
    sizes = [{"samples": n, "flat": 3.0, "linear": 2.0 * n, "root": n**0.5} for n in (1e6, 1e7, 1e8)]
    assert {name: round(power, 6) for name, power in exponents(sizes).items()} == {
        "samples": 1, "flat": 0, "linear": 1, "root": 0.5,
    }  # fmt: skip
