"""Change the mapping from memory sizes and event types to features (rule S5).

Guarantee: a feature has one unit. A change starts at or after the watermark. If you confirm an earlier start, the
change can only add a feature to usage without a feature. The windows of pending usage that gets a feature become dirty,
and the next tick seals them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Annotated, Final, Literal

import sqlalchemy as sa

from drawdown.events.values import COUNT, MAX_VALUE_SCALE, SUM, EventValue
from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.clock import utc
from drawdown.schema.declare import FLAG, ID, KEY, WINDOW, Action, Fact, Invocation, Label, New, Values, whole
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.locks import lock_buckets, make_windows_dirty
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, quote_value
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import MAX_EVENT_TYPES, MAX_MEMORY_MB, WINDOW_MS, next_window
from drawdown.worker.catalog.mapping import (
    FOREVER_MS,
    MB_SECONDS,
    SECONDS,
    UNITS,
    MappingRow,
    akin,
    is_meter,
    making,
    mapping_rows,
    other_unit,
    resolve,
    rewrites,
)
from drawdown.worker.features.lists import list_features
from drawdown.worker.history.incarnation import read_losses
from drawdown.worker.orgs import double_billing
from drawdown.worker.sources.events.types import declare_value, is_known, meters
from drawdown.worker.wallets import actions as credit

DEFAULT_SIZES_GB: Final = (1, 4, 8, 16, 32, 64)
DEFAULT_MICRO_CREDITS_PER_GB_S: Final = 100
"""Default price of a GB-second in a new database, in micro-credits."""
SQL = queries(__file__)


@dataclass(frozen=True)
class Mapped:
    """A new row of the mapping, and the pending usage that it resolves.

    `resolved_windows`, `resolved_sizes`: the numbers of windows and of memory sizes of the resolved usage.
    """

    start_ms: int
    resolved_s: int
    """Resolved usage in seconds; for an event type, in units."""
    resolved_windows: int
    resolved_sizes: int
    was: str | None = None
    """The former feature of the same memory size, tier or event type (None: unmapped)."""
    again: bool = False
    """True if the mapping existed from `start_ms` on, so the call changed nothing."""
    unbegun: bool = False
    """True if the ended mapping had not begun, so it never applies."""


@dataclass(frozen=True)
class Ended(Mapped):
    """An ended row of the mapping.

    `selector`: the memory sizes or the event type of the row, as a text.
    """

    selector: str = ""


def map_size(
    connection: sa.Connection,
    feature: str,
    by: By,
    *,
    kind: str,
    memory_mb: int | None,
    unit: str,
    from_ms: int | None = None,
    confirmed: bool = False,
    new: bool = True,
) -> Mapped:
    """Map a memory size, or all sizes up to a size, to a feature.

    `kind`: `exact` maps the size `memory_mb`. `up_to` maps all sizes up to `memory_mb` (None: all larger sizes). The
    mapping applies from `from_ms` on (None: the next window).

    Errors: UsageError for invalid values. Refused if it would change the feature of sealed windows, give the feature a
    second unit, or bill usage that the guard charges (`double_billing`). Refused also for a start before the watermark
    or in lost history, unless `confirmed`. UnknownId for an unknown feature unless `new`.
    """
    ids.require_feature_name(feature)
    ids.require(connection, ids.FEATURE, feature, new=new)
    row = MappingRow(kind, memory_mb, feature, unit, 0)
    _check_size(row)
    return _add(connection, row, by, from_ms, confirmed=confirmed)


def map_event(
    connection: sa.Connection,
    event_type: str,
    feature: str,
    by: By,
    *,
    unit: str = UNITS,
    from_ms: int | None = None,
    confirmed: bool = False,
    new: bool = True,
    value: EventValue | None = None,
) -> Mapped:
    """Map an event type to a feature from a window on.

    Drawdown then bills the quantities of its events as that feature.

    You can map an event type before its first event. Without `from_ms`, such a mapping applies to all usage of the
    type. If history was lost, or a metric ever had a price for the type or feature, it applies only from the next
    window on.
    `value`: the quantity of events that do not state a quantity.

    Errors: as `map_size`. UnknownId, unless `new`, for an unknown feature or type that resembles a known name. Refused
    if the limit of event types is reached, or if `value` is given and the type already has events or another value.
    """
    ids.require_feature_name(feature)
    if not ids.is_clean_id(event_type):
        raise UsageError(
            f"invalid event type {quote_value(event_type)}: expected 1 to 200 characters without control characters"
        )
    if unit != UNITS:
        raise UsageError(f"invalid --unit {quote_value(unit)}: expected {UNITS}, the base unit of every event type")
    ids.require_unlike(connection, ids.FEATURE, feature, new=new)
    ids.require_unlike(connection, ids.EVENT_TYPE, event_type, new=new)
    is_new = from_ms is None and not is_known(connection, event_type) and not read_losses(connection)
    if is_new and not double_billing.was_charged(connection, {event_type, feature}):
        from_ms, confirmed = 0, True
    if value is not None and declare_value(connection, event_type, value, by):
        record(connection, "event_value", event_type, asdict(value), by)
    meter = meters(connection, [event_type], by.now_ms).get(event_type)
    if meter is None:
        raise Refused(
            f"cannot map {event_type}: the limit of {MAX_EVENT_TYPES:,} event types is reached. Use an event type that "
            "`drawdown feature list` shows"
        )
    return _add(connection, MappingRow("exact", meter, feature, unit, 0), by, from_ms, confirmed=confirmed)


def end_feature(
    connection: sa.Connection, feature: str, by: By, *, from_ms: int | None = None, confirmed: bool = False
) -> list[Ended]:
    """End every selector of a feature from a window on.

    Return the ended rows, sorted by their start.

    A selector is a memory size, a range of sizes, or an event type. If a selector begins later, it ends at its own
    start. A repeated call returns the same rows, with `again`.

    Errors: UnknownId for an unknown feature. UsageError for a time that is not the start of a window. Refused if the
    feature does not have a selector from `from_ms` on, or if windows from `from_ms` on are sealed. Refused for a start
    in lost history unless `confirmed`.
    """
    start = next_window(by.now_ms) if from_ms is None else from_ms
    lock_buckets(connection)  # without the lock, this call would miss a concurrent mapping
    rows = mapping_rows(connection)
    mine = making(rows, feature, start)
    if not mine:
        ids.require(connection, ids.FEATURE, feature)
        if before := _ended(rows, feature, from_ms):
            return [
                Ended(row.start_ms, 0, 0, 0, feature, again=True, unbegun=unbegun, selector=_describe(connection, row))
                for row, unbegun in before
            ]
        raise Refused(
            f"cannot end the feature {feature}: it is not mapped from {utc(start)} on. Run `drawdown feature list`"
        )
    ended: list[Ended] = []
    for row in mine:
        at = max(start, row.start_ms)
        made = _add(connection, MappingRow(row.kind, row.memory_mb, None, row.unit, at), by, at, confirmed=confirmed)
        made = replace(made, unbegun=by.now_ms < at == row.start_ms)
        ended.append(Ended(**vars(made), selector=_describe(connection, row)))
    return sorted(ended, key=lambda one: one.start_ms)


def _ended(rows: list[MappingRow], feature: str, from_ms: int | None) -> list[tuple[MappingRow, bool]]:
    """Return the rows that ended a feature's selectors, sorted by start.

    The rows start at `from_ms` or later. `from_ms` None: the rows that the last call added, if no other feature has
    their selector since. Each row comes with True if the ended mapping had not begun.
    """
    by_selector: defaultdict[tuple[str, int | None], list[tuple[int, MappingRow]]] = defaultdict(list)
    for number, row in sorted(enumerate(rows), key=lambda one: one[1].start_ms):
        by_selector[row.selector].append((number, row))  # of two rows with the same start, the later row comes last
    ends = {
        (row.selector, row.start_ms): (row, row.at_ms < row.start_ms == before.start_ms)
        for mine in by_selector.values()
        for (_, before), (number, row) in pairwise(mine)
        if row.feature is None and before.feature == feature
        if from_ms is not None or {one.feature for later, one in mine if later > number} <= {feature, None}
    }
    wanted = [one for one in ends.values() if from_ms is None or one[0].start_ms >= from_ms]
    if from_ms is None:
        last_ms = max((row.at_ms for row, _ in wanted), default=0)
        wanted = [one for one in wanted if one[0].at_ms == last_ms]
    return sorted(wanted, key=lambda one: one[0].start_ms)


def _add(connection: sa.Connection, wanted: MappingRow, by: By, from_ms: int | None, *, confirmed: bool) -> Mapped:
    start = next_window(by.now_ms) if from_ms is None else from_ms
    row = MappingRow(wanted.kind, wanted.memory_mb, wanted.feature, wanted.unit, start)
    if row.start_ms % WINDOW_MS:
        raise UsageError(f"invalid --from {show_time(start)}: expected a window boundary (a multiple of five minutes)")
    lock_buckets(connection)
    mapping = mapping_rows(connection)
    sealed_to = int(SQL.run(connection, "sealed_to").scalar_one())
    if [before for before in mapping if (before.selector, before.start_ms) == (row.selector, start)][-1:] == [row]:
        # This is a repeated call, perhaps after a lost response.
        return Mapped(start, 0, 0, 0, again=True)
    if from_ms is None and (since := _so_already(mapping, row)) is not None:
        return Mapped(since, 0, 0, 0, row.feature, again=True)
    _require_one_unit(connection, mapping, row)
    changed = rewrites(mapping, row, sealed_to)
    if changed is not None:
        size, window, meant = changed
        what = f"the event type {_type_of(connection, size)}" if row.is_of_events else f"{size} MB"
        is_mapped = f"map {what}: it is mapped to {meant}"
        cannot = is_mapped if row.feature else f"end the feature {meant}: {what} is mapped to it"
        raise Refused(f"cannot {cannot} in sealed windows from {utc(window)}. Pass --from {utc(sealed_to)} or later")
    lost_to = max((loss.until_ms for loss in read_losses(connection)), default=0)
    if start < min(lost_to, by.now_ms) and not confirmed:
        what, then = ("start this mapping", "was in force") if row.feature else ("end this mapping", "had ended by")
        raise Refused(
            f"cannot {what} at {utc(start)}: history up to {utc(lost_to)} was lost, and a lost mapping may have billed "
            f"these windows. If this mapping {then} then, pass --yes. Otherwise, pass --from "
            f"{utc(next_window(lost_to))} or later"
        )
    if row.feature and start < sealed_to and not confirmed:
        raise Refused(
            f"cannot start this mapping at {utc(start)} without --yes: it applies to sealed windows, and Drawdown then "
            "bills their pending usage. Check the mapping with --dry-run, then pass --yes"
        )
    event_type = _type_of(connection, row.memory_mb) if row.is_of_events else None
    double_billing.require_uncharged(connection, mapping, row, event_type)
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    SQL.run(connection, "insert_mapping", {**asdict(row), **person})
    details = {"kind": row.kind, "memory_mb": row.memory_mb, "unit": row.unit, "start_ms": start}
    if row.is_of_events:
        details = {"event_type": event_type, "unit": row.unit, "start_ms": start}
    action = "feature_map" if row.feature else "feature_end"
    record(connection, action, row.feature or "", details, by)
    until = [before for before in mapping if before.selector == row.selector and before.start_ms <= start]
    was = (
        sorted(until, key=lambda before: before.start_ms)[-1].feature if until else None
    )  # if two rows have the same start, the row that was added last counts
    return replace(_fix(connection, start, mapping, row), was=was)


def _so_already(mapping: list[MappingRow], row: MappingRow) -> int | None:
    """Return the start of a selector's newest row if that row fits; otherwise None.

    The row fits if it has the wanted feature and unit.
    """
    mine = [before for before in mapping if before.selector == row.selector]
    # If two rows have the same start, the row that was added last counts.
    newest = max(reversed(mine), key=lambda before: before.start_ms, default=None)
    if newest is None or newest.start_ms > row.start_ms or (newest.feature, newest.unit) != (row.feature, row.unit):
        return None
    return newest.start_ms


def _type_of(connection: sa.Connection, meter: int | None) -> str:
    return str(SQL.run(connection, "event_type", {"meter": meter}).scalar())


def _describe(connection: sa.Connection, row: MappingRow) -> str:
    """Return a row's selector in words."""
    if row.is_of_events:
        return f"the event type {_type_of(connection, row.memory_mb)}"
    return "all larger sizes" if row.memory_mb is None else f"{row.kind.replace('_', ' ')} {row.memory_mb} MB"


def _require_one_unit(connection: sa.Connection, mapping: list[MappingRow], row: MappingRow) -> None:
    """Refuse a second unit of a feature. Errors: Refused.

    With two units, the feature's rate and carry would add different units.
    """
    other = other_unit(mapping, row)
    if other is not None:
        instead = "Use" if UNITS in (other.unit, row.unit) else f"Pass --unit {other.unit}, or use"
        raise Refused(
            f"the unit of {row.feature} is {other.unit} "
            f"({_describe(connection, other)}, in windows from {utc(other.start_ms)}). A feature's unit never changes. "
            f"{instead} another feature"
        )


def _check_size(row: MappingRow) -> None:
    if row.memory_mb is not None and not 0 <= row.memory_mb <= MAX_MEMORY_MB:
        raise UsageError(f"invalid memory size {row.memory_mb}: expected 0 to {MAX_MEMORY_MB} MB")
    if row.unit not in (SECONDS, MB_SECONDS):
        raise UsageError(
            f"invalid --unit {quote_value(row.unit)}: expected s (seconds) or mb_s (MB-seconds). To map an event "
            "type, run `drawdown feature map-event`"
        )
    if row.kind not in ("exact", "up_to") or (row.kind == "exact" and row.memory_mb is None):
        raise UsageError("specify --memory-mb N, --up-to N or --rest")


def _fix(connection: sa.Connection, start: int, mapping: list[MappingRow], row: MappingRow) -> Mapped:
    """Mark the windows in which a new row gives pending usage its first feature.

    Return that usage.
    """
    seconds = windows = sizes = 0
    mapping = akin(mapping, row)
    for size in SQL.run(connection, "pending_sizes", {"start_ms": start}).scalars().all():
        if is_meter(size) != row.is_of_events or (row.is_of_events and size != row.memory_mb):
            continue
        ranges = _filled(mapping, row, size, start)
        sizes += bool(ranges)
        for from_ms, to_ms in ranges:
            values = {"memory_mb": size, "from_ms": from_ms, "to_ms": to_ms}
            filled = SQL.run(connection, "count_filled", values).one()
            seconds, windows = seconds + int(filled.seconds), windows + int(filled.windows)
            make_windows_dirty(connection, SQL, "filled", values)
    return Mapped(start, seconds, windows, sizes)


def _filled(mapping: list[MappingRow], row: MappingRow, size: int, start: int) -> list[tuple[int, int]]:
    """Return the ranges of windows in which a size gets its first feature.

    The size gets the feature by the new row `row`, from `start` on.
    """
    times = sorted({start, *(before.start_ms for before in mapping if before.start_ms > start)})

    def has(rows: list[MappingRow], window: int) -> bool:
        found = resolve(rows, size, window)
        return found is not None and found.feature is not None

    spans = zip(times, [*times[1:], FOREVER_MS], strict=True)
    return [(lo, hi) for lo, hi in spans if has([*mapping, row], lo) and not has(mapping, lo)]


def install_defaults(connection: sa.Connection, by: By) -> None:
    """Install the mapping and rate card of a new database.

    The mapping bills compute_1gb to compute_64gb by exact size, in seconds.

    If the database has a mapping, the call changes nothing, even if a concurrent call just added that mapping.
    """
    lock_buckets(connection)
    if mapping_rows(connection):
        return
    for size in DEFAULT_SIZES_GB:
        feature = f"compute_{size}gb"
        map_size(connection, feature, by, kind="exact", memory_mb=size * 1024, unit=SECONDS, from_ms=0, confirmed=True)
        rate = {"start_ms": 0, "micro_credits": size * DEFAULT_MICRO_CREDITS_PER_GB_S, "per_quantity": 1}
        person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
        if credit.SQL.run(connection, "insert_rate", {"feature": feature, **rate, **person}).first() is not None:
            record(connection, "ledger_rate", feature, rate, by)


# Actions.

EARLIER: Final = "earlier usage stays without a feature. To bill it, too, pass an earlier window with --from"
BEFORE: Final = (
    "a mapping that had not started will not start, and the mapping before it still ends at that time. Map the sizes "
    "or event types again"
)
MOST_FACTS: Final = 20
"""Memory sizes without a feature that a dry run names.

Event types, and sizes that end at the same time, have the same limit.
"""
Feature = Annotated[str, ID, "Feature: a-z, 0-9 and _"]
From = Annotated[int | None, WINDOW, "Window boundary at which the mapping starts; the next if omitted"]
Yes = Annotated[bool, FLAG, "Confirmation of a change to sealed or lost windows"]


@dataclass(frozen=True)
class FeatureMapped:
    """Memory sizes mapped to a feature.

    `memory_mb`: the exact size. `up_to`: the largest size. Both null: all larger sizes.
    """

    feature: str
    memory_mb: int | None
    up_to: int | None
    unit: str
    mapped: Mapped


def _map(
    connection: sa.Connection,
    asked: Invocation,
    feature: Feature,
    *,
    memory_mb: Annotated[
        int | None, whole(0, MAX_MEMORY_MB, 1_024), "Exact memory size in MB", Label("Memory, MB")
    ] = None,
    up_to: Annotated[int | None, whole(0, MAX_MEMORY_MB, 2_048), "Upper bound of the tier in MB"] = None,
    rest: Annotated[bool, FLAG, "All larger sizes"] = False,
    unit: Annotated[Literal["s", "mb_s"], "Base unit: s (seconds) or mb_s (MB-seconds)"] = "s",
    from_ms: From = None,
    yes: Yes = False,
    new: New = False,
) -> FeatureMapped:
    if [memory_mb is not None, up_to is not None, rest].count(True) != 1:
        raise UsageError("specify exactly one of --memory-mb N, --up-to N and --rest")
    kind, size = ("exact", memory_mb) if memory_mb is not None else ("up_to", up_to)
    made = map_size(
        connection, feature, asked.by, kind=kind, memory_mb=size, unit=unit, from_ms=from_ms,
        confirmed=yes or asked.dry_run, new=new,
    )  # fmt: skip
    return FeatureMapped(feature, memory_mb, up_to, unit, made)


def _sizes(done: FeatureMapped) -> list[str]:
    made, what = done.mapped, "all larger sizes" if done.up_to is None else f"sizes up to {done.up_to:,} MB"
    what = what if done.memory_mb is None else f"{done.memory_mb:,} MB"
    if made.again:
        return [f"{what}: already mapped to {done.feature}, {_since(made)}; nothing was changed"]
    sizes, windows = counted(made.resolved_sizes, "size"), counted(made.resolved_windows, "window")
    return [
        f"mapped {what} to {done.feature} {_since(made)}; before: {made.was or 'not mapped separately'}",
        f"{made.resolved_s:,} s of {sizes} in {windows} without a feature will be sealed by the next tick",
    ]


@dataclass(frozen=True)
class EventMapped:
    """An event type that is mapped to a feature.

    `value`: the declared quantity of events that do not state a quantity (null: not declared by this call).
    `earlier_waits`: True if usage before the start stays without a feature.
    """

    event_type: str
    feature: str
    mapped: Mapped
    value: EventValue | None
    earlier_waits: bool


def _map_event(
    connection: sa.Connection,
    asked: Invocation,
    event_type: Annotated[str, ID, "Event type, as the events name it"],
    feature: Feature,
    *,
    unit: Annotated[Literal["units"], "Base unit of an event type: always units"] = "units",
    sum_: Annotated[str | None, KEY, "Path of the value in the event's data: $.usage.tokens"] = None,
    scale: Annotated[int, whole(1, MAX_VALUE_SCALE, 1), "Number of base units in 1 of the value"] = 1,
    count: Annotated[bool, FLAG, "One unit for each event"] = False,
    from_ms: From = None,
    yes: Yes = False,
    new: New = False,
) -> EventMapped:
    value = _value(sum_, scale, count=count)
    made = map_event(
        connection, event_type, feature, asked.by, unit=unit, from_ms=from_ms, confirmed=yes or asked.dry_run, new=new,
        value=value,
    )  # fmt: skip
    return EventMapped(event_type, feature, made, value, from_ms is None and made.was is None and made.start_ms > 0)


def _value(path: str | None, scale: int, *, count: bool) -> EventValue | None:
    """Return the value that the options declare; None without one.

    Errors: UsageError for invalid combinations.
    """
    if path is None and not count and scale != 1:
        raise UsageError("--scale needs --sum. Pass --sum PATH, too")
    if path is None and not count:
        return None
    if path is not None and count:
        raise UsageError("specify either --sum or --count, not both")
    return EventValue(COUNT if count else SUM, path, scale)


def _types(done: EventMapped) -> list[str]:
    made, factor = done.mapped, [f"quantity of each event: {done.value.share}"] if done.value else []
    if made.again:
        unchanged = "" if factor else "; nothing was changed"
        return [f"{done.event_type} is already mapped to {done.feature}, {_since(made)}{unchanged}", *factor]
    units, windows = counted(made.resolved_s, "unit"), counted(made.resolved_windows, "window")
    return [
        f"mapped {done.event_type} to {done.feature} {_since(made)}; before: {made.was or 'no feature'}",
        *factor,
        f"{units} in {windows} without a feature will be sealed by the next tick",
        *([EARLIER] if done.earlier_waits else []),
    ]


def _since(made: Mapped) -> str:
    return f"from {show_time(made.start_ms)}" if made.start_ms else "for all its usage"


def _selectors(its: Sequence[str]) -> str:
    more = len(its) - MOST_FACTS
    named = ", ".join(its[:MOST_FACTS]) + (f" and {more:,} more" if more > 0 else "")
    return f"{counted(len(its), 'size or event type', 'sizes or event types')}: {named}"


@dataclass(frozen=True)
class FeatureEnded:
    """The selectors of a feature that ended, each with its end."""

    feature: str
    ended: list[Ended]


def _end(
    connection: sa.Connection,
    asked: Invocation,
    feature: Annotated[str, ID, "Feature to end"],
    *,
    from_ms: Annotated[int | None, WINDOW, "Window boundary at which the feature ends; the next if omitted"] = None,
    yes: Annotated[bool, FLAG, "Confirmation of an end that a restore lost"] = False,
) -> FeatureEnded:
    return FeatureEnded(feature, end_feature(connection, feature, asked.by, from_ms=from_ms, confirmed=yes))


def _ends(done: FeatureEnded) -> list[str]:
    at: defaultdict[int, list[str]] = defaultdict(list)
    for one in done.ended:
        at[one.start_ms].append(one.selector)
    lines = [f"{done.feature} ends at {show_time(start)}, for {_selectors(its)}" for start, its in at.items()]
    lines[-1] += "; unchanged" if done.ended[0].again else ""
    return [*lines, *([BEFORE] if any(one.unbegun for one in done.ended) else [])]


def _mapping(connection: sa.Connection, _asked: Invocation, _values: Values) -> Sequence[Fact]:
    found = list_features(connection)
    sizes = ", ".join(f"{one.memory_mb} MB" for one in found.without_feature[:MOST_FACTS])
    types = ", ".join(one.event_type for one in found.events_without_feature[:MOST_FACTS])
    return [
        Fact("Sizes with a feature", f"{sum(one.end_ms == FOREVER_MS for one in found.mapping):,}"),
        Fact("Event types with a feature", f"{sum(one.end_ms is None for one in found.event_types):,}"),
        Fact("Sizes without a feature", sizes or "none", fixed=False),
        Fact("Event types without a feature", types or "none", fixed=False),
    ]


SCOPE: Final = "catalog:write"
PLACE: Final = "/console/pending"
MAP: Final = Action(
    "feature map",
    "Map sizes to a feature",
    "Map memory sizes to a feature that is billed. An exact size takes precedence over a tier, and a smaller tier "
    "over a larger tier. Drawdown never changes a feature in sealed windows. With an earlier --from, only sizes "
    "without a feature change. A feature's unit never changes.",
    _map,
    _sizes,
    path="/v1/features/{feature}/map",
    scope=SCOPE,
    role="admin",
    facts=_mapping,
    place=PLACE,
)
MAP_EVENT: Final = Action(
    "feature map-event",
    "Map an event type to a feature",
    "Map an event type to a feature that is billed. The quantity is the sum of the events' quantities. If the type "
    "does not have usage yet, the mapping holds for all of its usage. Otherwise it starts at the next window, unless "
    "you pass --from. Drawdown never changes a feature in sealed windows. To map sealed windows without a feature, "
    "pass --from and --yes. To bill any CloudEvent of the type, pass --sum or --count before its first event. You "
    "cannot change --sum or --count later.",
    _map_event,
    _types,
    path="/v1/event-types/{event_type}/map",
    scope=SCOPE,
    role="admin",
    facts=_mapping,
    place=PLACE,
)
ACTIONS: Final = (
    MAP,
    MAP_EVENT,
    Action(
        "feature end",
        "End a feature",
        "End a feature. Its sizes and event types stay pending until you map them to another feature. A mapping of "
        "the feature that starts later ends before it starts. Other features do not end.",
        _end,
        _ends,
        path="/v1/features/{feature}/end",
        scope=SCOPE,
        role="admin",
        facts=_mapping,
    ),
)
