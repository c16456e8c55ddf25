"""The table of what was measured side by side: figure, seed's way, before, after, after/before, goal, met."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from tests.benchmarks.measure import Figure

HEAD: Final = ("figure", "database", "seed's way", "before", "after", "after/before", "goal", "met")
NONE: Final = "-"


@dataclass(frozen=True)
class Goal:
    """What a figure should be: `of` is the after, or it by the before, or by the seed's way."""

    of: str
    number: float
    at_most: bool = False

    def text(self) -> str:
        return f"{self.of} {'≤' if self.at_most else '≥'} {short(self.number)}"


FASTER: Final = Goal("after/before", 1, at_most=True)


@dataclass(frozen=True)
class Line:
    """One figure on one database, by each way as often as it was measured; none where there is no such way."""

    figure: str
    database: str
    after: Sequence[float]
    before: Sequence[float] = ()
    seed: Sequence[float] = ()
    goal: Goal | None = None
    seed_said: str = ""
    """How much of it the seed's way did, where the rest was reckoned."""

    def ratio(self) -> float | None:
        """After by before."""
        return median(self.after) / median(self.before) if self.before and median(self.before) else None

    def judged(self) -> float | None:
        """The number that the goal is about."""
        if self.goal is None:
            return None
        if self.goal.of == "after":
            return median(self.after)
        if self.goal.of == "after/before":
            return self.ratio()
        return median(self.after) / median(self.seed) if self.seed and median(self.seed) else None

    def met(self) -> bool | None:
        number = self.judged()
        if number is None or self.goal is None:
            return None
        return number <= self.goal.number if self.goal.at_most else number >= self.goal.number

    def cells(self, *, judged: bool) -> tuple[str, ...]:
        """As shown; goals are for the full size."""
        met = {True: "yes", False: "**no**", None: NONE}[self.met()] if judged else NONE
        ratio = self.ratio()
        seed = f"{_middle(self.seed)}{f' ({self.seed_said})' if self.seed and self.seed_said else ''}"
        ratios = NONE if ratio is None else f"{ratio:.2f}"
        goal = NONE if self.goal is None else self.goal.text()
        return (self.figure, self.database, seed, _middle(self.before), _middle(self.after), ratios, goal, met)


def of_figure(name: str, database: str, figure: Figure) -> Line:
    """What a case of `make bench` found, on this tree alone."""
    goal = None if figure.at_least is None else Goal("after", figure.at_least)
    return Line(name, database, figure.values, goal=goal)


HEADINGS: Final = (HEAD, ("---",) * len(HEAD))
"""What a table in Markdown begins with."""


def row(cells: Iterable[str]) -> str:
    """In Markdown."""
    return f"| {' | '.join(cells)} |"


def short(number: float) -> str:
    """Three digits that count."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def _middle(values: Sequence[float]) -> str:
    if not values:
        return NONE
    spread = f" [{short(min(values))}, {short(max(values))}]" if len(values) > 1 else ""
    return f"{short(median(values))}{spread}"
