"""Metrics, all of them from the database, so that a server and a one-shot tick say the same.

Guarantee: reads only, by indexes; what is zero is said as zero where its name is known, so that an alert on it can be
written; a database that cannot be read is `drawdown_database_up 0` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from drawdown.schema.database import read
from drawdown.schema.units import EXEMPT_PROVIDERS, WINDOW_MS, horizon
from drawdown.server.families import gauge, one, seconds
from drawdown.server.metrics_calls import calls
from drawdown.server.metrics_watch import watching
from drawdown.worker.shard import Shard
from drawdown.worker.unheeded import unheeded

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OPEN_STATES: Final = ("due", "queued", "in_doubt", "rejected")
REASONS: Final = ("unknown_org", "no_assignment", "no_customer", "no_provider", "no_mapping")

WATERMARK = "SELECT MIN(watermark_ms) AS pack FROM buckets WHERE watermark_ms > 0"
HELD = (
    "SELECT MIN(held_watermark_ms) AS held FROM orgs WHERE held_watermark_ms IS NOT NULL OR stopped_at_ms IS NOT NULL"
)
PENDING = "SELECT reason, SUM(seconds) AS seconds FROM pending_usage GROUP BY reason"
OUTBOX = """
SELECT provider, state, COUNT(*) AS pushes, MIN(sealed_at_ms) AS oldest_ms FROM pushes
WHERE state IN ('due', 'queued', 'in_doubt', 'rejected') GROUP BY provider, state
"""
PROVIDERS = "SELECT provider FROM provider_states"
HALTS = "SELECT COUNT(*) AS due, MIN(halted_at) AS since_ms FROM halts WHERE due_at_ms IS NOT NULL"
STOPPED = """
SELECT COUNT(*) FROM orgs
WHERE stopped_at_ms IS NOT NULL AND (held_watermark_ms IS NOT NULL OR stopped_at_ms IS NOT NULL)
"""
PROJECTIONS = "SELECT COUNT(*) AS due, MIN(projection_due_ms) AS since_ms FROM orgs WHERE projection_due_ms <= :now"
DIRTY = "SELECT COUNT(*) FROM dirty_windows"
QUARANTINED = "SELECT problem, COUNT(*) AS samples FROM usage_samples WHERE problem IS NOT NULL GROUP BY problem"
SAMPLES = """
SELECT COALESCE(cell_id, '') AS cell, COUNT(*) AS samples FROM usage_samples
WHERE ts >= :start AND ts < :end GROUP BY cell_id
"""
CELLS = "SELECT cell_id FROM cells"
LAST_TICK = """
SELECT started_ms, finished_ms, exit_status FROM ticks WHERE finished_ms IS NOT NULL ORDER BY tick_id DESC LIMIT 1
"""
LAST_SUCCESS = "SELECT finished_ms FROM ticks WHERE exit_status IN (0, 75) ORDER BY tick_id DESC LIMIT 1"
DOUBTED = "SELECT COUNT(*) FROM incarnation WHERE doubted_ms IS NOT NULL"
# Materialized, or SQLite reads all of them in the order of the grouping.
WEBHOOKS = """
WITH recent AS MATERIALIZED (SELECT provider, state FROM webhooks WHERE received_ms >= :since)
SELECT provider, state, COUNT(*) AS webhooks FROM recent GROUP BY provider, state
"""
PAUSED = "SELECT COUNT(*) FROM provider_states WHERE paused_ms IS NOT NULL"


def render(engine: sa.Engine, now_ms: int) -> bytes:
    """All metrics in Prometheus' text format. Never raises for the database's sake."""
    try:
        families = read(engine, lambda connection: list(measure(connection, now_ms)))
    except Exception:
        families = [gauge("database_up", "Whether the database could be read.", [((), 0)])]
    return text(families)


def text(families: Iterable[Metric]) -> bytes:
    """Metrics as Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(list(families)))
    return generate_latest(registry)


class _Given(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def measure(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Each metric there is."""
    yield gauge("database_up", "Whether the database could be read.", [((), 1)])
    yield gauge(
        "history_doubted", "1: nothing is sealed or sent until drawdown recover.", [((), one(connection, DOUBTED))]
    )
    yield from _sealing(connection, now_ms)
    yield from _outbox(connection, now_ms)
    yield from _organisations(connection, now_ms)
    yield from watching(connection, now_ms)
    yield from _ticks(connection, now_ms)
    yield from _samples(connection, now_ms)
    since = {"since": now_ms - 12 * WINDOW_MS}
    found = [((row.provider, row.state), row.webhooks) for row in connection.execute(sa.text(WEBHOOKS), since)]
    yield gauge("webhooks", "Genuine webhooks of the last hour.", found, ("provider", "state"))


def _sealing(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    marks = {
        "pack": connection.execute(sa.text(WATERMARK)).scalar(),
        "held_back": connection.execute(sa.text(HELD)).scalar(),
    }
    lags = [((which,), seconds(now_ms - int(ms))) for which, ms in marks.items() if ms is not None]
    yield gauge(
        "watermark_lag_seconds", "Age of the oldest watermark: of the pack, and of those held back.", lags, ("of",)
    )
    pending = dict.fromkeys(REASONS, 0)
    pending |= {row.reason: int(row.seconds) for row in connection.execute(sa.text(PENDING))}
    yield gauge(
        "pending_seconds",
        "Used and not sealable yet.",
        [((why,), s) for why, s in sorted(pending.items())],
        ("reason",),
    )
    yield gauge("dirty_windows", "Windows to be sealed again.", [((), one(connection, DIRTY))])
    bad = [((row.problem,), row.samples) for row in connection.execute(sa.text(QUARANTINED))]
    yield gauge("quarantined_samples", "Samples that cannot be billed.", bad, ("problem",))


def _outbox(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    known = {str(name) for name in connection.execute(sa.text(PROVIDERS)).scalars()} - EXEMPT_PROVIDERS
    counts: dict[tuple[str, str], int] = {(name, state): 0 for name in known for state in OPEN_STATES}
    ages: dict[tuple[str, str], float] = {}
    for row in connection.execute(sa.text(OUTBOX)):
        counts[row.provider, row.state] = int(row.pushes)
        ages[row.provider, row.state] = seconds(now_ms - int(row.oldest_ms))
    labels = ("provider", "state")
    yield gauge("outbox_pushes", "Pushes that are not settled.", sorted(counts.items()), labels)
    yield gauge("outbox_oldest_age_seconds", "Since the oldest of them was sealed.", sorted(ages.items()), labels)
    yield from calls(connection, now_ms)


def _organisations(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    due = connection.execute(sa.text(HALTS)).one()
    yield gauge("halts_due", "Halts that a cell has not acknowledged.", [((), due.due)])
    age = 0.0 if due.since_ms is None else seconds(now_ms - int(due.since_ms))
    yield gauge("halts_oldest_age_seconds", "Since the halt that has waited longest.", [((), age)])
    ignored = len(unheeded(connection, Shard()))
    yield gauge("halts_unheeded", "Halts acknowledged again and again while sandboxes still run.", [((), ignored)])
    yield gauge("orgs_stopped", "Organisations that a person has to look at.", [((), one(connection, STOPPED))])
    asked = connection.execute(sa.text(PROJECTIONS), {"now": now_ms}).one()
    yield gauge("projections_due", "Organisations whose provider is to be asked.", [((), asked.due)])
    oldest = 0.0 if asked.since_ms is None else seconds(now_ms - int(asked.since_ms))
    yield gauge("projections_oldest_age_seconds", "Since the ask that has waited longest.", [((), oldest)])
    yield gauge("providers_paused", "Providers that a person paused.", [((), one(connection, PAUSED))])


def _ticks(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    last = connection.execute(sa.text(LAST_TICK)).one_or_none()
    if last is None:
        return
    yield gauge(
        "tick_duration_seconds", "Of the last tick that ended.", [((), seconds(last.finished_ms - last.started_ms))]
    )
    yield gauge(
        "tick_last_exit_status", "0 settled, 75 something is left, 1 a person is needed.", [((), last.exit_status)]
    )
    yield gauge("tick_last_end_timestamp_seconds", "When it ended.", [((), seconds(last.finished_ms))])
    success = connection.execute(sa.text(LAST_SUCCESS)).scalar()
    if success is not None:
        yield gauge(
            "tick_last_success_timestamp_seconds", "When one last ended with 0 or 75.", [((), seconds(success))]
        )


def _samples(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Of the last window whose grace is over: a cell that reports nothing is not one that uses nothing."""
    end = horizon(now_ms)
    seen: Mapping[str, int] = {
        row.cell: int(row.samples)
        for row in connection.execute(sa.text(SAMPLES), {"start": end - WINDOW_MS, "end": end})
    }
    cells = {str(name): 0 for name in connection.execute(sa.text(CELLS)).scalars()}
    values = sorted((cells | dict(seen)).items())
    yield gauge(
        "cell_samples", "Samples of the last whole window, by cell.", [((cell,), n) for cell, n in values], ("cell",)
    )
