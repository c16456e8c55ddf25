"""The table cells that several pages of rules and proof share."""

from __future__ import annotations

from collections.abc import Mapping

from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell
from drawdown.server.console.frame.templates import url


def text_cell(text: str | None, *, wide: bool = False) -> Cell:
    """Return a cell with an id, or another text that a person chose.

    `wide`: True to hide it on a narrow screen.
    """
    return Cell(figures.UNKNOWN if text is None else text, "id", narrow=not wide)


def time(ms: int | None, never: str = figures.UNKNOWN, *, wide: bool = False) -> Cell:
    return Cell(never, narrow=not wide) if ms is None else Cell(figures.time(ms), "time", narrow=not wide)


def number(count: int | None, *, wide: bool = False) -> Cell:
    return Cell(figures.count(count), "number", narrow=not wide)


def amount(units: int | None) -> Cell:
    """Return a cell with the amount of a limit, in base units."""
    return Cell("unlimited" if units is None else figures.count(units), "number")


def org(org_id: str, *, tab: str = "", wide: bool = False) -> Cell:
    return Cell(org_id, "id", narrow=not wide, href=url("/console/org", id=org_id, tab=tab))


def part(ppm: int | None) -> str:
    """Return a share in per cent, with one decimal.

    A share above 0 and below 0.1 % is `<0.1 %`, so that a rare event is not zero. `ppm`: the share in parts per
    million.
    """
    if ppm is None:
        return figures.UNKNOWN
    return "<0.1 %" if 0 < ppm < 1_000 else f"{(ppm + 500) // 1_000 / 10:.1f} %"


def short(found: str) -> str:
    """Return the first eight characters of a hash, by which people recognise it."""
    return found[:8] or figures.UNKNOWN


def rows_of(checked: Mapping[str, int]) -> str:
    """Return the number of rows of each kind, as text."""
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in checked.items()) or figures.UNKNOWN
