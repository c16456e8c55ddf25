"""Show providers with their open pushes, latest calls and circuits.

A person can pause a provider, and resume it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.schema.declare import YES
from drawdown.schema.push_states import OPEN_STORED
from drawdown.schema.text import counted
from drawdown.schema.units import SECOND_MS
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Link, PageContent, Table, Tile, act, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.engine.breaker import OPEN_AFTER, OPEN_FOR_MS
from drawdown.worker.provider.lists import MOST_SENDS, ProviderLine, Unanswered, provider_lines
from drawdown.worker.push.lists import WaitSums, wait_sums

PATH: Final = "/console/providers"


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    found = provider_lines(connection, ask.now_ms)
    paused = [one for one in found if one.paused_ms is not None]
    waiting = sum(one.open_pushes for one in found)
    grave = sum(one.open.get(state, 0) for one in found for state in ("in_doubt", "rejected"))
    oldest = min((one.oldest_ms for one in found if one.oldest_ms is not None), default=None)
    since = "since it was sealed" if oldest is None else f"sealed {figures.time(oldest)}"
    tiles = [
        Tile("Providers", figures.count(len(found)), "with present or past assignments"),
        Tile(
            "Paused providers",
            figures.count(len(paused)),
            "no sends until a person resumes them",
            "warn" if paused else "",
        ),
        Tile("Open pushes", figures.count(waiting), "at all providers", "warn" if waiting else ""),
        Tile("In doubt or rejected", figures.count(grave), "of the open pushes", "bad" if grave else ""),
        Tile("Oldest open push", figures.lasting(None if oldest is None else ask.now_ms - oldest), since),
    ]
    states = _states(found, wait_sums(connection), ask.now_ms)
    tables = [states, _sends(found), _circuits(found, ask.now_ms), _terms(found)]
    return to_context(PageContent(PATH, tables, tiles=tiles))


def _states(found: list[ProviderLine], waits: WaitSums, now_ms: int) -> Table:
    rows = [
        (
            Cell(one.provider, "id", href=url("/console/pushes", provider=one.provider)),
            replace(cells_of.state(one.state(now_ms)), links=_links(one)),
            replace(cells_of.number(one.orgs), under=_without_customer(one)),
            *(_open(one, state) for state in OPEN_STORED),
            cells_of.time(one.oldest_ms, narrow=False),
            _why(one, waits),
        )
        for one in found
    ]
    heads = (
        "Provider", "State", "#Organisations", *(f"#{state.title}" for state in OPEN_STORED.values()),
        "Oldest push, UTC", "Reason",
    )  # fmt: skip
    none = "No provider exists yet. An assignment adds the first provider."
    note = "To see broken or dormant settings, run `drawdown provider list` on the machine that has them."
    return Table("State of providers", heads, rows, none, "drawdown provider list", note=note)


def _without_customer(one: ProviderLine) -> str:
    return f"{one.without_customer:,} without a customer" if one.without_customer else ""


def _links(one: ProviderLine) -> tuple[Link, ...]:
    accept = (act("Accept settings", "provider-accept", provider=one.provider),) if one.met else ()
    if one.paused_ms is None:
        return (act("Pause", "provider-pause", provider=one.provider), *accept)
    return (act("Resume", "provider-pause", provider=one.provider, undo=YES), *accept)


def _why(one: ProviderLine, waits: WaitSums) -> Cell:
    """Return the reason of a provider's pause, or the main reason why its pushes wait.

    The page of pushes has the other reasons.
    """
    if one.paused_ms is not None:
        return cells_of.text_cell(one.paused_reason, narrow=True)
    reasons = Counter[str]()
    for sums in waits.sums:
        if sums.provider == one.provider:
            reasons[sums.error] += sums.pushes
    if not reasons:
        return Cell(figures.UNKNOWN)
    (error, pushes), *others = reasons.most_common()
    many = f"{'at least ' if waits.more else ''}{counted(len(others), 'other reason')}"
    return replace(cells_of.text_cell(f"{pushes:,}: {error}", narrow=True), under=f"and {many}" if others else "")


def _open(one: ProviderLine, state: str) -> Cell:
    count = one.open.get(state, 0)
    href = url("/console/pushes", state=state, provider=one.provider) if count else ""
    return Cell(figures.count(count), "number", narrow=state != "queued", href=href)


def _sends(found: list[ProviderLine]) -> Table:
    rows = [
        (
            Cell(one.provider, "id"),
            cells_of.number(one.calls),
            cells_of.number(one.failed),
            cells_of.number(one.p95_ms),
            cells_of.number(one.reads, narrow=False),
            cells_of.number(one.reads_failed, narrow=False),
        )
        for one in found
        if one.calls is not None or one.reads is not None
    ]
    heads = ("Provider", "#Sends", "#Not accepted", "#95th percentile, ms", "#Customer reads", "#Failed reads")
    none = "Drawdown did not send a push or read a customer in the last 24 hours."
    note = f"Sends: the latest {MOST_SENDS:,} within 24 hours. Reads: all that Drawdown counted."
    return Table("Calls", heads, rows, none, "drawdown status", note=note)


def _circuits(found: list[ProviderLine], now_ms: int) -> Table:
    rows = [
        (
            Cell(one.provider, "id"),
            _circuit(one.unanswered, now_ms),
            cells_of.number(one.unanswered.in_a_row),
            cells_of.time(one.unanswered.since_ms, narrow=False),
            cells_of.time(one.unanswered.last_ms),
            cells_of.time(one.unanswered.answered_ms),
        )
        for one in found
        if one.unanswered is not None
    ]
    heads = ("Provider", "Circuit", "#Successive failures", "First, UTC", "Last, UTC", "Last response, UTC")
    note = (
        f"After {OPEN_AFTER} successive batches without a response, a process stops sending for "
        f"{OPEN_FOR_MS // SECOND_MS} s, then tries once. Each process has its own circuit in memory. This table "
        "derives the circuits from recorded sends. It does not show circuits of reads."
    )
    return Table("Circuits", heads, rows, "No push was sent in the last 24 hours.", "drawdown status", note=note)


def _circuit(of: Unanswered, now_ms: int) -> Cell:
    if of.may_be_open(now_ms):
        return cells_of.state("may be open")
    return cells_of.state("no response" if of.in_a_row else "answers")


def _terms(found: list[ProviderLine]) -> Table:
    rows = [
        (
            Cell(one.provider, "id"),
            Cell(str(one.terms.get("unit") or figures.UNKNOWN), "id"),
            Cell(_pairs(one.terms.get("units")), "id", narrow=False),
            Cell(_pairs(one.terms.get("names")), "id", narrow=False),
            Cell("sent" if one.terms.get("negatives") else "carried over"),
            Cell(str(one.terms.get("way") or figures.UNKNOWN), "id", narrow=False),
            cells_of.time(one.live_from_ms),
        )
        for one in found
        if one.met
    ]
    heads = (
        "Provider",
        "Unit",
        "Units of features",
        "Names at provider",
        "Negative quantities",
        "Method",
        "Live from, UTC",
    )
    none = "No tick has used a provider yet."
    return Table("Accepted terms", heads, rows, none, "drawdown provider list")


def _pairs(found: object) -> str:
    """Return the pairs of feature and value as text, such as names at the provider."""
    if not isinstance(found, Mapping) or not found:
        return figures.UNKNOWN
    return ", ".join(f"{name}: {value}" for name, value in sorted(found.items()))
