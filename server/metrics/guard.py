"""The guard's last day: what was asked, blocked, would be, and let through. Guarantee: reads by index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from prometheus_client.metrics_core import Metric

from drawdown.schema.units import MICRO
from drawdown.server.metrics.metric_kinds import gauge
from drawdown.worker.views.guard import last_day

MOST_METRICS: Final = 100
"""Of which the figures are told, by their names: each is a series."""


def guarding(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Zeros included, of each metric there is."""
    found = last_day(connection, now_ms, MOST_METRICS)
    for name, says, values in (
        ("guard_asked", "Uses that were asked for in the last day.", {key: rate.asked for key, rate in found.items()}),
        ("guard_blocked", "Of them, those that were blocked.", {key: rate.blocked for key, rate in found.items()}),
        ("guard_would_block", "Those that phase 3 would block.", {key: rate.would for key, rate in found.items()}),
        (
            "guard_dark_units",
            "Base units that were let through without knowing the credit, in the last day.",
            {key: rate.dark for key, rate in found.items()},
        ),
        (
            "guard_forgone_credits",
            "Credits that were not charged for what was let through, in the last day.",
            {key: rate.forgone_micro / MICRO for key, rate in found.items()},
        ),
    ):
        yield gauge(name, says, [((key,), value) for key, value in values.items()], ("metric",))
