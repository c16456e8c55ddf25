"""The watch: whether one runs, and how good its estimates are. Guarantee: reads only, by indexes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from drawdown.server.metrics.metric_kinds import gauge, seconds
from drawdown.worker.status.metrics import halted_orgs
from drawdown.worker.verdict.rules import CREDIT_REASONS
from drawdown.worker.verdict.watch_state import rounds_of, unread_orgs, wrong_estimates

REASONS: Final = (*CREDIT_REASONS, "operator")


def watching(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Rounds of the watch, what it and the ticks concluded, and who could not be read."""
    watch = rounds_of(connection)
    if watch.last_ms is not None:  # where nobody ever watched, nobody has stopped
        yield gauge(
            "watch_last_round_timestamp_seconds", "When a watch last went round.", [((), seconds(watch.last_ms))]
        )
    rounds = CounterMetricFamily("drawdown_watch_rounds", "Rounds of the watch, of all processes.")
    rounds.add_metric((), watch.count)
    yield rounds
    halted = dict.fromkeys(REASONS, 0) | halted_orgs(connection)
    yield gauge(
        "orgs_halted", "Organisations that are halted.", [((why,), n) for why, n in sorted(halted.items())], ("reason",)
    )
    wrong = CounterMetricFamily("drawdown_wrong_estimates", "Halts on an estimate that a later read proved wrong.")
    wrong.add_metric((), wrong_estimates(connection))
    yield wrong
    unread = unread_orgs(connection)
    yield gauge(
        "orgs_unread", "Organisations whose provider could not be read when last asked.",
        [((row.provider,), row.orgs) for row in unread], ("provider",),
    )  # fmt: skip
    yield gauge(
        "orgs_unread_oldest_age_seconds", "Since the first such failure of the one that has waited longest.",
        [((row.provider,), seconds(now_ms - row.since_ms)) for row in unread], ("provider",),
    )  # fmt: skip
