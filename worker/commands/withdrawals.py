"""Samples that were wrong, taken back.

Guarantee: nothing is edited (S7). A withdrawal is a row of its own, with who and why; it makes the window dirty, so
that the next tick seals the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import Said, record
from drawdown.schema.errors import Refused
from drawdown.schema.locks import lock_buckets
from drawdown.schema.tables import withdrawals
from drawdown.schema.units import window_of
from drawdown.worker.history.incarnation import require_whole
from drawdown.worker.history.losses import loss_of, read_losses
from drawdown.worker.push.void import seal_again
from drawdown.worker.seal.arrivals import UNSEEN


@dataclass(frozen=True)
class Withdrawn:
    """One sample taken out; `already` where it had been before."""

    sample_id: str
    org_id: str
    window_ms: int
    interval_s: int
    already: bool


def withdraw(connection: sa.Connection, sample_ids: Sequence[str], said: Said) -> list[Withdrawn]:
    """Declare samples wrong; each takes its whole sample out of what is owed.

    Errors: Refused, for all of them, where one is unknown, quarantined (it was never billed), below the floor, or of
    a window that was not sealed since history was lost; HistoryDoubted while the database stands still.
    """
    lock_buckets(connection)
    require_whole(connection)
    done = [_withdraw_one(connection, sample_id, said) for sample_id in sample_ids]
    seal_again(connection, [one for one in done if not one.already])  # last: it makes the next one unsealed
    return done


UNSEALED: Final = (
    "SELECT 1 FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id LEFT JOIN buckets b ON b.id = o.bucket "
    "WHERE s.id = :id AND (b.id IS NULL OR {unseen} "
    "OR s.ts >= COALESCE(o.held_watermark_ms, b.watermark_ms) OR EXISTS (SELECT 1 FROM dirty_windows d "
    "WHERE d.org_id = s.org_id AND d.window_ms = s.ts - s.ts % 300000))"
)


def _is_unsealed(connection: sa.Connection, sample_id: str) -> bool:
    text = UNSEALED.replace("{unseen}", UNSEEN[connection.dialect.name])
    return connection.execute(sa.text(text), {"id": sample_id}).first() is not None


def _withdraw_one(connection: sa.Connection, sample_id: str, said: Said) -> Withdrawn:
    sample = connection.execute(
        sa.text(
            "SELECT s.org_id, s.ts, s.memory_mb, s.interval_s, s.problem, COALESCE(o.floor_ms, 0) AS floor_ms, "
            "w.sample_id AS withdrawn FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id "
            "LEFT JOIN withdrawals w ON w.sample_id = s.id WHERE s.id = :id"
        ),
        {"id": sample_id},
    ).one_or_none()
    if sample is None:
        ids.require(connection, ids.SAMPLE, sample_id)
        raise Refused(f"the sample {sample_id} appeared this moment: try again")
    if sample.problem is not None:
        raise Refused(f"the sample {sample_id} is quarantined ({sample.problem}) and was never billed")
    window = window_of(sample.ts)
    found = Withdrawn(sample_id, sample.org_id, window, int(sample.interval_s), sample.withdrawn is not None)
    if found.already:
        return found
    if loss_of(window, read_losses(connection)) and _is_unsealed(connection, sample_id):
        # Without a push of ours its provider would never be asked, and may have billed it (R1).
        raise Refused(
            f"the sample {sample_id} lies in the time whose history was lost, and was not sealed since: withdraw it "
            "after the next tick"
        )
    if sample.ts < sample.floor_ms:
        raise Refused(f"the sample {sample_id} lies below the floor of {sample.org_id}: its window is closed for good")
    connection.execute(
        withdrawals.insert().values(
            sample_id=sample_id,
            org_id=sample.org_id,
            ts=sample.ts,
            memory_mb=sample.memory_mb,
            interval_s=int(sample.interval_s),
            at_ms=said.now_ms,
            actor=said.actor,
            reason=said.reason,
        )
    )
    details = {"org_id": sample.org_id, "window_ms": window, "interval_s": int(sample.interval_s)}
    record(connection, "sample_withdraw", sample_id, details, said)
    return found
