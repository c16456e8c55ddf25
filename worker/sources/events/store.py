"""Store usage events, each with its content and its sample.

Drawdown seals, pushes and verifies an event by its sample.

Guarantee: an event is inserted once by its key, with its sample, in the caller's transaction. Both are inserted, or
neither. The same key with different content goes to `sample_conflicts`, once, and is never billed (S7). An invalid item
gets an error as its answer, and the other items are inserted. The number of statements does not depend on the number of
events. If the answer is `accepted`, the event is above its organisation's floor when it is committed (S4).

The key of an event is its organisation, source and id. A sender for one organisation only (a bound API key, a backfill)
does not see or take events of other organisations. A sender for all organisations claims the source and id among all
organisations. If the same source and id then arrive for another organisation, they count as different content. Each
kind of sender finds the events of its organisation that the other kind sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.events.envelope import Unfit, UsageEvent
from drawdown.schema import ids
from drawdown.schema.clock import utc
from drawdown.schema.errors import DatabaseBusy, Refused, UnknownId, UsageError
from drawdown.schema.locks import lock_org, lock_orgs
from drawdown.schema.sql import prepared, queries
from drawdown.schema.text import typed
from drawdown.schema.units import (
    DAY_MS,
    EXEMPT_PROVIDERS,
    LATE_HORIZON_MS,
    MAX_EVENT_TYPES,
    MAX_ID_CHARS,
    MAX_KEY_TYPES,
    MAX_ORG_TYPES,
    MAX_SOURCE_TYPES,
    window_of,
)
from drawdown.worker.sources.events import types
from drawdown.worker.sources.events.types import PEOPLE, Bringer, add_meters, find_meters, find_mistyped, is_full
from drawdown.worker.sources.samples import rows
from drawdown.worker.sources.samples.rows import OF_EVENTS
from drawdown.worker.sources.samples.store import keep_conflicts

SQL = queries(__file__)

CELL: Final = "events"
"""The cell of samples that belong to events."""
FEW: Final = 20
"""Most events of a request for which a prepared plan is used.

For more, PostgreSQL plans for their number.
"""

Status: TypeAlias = Literal["accepted", "duplicate", "conflict", "invalid", "pending"]
Event: TypeAlias = tuple[dict[str, str], UsageEvent]
"""An event, and all the keys under which it may be stored already (`keyed`)."""


@dataclass(frozen=True)
class EventResult:
    """The answer to one event.

    `status` `pending`: the event is stored, and billed after you fix the reason (`code`). `code`, `message`: the reason
    for the answer (None: the event is accepted, or it is a duplicate that was not withdrawn).
    """

    status: Status
    code: str | None = None
    message: str | None = None


_ACCEPTED: Final = EventResult("accepted")
_DUPLICATE: Final = EventResult("duplicate")
_WITHDRAWN: Final = (
    "the event was accepted before and withdrawn for good. Send the correct usage as a new event with its own id"
)
WITHDRAWN: Final = EventResult("invalid", "withdrawn", _WITHDRAWN)
TOO_LATE: Final = EventResult(
    "invalid", "too_late", "the event is below the floor of its organisation, so its window is closed for good"
)
_TOO_MANY: Final = EventResult(
    "invalid", "too_many_types", f"the maximum of {MAX_EVENT_TYPES:,} event types is reached. Send a known type"
)
_TOO_MANY_OWN: Final = EventResult(
    "invalid", "too_many_org_types", f"keys of its organisation may add {MAX_ORG_TYPES} event types. Send a known type"
)
_TOO_MANY_KEY: Final = EventResult(
    "invalid",
    "too_many_key_types",
    f"a key may add {MAX_KEY_TYPES:,} event types, and keys of one source {MAX_SOURCE_TYPES:,}. Send a known type, or "
    "add this one with `drawdown feature map-event EVENT_TYPE FEATURE`",
)
_OTHER: Final = EventResult(
    "conflict", "other_content", "an event with its source and id, but different content, was accepted before. That "
                                 "event stays, and this event is quarantined. Withdraw that event, and send this "
                                 "event with its own id",
)  # fmt: skip
UNKNOWN_TYPE: Final = "unknown_type"
REPEATED: Final = "key_repeated"
_REPEATED: Final = EventResult(
    "invalid", REPEATED, "another item of the body has the same source and id, and was refused. Send this item alone"
)
_FOREIGN: Final = EventResult(
    "conflict",
    "other_content",
    "a sample that is not of an event already has the id of this event's sample. Send the event with another id",
)
UNASSIGNED: Final = EventResult(
    "pending",
    "unassigned",
    "no provider bills its organisation at that time. Run `drawdown org assign ORG --provider PROVIDER`",
)


def sandbox_of(event_type: str) -> str:
    """Return the sandbox id of the samples of an event type."""
    whole = PREFIX + event_type
    if len(whole) <= MAX_ID_CHARS:
        return whole
    return f"{whole[:100]}…{hashlib.sha256(whole.encode()).hexdigest()[:32]}"


def take(
    connection: sa.Connection,
    events: Sequence[UsageEvent],
    now_ms: int,
    *,
    own: bool = False,
    types_by: Bringer = PEOPLE,
    unlike: bool = False,
) -> list[EventResult]:
    """Store events. Return an answer for each, in their order.

    `own`: the sender sends only for its own organisation, and does not claim ids among all organisations. `types_by`:
    the sender, for the limits of event types. `unlike`: if an unknown event type resembles a known type, answer
    `invalid`, `unknown_type`.

    An event below its organisation's floor gets `invalid`, `too_late`, and is not stored, because a key is unique for
    good only above the floor. If the floor rises before the commit, the event is quarantined, as a host's insert would
    be (S4). To prevent that, call `keep_above_floor` or `hold` afterwards.

    Errors: DatabaseBusy if a concurrent sample used an event's id, or another call set a price for an event type.
    """
    with prepared(connection) if len(events) <= FEW else nullcontext():
        return _take(connection, events, now_ms, own=own, types_by=types_by, unlike=unlike)


def _take(
    connection: sa.Connection, events: Sequence[UsageEvent], now_ms: int, *, own: bool, types_by: Bringer, unlike: bool
) -> list[EventResult]:
    refused = [_untimely(event, now_ms) for event in events]
    names = names_of(events, own=own)
    asked = keyed(names, events, own=own)
    timely = [at for at, why in enumerate(refused) if why is None]
    firsts: dict[str, int] = {}
    found: dict[str, EventResult] = {}
    before: dict[tuple[str, str], Stored] = {}
    # Several organisations may send the same sample id. An event that is already stored, by a bound API key of its
    # organisation, does not take the id. Then try the next event.
    while left := [at for at in timely if not _is_told(asked[at], found, before)]:
        tried = {names[at]: at for at in reversed(left)}
        firsts |= tried
        found |= _take_each(connection, [(asked[at], events[at]) for at in sorted(tried.values())], now_ms, types_by,
                            unlike=unlike)  # fmt: skip
        went_in = {(name, events[at].org_id) for name, at in firsts.items() if _went_in(found.get(name))}
        others = {
            (one["sample_id"], one["org_id"]): one for one in asked if (one["sample_id"], one["org_id"]) not in went_in
        }
        before = stored(connection, list(others.values()))
        _why_not(connection, [asked[at] for at in tried.values() if not _is_told(asked[at], found, before)], found)
    answers = []
    for at, (name, event) in enumerate(zip(names, events, strict=True)):
        answer = refused[at] or _answer_before(before.get((name, event.org_id)), event)
        if answer is None and firsts[name] == at:
            answer = found[name]
        alike = answer is None and is_same(content_of(event), content_of(events[firsts[name]]))
        answers.append(answer or _repeated(found[name], alike=alike))
    _keep_apart(connection, asked, events, answers, before, now_ms)
    return answers


def keep_above_floor(connection: sa.Connection, org_id: str, events: Sequence[UsageEvent]) -> None:
    """Check that an organisation's floor is below its new events.

    After this call, the floor cannot rise before the commit. A transaction that raises a floor reads the committed
    events under S1's lock, and does not see the events of open transactions. Seals wait from this call to the end of
    the transaction.

    Errors: Refused if the floor was raised past an event since it was stored.
    """
    lock_org(connection, org_id)
    floor = max((int(row.floor_ms) for row in SQL.run(connection, "floors", {"orgs": [org_id]})), default=0)
    if any(event.occurred_ms < floor for event in events):
        raise Refused(
            f"cannot store the events: windows of {org_id} before {utc(floor)} were just closed for good. Run "
            "`drawdown backfill show BACKFILL`"
        )


def _is_told(key: dict[str, str], found: dict[str, EventResult], before: dict[tuple[str, str], Stored]) -> bool:
    return key["sample_id"] in found or (key["sample_id"], key["org_id"]) in before


def names_of(events: Sequence[UsageEvent], *, own: bool) -> list[str]:
    """Return the ids of the events' samples, in their order."""
    return [sample_id_of(one.source, one.event_id, one.org_id if own else None) for one in events]


def times(connection: sa.Connection, events: Sequence[UsageEvent], *, own: bool) -> dict[tuple[str, str], int]:
    """Return the times of use of stored events with these keys.

    The times are in milliseconds, by sample id and organisation.
    """
    found = stored(connection, keyed(names_of(events, own=own), events, own=own))
    at = _SAID.index("ts")
    return {key: int(one.content[at]) for key, one in found.items()}


def _keep_apart(
    connection: sa.Connection, asked: list[dict[str, str]], events: Sequence[UsageEvent], answers: list[EventResult],
    before: dict[tuple[str, str], Stored], now_ms: int,
) -> None:  # fmt: skip
    """Store events with different content as conflicts of the sample that stays."""
    kept = []
    for key, event, answer in zip(asked, events, answers, strict=True):
        if answer.status == "conflict":
            stays = before.get((key["sample_id"], event.org_id))
            name = key["sample_id"] if stays is None else stays.sample_id
            kept.append((name, PREFIX + event.source, _normalized_content(event), now_ms))
    if kept:
        keep_conflicts(connection, kept)


def _untimely(event: UsageEvent, now_ms: int) -> EventResult | None:
    try:
        event.require_time(now_ms)
    except Unfit as unfit:
        return EventResult("invalid", unfit.code, str(unfit))
    return None


def _went_in(answer: EventResult | None) -> bool:
    return answer is not None and answer.status != "invalid"


def _answer_before(stored: Stored | None, event: UsageEvent) -> EventResult | None:
    """Return the answer to an event with a key that is stored already.

    Return None for a new key.
    """
    if stored is None:
        return None
    if not is_same(stored.content, content_of(event)):
        return _OTHER
    return EventResult("duplicate", "withdrawn", _WITHDRAWN) if stored.withdrawn else _DUPLICATE


def _repeated(first: EventResult, *, alike: bool) -> EventResult:
    """Return the answer to an event with the key of an earlier event in this request.

    `first`: the answer to the earlier event.
    """
    if _went_in(first):
        return _DUPLICATE if alike and first.status != "conflict" else _OTHER
    return first if alike else _REPEATED


def _take_each(
    connection: sa.Connection, batch: list[Event], now_ms: int, types_by: Bringer, *, unlike: bool
) -> dict[str, EventResult]:
    """Insert events with different sample ids.

    Return the answers to inserted and refused events, by sample id.
    """
    if not batch:
        return {}
    asked = {"orgs": sorted({event.org_id for _, event in batch})}
    floors = {str(row.org_id): int(row.floor_ms) for row in SQL.run(connection, "floors", asked)}
    late = {key["sample_id"] for key, event in batch if event.occurred_ms < floors.get(event.org_id, 0)}
    found = dict.fromkeys(late, TOO_LATE)
    at_once = types.charged(connection, {types.spot_of(event) for _, event in batch})
    for key, event in batch if at_once else ():
        if (answer := charged_at_once(event, at_once)) is not None:
            found.setdefault(key["sample_id"], answer)
    timely = [one for one in batch if one[0]["sample_id"] not in found]
    wanted = {event.event_type for _, event in timely}
    known = find_meters(connection, sorted(wanted))
    mistyped = find_mistyped(connection, wanted - known.keys()) if unlike else {}
    known |= add_meters(connection, sorted(wanted - known.keys() - mistyped.keys()), now_ms, types_by)
    typed = [one for one in timely if one[1].event_type in known]
    if len(typed) < len(timely):
        why = _why_no_type(types_by, full=is_full(connection))
        whys = {name: EventResult("invalid", UNKNOWN_TYPE, text) for name, text in mistyped.items()}
        left = [one for one in timely if one[1].event_type not in known]
        found |= {key["sample_id"]: whys.get(event.event_type, why) for key, event in left}
    new = _insert(connection, typed, known, now_ms)
    return found | _standing(connection, [(k["sample_id"], e) for k, e in typed if k["sample_id"] in new], known)


def _why_no_type(by: Bringer, *, full: bool) -> EventResult:
    if full or by == PEOPLE:
        return _TOO_MANY
    return _TOO_MANY_KEY if by.org_id is None else _TOO_MANY_OWN


def _insert(connection: sa.Connection, batch: list[Event], known: dict[str, int], now_ms: int) -> set[str]:
    """Insert the events with new keys, and their samples.

    Return the samples' ids. Errors: DatabaseBusy.
    """
    if not batch:
        return set()
    if connection.dialect.name == "postgresql":
        arrays = {
            **{field: [key[field] for key, _ in batch] for field in ("sample_id", "other_id")},
            **{field: [getattr(event, field) for _, event in batch] for field in _PLAIN},
            "ts": [event.occurred_ms for _, event in batch],
            "properties": [event.properties_json for _, event in batch],
            "meter": [known[event.event_type] for _, event in batch],
            "sandbox_id": [sandbox_of(event.event_type) for _, event in batch],
        }
        out = SQL.run(connection, "insert", {**arrays, "cell_id": CELL, "now_ms": now_ms}).all()
        if any(row.noted is not None for row in out):
            raise DatabaseBusy(
                "cannot store the events: another call just stored a sample with the id of one of them. Try again"
            )
        return {key["sample_id"] for key, _ in batch} - {str(row.sample_id) for row in out}
    there = set(SQL.run(connection, "not_new", {"keys": [key for key, _ in batch]}).scalars())
    new = [(key["sample_id"], event) for key, event in batch if key["sample_id"] not in there]
    if new:
        samples = [
            (name, event.org_id, sandbox_of(event.event_type), CELL, known[event.event_type], event.quantity,
             event.occurred_ms, now_ms) for name, event in new
        ]  # fmt: skip
        said = [(name, event.source, event.event_id, *content_of(event), now_ms) for name, event in new]
        # Call the driver directly, because a mapping for each row would take longer than the row's insert.
        connection.exec_driver_sql(SQL.text("insert_samples", "sqlite"), samples)
        connection.exec_driver_sql(SQL.text("insert_events", "sqlite"), said)
    return {name for name, _ in new}


_PLAIN: Final = ("source", "event_id", "event_type", "org_id", "quantity", "subject", "project", "plan_key")
_SAID: Final = ("event_type", "org_id", "quantity", "ts", "subject", "project", "plan_key", "properties")


def _normalized_content(event: UsageEvent) -> str:
    return rows.content_of({"event_id": event.event_id, **dict(zip(_SAID, content_of(event), strict=True))})


def _why_not(connection: sa.Connection, asked: list[dict[str, str]], found: dict[str, EventResult]) -> None:
    """Add the answers to events that were not inserted and are not stored.

    Such an event was withdrawn and its sample was pruned, or the event's id belongs to a sample of another kind.
    """
    withdrawn = withdrawn_among(connection, asked)
    for name in (one["sample_id"] for one in asked):
        found[name] = WITHDRAWN if name in withdrawn else _FOREIGN


def _standing(
    connection: sa.Connection, events: list[tuple[str, UsageEvent]], known: dict[str, int]
) -> dict[str, EventResult]:
    """Return the answers to inserted events, by sample id.

    An answer is accepted, or pending with the reason.
    """
    spots = {name: (event.org_id, int(window_of(event.occurred_ms)), known[event.event_type]) for name, event in events}
    if not spots:
        return {}
    by_meter = {meter: name for name, meter in known.items()}
    # Lock types with a feature, too, because the feature may end, or a metric may get a price, before the commit.
    types.share(connection, {by_meter[meter] for _, _, meter in spots.values()})
    rows = [dict(zip(("org_id", "window_ms", "meter"), spot, strict=True)) for spot in sorted(set(spots.values()))]
    billed, featureless = {}, set()
    for row in SQL.run(connection, "billed", {"spots": rows}):
        spot = (str(row.org_id), int(row.window_ms), int(row.meter))
        goes_in = row.feature is not None or row.provider in EXEMPT_PROVIDERS
        billed[spot] = UNASSIGNED if row.provider is None else _ACCEPTED if goes_in else None
        if row.feature is None:
            featureless.add(spot)
    types.require_uncharged(connection, {(by_meter[spot[2]], spot[1]) for spot in featureless})
    waits = {spot: _unmapped(by_meter[spot[2]], spot[1]) if billed[spot] is None else billed[spot] for spot in billed}
    return {name: waits[spot] or _ACCEPTED for name, spot in spots.items()}


def charged_at_once(event: UsageEvent, at_once: Mapping[types.Spot, str]) -> EventResult | None:
    """Return the answer to an event that the guard charges at once.

    Returns None for any other event. `at_once`: the result of `charged`.
    """
    metric = at_once.get(types.spot_of(event))
    return None if metric is None else EventResult("invalid", types.CODE, types.WHY.format(event.event_type, metric))


def _unmapped(event_type: str, window_ms: int) -> EventResult:
    command = f"drawdown feature map-event {typed(event_type, 'FEATURE', '--from', utc(window_ms))}"
    return EventResult(
        "pending", "unmapped", f"no feature is mapped to {event_type} at {utc(window_ms)}. Run `{command}`"
    )


PREFIX: Final = OF_EVENTS
"""The prefix of the sample ids and sandbox ids of events."""


@dataclass(frozen=True)
class Stored:
    """A stored event: its sample, its content, and whether it was withdrawn.

    `content` is as in `content_of`.
    """

    sample_id: str
    content: tuple[Any, ...]
    withdrawn: bool


def sample_id_of(source: str, event_id: str, org_id: str | None = None) -> str:
    """Return the id of an event's sample, which is the same on every host.

    Without `org_id`, the id claims the source and the event's id among all organisations. With `org_id`, it is the id
    for a sender that sends only for that organisation.
    """
    parts = (source, event_id) if org_id is None else (org_id, source, event_id)
    return PREFIX + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


def content_of(event: UsageEvent) -> tuple[Any, ...]:
    """Return the content of an event without its source and id.

    The values are in the order of the table's columns.
    """
    return (event.event_type, event.org_id, event.quantity, event.occurred_ms, event.subject, event.project,
            event.plan_key, event.properties_json)  # fmt: skip


def is_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Return True if two events of one key have the same content.

    A subject that equals the organisation is ignored, because the subject of a CloudEvent depends on its sender. If the
    sender is bound to an organisation, the subject is a label. Otherwise, it names the organisation.
    """
    return _meant(one) == _meant(other)


def _meant(content: tuple[Any, ...]) -> tuple[Any, ...]:
    event_type, org_id, quantity, ts, subject, *rest = content
    return (event_type, org_id, quantity, ts, None if subject == org_id else subject, *rest)


def keyed(names: Sequence[str], events: Sequence[UsageEvent], *, own: bool) -> list[dict[str, str]]:
    """Return all the keys under which each event may be stored.

    The keys of an event are its sample id (`names`), the sample id that the other kind of sender would give it, and its
    source, id and organisation.
    """
    return [
        {
            "sample_id": name,
            "other_id": sample_id_of(event.source, event.event_id, None if own else event.org_id),
            "source": event.source,
            "event_id": event.event_id,
            "org_id": event.org_id,
        }
        for name, event in zip(names, events, strict=True)
    ]


def stored(connection: sa.Connection, asked: Sequence[dict[str, str]]) -> dict[tuple[str, str], Stored]:
    """Return the stored events with these keys, by sample id and organisation.

    An event under the organisation's own key takes precedence over an event that claims the same source and id.
    """
    if not asked:
        return {}
    found: dict[tuple[str, str], Stored] = {}
    for row in SQL.run(connection, "stored", {"keys": asked}):  # the event under the own key comes last
        said = Stored(str(row.sample_id), tuple(row)[4:-1], bool(row.withdrawn))
        found[str(row.name), str(row.asker)] = said
    return found


def withdrawn_among(connection: sa.Connection, asked: Sequence[dict[str, str]]) -> set[str]:
    """Return the sample ids of withdrawn events, including those with pruned samples."""
    return set(SQL.run(connection, "withdrawn", {"keys": asked}).scalars()) if asked else set()


NOT_YET_MS: Final = LATE_HORIZON_MS - DAY_MS
"""Age in milliseconds from which a new event or sample locks its organisation's floor.

A floor cannot rise past newer events and samples, because `prune` refuses it.
"""


def hold(connection: sa.Connection, used: Sequence[tuple[str, int]], taken: Sequence[EventResult], now_ms: int) -> bool:
    """Lock floors below old usage until the usage is committed.

    Return False if a floor was already raised past some of the usage. In this case, the caller must store the usage
    again. `used`: the organisation and the time of each item. `taken`: the answer to each item.

    The lock is needed because a transaction that raises a floor reads the committed usage under S1's lock, and does not
    see open transactions. SQLite has one writer at a time, so it does not need the lock.
    """
    if connection.dialect.name != "postgresql":
        return True
    went_in = [one for one, answer in zip(used, taken, strict=True) if answer.status in ("accepted", "pending")]
    old = [(org_id, ts) for org_id, ts in went_in if ts < now_ms - NOT_YET_MS]
    if not old:
        return True
    orgs = sorted({org_id for org_id, _ in old})
    lock_orgs(connection, orgs)
    floors = {str(row.org_id): int(row.floor_ms) for row in SQL.run(connection, "floors", {"orgs": orgs})}
    return all(ts >= floors.get(org_id, 0) for org_id, ts in old)


def samples_of(
    connection: sa.Connection, source: str, event_ids: Sequence[str], org_id: str | None = None
) -> dict[str, str]:
    """Return the sample ids of a source's events, by event id.

    Each event id occurs once, in the order of `event_ids`. `org_id`: only events of this organisation. Errors:
    UnknownId; UsageError for an id that several organisations used.
    """
    values = {"source": source, "event_ids": list(event_ids), "org_id": org_id or ""}
    rows = SQL.run(connection, "of_keys", values).all()
    found: dict[str, str] = {}
    for event_id in dict.fromkeys(event_ids):
        mine = [row for row in rows if row.event_id == event_id]
        if not mine:
            raise no_event(connection, source, event_id)
        if len(mine) > 1:
            orgs = ", ".join(str(row.org_id) for row in mine[: ids.NEIGHBOURS])
            raise UsageError(
                f"{event_id} of {source} is an event of several organisations, {orgs}. Name the organisation with --org"
            )
        found[event_id] = str(mine[0].sample_id)
    return found


def require_source(connection: sa.Connection, source: str) -> None:
    """Refuse a source without events, and name the nearest known source.

    Errors: UnknownId.
    """
    if SQL.run(connection, "is_source", {"source": source}).first() is None:
        values = {"scanned": ids.SCANNED, "at_most": ids.NEIGHBOURS}
        raise ids.unknown(ids.SOURCE, source, map(str, SQL.run(connection, "sources", values).scalars()))


def no_event(connection: sa.Connection, source: str, event_id: str) -> UnknownId:
    """Return the error for a key without an event.

    If the caller may search names now, the error names the nearest source, or the nearest event of that source. The
    call compares at most `ids.SCANNED` events.
    """
    if not ids.tells_names(connection):
        return UnknownId("unknown event among those that you may see", ids.USAGE_EVENT.noun)
    if not ids.may_search(connection):
        return ids.unknown(ids.USAGE_EVENT, event_id, ())
    values = {"source": source, "scanned": ids.SCANNED, "at_most": ids.NEIGHBOURS, **ids.halves("", event_id)}
    sources = [str(name) for name in SQL.run(connection, "sources", values).scalars()]
    if source not in sources:
        return ids.unknown(ids.SOURCE, source, sources)
    return ids.unknown(ids.USAGE_EVENT, event_id, map(str, SQL.run(connection, "alike", values).scalars()))
