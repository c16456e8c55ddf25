"""The overview: how everything stands, what needs a person first, and the ticks of the last day.

Guarantee: the verdict, its reason and its next step are those of `drawdown status`, word for word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Tile
from drawdown.server.console.screens.customers.needs import ENDING, ORDERS, PUSHES, needs, read_around
from drawdown.server.console.screens.oncall.ticks import ENDS
from drawdown.worker.cluster.lists import worker_lines
from drawdown.worker.status.backlog import OrdersLeft
from drawdown.worker.status.standing import Standing
from drawdown.worker.status.status import status
from drawdown.worker.status.ticks import TickRow, ticks_since
from drawdown.worker.verdict.watch_state import WATCHED_FOR_MS

CELL_MS: Final = 30 * MINUTE_MS
"""What one box of the strip stands for."""
TONES: Final = {"settled": "ok", "behind": "warn", "person_needed": "bad"}


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    found = status(connection, ask.now_ms)
    around = read_around(connection, ask.now_ms)
    standing, headline = found.standing, found.headline
    ticks = ticks_since(connection, ask.now_ms - DAY_MS)
    needed, last = needs(found, around), standing.last_tick
    return {
        "headline": headline,
        "tone": TONES[headline.verdict],
        "tiles": tiles(standing, around.ending.orgs),
        "needs": needed,
        "next_href": next((need.place for need in needed if need.command in headline.next), ""),
        "cells": strip_of(ticks, ask.now_ms),
        "ticks": len(ticks),
        "failed": sum(tick.exit_status == 1 for tick in ticks),
        "last": last,
        "ended": "" if last is None else ENDS.get(last.exit_status, ("ended", ""))[0],
        "workers": [] if standing.cluster is None else worker_lines(standing.cluster),
        "standing": standing,
        "empty": standing.orgs == 0,
    }


def tiles(standing: Standing, running_out: int) -> list[Tile]:
    """What is open, and when somebody last looked."""
    in_doubt = sum(provider.in_doubt for provider in standing.providers)
    rejected = sum(provider.rejected for provider in standing.providers)
    waiting = sum(provider.waiting for provider in standing.providers)
    stopped, orders, at_ms = standing.left.stopped_orgs, standing.orders, standing.at_ms
    ticked = None if standing.last_tick is None else standing.last_tick.started_ms
    return [
        _pending(standing),
        _count("Pushes due or queued", waiting, "on their way to a provider", "warn", PUSHES),
        _count("In doubt", in_doubt, "sent, outcome unknown", "bad", f"{PUSHES}?state=in_doubt"),
        _count("Rejected", rejected, "proven not charged", "bad", f"{PUSHES}?state=rejected"),
        _count("Stopped", stopped, "organisations that are sealed no more", "bad", "/console/orgs?state=stopped"),
        _count("Halts due", standing.halts.due, "not acknowledged by a cell", "warn", "/console/halts?state=due"),
        _count("Halted", standing.halted, "organisations that may start nothing", "bad", "/console/orgs?state=halted"),
        _runs_out(running_out, standing.watch_ms, at_ms),
        _count("Orders open", orders.open, _waits_since(orders, at_ms), "warn", ORDERS),
        _count("Orders failed", orders.failed, "in the last 24 hours", "warn", ORDERS),
        _moment("Last tick", ticked, at_ms, "/console/ticks"),
        _moment("Last watch round", standing.watch_ms, at_ms),
    ]


def _count(name: str, number: int, said: str, tone: str, href: str) -> Tile:
    return Tile(name, f"{number:,}", said, tone if number else "", href)


def _pending(standing: Standing) -> Tile:
    """What there is more of as the figure, with its unit."""
    seconds, units = (sum(getattr(one, name) for one in standing.pending) for name in ("seconds", "units"))
    amounts = sorted(((seconds, "s"), (units, "units")), key=lambda one: -one[0])
    (most, unit), (less, other) = amounts
    said = f"and {less:,} {other}, billed to nobody yet" if less else "billed to nobody yet"
    return Tile("Pending usage", f"{most:,} {unit}" if most else "0", said, "warn" if most else "", "/console/pending")


def _runs_out(orgs: int, watch_ms: int | None, at_ms: int) -> Tile:
    """Where nobody watches, nobody knows: that is no zero."""
    name, href = "Run out within 24 h", ENDING
    if not orgs and (watch_ms is None or abs(at_ms - watch_ms) >= WATCHED_FOR_MS):
        return Tile(name, figures.UNKNOWN, "no watch goes round", "", href)
    return _count(name, orgs, "as the watch estimates", "warn", href)


def _waits_since(orders: OrdersLeft, at_ms: int) -> str:
    return "to be done by ticks" if orders.since_ms is None else f"the oldest {figures.ago(orders.since_ms, at_ms)}"


def _moment(name: str, ms: int | None, at_ms: int, href: str = "") -> Tile:
    day, _, hour = figures.time(ms).partition(" ")
    return Tile(name, hour or day, "never" if ms is None else f"{day}, {figures.ago(ms, at_ms)}", href=href)


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
        return "bad", f"{_many(ticks)}, one at least needs a person"
    if any(tick.exit_status is None for tick in ticks):
        return "warn", f"{_many(ticks)}, one has not ended"
    if any(tick.exit_status for tick in ticks):
        return "warn", f"{_many(ticks)}, one at least left something"
    return "ok", f"{_many(ticks)}, all settled"


def _many(ticks: list[TickRow]) -> str:
    return "1 tick" if len(ticks) == 1 else f"{len(ticks)} ticks"
