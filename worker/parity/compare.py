"""A cell's day beside ours, organisation by organisation. Pure.

Guarantee: sizes are compared one by one, so that too much of one hides no lack of another. Unknown is not zero: where
one side alone knows an organisation, or ours is pruned, no difference is made up. Whole numbers only: a difference in
parts per million is rounded up, so that what is above a bound is never shown as being at it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from drawdown.worker.parity.totals import BySize

PPM: Final = 1_000_000
ALERTING: Final = ("differs", "only_here", "only_there")
"""Verdicts that a person has to look at."""
SIZES_SAID: Final = 4
"""Sizes that a note names."""
UNKNOWN: Final = ("pruned", "unread")
"""Verdicts that prove nothing."""


@dataclass(frozen=True)
class Ours:
    """Seconds of one organisation's samples by size: in force, and withdrawn."""

    used: BySize
    withdrawn: BySize


@dataclass(frozen=True)
class Line:
    """One organisation's day at a cell, or at all of them (`cell_id` ''), in seconds. `org_id` '': the whole cell's.

    `ours` None: no sample names it, or they are pruned; `theirs` None: the cell does not name it, or gave no answer.
    `off`: how far the sizes are from one another, added up. `ppm`: of the larger
    side of each size, added up as well; rounded up. `note`: what is to be known besides, such as the sizes apart.
    """

    day_ms: int
    cell_id: str
    org_id: str
    ours: int | None
    theirs: int | None
    withdrawn: int
    off: int | None
    ppm: int | None
    verdict: str
    note: str | None = None


def compare(
    day_ms: int,
    cell_id: str,
    theirs: Mapping[str, BySize],
    ours: Mapping[str, Ours],
    pruned: Collection[str],
    tolerance_ppm: int,
) -> list[Line]:
    """A line for each organisation that either side knows of, and first the whole cell's, by their ids."""
    names = sorted({*theirs, *ours})
    lines = [_line(day_ms, cell_id, org, theirs.get(org), ours.get(org), org in pruned, tolerance_ppm) for org in names]
    known = [line for line in lines if line.verdict != "pruned"]
    none = Ours({}, {})
    sides = [apart(theirs.get(line.org_id, {}), ours.get(line.org_id, none).used) for line in known]
    return [_whole(day_ms, cell_id, known, sides), *lines]


def _whole(day_ms: int, cell_id: str, lines: list[Line], sides: list[tuple[int, int]]) -> Line:
    """The whole cell's: who is known to one side alone is a part of that side. `sides`: of each line, what is apart and
    the larger side."""
    ours, theirs = sum(line.ours or 0 for line in lines), sum(line.theirs or 0 for line in lines)
    off = sum(off for off, _ in sides)
    ppm = _ppm(off, sum(larger for _, larger in sides))
    withdrawn = sum(line.withdrawn for line in lines)
    return Line(day_ms, cell_id, "", ours, theirs, withdrawn, off, ppm, "compared")


def unread(day_ms: int, cell_id: str, why: str) -> Line:
    """What stands for a cell that gave no answer that could be read."""
    return Line(day_ms, cell_id, "", None, None, 0, None, None, "unread", why)


def _line(
    day_ms: int, cell_id: str, org: str, theirs: BySize | None, ours: Ours | None, is_pruned: bool, tolerance_ppm: int
) -> Line:
    there = None if theirs is None else sum(theirs.values())
    here = None if ours is None or is_pruned else sum(ours.used.values())
    withdrawn = 0 if ours is None or is_pruned else sum(ours.withdrawn.values())

    def line(verdict: str, off: int | None, ppm: int | None, note: str | None = None) -> Line:
        return Line(day_ms, cell_id, org, here, there, withdrawn, off, ppm, verdict, note)

    if is_pruned:
        return line("pruned", None, None, "samples of that day are pruned here")
    if theirs is None and ours is not None and (here or withdrawn):
        # All of it withdrawn, and nothing counted there: both say that there was no use.
        return line("only_here" if here else "withdrawn", None, None, "the cell does not name it")
    if ours is None and there:
        return line("only_there", None, None, "no sample of that day names it")
    mine = ours if ours is not None else Ours({}, {})
    off, larger = apart(theirs or {}, mine.used)
    ppm = _ppm(off, larger)
    if ppm <= tolerance_ppm:
        return line("within" if off else "equal", off, ppm)
    with_those, its_larger = apart(theirs or {}, _added(mine.used, mine.withdrawn))
    if withdrawn and _ppm(with_those, its_larger) <= tolerance_ppm:
        return line("withdrawn", off, ppm, "it is what was withdrawn here")
    return line("differs", off, ppm, _by_size(theirs or {}, mine.used))


def apart(theirs: BySize, ours: BySize) -> tuple[int, int]:
    """How far two sums by size are from one another, and the larger sides, each added up. Where the other side tells no
    sizes, all of them together are compared."""
    if None in theirs:
        ours = {None: sum(ours.values())}
    sizes = {*theirs, *ours}
    pairs = [(theirs.get(size, 0), ours.get(size, 0)) for size in sizes]
    return sum(abs(one - other) for one, other in pairs), sum(max(pair) for pair in pairs)


def _by_size(theirs: BySize, ours: BySize) -> str | None:
    """Which sizes are apart, in words, those that are most so first; None where the other side tells no sizes."""
    pairs = {size: (ours.get(size, 0), theirs.get(size, 0)) for size in {*theirs, *ours} if size is not None}
    off = sorted((-abs(here - there), size) for size, (here, there) in pairs.items() if here != there)
    if None in theirs or not off:
        return None
    said = [f"{size:,} MB: {pairs[size][0]:,} here, {pairs[size][1]:,} there" for _, size in off[:SIZES_SAID]]
    return "; ".join([*said, *([f"{len(off) - SIZES_SAID:,} more sizes"] if len(off) > SIZES_SAID else [])])


def _added(used: BySize, withdrawn: BySize) -> BySize:
    return {size: used.get(size, 0) + withdrawn.get(size, 0) for size in {*used, *withdrawn}}


def _ppm(off: int, larger: int) -> int:
    return -(-off * PPM // larger) if off else 0
