"""Show the overview: the verdict, work for a person, and the last day's ticks.

Guarantee: the verdict, its reason and its next step are exactly those of `drawdown status`. The page lists the work for
a person, the most urgent first. Then comes the work that waits for a tick, for credit or for the end of a pause. Last
come requested limit overrides, and organisations that run out of credit within a day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.pending import REASONS
from drawdown.schema.text import counted, typed
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Tile
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.oncall.ticks import ENDS
from drawdown.worker.cluster.lists import worker_lines
from drawdown.worker.guard.lists import open_overrides
from drawdown.worker.orgs.lists import RunningOut, running_out
from drawdown.worker.push.backlog import Waiting
from drawdown.worker.push.lists import WaitSum, wait_sums
from drawdown.worker.push.unresolved import AWAITING_CREDIT, UNTIL_CREDIT
from drawdown.worker.status.backlog import JobsLeft
from drawdown.worker.status.status import status
from drawdown.worker.status.system_state import Call, Standing, Status, Why, how_much
from drawdown.worker.status.system_state import calls as calls_of
from drawdown.worker.status.ticks import TickCounts, tick_counts
from drawdown.worker.verdict.watch_state import WATCHED_FOR_MS

CELL_MS: Final = 30 * MINUTE_MS
"""Time span of one box in the strip of a day's ticks."""
TONES: Final = {"settled": "ok", "behind": "warn", "person_needed": "bad"}


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    found = status(connection, ask.now_ms)
    around = read_around(connection, ask.now_ms)
    standing, headline = found.standing, found.headline
    counts = tick_counts(connection, ask.now_ms - DAY_MS, CELL_MS)
    needed, last = needs(found, around), standing.last_tick
    return {
        "headline": headline,
        "tone": TONES[headline.verdict],
        "tiles": tiles(standing, around.ending.orgs),
        "needs": needed,
        "next_href": next((need.place for need in needed if need.command in headline.next), ""),
        "cells": strip_of(counts, ask.now_ms),
        "ticks": sum(of_cell.ticks for of_cell in counts),
        "failed": sum(of_cell.person_needed for of_cell in counts),
        "last": last,
        "ended": "" if last is None else ENDS.get(last.exit_status, ("ended", ""))[0],
        "workers": [] if standing.cluster is None else worker_lines(standing.cluster),
        "standing": standing,
        "empty": standing.orgs == 0,
    }


def tiles(standing: Standing, running_out: int) -> list[Tile]:
    """Return the tiles of open work, and of the last tick and watch round."""
    in_doubt = sum(provider.in_doubt for provider in standing.providers)
    rejected = sum(provider.rejected for provider in standing.providers)
    waiting = sum(provider.waiting for provider in standing.providers)
    stopped, jobs, at_ms = standing.left.stopped_orgs, standing.jobs, standing.at_ms
    ticked = None if standing.last_tick is None else standing.last_tick.started_ms
    return [
        _pending(standing),
        _count("Pushes due or queued", waiting, "on their way to a provider", "warn", PUSHES),
        _count("In doubt", in_doubt, "sent, outcome unknown", "bad", f"{PUSHES}?state=in_doubt"),
        _count("Rejected", rejected, "proven not charged", "bad", f"{PUSHES}?state=rejected"),
        _count("Stopped", stopped, "organisations, not billed until resumed", "bad", "/console/orgs?state=stopped"),
        _count("Halts due", standing.halts.due, "not acknowledged by a cell", "warn", "/console/halts?state=due"),
        _count("Halted", standing.halted, "organisations, sandboxes not allowed", "bad", "/console/orgs?state=halted"),
        _runs_out(running_out, standing.watch_ms, at_ms),
        _count("Open jobs", jobs.open, _waits_since(jobs, at_ms), "warn", JOBS),
        _count("Failed jobs", jobs.failed, "in the last 24 hours", "warn", JOBS),
        _moment("Last tick", ticked, at_ms, "/console/ticks"),
        _moment("Last watch round", standing.watch_ms, at_ms),
    ]


def _count(name: str, number: int, said: str, tone: str, href: str) -> Tile:
    return Tile(name, f"{number:,}", said, tone if number else "", href)


def _pending(standing: Standing) -> Tile:
    """Return the tile of pending usage, in seconds and units, the larger first."""
    seconds, units = (sum(getattr(one, name) for one in standing.pending) for name in ("seconds", "units"))
    amounts = sorted(((seconds, "s"), (units, "units")), key=lambda one: -one[0])
    (most, unit), (less, other) = amounts
    said = f"and {less:,} {other}, not billed yet" if less else "not billed yet"
    return Tile("Pending usage", f"{most:,} {unit}" if most else "0", said, "warn" if most else "", "/console/pending")


def _runs_out(orgs: int, watch_ms: int | None, at_ms: int) -> Tile:
    """Return the tile of organisations that run out of credit within a day.

    Without a watch, the number is unknown, not zero.
    """
    name, href = "Out of credit within 24 h", ENDING
    if not orgs and (watch_ms is None or abs(at_ms - watch_ms) >= WATCHED_FOR_MS):
        return Tile(name, figures.UNKNOWN, "no watch runs", "", href)
    return _count(name, orgs, "by the watch's estimate", "warn", href)


def _waits_since(jobs: JobsLeft, at_ms: int) -> str:
    return "for the next ticks" if jobs.since_ms is None else f"the oldest {figures.ago(jobs.since_ms, at_ms)}"


def _moment(name: str, ms: int | None, at_ms: int, href: str = "") -> Tile:
    day, _, hour = figures.time(ms).partition(" ")
    return Tile(name, hour or day, "never" if ms is None else f"{day}, {figures.ago(ms, at_ms)}", href=href)


def strip_of(counts: list[TickCounts], now_ms: int) -> list[tuple[str, str]]:
    """Return a box for each half hour of the last day.

    A box has the worst result of its ticks, or the text `no tick`.
    """
    first = now_ms - now_ms % CELL_MS + CELL_MS - DAY_MS
    by_begin = {of_cell.begin_ms: of_cell for of_cell in counts}
    found = []
    for begin in range(first, first + DAY_MS, CELL_MS):
        kind, word = _worst(by_begin.get(begin))
        found.append((kind, f"{figures.time(begin)}: {word}"))
    return found


def _worst(of_cell: TickCounts | None) -> tuple[str, str]:
    if of_cell is None:
        return "none", "no tick"
    many = counted(of_cell.ticks, "tick")
    if of_cell.person_needed:
        return "bad", f"{many}, at least one needs a person"
    if of_cell.unended:
        return "warn", f"{many}, at least one has not ended"
    if of_cell.work_left:
        return "warn", f"{many}, at least one left work"
    return "ok", f"{many}, all settled"


PUSHES: Final = "/console/pushes"
PROVIDERS: Final = "/console/providers"
JOBS: Final = "/console/jobs"
ENDING: Final = "/console/orgs?within=24h"
WORDS: Final[Mapping[Why, str]] = {
    "lost": "lost", "clock": "clock", "undelivered": "halt late", "ignored": "ignored",
    "missed": "no tick", "stopped": "stopped",
    "problem": "problem", "refused": "refused",
    "in_doubt": "in doubt", "rejected": "rejected", "gone": "deleted", "balance": "differs",
}  # fmt: skip
OF_ORGS: Final[tuple[Why, ...]] = ("stopped", "undelivered", "ignored", "balance")
MOST_ENDING: Final = 5
"""Organisations that run out of credit within a day and have their own row. The list of organisations shows all."""
MOST_REASONS: Final = 3
"""Reasons of waiting pushes that one row names."""
MOST_CALLS: Final = 50
"""Tasks for a person that the overview lists.

`drawdown status` lists all of them.
"""


@dataclass(frozen=True)
class Need:
    """A row of the work list, with its urgency, its object and its command.

    The command shows or does the work.
    """

    tone: str
    word: str
    what: str
    command: str
    org: str = ""
    href: str = ""
    """Address of the page with the details, if it is not the organisation's page."""

    @property
    def place(self) -> str:
        return self.href or (url("/console/org", id=self.org) if self.org else "")


NOBODY: Final = RunningOut()


@dataclass(frozen=True)
class Around:
    """Other facts for the work list.

    These facts are the reasons why pushes wait, organisations that soon run out of credit, and requests for limit
    overrides. `pending_overrides`: the number of these requests. `pending_since_ms`: the time of the first request, in
    milliseconds.
    """

    reasons: Sequence[WaitSum] = ()
    ending: RunningOut = NOBODY
    pending_overrides: int = 0
    pending_since_ms: int | None = None


NOTHING: Final = Around()


def read_around(connection: sa.Connection, now_ms: int) -> Around:
    asked, since_ms, _ = open_overrides(connection, now_ms, now_ms)
    ending = running_out(connection, now_ms, MOST_ENDING)
    return Around(wait_sums(connection).sums, ending, asked, since_ms)


def needs(found: Status, around: Around = NOTHING) -> list[Need]:
    """Return the work for a person, the most urgent first, then other open work.

    Above MOST_CALLS tasks for a person, one row has the number of further tasks. Other open work waits for a tick, for
    credit or for the end of a pause. Last come requested limit overrides, and organisations that run out of credit
    within a day. The list contains the reasons in the headline.
    """
    calls = list(calls_of(found.standing))
    waits = _waits(found.standing, around.reasons)
    called = [
        Need(
            "bad",
            WORDS[call.why],
            _what(call, around.reasons),
            call.command or call.next,
            call.about if call.why in OF_ORGS else "",
            _place(call, found.standing),
        )
        for call in calls[:MOST_CALLS]
    ]
    if more := len(calls) - len(called):
        called.append(Need("bad", "more", f"{counted(more, 'more needs', 'more need')} a person", "drawdown status"))
    headline = found.headline
    if headline.verdict == "behind" and not waits and not headline.next.startswith("nothing"):
        waits = [Need("warn", "behind", headline.reason, headline.next)]
    return called + waits + _soon(around, found.standing.at_ms)


def _what(call: Call, reasons: Sequence[WaitSum]) -> str:
    """Return the text of a task.

    If the task's pushes have several reasons, the text lists the reasons with their numbers of pushes.
    """
    named = _reasons(reasons, call.about, (call.why,))
    if call.why not in ("in_doubt", "rejected") or "; " not in named:
        return call.what or call.reason
    return f"{call.what.partition(': ')[0]}: {named}"


def _soon(around: Around, at_ms: int) -> list[Need]:
    """Return requested limit overrides, and organisations with credit for under a day."""
    found = []
    if around.pending_overrides:
        words = counted(around.pending_overrides, "limit override")
        since = figures.time(around.pending_since_ms)
        what = f"{words} requested, the first at {since} ({figures.ago(around.pending_since_ms, at_ms)})"
        found.append(Need("warn", "requested", what, "drawdown override list", href="/console/limits"))
    for org, ms in around.ending.first:
        when = "now" if ms <= at_ms else f"{figures.time(ms)} ({figures.ago(ms, at_ms)})"
        what = f"the watch estimates that its credit ends {when}"
        found.append(Need("warn", "runs out", what, f"drawdown org show {typed(org)}", org))
    if more := around.ending.orgs - len(around.ending.first):
        what = f"{counted(more, 'more runs', 'more run')} out within 24 h"
        found.append(Need("warn", "runs out", what, "drawdown org list --runs-out-within 24h", href=ENDING))
    return found


def _place(call: Call, standing: Standing) -> str:
    """Return the page with the details; '' if it is the organisation's page."""
    if call.why in ("in_doubt", "rejected"):
        return url(PUSHES, state=call.why, provider=call.about)
    if call.why == "problem" and standing.last_tick is not None:
        return url("/console/tick", id=standing.last_tick.tick_id)
    return {"missed": "/console/ticks", "ignored": "/console/halts", "balance": "/console/reconcile"}.get(call.why, "")


def _waits(standing: Standing, reasons: Sequence[WaitSum]) -> list[Need]:
    """Return the open work that waits for a tick, or for the end of a pause."""
    found = [
        Need(
            "warn",
            "due" if one.due else "queued",
            f"{counted(one.waiting, 'waits', 'wait')} at {one.provider}, oldest {figures.time(one.waiting_since_ms)}"
            + _why(one, reasons),
            f"drawdown provider check {typed(one.provider)}",
            href=url(PUSHES, provider=one.provider, state="due" if one.due else "queued"),
        )
        for one in standing.providers
        if one.waiting and one.paused_ms is None
    ]
    found += [
        Need(
            "warn",
            "no credit",
            f"{one.size} at {one.provider}, {one.worth}, {one.waits} for credit: {UNTIL_CREDIT}",
            one.command,
            href=url(PUSHES, state=AWAITING_CREDIT, provider=one.provider),
        )
        for one in standing.unresolved
        if one.state == AWAITING_CREDIT
    ]
    found += [
        Need(
            "warn", "paused", f"{name}: {pause.reason}", f"drawdown provider pause {typed(name)} --undo", href=PROVIDERS
        )
        for name, pause in standing.paused.items()
    ]
    waiting = [one for one in standing.undelivered if not one.needs_person]
    if waiting:
        found.append(Need("warn", "due", waiting[0].description, "drawdown cell list", href="/console/halts"))
    found += [
        Need(
            "warn",
            "pending",
            f"{how_much(usage)} of {counted(usage.orgs, 'organisation')}: " + REASONS[usage.reason].what,
            REASONS[usage.reason].fix,
            href=url("/console/pending", reason=usage.reason),
        )
        for usage in standing.pending
    ]
    if count := standing.jobs.failed:
        what = f"{counted(count, 'job')} failed in the last 24 hours"
        found.append(Need("warn", "failed", what, "drawdown job list", href=JOBS))
    return found


def _reasons(reasons: Sequence[WaitSum], provider: str, states: Sequence[str]) -> str:
    """Return the reasons of a provider's waiting pushes in these states.

    The most frequent reason is first. If there are several reasons, each has its number of pushes.
    """
    counts = Counter[str]()
    for one in reasons:
        if one.provider == provider and one.state in states:
            counts[one.error] += one.pushes
    if len(counts) < 2:
        return "".join(counts)
    named = [f"{count:,}: {error}" for error, count in counts.most_common(MOST_REASONS)]
    others = len(counts) - len(named)
    return "; ".join([*named, *([counted(others, "other reason")] if others else [])])


def _why(one: Waiting, reasons: Sequence[WaitSum]) -> str:
    """Return the reasons why a provider's pushes wait.

    If the page did not read the reasons, return the most frequent reason and the number of others.
    """
    if named := _reasons(reasons, one.provider, ("due", "queued")):
        return f": {named}"
    if "waiting" not in one.errors:
        return ""
    others = one.other_errors.get("waiting", 0)
    return f": {one.errors['waiting']}" + (f"; {counted(others, 'other reason')}" if others else "")
