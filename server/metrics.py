"""Metrics, all of them from the database, so that a server and a one-shot tick say the same.

Guarantee: reads only, by indexes; what is zero is said as zero where its name is known, so that an alert on it can be
written; a database that cannot be read is `drawdown_database_up 0` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from drawdown.schema.database import read
from drawdown.schema.units import EXEMPT_PROVIDERS, SECOND_MS, WINDOW_MS, horizon
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
HALTED = "SELECT COALESCE(halt_reason, '') AS reason, COUNT(*) AS orgs FROM orgs WHERE is_halted GROUP BY halt_reason"
STOPPED = """
SELECT COUNT(*) FROM orgs
WHERE stopped_at_ms IS NOT NULL AND (held_watermark_ms IS NOT NULL OR stopped_at_ms IS NOT NULL)
"""
PROJECTIONS = "SELECT COUNT(*) AS due, MIN(projection_due_ms) AS since_ms FROM orgs WHERE projection_due_ms <= :now"
DIRTY = "SELECT COUNT(*) FROM dirty_windows"
QUARANTINED = "SELECT problem, COUNT(*) AS samples FROM usage_samples WHERE problem IS NOT NULL GROUP BY problem"
CALLS = """
SELECT p.provider, COALESCE(a.outcome, 'unanswered') AS outcome, COUNT(*) AS attempts,
    SUM(a.finished_ms - a.started_ms) AS took_ms, MAX(a.finished_ms - a.started_ms) AS longest_ms
FROM attempts a JOIN pushes p ON p.window_ms = a.window_ms AND p.org_id = a.org_id AND p.feature = a.feature
    AND p.revision = a.revision
WHERE a.started_ms >= :since GROUP BY p.provider, a.outcome
"""
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
WEBHOOKS = """
SELECT provider, state, COUNT(*) AS webhooks FROM webhooks WHERE received_ms >= :since GROUP BY provider, state
"""
PAUSED = "SELECT COUNT(*) FROM provider_states WHERE paused_ms IS NOT NULL"


def render(engine: sa.Engine, now_ms: int) -> bytes:
    """All metrics in Prometheus' text format. Never raises for the database's sake."""
    try:
        families = read(engine, lambda connection: list(measure(connection, now_ms)))
    except Exception:
        families = [_gauge("database_up", "Whether the database could be read.", [((), 0)])]
    return text(families)


def text(families: Iterable[GaugeMetricFamily]) -> bytes:
    """Metrics as Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(list(families)))
    return generate_latest(registry)


class _Given(Collector):
    def __init__(self, families: Sequence[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families


def _gauge(
    name: str, help_: str, values: Iterable[tuple[Sequence[str], float]], labels: Sequence[str] = ()
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"drawdown_{name}", help_, labels=labels)
    for key, value in values:
        family.add_metric(list(key), value)
    return family


def _one(connection: sa.Connection, text_: str) -> int:
    return int(connection.execute(sa.text(text_)).scalar_one() or 0)


def _s(ms: int | None) -> float:
    return max(int(ms or 0), 0) / SECOND_MS


def measure(connection: sa.Connection, now_ms: int) -> Iterator[GaugeMetricFamily]:
    """Each metric there is."""
    yield _gauge("database_up", "Whether the database could be read.", [((), 1)])
    yield _gauge(
        "history_doubted", "1: nothing is sealed or sent until drawdown recover.", [((), _one(connection, DOUBTED))]
    )
    yield from _sealing(connection, now_ms)
    yield from _outbox(connection, now_ms)
    yield from _organisations(connection, now_ms)
    yield from _ticks(connection, now_ms)
    yield from _samples(connection, now_ms)
    since = {"since": now_ms - 12 * WINDOW_MS}
    found = [((row.provider, row.state), row.webhooks) for row in connection.execute(sa.text(WEBHOOKS), since)]
    yield _gauge("webhooks", "Genuine webhooks of the last hour.", found, ("provider", "state"))


def _sealing(connection: sa.Connection, now_ms: int) -> Iterator[GaugeMetricFamily]:
    marks = {
        "pack": connection.execute(sa.text(WATERMARK)).scalar(),
        "held_back": connection.execute(sa.text(HELD)).scalar(),
    }
    lags = [((which,), _s(now_ms - int(ms))) for which, ms in marks.items() if ms is not None]
    yield _gauge(
        "watermark_lag_seconds", "Age of the oldest watermark: of the pack, and of those held back.", lags, ("of",)
    )
    pending = dict.fromkeys(REASONS, 0)
    pending |= {row.reason: int(row.seconds) for row in connection.execute(sa.text(PENDING))}
    yield _gauge(
        "pending_seconds",
        "Used and not sealable yet.",
        [((why,), s) for why, s in sorted(pending.items())],
        ("reason",),
    )
    yield _gauge("dirty_windows", "Windows to be sealed again.", [((), _one(connection, DIRTY))])
    bad = [((row.problem,), row.samples) for row in connection.execute(sa.text(QUARANTINED))]
    yield _gauge("quarantined_samples", "Samples that cannot be billed.", bad, ("problem",))


def _outbox(connection: sa.Connection, now_ms: int) -> Iterator[GaugeMetricFamily]:
    known = {str(name) for name in connection.execute(sa.text(PROVIDERS)).scalars()} - EXEMPT_PROVIDERS
    counts: dict[tuple[str, str], int] = {(name, state): 0 for name in known for state in OPEN_STATES}
    ages: dict[tuple[str, str], float] = {}
    for row in connection.execute(sa.text(OUTBOX)):
        counts[row.provider, row.state] = int(row.pushes)
        ages[row.provider, row.state] = _s(now_ms - int(row.oldest_ms))
    labels = ("provider", "state")
    yield _gauge("outbox_pushes", "Pushes that are not settled.", sorted(counts.items()), labels)
    yield _gauge("outbox_oldest_age_seconds", "Since the oldest of them was sealed.", sorted(ages.items()), labels)
    calls = connection.execute(sa.text(CALLS), {"since": now_ms - WINDOW_MS}).all()
    by = ("provider", "outcome")
    yield _gauge(
        "provider_attempts", "Pushes sent in the last five minutes, by what came of them.",
        [((row.provider, row.outcome), row.attempts) for row in calls], by,
    )  # fmt: skip
    yield _gauge(
        "provider_attempt_seconds_sum", "How long those took together, from claim to outcome.",
        [((row.provider, row.outcome), _s(row.took_ms)) for row in calls], by,
    )  # fmt: skip
    yield _gauge(
        "provider_attempt_seconds_max", "How long the longest of them took.",
        [((row.provider, row.outcome), _s(row.longest_ms)) for row in calls], by,
    )  # fmt: skip


def _organisations(connection: sa.Connection, now_ms: int) -> Iterator[GaugeMetricFamily]:
    due = connection.execute(sa.text(HALTS)).one()
    yield _gauge("halts_due", "Halts that a cell has not acknowledged.", [((), due.due)])
    age = 0.0 if due.since_ms is None else _s(now_ms - int(due.since_ms))
    yield _gauge("halts_oldest_age_seconds", "Since the halt that has waited longest.", [((), age)])
    ignored = len(unheeded(connection, Shard()))
    yield _gauge("halts_unheeded", "Halts acknowledged again and again while sandboxes still run.", [((), ignored)])
    halted = [((row.reason,), row.orgs) for row in connection.execute(sa.text(HALTED))]
    yield _gauge("orgs_halted", "Organisations that are halted.", halted, ("reason",))
    yield _gauge("orgs_stopped", "Organisations that a person has to look at.", [((), _one(connection, STOPPED))])
    asked = connection.execute(sa.text(PROJECTIONS), {"now": now_ms}).one()
    yield _gauge("projections_due", "Organisations whose provider is to be asked.", [((), asked.due)])
    oldest = 0.0 if asked.since_ms is None else _s(now_ms - int(asked.since_ms))
    yield _gauge("projections_oldest_age_seconds", "Since the ask that has waited longest.", [((), oldest)])
    yield _gauge("providers_paused", "Providers that a person paused.", [((), _one(connection, PAUSED))])


def _ticks(connection: sa.Connection, now_ms: int) -> Iterator[GaugeMetricFamily]:
    last = connection.execute(sa.text(LAST_TICK)).one_or_none()
    if last is None:
        return
    yield _gauge(
        "tick_duration_seconds", "Of the last tick that ended.", [((), _s(last.finished_ms - last.started_ms))]
    )
    yield _gauge(
        "tick_last_exit_status", "0 settled, 75 something is left, 1 a person is needed.", [((), last.exit_status)]
    )
    yield _gauge("tick_last_end_timestamp_seconds", "When it ended.", [((), _s(last.finished_ms))])
    success = connection.execute(sa.text(LAST_SUCCESS)).scalar()
    if success is not None:
        yield _gauge("tick_last_success_timestamp_seconds", "When one last ended with 0 or 75.", [((), _s(success))])


def _samples(connection: sa.Connection, now_ms: int) -> Iterator[GaugeMetricFamily]:
    """Of the last window whose grace is over: a cell that reports nothing is not one that uses nothing."""
    end = horizon(now_ms)
    seen: Mapping[str, int] = {
        row.cell: int(row.samples)
        for row in connection.execute(sa.text(SAMPLES), {"start": end - WINDOW_MS, "end": end})
    }
    cells = {str(name): 0 for name in connection.execute(sa.text(CELLS)).scalars()}
    values = sorted((cells | dict(seen)).items())
    yield _gauge(
        "cell_samples", "Samples of the last whole window, by cell.", [((cell,), n) for cell, n in values], ("cell",)
    )
