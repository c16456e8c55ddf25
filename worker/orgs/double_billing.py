"""Refuse a price or a mapping by which usage would be billed twice.

Either the seal bills usage, or the guard charges it.

A metric names the event type or feature of the mapping that it counts (`counts`).

Guarantee: if a metric with a price counts an event type, the mapping cannot have a feature for that type. If such a
metric counts a feature, the mapping cannot map to that feature. If a price and a mapping conflict, the second change is
refused. Both changes take rule S1's lock first, so the second change sees the first, even if they are made at the same
time. A price is refused while usage of the event type waits for a feature, because the mapping could no longer add that
feature. Later usage of the type is refused, and the error names the call to use instead (`sources.events.types`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema.clock import utc
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, typed
from drawdown.worker.catalog.mapping import FOREVER_MS, MappingRow, Segment, akin, is_meter, mapping_rows, segments

SQL = queries(__file__)


@dataclass(frozen=True)
class Charging:
    """A metric with a price in [start_ms, end_ms).

    `counts`: the event type or feature that the metric counts.
    """

    metric: str
    counts: str
    start_ms: int
    end_ms: int

    def meets(self, segment: Segment, event_type: str | None) -> bool:
        """Return True if the metric charges for usage of the segment.

        The metric must count the segment's usage, and have a price in one of its windows.
        """
        named = self.counts in (segment.feature, event_type)
        return named and self.start_ms < segment.end_ms and segment.start_ms < self.end_ms


def require_unmetered(connection: sa.Connection, metric: str, counts: str, now_ms: int) -> None:
    """Check that the seal does not bill usage that a metric charges from now on.

    Errors: Refused.

    The caller must have S1's lock.
    """
    mine = Charging(metric, counts, now_ms, FOREVER_MS)
    for _, segment in _met([mine], segments(mapping_rows(connection)), _types(connection, [counts])):
        if segment.end_ms != FOREVER_MS:
            raise Refused(
                f"cannot set a price of {metric}: the seal bills {counts} as {segment.feature} in windows until "
                f"{utc(segment.end_ms)}, and usage must be billed only once. Try again after {utc(segment.end_ms)}, "
                "or pass --credits 0"
            )
        raise Refused(
            f"cannot set a price of {metric}: the seal bills {counts} as {segment.feature} in windows from "
            f"{utc(segment.start_ms)} on, and usage must be billed only once. Pass --credits 0, or pass --counts NAME "
            f"to count another name. To charge by {metric} instead, stop sending {counts}, and run `drawdown feature "
            f"end {segment.feature}`, which ends all sizes and event types of the feature. After the feature's last "
            f"window, set the price, and then send {counts} again"
        )


def require_nothing_waits(connection: sa.Connection, metric: str, event_type: str, meter: int) -> None:
    """Check that usage of an event type is not pending for a feature.

    After the metric gets a price, the mapping could not add that feature.

    The caller must have locked the type (`sources.events.types.hold`), and must have S1's lock. Errors: Refused.
    """
    found = SQL.run(connection, "waiting", {"meter": meter}).one()
    if found.orgs:
        who, since = counted(found.orgs, "organisation"), utc(found.since_ms)
        raise Refused(
            f"usage of {event_type} by {who} waits for a feature, in windows from {since} on. If you set a price of "
            f"{metric} now, Drawdown never bills this usage. Stop sending {event_type}. Then map the type (`drawdown "
            f"feature map-event {typed(event_type)} FEATURE --from {since}`), and run `drawdown feature end FEATURE`, "
            "which ends all sizes and event types of the feature. After the feature's last window, set the price. "
            "Instead of mapping the type, you can withdraw its usage (`drawdown event withdraw SOURCE EVENT`)"
        )


def require_uncharged(
    connection: sa.Connection, mapping: Sequence[MappingRow], row: MappingRow, event_type: str | None
) -> None:
    """Check that metrics do not charge for usage that a new row would bill.

    `row`: the new row of the mapping, by which the seal bills. Errors: Refused.

    The caller must have S1's lock.
    """
    before = akin(mapping, row)
    names = {one.feature for one in [*before, row] if one.feature} | ({event_type} if event_type else set())
    charging = [Charging(**one) for one in SQL.run(connection, "charging_for", {"names": sorted(names)}).mappings()]
    types = {} if event_type is None or row.memory_mb is None else {row.memory_mb: event_type}
    known = {(one.metric, segment.feature) for one, segment in _met(charging, segments(before), types)}
    for one, segment in _met(charging, segments([*before, row]), types):
        if (one.metric, segment.feature) not in known:
            raise Refused(
                f"the guard charges {one.counts} as {one.metric}, and usage must be billed only once. Set the "
                f"price of the metric to 0 (`drawdown guard set {typed(one.metric)} --credits 0`), and start this "
                "mapping at the next window. Or let the metric count another name (--counts NAME)"
            )


def was_charged(connection: sa.Connection, names: Collection[str]) -> bool:
    """Return True if a metric has, or ever had, a price for one of these names.

    `names`: names of event types or features.
    """
    return SQL.run(connection, "charging_for", {"names": sorted(names)}).first() is not None


def _met(
    charging: Collection[Charging], made: Sequence[Segment], types: dict[int, str]
) -> Iterator[tuple[Charging, Segment]]:
    """Yield pairs of a metric and a segment that would both bill the same usage.

    `types`: event types by meter.
    """
    for segment in made if charging else ():
        event_type = types.get(segment.lo) if is_meter(segment.lo) else None
        for one in charging:
            if one.meets(segment, event_type):
                yield one, segment


def _types(connection: sa.Connection, names: Sequence[str]) -> dict[int, str]:
    return {int(row.meter): row.event_type for row in SQL.run(connection, "types", {"names": list(names)})}
