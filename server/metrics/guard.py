"""What the guard let through in the dark. Guarantee: read by an index of that alone."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from prometheus_client.metrics_core import Metric

from drawdown.schema.units import DAY_MS
from drawdown.server.metrics.metric_kinds import gauge
from drawdown.worker.views.guard import dark

LABELS = ("metric",)


def guarding(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Of a day, as it is written down by now."""
    found = dark(connection, now_ms - DAY_MS)
    yield gauge("guard_dark_uses", "Uses of a day that were let through without knowing the credit, or any answer.",
                [((metric,), uses) for metric, uses, _ in found], LABELS)  # fmt: skip
    yield gauge("guard_dark_units", "What those used, in base units of the metric.",
                [((metric,), amount) for metric, _, amount in found], LABELS)  # fmt: skip
