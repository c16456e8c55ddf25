"""What nightly checks last found, and what waits for a person's word. Guarantee: zeros included: an alert on a change
does not see a series begin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from prometheus_client.metrics_core import Metric

from drawdown.server.metrics.metric_kinds import gauge, seconds
from drawdown.worker.checks.checks import LastCheck, last_checks
from drawdown.worker.checks.proofs import last_held
from drawdown.worker.usage.backfills import open_backfills

CHECKS: Final = ("guard", "vendors")
NEVER: Final = LastCheck(0, 0, 0)


def checking(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Of the guard's counters, of vendors' bills, of proofs, of backfills."""
    last = dict.fromkeys(CHECKS, NEVER) | last_checks(connection)
    label = ("check",)
    off = [((name,), one.off) for name, one in sorted(last.items())]
    yield gauge("check_off", "Lines that were off when it was last checked.", off, label)
    alerts = [((name,), one.alerts) for name, one in sorted(last.items())]
    yield gauge("check_alerts", "Of these, lines that somebody has to look at.", alerts, label)
    ages = [((name,), seconds(now_ms - one.at_ms) if one.at_ms else 0.0) for name, one in sorted(last.items())]
    yield gauge("check_age_seconds", "Since it was last checked; 0: never.", ages, label)
    held = last_held(connection, now_ms)
    ages = [
        ((name,), seconds(now_ms - at_ms) if at_ms else 0.0)
        for name, at_ms in (("continued", held.continued_ms), ("whole", held.whole_ms))
    ]
    yield gauge("proof_age_seconds", "Since all invariants held, by what verify looked at; 0: never.", ages, ("run",))
    open_ = open_backfills(connection)
    yield gauge("backfills_open", "Backfills that are neither closed nor reverted.", [((), open_.count)])
    age = 0 if open_.since_ms is None else now_ms - open_.since_ms
    yield gauge("backfills_oldest_age_seconds", "Since the oldest of them was opened.", [((), seconds(age))])
