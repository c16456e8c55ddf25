"""Calls to billing providers: pushes by outcome, the time they took, and customers that were read.

Guarantee: one reading of the attempts of the last five minutes, by their index. The distribution is of those, so its
buckets go up and down: no `rate` is needed on them. Reads are counted for good, in the transaction that wrote them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from prometheus_client.core import CounterMetricFamily, GaugeHistogramMetricFamily
from prometheus_client.metrics_core import Metric

from drawdown.schema.units import SECOND_MS, WINDOW_MS
from drawdown.server.metrics.metric_kinds import gauge, seconds
from drawdown.worker.status.metrics import UNANSWERED, attempts_since, provider_reads

LIMITS_MS: Final = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)
LABELS: Final = ("provider", "outcome")


def calls(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Pushes of the last five minutes, and reads since ever."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    within: dict[tuple[str, str], dict[int | None, int]] = defaultdict(lambda: defaultdict(int))
    took: dict[tuple[str, str], int] = defaultdict(int)
    for some in attempts_since(connection, now_ms - WINDOW_MS, LIMITS_MS):
        key = (some.provider, some.outcome)
        counts[key] += some.attempts
        if some.outcome != UNANSWERED:  # how long it took, nobody knows
            within[key][some.within_ms] += some.attempts
            took[key] += some.took_ms or 0
    yield gauge(
        "provider_attempts",
        "Pushes sent in the last five minutes, by what came of them.",
        sorted(counts.items()),
        LABELS,
    )
    metric = GaugeHistogramMetricFamily(
        "drawdown_provider_attempt_seconds", "How long those took, from claim to outcome.", labels=LABELS
    )
    for key in sorted(within):
        metric.add_metric(key, _buckets(within[key]), gsum_value=seconds(took[key]))
    yield metric
    reads = CounterMetricFamily("drawdown_provider_reads", "Customers that providers were asked about.", labels=LABELS)
    for row in provider_reads(connection):
        reads.add_metric((row.provider, row.outcome), row.reads)
    yield reads


def _buckets(within: dict[int | None, int]) -> list[tuple[str, float]]:
    """As Prometheus wants them: each holds those below it, and the last one all."""
    found, total = [], 0
    for limit in (*LIMITS_MS, None):
        total += within.get(limit, 0)
        found.append(("+Inf" if limit is None else str(limit / SECOND_MS), float(total)))
    return found
