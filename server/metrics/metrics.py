"""Metrics from the database, so that a server and a one-shot tick say the same; process.py has a server's own.

Guarantee: reads only, by indexes. A zero is written as zero where its name is known, so that an alert on it can be
written. A database that cannot be read is `drawdown_database_up 0` and nothing else.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from drawdown.schema.database import read
from drawdown.schema.units import EXEMPT_PROVIDERS, WINDOW_MS, horizon
from drawdown.server.metrics.calls import calls
from drawdown.server.metrics.checks import checking
from drawdown.server.metrics.cluster import working
from drawdown.server.metrics.credit import reserving
from drawdown.server.metrics.guard import guarding
from drawdown.server.metrics.hooks import hooking
from drawdown.server.metrics.metric_kinds import gauge, seconds
from drawdown.server.metrics.parity import comparing
from drawdown.server.metrics.ticks import filing, ordering, ticking, uncompared
from drawdown.server.metrics.topups import topping_up
from drawdown.server.metrics.watch import watching
from drawdown.worker.engine.context import Shard
from drawdown.worker.features.lists import unmapped_events
from drawdown.worker.halts.dispatch import unheeded
from drawdown.worker.status import metrics as figures
from drawdown.worker.status.backlog import oldest_open, quarantined

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPEN_STATES: Final = ("due", "queued", "in_doubt", "rejected", "awaiting_credit")
REASONS: Final = ("unknown_org", "no_assignment", "no_customer", "no_provider", "no_mapping")

PROBLEMS: Final = (
    "bad_id", "bad_org_id", "bad_sandbox_id", "bad_cell_id", "memory_missing", "memory_out_of_bounds",
    "interval_missing", "interval_not_a_number", "interval_negative", "interval_over_a_day", "interval_fractional",
    "ts_missing", "ts_not_milliseconds", "ts_before_2000", "ts_in_the_future", "id_conflict", "below_floor",
)  # fmt: skip
"""Told as zero before there is one: an alert on a change does not see a series begin."""

MOST_TYPES: Final = 20
"""Event types without a feature that have a series of their own."""
OTHER_TYPES: Final = "other"

OTHER_CELLS: Final = "other"
"""Cells that are not registered: what samples call their cell is anybody's to choose."""


def render(engine: sa.Engine, now_ms: int, doubt: Callable[[sa.Engine], str | None] = lambda _: None) -> bytes:
    """All metrics in Prometheus' text format. Never raises for the database's sake. `doubt`: why the history may be
    lost, by what this machine remembers, before a tick has written that down."""
    try:
        doubted = doubt(engine) is not None
        metrics = read(engine, lambda connection: list(measure(connection, now_ms, doubted=doubted)))
    except Exception:
        metrics = [gauge("database_up", "Whether the database could be read.", [((), 0)])]
    return text(metrics)


def text(metrics: Iterable[Metric]) -> bytes:
    """Metrics as Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_GivenMetrics(list(metrics)))
    return generate_latest(registry)


class _GivenMetrics(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def measure(connection: sa.Connection, now_ms: int, *, doubted: bool = False) -> Iterator[Metric]:
    """Each metric there is."""
    yield gauge("database_up", "Whether the database could be read.", [((), 1)])
    yield gauge(
        "history_doubted",
        "1: nothing is sealed or sent until drawdown recover.",
        [((), int(doubted or figures.doubted_histories(connection) > 0))],
    )
    yield from _sealing(connection, now_ms)
    yield from _outbox(connection, now_ms)
    yield from _organisations(connection, now_ms)
    yield from watching(connection, now_ms)
    yield from ticking(connection, now_ms)
    yield from working(connection)
    yield from ordering(connection, now_ms)
    yield from filing(connection)
    yield from uncompared(connection, now_ms)
    yield from reserving(connection, now_ms)
    yield from topping_up(connection, now_ms)
    yield from hooking(connection, now_ms)
    yield from comparing(connection, now_ms)
    yield from checking(connection, now_ms)
    yield from guarding(connection, now_ms)
    yield from _samples(connection, now_ms)
    webhooks = figures.webhooks_since(connection, now_ms - 12 * WINDOW_MS)
    yield gauge("webhooks", "Genuine webhooks of the last hour.", webhooks.items(), ("provider", "state"))


def _sealing(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    marks = figures.watermarks(connection)
    both = (("pack", marks.oldest_ms), ("held_back", marks.held_ms))
    lags = [((which,), seconds(now_ms - ms)) for which, ms in both if ms is not None]
    yield gauge(
        "watermark_lag_seconds", "Age of the oldest watermark: of the pack, and of those held back.", lags, ("of",)
    )
    helps = {"pending_seconds": "Used and not sealable yet.", "pending_units": "The same of event types, in units."}
    for (name, says), found in zip(helps.items(), figures.pending(connection), strict=True):
        pending = dict.fromkeys(REASONS, 0) | found
        yield gauge(name, says, [((why,), used) for why, used in sorted(pending.items())], ("reason",))
    waiting = sorted(_unmapped(connection).items())
    yield gauge("unmapped_units", "Units without a feature, by the types with the most.", waiting, ("event_type",))
    yield gauge("dirty_windows", "Windows to be sealed again.", [((), figures.dirty_windows(connection))])
    oldest = oldest_open(connection)
    age = 0 if oldest is None else oldest.age_ms
    yield gauge(
        "oldest_transaction_seconds",
        "The longest open on the database's server; what it inserted is not billed yet.",
        [] if age is None else [((), seconds(age))],
    )
    found = dict.fromkeys(PROBLEMS, 0) | quarantined(connection)
    bad = [((problem,), samples) for problem, samples in sorted(found.items())]
    yield gauge("quarantined_samples", "Samples that cannot be billed.", bad, ("problem",))


def _unmapped(connection: sa.Connection) -> Counter[tuple[str]]:
    """What programs call their events is theirs to choose: so many types have a series of their own."""
    found = sorted(unmapped_events(connection), key=lambda one: (-one.units, one.event_type))
    units = Counter({(OTHER_TYPES,): 0})
    for number, one in enumerate(found):
        units[one.event_type if number < MOST_TYPES else OTHER_TYPES,] += one.units
    return units


def _outbox(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    providers = figures.met_providers(connection) - EXEMPT_PROVIDERS
    counts: dict[tuple[str, str], int] = {(name, state): 0 for name in providers for state in OPEN_STATES}
    ages: dict[tuple[str, str], float] = {}
    owed: dict[tuple[str, str], float] = defaultdict(float)
    for some in figures.open_pushes(connection):
        key = (some.provider, some.state)
        counts[key] = counts.get(key, 0) + some.pushes
        ages[key] = max(ages.get(key, 0.0), seconds(now_ms - some.oldest_ms))
        owed[some.provider, some.feature] += some.owed
    labels = ("provider", "state")
    yield gauge("outbox_pushes", "Pushes that are not settled.", sorted(counts.items()), labels)
    yield gauge("outbox_oldest_age_seconds", "Since the oldest of them was sealed.", sorted(ages.items()), labels)
    yield gauge(
        "open_quantity",
        "Sealed and not settled, in the feature's base units. What is used and not sealable is in pending_seconds.",
        sorted(owed.items()),
        ("provider", "feature"),
    )
    yield from calls(connection, now_ms)


def _organisations(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    due = figures.halts_due(connection)
    yield gauge("halts_due", "Halts that a cell has not acknowledged.", [((), due.count)])
    age = 0.0 if due.since_ms is None else seconds(now_ms - due.since_ms)
    yield gauge("halts_oldest_age_seconds", "Since the halt that has waited longest.", [((), age)])
    ignored = len(unheeded(connection, Shard()))
    yield gauge("halts_unheeded", "Halts acknowledged again and again while sandboxes still run.", [((), ignored)])
    yield gauge("orgs_stopped", "Organisations that a person has to look at.", [((), figures.stopped_orgs(connection))])
    asked = figures.projections_due(connection, now_ms)
    yield gauge("projections_due", "Organisations whose provider is to be asked.", [((), asked.count)])
    oldest = 0.0 if asked.since_ms is None else seconds(now_ms - asked.since_ms)
    yield gauge("projections_oldest_age_seconds", "Since the ask that has waited longest.", [((), oldest)])
    yield gauge("providers_paused", "Providers that a person paused.", [((), figures.paused_providers(connection))])


def _samples(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Of the last window whose grace is over: a cell that reports nothing is not one that uses nothing."""
    end = horizon(now_ms)
    seen = figures.samples_by_cell(connection, end - WINDOW_MS, end)
    named = {OTHER_CELLS if cell is None else cell: samples for cell, samples in seen.items()}
    values = sorted((dict.fromkeys(figures.registered_cells(connection), 0) | named).items())
    yield gauge(
        "cell_samples",
        "Samples of the last whole window, by registered cell.",
        [((cell,), n) for cell, n in values],
        ("cell",),
    )
