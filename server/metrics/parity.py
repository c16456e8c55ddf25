"""What cells count beside ours. Guarantee: zeros included: an alert on a change does not see a series begin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from prometheus_client.metrics_core import Metric

from drawdown.schema.units import DAY_MS
from drawdown.server.metrics.metric_kinds import gauge, seconds
from drawdown.worker.parity.lists import parity_figures

RECENT_MS: Final = 8 * DAY_MS
"""Days that began in the last week: what is older is no news."""


def comparing(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """As the last check of each cell's day says."""
    found = parity_figures(connection, now_ms - RECENT_MS)
    yield gauge("parity_differing", "Organisations' days of a week that differ from cells' own totals.",
                [((), found.differing)])  # fmt: skip
    yield gauge("parity_unread", "Cells' days of a week that could not be read.", [((), found.unread)])
    age = 0 if found.checked_ms is None else now_ms - found.checked_ms
    yield gauge("parity_checked_age_seconds", "Since anything was last compared; 0: never.", [((), seconds(age))])
