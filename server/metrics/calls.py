"""What was asked of billing providers: pushes by outcome and how long they took, and customers that were read.

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

LIMITS_MS: Final = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)
UNANSWERED: Final = "unanswered"

_WITHIN: Final = " ".join(f"WHEN a.finished_ms - a.started_ms <= {limit} THEN {limit}" for limit in LIMITS_MS)
CALLS: Final = f"""
SELECT p.provider, COALESCE(a.outcome, '{UNANSWERED}') AS outcome, CASE {_WITHIN} END AS within_ms,
    COUNT(*) AS attempts, SUM(a.finished_ms - a.started_ms) AS took_ms
FROM attempts a JOIN pushes p ON p.window_ms = a.window_ms AND p.org_id = a.org_id AND p.feature = a.feature
    AND p.revision = a.revision
WHERE a.started_ms >= :since GROUP BY 1, 2, 3
"""
READS: Final = "SELECT provider, outcome, reads FROM provider_reads ORDER BY provider, outcome"
LABELS: Final = ("provider", "outcome")


def calls(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Pushes of the last five minutes, and reads since ever."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    within: dict[tuple[str, str], dict[int | None, int]] = defaultdict(lambda: defaultdict(int))
    took: dict[tuple[str, str], int] = defaultdict(int)
    for row in connection.execute(sa.text(CALLS), {"since": now_ms - WINDOW_MS}):
        key = (row.provider, row.outcome)
        counts[key] += row.attempts
        if row.outcome != UNANSWERED:  # how long it took, nobody knows
            within[key][row.within_ms] += row.attempts
            took[key] += int(row.took_ms)
    yield gauge(
        "provider_attempts",
        "Pushes sent in the last five minutes, by what came of them.",
        sorted(counts.items()),
        LABELS,
    )
    family = GaugeHistogramMetricFamily(
        "drawdown_provider_attempt_seconds", "How long those took, from claim to outcome.", labels=LABELS
    )
    for key in sorted(within):
        family.add_metric(key, _buckets(within[key]), gsum_value=seconds(took[key]))
    yield family
    reads = CounterMetricFamily("drawdown_provider_reads", "Customers that providers were asked about.", labels=LABELS)
    for row in connection.execute(sa.text(READS)):
        reads.add_metric((row.provider, row.outcome), row.reads)
    yield reads


def _buckets(within: dict[int | None, int]) -> list[tuple[str, float]]:
    """As Prometheus wants them: each holds those below it, and the last one all."""
    found, total = [], 0
    for limit in (*LIMITS_MS, None):
        total += within.get(limit, 0)
        found.append(("+Inf" if limit is None else str(limit / SECOND_MS), float(total)))
    return found
