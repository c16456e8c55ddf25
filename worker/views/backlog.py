"""What is left: counted for the tick's row, for status and for the exit status.

Guarantee: everything that is used and not settled is in one of these counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import FUTURE_SLACK_MS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.halts.unheeded import unheeded
from drawdown.worker.sources.samples.quarantine import COUNTS


@dataclass
class Backlog:
    """Counts of what is not settled. `pending_s` is in seconds, by reason."""

    due: int = 0
    queued: int = 0
    in_doubt: int = 0
    rejected: int = 0
    dirty_windows: int = 0
    halts_due: int = 0
    halts_unheeded: int = 0
    """Acknowledged again and again, and sandboxes still run."""
    projections_due: int = 0
    stopped_orgs: int = 0
    pending_s: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    dated_ahead: int = 0
    """Samples dated later than now, by more than clocks differ: billed only when their time has come."""

    @property
    def needs_person(self) -> bool:
        return bool(self.in_doubt or self.rejected or self.stopped_orgs or self.halts_unheeded)

    @property
    def waits_for_tick(self) -> bool:
        return bool(self.due or self.queued or self.dirty_windows or self.halts_due or self.projections_due)


# Looked up for each row that is left, so that a tick with nothing left does not read all organisations.
_SHARD = "EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = left_over.org_id AND o.bucket BETWEEN :lo AND :hi)"

ASKABLE: Final = (
    "EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = o.org_id AND a.end_ms IS NULL "
    "AND a.start_ms <= :now AND a.provider NOT IN ('legacy', 'none') AND a.customer_id <> '')"
)
"""Whether there is a provider to ask about organisation `o`: of others, an ask that is due is never answered."""


def quarantined(connection: sa.Connection) -> dict[str, int]:
    """Samples that cannot be billed and that nobody dealt with, by what is wrong with them."""
    return {reason: int(number) for reason, number in connection.execute(sa.text(COUNTS))}


DATED_AHEAD: Final = "SELECT COUNT(*) FROM usage_samples WHERE ts > :ahead AND problem IS NULL"


def read_backlog(connection: sa.Connection, shard: Shard, now_ms: int) -> Backlog:
    """Count what is left in a shard (a whole database with the default one)."""
    values = {"lo": shard.lo, "hi": shard.hi, "now": now_ms, "ahead": now_ms + FUTURE_SLACK_MS}

    def count(text: str) -> int:
        return int(connection.execute(sa.text(text), values).scalar_one())

    states = connection.execute(
        sa.text(
            "SELECT state, COUNT(*) FROM pushes left_over WHERE state IN ('due', 'queued', 'in_doubt', 'rejected') "
            f"AND {_SHARD} GROUP BY state"
        ),
        values,
    )
    pending = connection.execute(
        sa.text(
            "SELECT reason, SUM(seconds) FROM pending_usage left_over "  # of 0 s there is nothing to wait for
            f"WHERE seconds <> 0 AND {_SHARD} GROUP BY reason"
        ),
        values,
    )
    return Backlog(
        **{state: int(number) for state, number in states},
        dirty_windows=count(f"SELECT COUNT(*) FROM dirty_windows left_over WHERE {_SHARD}"),
        halts_due=count(f"SELECT COUNT(*) FROM halts left_over WHERE due_at_ms IS NOT NULL AND {_SHARD}"),
        halts_unheeded=len(unheeded(connection, shard)),
        projections_due=count(
            "SELECT COUNT(*) FROM orgs o WHERE projection_due_ms IS NOT NULL AND bucket BETWEEN :lo AND :hi "
            f"AND {ASKABLE}"
        ),
        stopped_orgs=count("SELECT COUNT(*) FROM orgs WHERE stopped_at_ms IS NOT NULL AND bucket BETWEEN :lo AND :hi"),
        pending_s={reason: int(seconds) for reason, seconds in pending},
        quarantined=quarantined(connection),
        dated_ahead=count(DATED_AHEAD),
    )
