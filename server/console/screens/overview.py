"""The overview: how everything stands, what needs a person first, and the ticks of the last day.

Guarantee: the verdict, its reason and its next step are those of `drawdown status`, word for word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.worker.views.standing import Standing
from drawdown.worker.views.status import status
from drawdown.worker.views.ticks import TickRow, ticks_since

CELL_MS: Final = 30 * MINUTE_MS
"""What one box of the strip stands for."""
TONES: Final = {"settled": "ok", "behind": "warn", "person_needed": "bad"}


@dataclass(frozen=True)
class Tile:
    """A figure with its name. `tone`: of its ground, where it is one that somebody has to see."""

    name: str
    figure: str
    said: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Need:
    """Something that needs somebody: how grave, what, and the command that shows or mends it."""

    tone: str
    word: str
    what: str
    command: str
    org: str = ""


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    found = status(connection, ask.now_ms)
    standing, headline = found.standing, found.headline
    ticks = ticks_since(connection, ask.now_ms - DAY_MS)
    return {
        "headline": headline,
        "tone": TONES[headline.verdict],
        "tiles": tiles(standing),
        "needs": needs(standing),
        "cells": strip_of(ticks, ask.now_ms),
        "ticks": len(ticks),
        "failed": sum(tick.exit_status == 1 for tick in ticks),
        "last": standing.last_tick,
        "standing": standing,
        "empty": standing.orgs == 0,
    }


def tiles(standing: Standing) -> list[Tile]:
    """What is open, and when somebody last looked."""
    in_doubt = sum(provider.in_doubt for provider in standing.providers)
    rejected = sum(provider.rejected for provider in standing.providers)
    waiting = sum(provider.waiting for provider in standing.providers)
    pending = sum(usage.seconds + usage.units for usage in standing.pending)
    stopped, at_ms = standing.left.stopped_orgs, standing.at_ms
    ticked = None if standing.last_tick is None else standing.last_tick.started_ms
    return [
        Tile("Pending usage", f"{pending:,}", "seconds and units, billed to nobody yet", _if(pending, "warn")),
        Tile("Open pushes", f"{waiting:,}", "on their way to a provider", _if(waiting, "warn")),
        Tile("In doubt", f"{in_doubt:,}", "sent, outcome unknown", _if(in_doubt, "bad")),
        Tile("Rejected", f"{rejected:,}", "refused by a provider", _if(rejected, "bad")),
        Tile("Halts due", f"{standing.halts.due:,}", "not acknowledged by a cell", _if(standing.halts.due, "warn")),
        Tile("Stopped", f"{stopped:,}", "organisations that are sealed no more", _if(stopped, "bad")),
        _moment("Last tick", ticked, at_ms),
        _moment("Last watch round", standing.watch_ms, at_ms),
    ]


def _moment(name: str, ms: int | None, at_ms: int) -> Tile:
    day, _, hour = figures.time(ms).partition(" ")
    return Tile(name, hour or day, "never" if ms is None else f"{day}, {figures.ago(ms, at_ms)}")


def _if(number: int, tone: str) -> str:
    return tone if number else ""


def needs(standing: Standing) -> list[Need]:
    """The worst first: what no tick mends, then what waits."""
    found = [
        Need("bad", "stopped", org.stopped_reason or "sealed no more", f"drawdown org show {org.org_id}", org.org_id)
        for org in standing.stopped
    ]
    found += [
        Need("bad", "unheeded", halt.said, "ops/runbooks/cell-gone.md", halt.org_id) for halt in standing.unheeded
    ]
    for provider in standing.providers:
        for state, word, pushes in (
            ("in_doubt", "in doubt", provider.in_doubt),
            ("rejected", "rejected", provider.rejected),
        ):
            if pushes:
                what = f"{pushes:,} pushes at {provider.provider}: {provider.error}"
                found.append(
                    Need("bad", word, what, f"drawdown push list --state {state} --provider {provider.provider}")
                )
    found += [
        Need("warn", "paused", f"{name}: {pause.reason}", f"drawdown provider pause {name} --undo")
        for name, pause in standing.paused.items()
    ]
    if standing.halts.due:
        what = f"{standing.halts.due:,} halts wait for their cells: {standing.halts.error or 'not tried yet'}"
        found.append(Need("warn", "due", what, "drawdown tick"))
    found += [
        Need(
            "warn",
            "pending",
            f"usage of {usage.orgs:,} organisations: {usage.reason}",
            "drawdown org list --unassigned",
        )
        for usage in standing.pending
    ]
    return found


def strip_of(ticks: list[TickRow], now_ms: int) -> list[tuple[str, str]]:
    """A box for each half hour of the last day: the worst end of its ticks, or that there was none."""
    first = now_ms - now_ms % CELL_MS + CELL_MS - DAY_MS
    found = []
    for begin in range(first, first + DAY_MS, CELL_MS):
        of_cell = [tick for tick in ticks if begin <= tick.started_ms < begin + CELL_MS]
        kind, word = _worst(of_cell)
        found.append((kind, f"{figures.time(begin)}: {word}"))
    return found


def _worst(ticks: list[TickRow]) -> tuple[str, str]:
    if not ticks:
        return "none", "no tick"
    if any(tick.exit_status == 1 for tick in ticks):
        return "bad", f"{len(ticks)} ticks, one at least needs a person"
    if any(tick.exit_status is None for tick in ticks):
        return "warn", f"{len(ticks)} ticks, one has not ended"
    if any(tick.exit_status for tick in ticks):
        return "warn", f"{len(ticks)} ticks, one at least left something"
    return "ok", f"{len(ticks)} ticks, all settled"
