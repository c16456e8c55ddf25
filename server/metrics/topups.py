"""Automatic top-ups: what is open, what ended in a day, whose top-ups stopped themselves. Guarantee: reads by index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from prometheus_client.metrics_core import Metric

from drawdown.schema.units import DAY_MS
from drawdown.server.metrics.metric_kinds import gauge, seconds
from drawdown.worker.topup.lists import figures

OPEN: Final = ("due", "sending", "in_doubt")
ENDED: Final = ("credited", "declined", "needs_customer", "given_up")


def topping_up(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Zeros included: an alert on a change does not see a series begin."""
    found = figures(connection, now_ms - DAY_MS)
    counts = [((state,), found.open.get(state, (0, 0))[0]) for state in OPEN]
    yield gauge("topups_open", "Top-ups that are not settled.", counts, ("state",))
    ages = [((state,), seconds(now_ms - oldest)) for state, (_, oldest) in sorted(found.open.items())]
    yield gauge("topups_oldest_age_seconds", "Since the oldest of them was begun.", ages, ("state",))
    ended = [((state,), found.ended.get(state, 0)) for state in ENDED]
    yield gauge("topups_ended", "Top-ups that ended in the last day.", ended, ("state",))
    yield gauge("topups_blocked", "Wallets whose top-ups stopped until another card.", [((), found.blocked)])
    yield gauge("topups_for_a_person", "Top-ups whose payment is another one's.", [((), found.for_a_person)])
    yield gauge("topups_stopped", "1: a person has stopped all top-ups.", [((), int(found.stopped))])
