"""Check the guard's counters, vendors' bills and high spenders.

Guarantee: each kind has one row with its latest result. An older check that ends late does not replace the result of a
newer check. Each counter of the guard is computed and corrected under its lock. A dry run does not write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.errors import Exit
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.guard import counters as guard_reconcile
from drawdown.worker.guard import lists as views
from drawdown.worker.guard.counters import CORRECTED_AT_ONCE, Counter
from drawdown.worker.guard.lists import Drift
from drawdown.worker.provider import vendors
from drawdown.worker.provider.vendors import LEAST_MICRO, TOLERANCE_PPM, Drifted
from drawdown.worker.wallets.lists import Spender, spenders_now

SQL = queries(__file__)

Check = Literal["guard", "vendors"]


def keep(connection: sa.Connection, check: Check, at_ms: int, *, off: int, alerts: int) -> None:
    """Store the result of a check.

    `off`: the number of compared counters, or of vendors' services and days, with a difference. `alerts`: the number of
    these differences that need a person.
    """
    SQL.run(connection, "keep", {"check_name": check, "at_ms": at_ms, "off": off, "alerts": alerts})


SPAN_MS: Final = 35 * DAY_MS
"""Range before now of a guard check that an HTTP call starts, in milliseconds.

The check covers all periods that began in this range, and so a whole month.
"""
AGAIN_MS: Final = 60 * MINUTE_MS
"""Milliseconds for which a repeated `guard reconcile` still reports the first corrections.

The response of the first command may be lost.
"""


@dataclass(frozen=True)
class Reconciled:
    """The result of a check of counters.

    `drifts`: the counters with a difference. `corrected`: the number of corrected counters. `above_tolerance`: the
    number of counters that differed by more than the tolerance.
    """

    drifts: Sequence[Drift]
    corrected: int
    above_tolerance: int

    @property
    def exit_status(self) -> int:
        """Return 1 if a person must find the cause, else 0."""
        return int(Exit.PERSON if self.above_tolerance else Exit.SETTLED)


def look(connection: sa.Connection, since_ms: int) -> list[Drift]:
    """Return up to CORRECTED_AT_ONCE differing counters of periods from `since_ms` on."""
    return views.drifts(connection, since_ms, CORRECTED_AT_ONCE)


def judge_drift(found: Sequence[Drift], tolerance_ppm: int) -> Reconciled:
    """Return the result of a dry run."""
    return Reconciled(found, 0, sum(one.is_above(tolerance_ppm) for one in found))


def put_right(connection: sa.Connection, found: Sequence[Drift], tolerance_ppm: int, by: By) -> Reconciled:
    """Correct counters with a difference, and store the result.

    A counter without uses is not corrected, but its difference counts in the result. The stored result includes
    corrections by the same actor and reason within AGAIN_MS, because the response with these corrections may be lost.
    """
    counters = [_counter(one) for one in found if one.has_uses]
    done = guard_reconcile.correct(connection, counters, by)
    before = views.put_right(connection, by.actor, by.reason, by.now_ms - AGAIN_MS, CORRECTED_AT_ONCE)
    lines = [*found, *before]
    off = {_counter(one) for one in lines}
    alerts = {_counter(one) for one in lines if one.is_above(tolerance_ppm)}
    keep(connection, "guard", by.now_ms, off=len(off), alerts=len(alerts))
    return Reconciled(found, len(done), judge_drift(found, tolerance_ppm).above_tolerance)


def _counter(one: Drift) -> Counter:
    return Counter(one.org_id, one.metric, one.period, one.start_ms)


def check_spenders(connection: sa.Connection, now_ms: int) -> Sequence[Spender]:
    """Find the wallets with the most use, store them, and return them.

    An older check that ends late does not replace the result of a newer check. If no wallet has
    use, the stored list is then empty.
    """
    found = spenders_now(connection, now_ms)
    rows = [
        {name: getattr(one, name) for name in ("place", "customer_id", "used_micro", "from_ms", "at_ms")}
        for one in found
    ]
    if rows:
        SQL.run(connection, "keep_spenders", {"rows": rows})
    else:
        SQL.run(connection, "forget_spenders", {"at_ms": now_ms})
    return found


def check_vendors(
    connection: sa.Connection, now_ms: int, tolerance_ppm: int = TOLERANCE_PPM, least_micro: int = LEAST_MICRO
) -> Drifted:
    """Compare vendors' recent bills, and store the result.

    This compares the bills of recent days and of recent imports (see `vendors.drift_now`). It leaves out today.
    A difference counts if it is at least `least_micro`, and above `tolerance_ppm` of the estimate.
    """
    lines = vendors.drift_now(connection, now_ms, tolerance_ppm, least_micro)
    found = Drifted.of(lines)
    keep(connection, "vendors", now_ms, off=sum(line.is_off for line in lines), alerts=found.alerts)
    return found


@dataclass(frozen=True)
class LastCheck:
    """The last result of a check.

    `off`: the number of compared counters, or of vendors' services and days, with a difference. `alerts`: the number of
    these differences that need a person.
    """

    at_ms: int
    off: int
    alerts: int


def last_checks(connection: sa.Connection) -> dict[str, LastCheck]:
    """Return the last results by check, without checks that never ran."""
    rows = SQL.run(connection, "last")
    return {row.check_name: LastCheck(int(row.at_ms), int(row.off), int(row.alerts)) for row in rows}
