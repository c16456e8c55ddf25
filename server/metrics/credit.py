"""Runs that hold credit, and what suppliers are owed. Guarantee: zeros included: an alert on a change does not see a
series begin."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from prometheus_client.metrics_core import Metric

from drawdown.schema.units import DAY_MS, MICRO
from drawdown.server.metrics.metric_kinds import gauge, seconds
from drawdown.worker.wallets.lists import owed_figures, run_figures


def reserving(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Of all wallets and suppliers together."""
    runs = run_figures(connection, now_ms, now_ms - DAY_MS)
    yield gauge("reservations_open", "Runs that hold credit.", [((), runs.held)])
    yield gauge("reservations_overdue", "Of these, runs whose hold is over, not let go yet.", [((), runs.overdue)])
    age = 0 if runs.overdue_since_ms is None else now_ms - runs.overdue_since_ms
    yield gauge("reservations_overdue_oldest_age_seconds", "Since the oldest of them was over.", [((), seconds(age))])
    yield gauge("reservations_expired", "Runs that expired in the last day, settled by nobody.", [((), runs.expired)])
    owed = owed_figures(connection)
    yield gauge("settlements_waiting_credits", "What suppliers wait for.", [((), owed.waiting_micro / MICRO)])
    yield gauge("settlement_freezes", "Freezes of settlements or suppliers that go on.", [((), owed.freezes)])
    age = 0 if owed.frozen_since_ms is None else now_ms - owed.frozen_since_ms
    yield gauge("settlement_freezes_oldest_age_seconds", "Since the oldest of them began.", [((), seconds(age))])
