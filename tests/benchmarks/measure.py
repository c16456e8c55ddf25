"""What a benchmark reports: figures of one run, compared within that run.

Guarantee: a ratio is always of two things timed one right after the other, each as often as the other and each first
as often as the other; seconds of different runs are never compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

Timed = Callable[[], float]
"""Does its work and returns how many seconds it took; what it prepares before and clears after does not count."""


@dataclass(frozen=True)
class Figure:
    """One number measured several times. `goal` is the most it should be, `at_least` the least."""

    name: str
    unit: str
    values: Sequence[float]
    goal: float | None = None
    at_least: float | None = None

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def met(self) -> bool | None:
        if self.at_least is not None:
            return self.median >= self.at_least
        return None if self.goal is None else self.median <= self.goal

    def text(self, *, judged: bool) -> str:
        """One line; a goal is for the full size, where what is done once a tick does not count."""
        text = f"{self.name}: {_short(self.median)} {self.unit}".rstrip()
        if len(self.values) > 1:
            text += f"  (min {_short(min(self.values))}, max {_short(max(self.values))}, {len(self.values)} runs)"
        said = ("met" if self.met else "NOT MET") if judged else "at scale 1"
        if self.goal is not None:
            text += f"  goal: {_short(self.goal)} or less, {said}"
        if self.at_least is not None:
            text += f"  goal: {_short(self.at_least)} or more, {said}"
        return text


@dataclass(frozen=True)
class Result:
    """What one case found on one database."""

    case: str
    database: str
    compares: str
    figures: Sequence[Figure]
    baseline: str = ""
    """The baseline's exact SQL and the indexes it can use."""
    totals: dict[str, int] = field(default_factory=dict)
    """What was settled: the same on each machine, and checked before it is reported."""

    def figure(self, name: str) -> Figure:
        return next(one for one in self.figures if one.name == name)

    def as_json(self) -> dict[str, object]:
        return {
            "case": self.case,
            "database": self.database,
            "compares": self.compares,
            "baseline": self.baseline,
            "totals": self.totals,
            "figures": [
                {
                    "name": one.name,
                    "unit": one.unit,
                    "median": one.median,
                    "min": min(one.values),
                    "max": max(one.values),
                    "runs": len(one.values),
                    "goal": one.goal,
                    "at_least": one.at_least,
                    "met": one.met,
                }
                for one in self.figures
            ],
        }


def stopwatch(work: Callable[[], object]) -> float:
    """How many seconds `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def alternate(ours: Timed, baseline: Timed, runs: int) -> tuple[list[float], list[float]]:
    """Time both `runs` times in turn, after one round that warms caches and does not count."""
    ours_s: list[float] = []
    baseline_s: list[float] = []
    for number in range(-1, runs):
        pair = [(baseline, baseline_s), (ours, ours_s)]
        for timed, found in pair if number % 2 == 0 else reversed(pair):
            seconds = timed()
            if number >= 0:
                found.append(seconds)
    return ours_s, baseline_s


def compared(ours: Timed, baseline: Timed, runs: int, *, goal: float, what: tuple[str, str]) -> list[Figure]:
    """The ratio of two timed things, and the seconds behind it."""
    ours_s, baseline_s = alternate(ours, baseline, runs)
    ratios = [mine / other for mine, other in zip(ours_s, baseline_s, strict=True)]
    return [
        Figure("ratio", "", ratios, goal),
        Figure(what[0], "s", ours_s),
        Figure(what[1], "s", baseline_s),
    ]


def _short(value: float) -> str:
    assert math.isfinite(value), "a figure is a number"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
