"""Webhooks to the operator's product: what is due, what has failed, since when. Guarantee: reads by index."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from prometheus_client.metrics_core import Metric

from drawdown.server.metrics.metric_kinds import gauge, seconds
from drawdown.worker.hooks.lists import list_endpoints


def hooking(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Of each endpoint that goes on; zeros included: an alert on a change does not see a series begin."""
    going = [row for row in list_endpoints(connection) if row.ended_ms is None]
    labels = ("endpoint",)
    yield gauge(
        "hook_messages_due", "Messages that are still to be sent.", [((row.name,), row.due) for row in going], labels
    )
    ages = [((row.name,), 0.0 if row.oldest_due_ms is None else seconds(now_ms - row.oldest_due_ms)) for row in going]
    yield gauge("hook_messages_oldest_age_seconds", "Since what the oldest of them tells of happened.", ages, labels)
    failed = [((row.name,), row.failed) for row in going]
    yield gauge("hook_messages_failed", "Messages that wait for a person's replay.", failed, labels)
