"""Show the invariants, and the runs of `drawdown verify` that proved them.

Guarantee: the page shows the stored results of runs. A request for the page never runs a proof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.text import counted
from drawdown.schema.units import DAY_MS
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, PageContent, Table, Tile, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.rules.cells import number, rows_of, short, text_cell, time
from drawdown.worker.checks import proofs
from drawdown.worker.checks.proofs import Invariant, Last, Run

PATH: Final = "/console/proof"
PAGE_RUNS: Final = 20
STALE_AFTER_MS: Final = 2 * DAY_MS
"""Age from which the last run of `verify` is late.

A run is due each night.
"""


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    held = proofs.standing(connection)
    before = ask.place("before")
    page = proofs.list_runs(connection, before=before, most=PAGE_RUNS)
    next_ = url(PATH, before=page.next_before) if page.next_before else ""
    tables = [_invariants(held), _runs(page.runs, next_, PATH if before else "")]
    return to_context(
        PageContent(
            PATH,
            tables,
            _tiles(held, proofs.last_held(connection, ask.now_ms), ask.now_ms),
            query={"before": before or None},
        )
    )


def _tiles(held: Sequence[Invariant], runs: Last, now_ms: int) -> list[Tile]:
    broken = sum(one.holds is False for one in held)
    proven = [one.held_ms for one in held if one.held_ms is not None and one.held_ms <= now_ms]
    last = min(proven) if len(proven) == len(held) else None
    newest = max(last or 0, runs.continued_ms or 0)
    is_late = last is None or now_ms - newest > STALE_AFTER_MS or now_ms - last > proofs.WHOLE_LATE_MS
    day, _, hour = figures.time(last).partition(" ")
    rows = max((sum(one.rows.values()) for one in held), default=0)
    return [
        Tile(
            "Last full proof",
            hour or day,
            f"{day}, {_looked(last, runs, now_ms)}" if last else "no run on record",
            "warn" if is_late else "",
        ),
        Tile(
            "Invariants that hold",
            f"{sum(one.holds is True for one in held)} of {len(held)}" if proven or broken else figures.UNKNOWN,
            "by the newest run of each" if proven or broken else "never checked. Run `drawdown verify`",
            "bad" if broken else "",
        ),
        Tile("Broken invariants", figures.count(broken), "their organisations are stopped", "bad" if broken else ""),
        Tile("Rows read", figures.count(rows) if rows else figures.UNKNOWN, "by the last full proof"),
    ]


def _looked(last_ms: int, runs: Last, now_ms: int) -> str:
    """Return the time since the last full proof, and since the last proof of changes."""
    if runs.continued_ms is None or runs.continued_ms <= last_ms:
        return figures.ago(last_ms, now_ms)
    return f"{figures.ago(last_ms, now_ms)}; changes since, {figures.ago(runs.continued_ms, now_ms)}"


def _invariants(held: Sequence[Invariant]) -> Table:
    rows = [
        (number(one.invariant), Cell(one.name), Cell(one.says), Cell(*_state(one)),
         time(one.held_ms, "never"),
         number(one.held_by, wide=True),
         number(one.findings, wide=True), time(one.broken_ms, "never on record", wide=True))
        for one in held
    ]  # fmt: skip
    heads = (
        "#No.",
        "Invariant",
        "Statement",
        "State",
        "Last held, UTC",
        "#Run",
        "#Findings",
        "Last broken, UTC",
    )
    return Table("Invariants", heads, rows, "", "drawdown proof")


def _state(one: Invariant) -> tuple[str, str, str]:
    if one.holds is None:
        return "not proven", "state", "warn"
    return ("holds", "state", "") if one.holds else (f"broken, {counted(one.breaches, 'time')}", "state", "bad")


def _runs(runs: Sequence[Run], next_: str, first: str) -> Table:
    rows = [
        (number(one.number), time(one.at_ms), Cell(_of(one), narrow=False),
         Cell(*_result_cell(one)), Cell(rows_of(one.checked), narrow=False),
         Cell(rows_of(one.open_items), narrow=False),
         Cell(figures.lasting(one.took_ms), narrow=False), text_cell(short(one.newest_action), wide=True),
         text_cell(one.actor, wide=True))
        for one in runs
    ]  # fmt: skip
    heads = (
        "#Run",
        "Time, UTC",
        "Organisations",
        "Result",
        "Rows read",
        "Open items",
        "Duration",
        "Newest action",
        "Actor",
    )
    none = "No run of `drawdown verify` exists yet. Run it each night."
    note = "Open items are known and not settled yet." if rows else ""
    command = "drawdown proof" if rows else "drawdown verify"
    return Table("Runs of verify", heads, rows, none, command, next_, note, first=first)


def _of(one: Run) -> str:
    if one.from_ms is not None:
        return f"all, from {figures.time(one.from_ms)} on, after run {one.follows}"
    return "all" if one.orgs is None else f"{one.orgs:,}"


def _result_cell(one: Run) -> tuple[str, str, str]:
    if one.breaches:
        which = ", ".join(f"{invariant}" for invariant in one.by_invariant)
        return f"{counted(one.breaches, 'breach', 'breaches')} of {which}", "state", "bad"
    return ("history was lost", "state", "warn") if one.doubted is not None else ("all hold", "state", "")
