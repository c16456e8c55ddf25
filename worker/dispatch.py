"""Dispatch: halts to the cells that run a halted organisation's sandboxes.

Guarantee: level-triggered. The database's own triggers make a halt due the moment an organisation is halted or a
sandbox of a halted one appears on a cell; it stays due until that cell acknowledged it, and is due again while
sandboxes still run there. Resuming dispatches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
import structlog

from drawdown.schema.units import MINUTE_MS
from drawdown.worker.context import LEASE_MS, Context
from drawdown.worker.decide import backoff_ms
from drawdown.worker.effects import HaltRequest, SendHalts, Steps, Transaction
from drawdown.worker.shard import Shard

log = structlog.get_logger()

STILL_RUNNING_MS = MINUTE_MS
"""How long a cell has, after its acknowledgement, to stop what it runs before it is told again."""
BATCH = 500


@dataclass(frozen=True)
class ClaimedHalt:
    """One halt this worker may send."""

    request: HaltRequest | None
    org_id: str
    cell_id: str
    halted_at: int
    attempt: int


@dataclass
class Dispatched:
    """What became of halts."""

    acknowledged: int = 0
    failed: int = 0


_IN_FORCE = """EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = halts.org_id AND o.is_halted
    AND o.halted_at = halts.halted_at AND o.bucket BETWEEN :lo AND :hi
    AND (:provider = '' OR o.billing_provider = :provider))"""

OBSOLETE = """
DELETE FROM halts WHERE due_at_ms IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM orgs o WHERE o.org_id = halts.org_id AND o.is_halted AND o.halted_at = halts.halted_at)
"""

STILL_RUNNING = f"""
UPDATE halts SET due_at_ms = :now WHERE due_at_ms IS NULL AND acked_at_ms <= :told AND {_IN_FORCE}
    AND EXISTS (SELECT 1 FROM sandboxes s WHERE s.org_id = halts.org_id AND s.cell_id = halts.cell_id
        AND s.state = 'running')
"""

CLAIM = f"""
UPDATE halts SET claim_owner = :claim, due_at_ms = :lease_end, attempts = attempts + 1
WHERE (org_id, cell_id, halted_at) IN (
    SELECT org_id, cell_id, halted_at FROM halts WHERE due_at_ms <= :now AND {_IN_FORCE}
    ORDER BY due_at_ms LIMIT :most {{skip_locked}})
RETURNING org_id, cell_id, halted_at, attempts
"""

SETTLE = """
UPDATE halts SET due_at_ms = :due, acked_at_ms = COALESCE(:acked, acked_at_ms), last_error = :error
WHERE org_id = :org_id AND cell_id = :cell_id AND halted_at = :halted_at AND claim_owner = :claim
"""


def dispatch(context: Context, provider: str = "") -> Steps[Dispatched]:
    """Send every due halt of the shard once, or those of the organisations that one provider bills."""
    done = Dispatched()
    while not context.out_of_time():
        now, claim = context.clock.now_ms(), context.new_claim()
        batch: list[ClaimedHalt] = yield Transaction(
            "claim_halts", partial(_claim, claim=claim, now=now, shard=context.shard, provider=provider)
        )
        if not batch:
            break
        errors = yield from _send(batch)
        yield Transaction(
            "settle_halts", partial(_settle, batch=batch, errors=errors, claim=claim, now=context.clock.now_ms())
        )
        failed = sum(error is not None for error in errors)
        done.failed += failed
        done.acknowledged += len(batch) - failed
        for halt, error in zip(batch, errors, strict=True):
            log.info("halt_sent", org=halt.org_id, cell=halt.cell_id, acknowledged=error is None, error=error)
    return done


def _send(batch: Sequence[ClaimedHalt]) -> Steps[list[str | None]]:
    sendable = [halt.request for halt in batch if halt.request is not None]
    answers: Sequence[str | None] = []
    if sendable:
        answers = yield SendHalts(sendable)
        assert len(answers) == len(sendable), "one answer for each halt"
    left = iter(answers)
    return [
        next(left)
        if halt.request is not None
        else f"cell {halt.cell_id} has no URL: `drawdown cell set {halt.cell_id} URL`"
        for halt in batch
    ]


def _claim(connection: sa.Connection, *, claim: str, now: int, shard: Shard, provider: str) -> list[ClaimedHalt]:
    values = {"now": now, "lo": shard.lo, "hi": shard.hi, "provider": provider}
    connection.execute(sa.text(OBSOLETE))
    connection.execute(sa.text(STILL_RUNNING), {**values, "told": now - STILL_RUNNING_MS})
    skip = "FOR UPDATE SKIP LOCKED" if connection.dialect.name == "postgresql" else ""
    rows = connection.execute(
        sa.text(CLAIM.replace("{skip_locked}", skip)),
        {**values, "claim": claim, "lease_end": now + LEASE_MS, "most": BATCH},
    ).all()
    urls = {}
    if rows:
        urls = {str(cell): str(url) for cell, url in connection.execute(sa.text("SELECT cell_id, url FROM cells"))}
    return [
        ClaimedHalt(
            HaltRequest(org_id, cell_id, urls[cell_id], halted_at) if cell_id in urls else None,
            org_id,
            cell_id,
            halted_at,
            attempt,
        )
        for org_id, cell_id, halted_at, attempt in sorted(tuple(row) for row in rows)
    ]


def _settle(
    connection: sa.Connection, *, batch: Sequence[ClaimedHalt], errors: Sequence[str | None], claim: str, now: int
) -> None:
    connection.execute(
        sa.text(SETTLE),
        [
            {
                "org_id": halt.org_id,
                "cell_id": halt.cell_id,
                "halted_at": halt.halted_at,
                "claim": claim,
                "due": None if error is None else now + backoff_ms(halt.attempt),
                "acked": now if error is None else None,
                "error": error,
            }
            for halt, error in zip(batch, errors, strict=True)
        ],
    )
