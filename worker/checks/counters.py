"""The guard's counters beside the uses they are sums of: looked at, put right, and kept for metrics.

Guarantee: what is looked at is put right under each counter's lock, as it is then. A dry run changes nothing at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.errors import Exit
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.checks.kept import keep
from drawdown.worker.guard import lists as views
from drawdown.worker.guard import recount as guard_reconcile
from drawdown.worker.guard.lists import Drift
from drawdown.worker.guard.recount import CORRECTED_AT_ONCE, Counter

SPAN_MS: Final = 35 * DAY_MS
"""Without a moment: periods that began since then, a whole month among them."""
AGAIN_MS: Final = 60 * MINUTE_MS
"""The same again within this, perhaps for an answer that was lost, is kept with what the first one put right."""


@dataclass(frozen=True)
class Reconciled:
    """Counters that were off, how many of them were put right, and how many were off by more than the tolerance."""

    drifts: Sequence[Drift]
    corrected: int
    above_tolerance: int

    @property
    def exit_status(self) -> int:
        """1: a person is to look where it came from."""
        return int(Exit.PERSON if self.above_tolerance else Exit.SETTLED)


def look(connection: sa.Connection, since_ms: int) -> list[Drift]:
    """Counters of periods that begin at a moment or later and are off; the first so many as are put right at once."""
    return views.drifts(connection, since_ms, CORRECTED_AT_ONCE)


def judged(found: Sequence[Drift], tolerance_ppm: int) -> Reconciled:
    """What was looked at, as a dry run tells it."""
    return Reconciled(found, 0, sum(one.is_above(tolerance_ppm) for one in found))


def put_right(connection: sa.Connection, found: Sequence[Drift], tolerance_ppm: int, by: By) -> Reconciled:
    """Put right what was looked at, and keep how much it was, with what the same actor put right for the same reason a
    moment ago: nobody else may ever have been told of that."""
    counters = [_counter(one) for one in found if one.known]
    done = guard_reconcile.correct(connection, counters, by)
    before = views.put_right(connection, by.actor, by.reason, by.now_ms - AGAIN_MS, CORRECTED_AT_ONCE)
    lines = [*found, *before]
    off = {_counter(one) for one in lines}
    alerts = {_counter(one) for one in lines if one.is_above(tolerance_ppm)}
    keep(connection, "guard", by.now_ms, off=len(off), alerts=len(alerts))
    return Reconciled(found, len(done), judged(found, tolerance_ppm).above_tolerance)


def _counter(one: Drift) -> Counter:
    return Counter(one.org_id, one.metric, one.period, one.start_ms)
