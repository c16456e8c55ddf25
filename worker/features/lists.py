"""List the mapping of features, and usage without a feature.

This module only reads.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.declare import Column, Look, Showing
from drawdown.schema.sql import queries
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.catalog.mapping import FOREVER_MS, Segment, is_meter, mapping_rows, segments
from drawdown.worker.catalog.wallets import wallets_at
from drawdown.worker.sources.events.types import values
from drawdown.worker.verdict.rates import rate_card_of

SQL = queries(__file__)


@dataclass(frozen=True)
class UnmappedSize:
    """The pending usage of a memory size without a feature.

    `samples`, `orgs`: the numbers of samples and organisations with this usage.
    """

    memory_mb: int
    seconds: int
    samples: int
    orgs: int


@dataclass(frozen=True)
class MappedEvent:
    """An event type with a feature in windows that start in [start_ms, end_ms).

    `end_ms` None: the mapping does not end.
    """

    event_type: str
    feature: str
    unit: str
    start_ms: int
    end_ms: int | None
    value: str | None = None
    """The declared quantity of events without a quantity (None: not declared)."""


@dataclass(frozen=True)
class UnmappedEvent:
    """The pending usage of an event type without a feature.

    `units`: the quantity of the usage. `events`, `orgs`: the numbers of its events and organisations. `metric`: the
    metric by which the guard charges the type at once (None: the guard does not charge it). If `metric` is set, some of
    the usage cannot get a feature. Withdraw that usage, and send it to the guard.
    """

    event_type: str
    units: int
    events: int
    orgs: int
    metric: str | None = None


@dataclass(frozen=True)
class FeatureList:
    """The mapped memory sizes and event types, and pending usage without a feature."""

    mapping: list[Segment]
    event_types: list[MappedEvent]
    without_feature: list[UnmappedSize]
    events_without_feature: list[UnmappedEvent]


def list_features(connection: sa.Connection) -> FeatureList:
    """Return the whole mapping, and usage without a feature.

    Event types are in the order in which Drawdown first saw them, in an event or a mapping.
    """
    found = segments(mapping_rows(connection))
    names = {int(row.meter): str(row.event_type) for row in SQL.run(connection, "event_types")}
    counts = {name: str(value) for name, value in values(connection).items()}
    events = [
        MappedEvent(
            names[one.lo],
            one.feature,
            one.unit,
            one.start_ms,
            None if one.end_ms == FOREVER_MS else one.end_ms,
            counts.get(names[one.lo]),
        )
        for one in found
        if is_meter(one.lo)
    ]
    sizes = [one for one in found if not is_meter(one.lo)]
    return FeatureList(sizes, events, unmapped_sizes(connection), unmapped_events(connection))


def unmapped_sizes(connection: sa.Connection) -> list[UnmappedSize]:
    """Return the pending usage of memory sizes without a feature, the smallest first."""
    return [UnmappedSize(*map(int, row)) for row in SQL.run(connection, "unmapped_sizes")]


def unmapped_events(connection: sa.Connection) -> list[UnmappedEvent]:
    """Return the pending usage of event types without a feature, by their first use."""
    return [
        UnmappedEvent(str(row.event_type), int(row.units), int(row.events), int(row.orgs), row.metric)
        for row in SQL.run(connection, "unmapped_events")
    ]


def mapped_features(connection: sa.Connection) -> list[str]:
    """Return the features that the mapping has or had."""
    return list(SQL.run(connection, "mapped_features").scalars())


def unestimated_features(connection: sa.Connection) -> dict[str, list[str]]:
    """Return the mapped features without a rate for estimates, by provider.

    The result has the providers that have an assignment and keep balances themselves. An operator did not set a rate
    for these features, and the provider does not report a cost.
    """
    kept_here = wallets_at(connection)
    billed = defaultdict[str, list[str]](list)
    for row in SQL.run(connection, "billed_features"):
        if row.provider not in kept_here:
            billed[str(row.provider)].append(str(row.feature))
    found: dict[str, list[str]] = {}
    for provider, features in billed.items():
        rated = {rate.feature for rate in rate_card_of(connection, provider).rates}
        if unrated := [feature for feature in features if feature not in rated]:
            found[provider] = unrated
    return found


def unrated_features(connection: sa.Connection) -> list[str]:
    """Return the features, mapped now or before, without a rate on the rate card.

    The rate card is that of the embedded ledger. A past or future rate counts as a rate.
    """
    return list(SQL.run(connection, "unrated_features").scalars())


# Lists.


def _show(connection: sa.Connection, _look: Look) -> FeatureList:
    return list_features(connection)


def _until(end_ms: int | None) -> str:
    return "-" if end_ms in (None, FOREVER_MS) else f"{show_time(end_ms)}"


def _stated(value: str | None) -> str:
    return value or "stated"


_SPAN: Final = (Column("start_ms", "from"), Column("end_ms", "to", _until))
_EVENTS: Final = (
    "feature", Column("event_type", "event type"), "unit", Column("value", "quantity", _stated), *_SPAN
)  # fmt: skip
LISTS: Final = (
    Showing(
        "feature list",
        "Features",
        "List features, and usage without a feature.",
        _show,
        path="/v1/features",
        scope="catalog:read",
        parts={
            "mapping": ("Mapping", ("feature", Column("lo", "#MB from"), Column("hi", "#MB to"), "unit", *_SPAN)),
            "event_types": ("Event types", _EVENTS),
            "without_feature": (
                "Used, but without a feature",
                (Column("memory_mb", "#MB"), Column("seconds", "#seconds"), Column("samples", "#samples"),
                 Column("orgs", "#orgs")),
            ),
            "events_without_feature": (
                "Events without a feature",
                (Column("event_type", "event type"), Column("units", "#units"), Column("events", "#events"),
                 Column("orgs", "#orgs"), Column("metric", "charged by")),
            ),
        },
        most=0,
    ),
)  # fmt: skip
