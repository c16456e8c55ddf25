"""Usage events into the database: what each said, and the sample by which it is sealed, pushed and proven as all usage.

Guarantee: an event goes in once by its key (source and id), with its sample, in the transaction given; both or neither.
The same key with other content goes to `sample_conflicts`, once, and is never billed (S7). What is wrong with one item
is that item's answer, and the others go in. A few statements, however many events there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.events.envelope import Unfit, UsageEvent
from drawdown.schema.sql import queries
from drawdown.schema.units import EXEMPT_PROVIDERS, MAX_EVENT_TYPES, MAX_ID_CHARS, window_of
from drawdown.worker.sources.events.types import meters
from drawdown.worker.sources.samples.rows import content_of
from drawdown.worker.sources.samples.store import keep_conflicts

SQL = queries(__file__)

CELL: Final = "events"
"""Stands where the cell of a sandbox stands."""
PREFIX: Final = "event:"
"""Begins the ids of events' samples, and what stands where the id of a sandbox stands."""

Status: TypeAlias = Literal["accepted", "duplicate", "conflict", "invalid", "pending"]
Event: TypeAlias = tuple[str, UsageEvent]
"""An event, and its sample's id before it."""


@dataclass(frozen=True)
class Taken:
    """What became of one event. `pending`: it is kept, and billed once the reason (`code`) is mended."""

    status: Status
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class Stored:
    """What an event said that was taken before, as `_content` says it."""

    content: tuple[Any, ...]
    withdrawn: bool


_ACCEPTED: Final = Taken("accepted")
_DUPLICATE: Final = Taken("duplicate")
_WITHDRAWN: Final = (
    "it was taken before and withdrawn since, for good: what is right is a new event, with an id of its own"
)
TOO_LATE: Final = Taken(
    "invalid", "too_late", "it lies below the floor of its organisation: its window is closed for good"
)
_TOO_MANY: Final = Taken(
    "invalid", "too_many_types", f"there are {MAX_EVENT_TYPES:,} event types already: send one of those"
)
_OTHER: Final = Taken(
    "conflict", "other_content", "its source and id were taken before, with other content: that stays, and this one is "
    "kept aside; withdraw that one, and send this one with an id of its own",
)  # fmt: skip
_REPEATED: Final = Taken(
    "invalid", "key_repeated", "another item of this batch has its source and id, and was refused: send this one alone"
)
_FOREIGN: Final = Taken("conflict", "other_content", "a sample that is no event's has its id")
UNASSIGNED: Final = Taken("pending", "unassigned", "nobody bills its organisation then: `drawdown org assign`")


def sample_id_of(source: str, event_id: str) -> str:
    """The id of an event's sample: the same for the same key, on every host."""
    return PREFIX + hashlib.sha256(f"{source}\0{event_id}".encode()).hexdigest()[:40]


def sandbox_of(event_type: str) -> str:
    """What stands for the sandbox of a type's samples."""
    whole = PREFIX + event_type
    if len(whole) <= MAX_ID_CHARS:
        return whole
    return f"{whole[:100]}…{hashlib.sha256(whole.encode()).hexdigest()[:32]}"


def take(connection: sa.Connection, events: Sequence[UsageEvent], now_ms: int) -> list[Taken]:
    """Take events, in one batch; an answer for each, in their order.

    Below an organisation's floor an event is `invalid`, `too_late`, and not kept: above it keys hold for good.
    """
    refused = [_untimely(event, now_ms) for event in events]
    names = [sample_id_of(event.source, event.event_id) for event in events]
    firsts: dict[str, int] = {}
    for at, name in enumerate(names):
        if refused[at] is None:
            firsts.setdefault(name, at)
    found = _take_each(connection, [(name, events[at]) for name, at in firsts.items()], now_ms)
    before = _stored(connection, [name for name in firsts if not _went_in(found.get(name))])
    _why_not(connection, [name for name in firsts if name not in found and name not in before], found)
    answers = []
    for at, (name, event) in enumerate(zip(names, events, strict=True)):
        answer = refused[at] or _answer_before(before.get(name), event)
        if answer is None and firsts[name] == at:
            answer = found[name]
        answers.append(answer or _repeated(found[name], alike=_content(event) == _content(events[firsts[name]])))
    kept = [(name, event) for name, event, at in zip(names, events, answers, strict=True) if at.status == "conflict"]
    if kept:
        keep_conflicts(connection, [(name, PREFIX + event.source, _said(event), now_ms) for name, event in kept])
    return answers


def _untimely(event: UsageEvent, now_ms: int) -> Taken | None:
    try:
        event.require_time(now_ms)
    except Unfit as unfit:
        return Taken("invalid", unfit.code, str(unfit))
    return None


def _went_in(answer: Taken | None) -> bool:
    return answer is not None and answer.status != "invalid"


def _answer_before(stored: Stored | None, event: UsageEvent) -> Taken | None:
    """The answer to a key that was taken before this batch; None for one that was not."""
    if stored is None:
        return None
    if stored.content != _content(event):
        return _OTHER
    return Taken("duplicate", "withdrawn", _WITHDRAWN) if stored.withdrawn else _DUPLICATE


def _repeated(first: Taken, *, alike: bool) -> Taken:
    """The answer to a key that stood in this batch before."""
    if _went_in(first):
        return _DUPLICATE if alike and first.status != "conflict" else _OTHER
    return first if alike else _REPEATED


def _take_each(connection: sa.Connection, events: list[Event], now_ms: int) -> dict[str, Taken]:
    """Insert events, of different keys. The answers to those that went in, or have no place, by sample id."""
    if not events:
        return {}
    rows = SQL.run(connection, "floors", {"orgs": sorted({event.org_id for _, event in events})})
    floors = {str(row.org_id): int(row.floor_ms) for row in rows}
    found = {name: TOO_LATE for name, event in events if event.occurred_ms < floors.get(event.org_id, 0)}
    known = meters(connection, {event.event_type for name, event in events if name not in found}, now_ms)
    found |= {name: _TOO_MANY for name, event in events if name not in found and event.event_type not in known}
    new = _insert(connection, [one for one in events if one[0] not in found], known, now_ms)
    return found | _standing(connection, [one for one in events if one[0] in new], known)


def _insert(connection: sa.Connection, events: list[Event], known: dict[str, int], now_ms: int) -> set[str]:
    """Insert those whose keys are new, with their samples; the samples' ids."""
    if not events:
        return set()
    if connection.dialect.name == "postgresql":
        arrays = {
            "sample_id": [name for name, _ in events],
            **{field: [getattr(event, field) for _, event in events] for field in _PLAIN},
            "ts": [event.occurred_ms for _, event in events],
            "properties": [event.properties_json for _, event in events],
            "meter": [known[event.event_type] for _, event in events],
            "sandbox_id": [sandbox_of(event.event_type) for _, event in events],
        }
        values = {**arrays, "cell_id": CELL, "now_ms": now_ms}
        return set(SQL.run(connection, "insert", values).scalars())
    asked = {"sample_ids": [name for name, _ in events]}
    there = set(SQL.run(connection, "not_new", asked).scalars())
    new = [one for one in events if one[0] not in there]
    if new:
        samples = [
            (name, event.org_id, sandbox_of(event.event_type), CELL, known[event.event_type], event.quantity,
             event.occurred_ms, now_ms) for name, event in new
        ]  # fmt: skip
        rows = [(name, event.source, event.event_id, *_content(event), now_ms) for name, event in new]
        # Straight to the driver: a mapping for each row would take longer than to insert it.
        connection.exec_driver_sql(SQL.text("insert_samples", "sqlite"), samples)
        connection.exec_driver_sql(SQL.text("insert_events", "sqlite"), rows)
    return {name for name, _ in new}


_PLAIN: Final = ("source", "event_id", "event_type", "org_id", "quantity", "subject", "project", "plan_key")


def _content(event: UsageEvent) -> tuple[Any, ...]:
    """What an event says beside its key, in the order of the table."""
    return (event.event_type, event.org_id, event.quantity, event.occurred_ms, event.subject, event.project,
            event.plan_key, event.properties_json)  # fmt: skip


_SAID: Final = ("event_type", "org_id", "quantity", "ts", "subject", "project", "plan_key", "properties")


def _said(event: UsageEvent) -> str:
    return content_of({"event_id": event.event_id, **dict(zip(_SAID, _content(event), strict=True))})


def _stored(connection: sa.Connection, names: list[str]) -> dict[str, Stored]:
    if not names:
        return {}
    rows = SQL.run(connection, "stored", {"sample_ids": names})
    return {str(row.sample_id): Stored(tuple(row)[1:-1], bool(row.withdrawn)) for row in rows}


def _why_not(connection: sa.Connection, names: list[str], found: dict[str, Taken]) -> None:
    """Why samples did not go in that are no stored events': they were withdrawn, and pruned since; or say otherwise."""
    withdrawn = set(SQL.run(connection, "withdrawn", {"sample_ids": names}).scalars()) if names else set()
    for name in names:
        found[name] = Taken("invalid", "withdrawn", _WITHDRAWN) if name in withdrawn else _FOREIGN


def _standing(connection: sa.Connection, events: Iterable[Event], known: dict[str, int]) -> dict[str, Taken]:
    """Of those that went in: whether they are billed with their window, or wait."""
    spots = {name: (event.org_id, int(window_of(event.occurred_ms)), known[event.event_type]) for name, event in events}
    if not spots:
        return {}
    fields = ("org_id", "window_ms", "meter")
    rows = [dict(zip(fields, spot, strict=True)) for spot in sorted(set(spots.values()))]
    billed = {}
    for row in SQL.run(connection, "billed", {"spots": rows}):
        spot = (str(row.org_id), int(row.window_ms), int(row.meter))
        billed[spot] = _answer(row.provider, row.feature)
    by_meter = {meter: name for name, meter in known.items()}
    waits = {spot: _unmapped(by_meter[spot[2]]) if billed[spot] is None else billed[spot] for spot in billed}
    return {name: waits[spot] or _ACCEPTED for name, spot in spots.items()}


def _answer(provider: str | None, feature: str | None) -> Taken | None:
    """None: what bills it is not said yet."""
    if provider is None:
        return UNASSIGNED
    return _ACCEPTED if feature is not None or provider in EXEMPT_PROVIDERS else None


def _unmapped(event_type: str) -> Taken:
    said = (
        f"nothing makes a feature of {event_type} then: `drawdown feature map-event {event_type} FEATURE --unit units`"
    )
    return Taken("pending", "unmapped", said)
