"""Draw charts as SVG on the server.

Guarantee: the sizes of bars are percentages, and bars do not contain text, so text does not shrink on a narrow screen.
A table beside each chart has the chart's values. The largest series has the first colour. The series add up to the sum
of the days.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Final

from markupsafe import Markup

SERIES: Final = 4
"""Number of colours.

If there are more series, the smallest series share the last colour.
"""
OTHERS: Final = "all others"
"""Name of the sum of the smallest series.

A feature cannot have this name, because the name has spaces.
"""
STEPS: Final = (Decimal(1), Decimal(2), Decimal(5), Decimal(10))


@dataclass(frozen=True)
class Chart:
    """A chart as SVG, with its series and its axis.

    `series`: the name, class and sum of each series. `axis`: the labels of the lines, from the top line down. `first`:
    the name of the first bar.
    """

    picture: Markup
    series: list[tuple[str, str, int]]
    axis: list[str]
    first: str


def stacked(days: Sequence[tuple[str, Mapping[str, int]]], said: str, unit: int) -> Chart:
    """Return a chart with one bar for each day, which stacks the series.

    `said`: the label for screen readers. `unit`: the quantity that the axis shows as 1, such as 1,000,000 micro-credits
    for a credit.
    """
    net = [(day, _net(parts)) for day, parts in days]
    sums: Counter[str] = Counter()
    for _, parts in net:
        sums.update(parts)
    order = sorted(sums, key=lambda name: (-sums[name], name))
    shown, rest = (order, []) if len(order) <= SERIES else (order[: SERIES - 1], order[SERIES - 1 :])
    classes = {name: f"s{number + 1}" for number, name in enumerate(shown)} | dict.fromkeys(rest, f"s{SERIES}")
    highest = max((sum(parts.values()) for _, parts in net), default=0)
    top = _top(Decimal(highest) / unit)
    full = top * unit
    bars = [_bar(number, len(days), day, parts, order, classes, full) for number, (day, parts) in enumerate(net)]
    lines = [Markup('<line class="grid" x1="0" x2="100%" y1="{0}%" y2="{0}%"/>').format(at) for at in (0, 50, 100)]
    picture = Markup('<svg class="chart" role="img" aria-label="{}">{}{}</svg>').format(
        said, Markup("").join(lines), Markup("").join(bars)
    )
    series = [(name, classes[name], sums[name]) for name in shown]
    if rest:
        series.append((OTHERS, f"s{SERIES}", sum(sums[name] for name in rest)))
    return Chart(picture, series, [_number(top), _number(top / 2), "0"], days[0][0] if days else "")


def _net(parts: Mapping[str, int]) -> dict[str, int]:
    """Return a day's parts, less the credit that was given back on that day.

    A refund does not name a part, so it reduces the largest part first. A bar is negative only if the whole day is
    negative.
    """
    found = {name: amount for name, amount in parts.items() if amount > 0}
    back = -sum(amount for amount in parts.values() if amount < 0)
    for name in sorted(found, key=lambda name: (-found[name], name)):
        less = min(back, found[name])
        back -= less
        found[name] -= less
    left = {name: amount for name, amount in found.items() if amount}
    return {min(parts, key=lambda name: (parts[name], name)): -back} if back else left


def _bar(
    number: int,
    many: int,
    day: str,
    parts: Mapping[str, int],
    order: Sequence[str],
    classes: Mapping[str, str],
    full: Decimal,
) -> Markup:
    width = Decimal(100) / max(many, 1)
    left, wide = width * number + width / 10, width * 8 / 10
    at, found = Decimal(100), []
    for name in order:
        amount = max(parts.get(name, 0), 0)
        if amount and full:
            high = Decimal(amount) * 100 / full
            at -= high
            box = Markup('<rect class="{}" x="{:.3f}%" width="{:.3f}%" y="{:.3f}%" height="{:.3f}%">').format(
                classes[name], left, wide, at, high
            )
            found.append(box + Markup("<title>{}: {}</title></rect>").format(day, name))
    return Markup("").join(found)


HIGH: Final[Mapping[str, int]] = {"none": 8, "ok": 30, "warn": 60, "bad": 100}
"""Height of a box of a strip, in per cent.

A worse state has a taller box, so that readers do not depend on colours.
"""


def strip(cells: Sequence[tuple[str, str]], said: str) -> Markup:
    """Return a row of boxes as SVG, each with a class of HIGH and its text."""
    width = Decimal(100) / max(len(cells), 1)
    boxes = [
        Markup('<rect class="t-{}" x="{:.3f}%" width="{:.3f}%" y="{}%" height="{}%"><title>{}</title></rect>').format(
            kind, width * number + width / 20, width * 9 / 10, 100 - HIGH[kind], HIGH[kind], text
        )
        for number, (kind, text) in enumerate(cells)
    ]
    return Markup('<svg class="strip" role="img" aria-label="{}">{}</svg>').format(said, Markup("").join(boxes))


def _top(highest: Decimal) -> Decimal:
    """Return the top of an axis: 1, 2, 5 or 10 times a power of ten.

    It is the smallest such number that is not below `highest`.
    """
    if highest <= 0:
        return Decimal(1)
    power = Decimal(10) ** highest.adjusted()
    return next(step * power for step in STEPS if step * power >= highest)


def _number(value: Decimal) -> str:
    """Return a number without superfluous decimals."""
    places = max(-value.normalize().as_tuple().exponent, 0)  # type: ignore[operator]
    return f"{value.quantize(Decimal(1).scaleb(-places), ROUND_CEILING):,}"
