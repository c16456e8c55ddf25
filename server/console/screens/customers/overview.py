"""The overview: how everything stands, what needs a person first, and the ticks of the last day.

Guarantee: the verdict, its reason and its next step are those of `drawdown status`, word for word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Tile
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.oncall.ticks import ENDS
from drawdown.worker.verdict.watch_state import WATCHED_FOR_MS
from drawdown.worker.views import org_list
from drawdown.worker.views.backlog import OrdersLeft
from drawdown.worker.views.cluster import worker_lines
from drawdown.worker.views.headline import PENDING, Call, Why
from drawdown.worker.views.headline import calls as calls_of
from drawdown.worker.views.pending import WHAT
from drawdown.worker.views.standing import Standing, Status, how_much
from drawdown.worker.views.status import status
from drawdown.worker.views.ticks import TickRow, ticks_since
from drawdown.worker.views.waiting import Waiting

CELL_MS: Final = 30 * MINUTE_MS
"""What one box of the strip stands for."""
PUSHES: Final = "/console/pushes"
PROVIDERS: Final = "/console/providers"
ORDERS: Final = "/console/orders"
TONES: Final = {"settled": "ok", "behind": "warn", "person_needed": "bad"}
WORDS: Final[Mapping[Why, str]] = {
    "lost": "lost", "missed": "no tick", "stopped": "stopped", "unheeded": "unheeded", "problem": "problem",
    "in_doubt": "in doubt", "rejected": "rejected", "balance": "differs",
}  # fmt: skip
OF_ORGS: Final[tuple[Why, ...]] = ("stopped", "unheeded", "balance")
MOST_CALLS: Final = 50
"""Rows of what a person is needed for; the command has them all."""


@dataclass(frozen=True)
class Need:
    """Something that needs somebody: how grave, what, and the command that shows or mends it."""

    tone: str
    word: str
    what: str
    command: str
    org: str = ""
    href: str = ""
    """The page that says more, where it is another than the organisation's."""

    @property
    def place(self) -> str:
        return self.href or (url("/console/org", id=self.org) if self.org else "")


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    found = status(connection, ask.now_ms)
    standing, headline = found.standing, found.headline
    ticks = ticks_since(connection, ask.now_ms - DAY_MS)
    needed, last = needs(found), standing.last_tick
    return {
        "headline": headline,
        "tone": TONES[headline.verdict],
        "tiles": tiles(standing, org_list.running_out(connection, ask.now_ms)),
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
    pending = sum(usage.seconds + usage.units for usage in standing.pending)
    stopped, orders, at_ms = standing.left.stopped_orgs, standing.orders, standing.at_ms
    ticked = None if standing.last_tick is None else standing.last_tick.started_ms
    return [
        _count("Pending usage", pending, "seconds and units, billed to nobody yet", "warn", "/console/pending"),
        _count("Pushes waiting", waiting, "on their way to a provider", "warn", PUSHES),
        _count("In doubt", in_doubt, "sent, outcome unknown", "bad", f"{PUSHES}?state=in_doubt"),
        _count("Rejected", rejected, "proven not charged", "bad", f"{PUSHES}?state=rejected"),
        _count("Stopped", stopped, "organisations that are sealed no more", "bad", "/console/orgs?state=stopped"),
        _count("Halts due", standing.halts.due, "not acknowledged by a cell", "warn", "/console/halts?state=due"),
        _count("Halted", standing.halted, "organisations that may start nothing", "", "/console/orgs?state=halted"),
        _runs_out(running_out, standing.watch_ms, at_ms),
        _count("Orders open", orders.open, _waits_since(orders, at_ms), "warn", ORDERS),
        _count("Orders failed", orders.failed, "in the last 24 hours", "warn", ORDERS),
        _moment("Last tick", ticked, at_ms, "/console/ticks"),
        _moment("Last watch round", standing.watch_ms, at_ms),
    ]


def _count(name: str, number: int, said: str, tone: str, href: str) -> Tile:
    return Tile(name, f"{number:,}", said, tone if number else "", href)


def _runs_out(orgs: int, watch_ms: int | None, at_ms: int) -> Tile:
    """Where nobody watches, nobody knows: that is no zero."""
    name, href = "Run out within 24 h", "/console/orgs?within=24h"
    if not orgs and (watch_ms is None or abs(at_ms - watch_ms) >= WATCHED_FOR_MS):
        return Tile(name, figures.UNKNOWN, "no watch goes round", "", href)
    return _count(name, orgs, "as the watch estimates", "warn", href)


def _waits_since(orders: OrdersLeft, at_ms: int) -> str:
    return "to be done by ticks" if orders.since_ms is None else f"the oldest {figures.ago(orders.since_ms, at_ms)}"


def _moment(name: str, ms: int | None, at_ms: int, href: str = "") -> Tile:
    day, _, hour = figures.time(ms).partition(" ")
    return Tile(name, hour or day, "never" if ms is None else f"{day}, {figures.ago(ms, at_ms)}", href=href)


def needs(found: Status) -> list[Need]:
    """The worst first: what a person is needed for, all of it; then what waits. What the headline asks for is there."""
    calls = list(calls_of(found.standing))
    waits = _waits(found.standing)
    called = [
        Need(
            "bad",
            WORDS[call.why],
            call.what or call.reason,
            call.command or call.next,
            call.about if call.why in OF_ORGS else "",
            _place(call, found.standing),
        )
        for call in calls[:MOST_CALLS]
    ]
    if more := len(calls) - len(called):
        called.append(Need("bad", "more", f"and {more:,} more like these", "drawdown status"))
    headline = found.headline
    if headline.verdict == "behind" and not waits and not headline.next.startswith("nothing"):
        waits = [Need("warn", "behind", headline.reason, headline.next)]
    return called + waits


def _place(call: Call, standing: Standing) -> str:
    """The page that says more of it, where it is another than the organisation's."""
    if call.why in ("in_doubt", "rejected"):
        return url(PUSHES, state=call.why, provider=call.about)
    if call.why == "problem" and standing.last_tick is not None:
        return url("/console/tick", id=standing.last_tick.tick_id)
    return {"missed": "/console/ticks", "unheeded": "/console/halts", "balance": "/console/reconcile"}.get(call.why, "")


def _waits(standing: Standing) -> list[Need]:
    """What a tick, or the end of a pause, may mend."""
    found = [
        Need(
            "warn",
            "waiting",
            f"{one.waiting:,} wait at {one.provider}, oldest {figures.time(one.waiting_since_ms)}" + _why(one),
            f"drawdown provider check {quote(one.provider)}",
            href=url(PUSHES, provider=one.provider),
        )
        for one in standing.providers
        if one.waiting and one.paused_ms is None
    ]
    found += [
        Need(
            "warn", "paused", f"{name}: {pause.reason}", f"drawdown provider pause {quote(name)} --undo", href=PROVIDERS
        )
        for name, pause in standing.paused.items()
    ]
    if standing.halts.due:
        what = f"{standing.halts.due:,} halts wait for their cells: {standing.halts.error or 'not tried yet'}"
        found.append(Need("warn", "due", what, "drawdown tick", href="/console/halts"))
    found += [
        Need(
            "warn",
            "pending",
            f"{how_much(usage)} of {usage.orgs:,} organisation{'' if usage.orgs == 1 else 's'}: "
            + WHAT.get(usage.reason, usage.reason),
            PENDING.get(usage.reason, "drawdown org list --unassigned"),
            href=url("/console/pending", reason=usage.reason),
        )
        for usage in standing.pending
    ]
    if count := standing.orders.failed:
        what = f"{count:,} order{'' if count == 1 else 's'} failed in the last 24 hours"
        found.append(Need("warn", "failed", what, "drawdown order list", href=ORDERS))
    return found


def _why(one: Waiting) -> str:
    """The reason of most, and how many others there are."""
    if "waiting" not in one.errors:
        return ""
    others = one.other_errors.get("waiting", 0)
    return f": {one.errors['waiting']}" + (f"; {others:,} other reason{'' if others == 1 else 's'}" if others else "")


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
