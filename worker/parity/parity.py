"""Parity: compare the counts of cells with the received samples.

A line is an organisation's day at a cell.

Guarantee: a day is compared once it is over and its last samples have arrived. A comparison writes only its own result.
If a cell does not answer, sends an invalid response or is not registered, it is unread, and does not count as unused.
Sizes are compared one by one, so that an excess of one size does not hide a lack of another. Unknown is not zero. If
only one side has an organisation, or our samples are pruned, a difference is not computed. All numbers are whole. A
difference in parts per million is rounded up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.schema.clock import Clock
from drawdown.schema.sql import queries
from drawdown.schema.text import counted
from drawdown.schema.units import DAY_MS, MAX_MEMORY_MB, MINUTE_MS
from drawdown.worker.engine.effects import Over, ReadCells, Steps, Transaction, UsageAnswer, UsageRequest, never
from drawdown.worker.parity.totals import ALL_CELLS, BadTotal, BySize, Days, day_text, of_answer
from drawdown.worker.sources.samples.rows import CELL as MADE_CELL

log = structlog.get_logger()

SQL = queries(__file__)

TOLERANCE_PPM: Final = 70
"""Difference, in parts per million, up to which an organisation's day is not reported (0.007 %)."""
SETTLING_MS: Final = 15 * MINUTE_MS
"""Milliseconds after the end of a day before its first comparison.

Hosts write the last samples of a day after its end.
"""
DUE_FOR_MS: Final = 7 * DAY_MS
"""Milliseconds for which a day stays due after a missed check or an unreadable cell."""
CELLS_AT_ONCE: Final = 8
"""Most cells from which Drawdown requests totals at the same time. All their responses are in memory together."""
MAX_STRANGERS: Final = 100
"""Most unregistered cells that the comparison of a day reports."""
MAX_LINES: Final = 1_000
"""Most organisation-days that the report and the log of a comparison list.

Drawdown records all days, and counts those above the limit.
"""
KEPT_AT_ONCE: Final = 1_000
"""Organisation-days and cell-days of a check that one statement stores."""


@dataclass
class Checked:
    """The result of a check.

    `lines`: the first differences and unknown days. `more`: the number of further differences and unknown days.
    """

    compared: int = 0
    """Organisations' days for which both sides were compared."""
    differing: int = 0
    unknown: int = 0
    """Organisations' days that are pruned here, and cells' days that could not be read."""
    unread: int = 0
    """The part of `unknown` that could not be read at a cell."""
    waiting: list[str] = field(default_factory=list)
    """Days that are not over."""
    cells: list[Line] = field(default_factory=list)
    """For each day and cell, the sum of all organisations."""
    lines: list[Line] = field(default_factory=list)
    more: int = 0

    @property
    def exit_status(self) -> int:
        """Return 1 if a person must act, 75 if a later run can compare more, else 0."""
        if self.differing or self.unknown > self.unread:
            return 1
        return 75 if self.unread or self.waiting else 0


def check_totals(totals: Days, tolerance_ppm: int, clock: Clock) -> Steps[Checked]:
    """Compare totals from a person's file, and store the result."""
    done = Checked()
    over = _over_by(clock.now_ms())
    done.waiting = sorted({day_text(day) for day, _ in totals if day >= over})
    for (day, cell), theirs in sorted(totals.items()):
        if day < over:
            yield from _compare(day, cell, theirs, tolerance_ppm, clock.now_ms(), done)
    return _ended(done)


def check_cells(days: Sequence[int], tolerance_ppm: int, clock: Clock, over: Over = never) -> Steps[Checked]:
    """Read and compare the totals of each registered cell, and store the result.

    `days`: the starts of the days to compare, in milliseconds. Once `over` returns True, further cells are not read,
    and get the verdict `unread`.
    """
    done = Checked()
    ended = _over_by(clock.now_ms())
    done.waiting = [day_text(day) for day in days if day >= ended]
    for day in (day for day in days if day < ended):
        cells: list[tuple[str, str]]
        cells, strangers = yield Transaction("parity_cells", partial(_cells, day_ms=day), rollback=True)
        for at in range(0, len(cells), CELLS_AT_ONCE):
            asked = [UsageRequest(cell, url, day_text(day)) for cell, url in cells[at : at + CELLS_AT_ONCE]]
            answers: list[UsageAnswer] = yield ReadCells(asked, over)
            for request, answer in zip(asked, answers, strict=True):
                theirs = _read(answer, request.cell_id, day)
                if isinstance(theirs, str):
                    yield from _note([unread(day, request.cell_id, theirs)], clock.now_ms(), done)
                else:
                    yield from _compare(day, request.cell_id, theirs, tolerance_ppm, clock.now_ms(), done)
        why = "samples name this cell, but it is not registered. Register it with `drawdown cell set CELL URL`"
        for cell in strangers:
            yield from _note([unread(day, cell, why)], clock.now_ms(), done)
    return _ended(done)


def days_due(connection: sa.Connection, now_ms: int) -> list[int]:
    """Return the days that a check without a range compares.

    Each day is given by its start, in milliseconds. The days are yesterday, and each day of the last DUE_FOR_MS on
    which a registered cell was not compared. The days before the first check of a cell are not due.
    """
    today = now_ms - now_ms % DAY_MS
    first = today - DUE_FOR_MS
    rows = SQL.run(connection, "compared", {"first_ms": first, "to_ms": today})
    compared = {(str(row.cell_id), int(row.day_ms)) for row in rows}
    due = {today - DAY_MS}
    for cell in SQL.run(connection, "first_checks"):
        days = range(max(first, int(cell.first_ms)), today, DAY_MS)
        due.update(day for day in days if (cell.cell_id, day) not in compared)
    return sorted(due)


def _over_by(now_ms: int) -> int:
    """Return the time before which complete days begin.

    A complete day is over, and its samples have arrived.
    """
    return now_ms - SETTLING_MS - DAY_MS + 1


def _read(answer: UsageAnswer, cell_id: str, day_ms: int) -> dict[str, BySize] | str:
    if answer.body is None:
        return answer.error or "no response"
    try:
        return of_answer(answer.body, cell_id, day_ms)
    except BadTotal as bad:
        return f"invalid response: {bad}"


def _compare(
    day_ms: int, cell_id: str, theirs: dict[str, BySize], tolerance_ppm: int, now_ms: int, done: Checked
) -> Steps[None]:
    here: _Here = yield Transaction("parity_ours", partial(_here, day_ms=day_ms, cell_id=cell_id), rollback=True)
    lines = compare(day_ms, cell_id, theirs, here.ours, here.pruned, tolerance_ppm)
    yield from _note([_explained(line, here.quarantined.get(line.org_id, 0)) for line in lines], now_ms, done)


def _explained(line: Line, quarantined: int) -> Line:
    if not quarantined or line.verdict not in ALERTING:
        return line
    note = f"{counted(quarantined, 'quarantined sample')} of that day. Run `drawdown sample quarantined`"
    return replace(line, note=f"{line.note}; {note}" if line.note else note)


def _note(lines: list[Line], now_ms: int, done: Checked) -> Steps[None]:
    """Store lines, and log the first lines that need attention."""
    yield Transaction("parity_keep", partial(_keep, lines=lines, now_ms=now_ms))
    done.cells.append(lines[0])
    done.compared += sum(1 for line in lines if line.org_id and line.verdict not in UNKNOWN)
    told = [line for line in lines if line.verdict in (*ALERTING, *UNKNOWN, "withdrawn")]
    done.differing += sum(1 for line in told if line.verdict in ALERTING)
    done.unknown += sum(1 for line in told if line.verdict in UNKNOWN)
    done.unread += sum(1 for line in told if line.verdict == "unread")
    first = told[: MAX_LINES - len(done.lines)]
    for line in first:
        _tell(line)
    done.lines += first
    done.more += len(told) - len(first)


def _ended(done: Checked) -> Checked:
    """Log the number of lines that are not logged one by one."""
    if done.more:
        log.error("parity_more", lines=done.more)
    return done


def _tell(line: Line) -> None:
    """Log an event for a line, for alerts."""
    say = log.error if line.verdict in ALERTING else log.warning
    event = "parity_differs" if line.verdict in ALERTING else "parity_unknown"
    say(
        "parity_withdrawn" if line.verdict == "withdrawn" else event,
        day=day_text(line.day_ms),
        cell=line.cell_id,
        org=line.org_id,
        verdict=line.verdict,
        ours=line.ours,
        theirs=line.theirs,
        ppm=line.ppm,
        note=line.note,
    )


def _cells(connection: sa.Connection, *, day_ms: int) -> tuple[list[tuple[str, str]], list[str]]:
    """Return registered cells with their URLs, and unregistered cells of samples."""
    registered = [(str(row.cell_id), str(row.url)) for row in SQL.run(connection, "cells")]
    values = {**_span(day_ms), "at_most": MAX_STRANGERS}
    return registered, list(SQL.run(connection, "strangers", values).scalars())


@dataclass(frozen=True)
class _Here:
    """Our figures of a day, by organisation.

    `ours`: seconds of samples. `pruned`: organisations with samples that may be deleted. `quarantined`: the number of
    quarantined samples.
    """

    ours: dict[str, Ours]
    pruned: set[str]
    quarantined: dict[str, int]


def _here(connection: sa.Connection, *, day_ms: int, cell_id: str) -> _Here:
    values = {**_span(day_ms), "cell_id": cell_id}
    of_cell = "every_cell" if cell_id == ALL_CELLS else "one_cell"
    found: dict[str, Ours] = {}
    for row in SQL.run(connection, "ours", values, of_cell=of_cell):
        ours = found.setdefault(row.org_id, Ours({}, {}))
        ours.used[int(row.memory_mb)], ours.withdrawn[int(row.memory_mb)] = int(row.used), int(row.withdrawn)
    quarantined = {row.org_id: int(row.samples) for row in SQL.run(connection, "quarantined", values, of_cell=of_cell)}
    return _Here(found, set(SQL.run(connection, "pruned", {"from_ms": day_ms}).scalars()), quarantined)


def _span(day_ms: int) -> dict[str, object]:
    return {"from_ms": day_ms, "to_ms": day_ms + DAY_MS, "largest_mb": MAX_MEMORY_MB, "made_cell": MADE_CELL}


def _keep(connection: sa.Connection, *, lines: Sequence[Line], now_ms: int) -> None:
    for at in range(0, len(lines), KEPT_AT_ONCE):
        SQL.run(connection, "keep", list(_rows(lines[at : at + KEPT_AT_ONCE], now_ms)))


def _rows(lines: Sequence[Line], now_ms: int) -> Iterator[dict[str, object]]:
    for line in lines:
        yield {
            "day_ms": line.day_ms,
            "cell_id": line.cell_id,
            "org_id": line.org_id,
            "ours_s": line.ours,
            "theirs_s": line.theirs,
            "withdrawn_s": line.withdrawn,
            "off_s": line.off,
            "ppm": line.ppm,
            "verdict": line.verdict,
            "at_ms": now_ms,
        }


PPM: Final = 1_000_000
ALERTING: Final = ("differs", "only_here", "only_there")
"""Verdicts that need a person."""
SIZES_SAID: Final = 4
"""Most sizes that a note names."""
UNKNOWN: Final = ("pruned", "unread")
"""Verdicts without a comparison."""


@dataclass(frozen=True)
class Ours:
    """Seconds of an organisation's samples by size: in force, and withdrawn."""

    used: BySize
    withdrawn: BySize


@dataclass(frozen=True)
class Line:
    """An organisation's day at a cell, in seconds.

    `cell_id`: '' for all cells. `org_id`: '' for the whole cell. `ours`: None if samples are missing or pruned.
    `theirs`: None if the cell does not name the organisation, or did not answer. `withdrawn`: seconds of withdrawn
    samples. `off`: the sum of the differences of all sizes. `ppm`: `off` in parts per million of the sum of the larger
    sides, rounded up. `off` and `ppm` are None if a difference was not computed. `verdict`: `compared` or `unread` for
    a whole cell; equal, within, withdrawn, differs, only_here, only_there or pruned for an organisation. `note`:
    further facts, such as the sizes that differ, or None.
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
    """Return the line of the whole cell, and a line for each organisation, by id.

    The lines include organisations that only one side has.
    """
    names = sorted({*theirs, *ours})
    lines = [_line(day_ms, cell_id, org, theirs.get(org), ours.get(org), org in pruned, tolerance_ppm) for org in names]
    known = [line for line in lines if line.verdict != "pruned"]
    none = Ours({}, {})
    sides = [apart(theirs.get(line.org_id, {}), ours.get(line.org_id, none).used) for line in known]
    return [_whole(day_ms, cell_id, known, sides), *lines]


def _whole(day_ms: int, cell_id: str, lines: list[Line], sides: list[tuple[int, int]]) -> Line:
    """Return the line of the whole cell.

    If only one side has an organisation, the organisation counts for that side. `sides`: the difference and the larger
    side of each line.
    """
    ours, theirs = sum(line.ours or 0 for line in lines), sum(line.theirs or 0 for line in lines)
    off = sum(off for off, _ in sides)
    ppm = _ppm(off, sum(larger for _, larger in sides))
    withdrawn = sum(line.withdrawn for line in lines)
    return Line(day_ms, cell_id, "", ours, theirs, withdrawn, off, ppm, "compared")


def unread(day_ms: int, cell_id: str, why: str) -> Line:
    """Return the line of a cell without a readable response."""
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
        # If `here` is 0, all of this use is withdrawn here, and the cell does not count it. So both sides agree on 0.
        return line("only_here" if here else "withdrawn", None, None, "the cell does not report this organisation")
    if ours is None and there:
        return line("only_there", None, None, "no sample of that day names this organisation")
    mine = ours if ours is not None else Ours({}, {})
    off, larger = apart(theirs or {}, mine.used)
    ppm = _ppm(off, larger)
    if ppm <= tolerance_ppm:
        return line("within" if off else "equal", off, ppm)
    with_those, its_larger = apart(theirs or {}, _added(mine.used, mine.withdrawn))
    if withdrawn and _ppm(with_those, its_larger) <= tolerance_ppm:
        return line("withdrawn", off, ppm, "the difference is usage that was withdrawn here")
    return line("differs", off, ppm, _by_size(theirs or {}, mine.used))


def apart(theirs: BySize, ours: BySize) -> tuple[int, int]:
    """Return the sum of the differences by size, and the sum of the larger sides.

    If the cell does not report sizes, the totals are compared.
    """
    if None in theirs:
        ours = {None: sum(ours.values())}
    sizes = {*theirs, *ours}
    pairs = [(theirs.get(size, 0), ours.get(size, 0)) for size in sizes]
    return sum(abs(one - other) for one, other in pairs), sum(max(pair) for pair in pairs)


def _by_size(theirs: BySize, ours: BySize) -> str | None:
    """Return a text about the sizes that differ, the largest difference first.

    None: all sizes are equal, or the other side does not report sizes.
    """
    pairs = {size: (ours.get(size, 0), theirs.get(size, 0)) for size in {*theirs, *ours} if size is not None}
    off = sorted((-abs(here - there), size) for size, (here, there) in pairs.items() if here != there)
    if None in theirs or not off:
        return None
    said = [f"{size:,} MB: {pairs[size][0]:,} here, {pairs[size][1]:,} there" for _, size in off[:SIZES_SAID]]
    return "; ".join([*said, *([f"sizes not shown: {len(off) - SIZES_SAID:,}"] if len(off) > SIZES_SAID else [])])


def _added(used: BySize, withdrawn: BySize) -> BySize:
    return {size: used.get(size, 0) + withdrawn.get(size, 0) for size in {*used, *withdrawn}}


def _ppm(off: int, larger: int) -> int:
    return -(-off * PPM // larger) if off else 0
