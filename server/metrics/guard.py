"""The guard: what it denied, what it let through in the dark, overrides that wait. Guarantee: zeros included: an alert
on a change does not see a series begin. So many metrics have a series of their own, whatever people name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from prometheus_client.metrics_core import Metric

from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.server.metrics.metric_kinds import gauge, seconds
from drawdown.worker.guard.lists import guard_figures
from drawdown.worker.guard.overrides import SOON_MS

RECENT_MS: Final = 60 * MINUTE_MS


def guarding(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """What the tables hold, of all processes."""
    found = guard_figures(connection, now_ms, now_ms - RECENT_MS, now_ms - DAY_MS, now_ms + SOON_MS)
    denied = [((name, _word(enforced)), times) for (name, enforced), times in sorted(found.denied.items())]
    yield gauge("guard_denied", "Asks of the last hour that were blocked, or would be in phase 3 (not enforced).",
                denied, ("metric", "enforced"))  # fmt: skip
    dark = sorted(found.dark.items())
    yield gauge("guard_dark_uses", "Uses of a day that were let through without knowing the credit.",
                [((name,), uses) for name, (uses, _) in dark], ("metric",))  # fmt: skip
    yield gauge("guard_dark_units", "What those used, in the metric's base units.",
                [((name,), units) for name, (_, units) in dark], ("metric",))  # fmt: skip
    states = [(("waiting",), found.waiting), (("ending",), found.ending)]
    yield gauge("guard_overrides", "Overrides that wait for a person, and that end within a week.", states, ("state",))
    age = 0 if found.waiting_since_ms is None else now_ms - found.waiting_since_ms
    yield gauge("guard_overrides_oldest_age_seconds", "Since the oldest of those that wait.", [((), seconds(age))])


def _word(enforced: bool) -> str:
    return str(enforced).lower()
