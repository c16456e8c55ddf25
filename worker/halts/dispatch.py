"""Dispatch: send halts to the cells that run a halted organisation's sandboxes.

Guarantee: dispatch is level-triggered. If an organisation is halted, or a sandbox of a halted organisation appears on
another cell, a trigger of the database makes the halt due. Each dispatch adds the halts that the triggers could not
see. A halt stays due until its cell acknowledges it. If sandboxes run there a minute later, even new sandboxes, it
becomes due again. Drawdown does not send a resume. Each cell has its own queue, with its own claims, time and circuit
breaker. So a cell that is dead, slow or flooded does not delay the others.

A person must act if a cell acknowledges a halt without obeying, lacks a URL, or cannot be called until a setting is
changed. Dispatch reports only halts in force. It reports an ignored halt only while its sandboxes run.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.schema.database import waiting_at_most
from drawdown.schema.errors import LockHeld
from drawdown.schema.sql import queries
from drawdown.schema.text import typed
from drawdown.schema.units import MINUTE_MS, SECOND_MS
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import HaltRequest, Over, RunTogether, SendHalts, Steps, Transaction, backoff_ms
from drawdown.worker.halts.addresses import ANSWERED
from drawdown.worker.halts.ignored_halts import ESCALATE_AFTER

log = structlog.get_logger()

SQL = queries(__file__)

STILL_RUNNING_MS = MINUTE_MS
"""Milliseconds that a cell has after its acknowledgement to stop the sandboxes.

If they still run afterwards, Drawdown notifies the cell again.
"""
MOST_BACKOFF_MS: Final = MINUTE_MS
"""Longest wait before Drawdown sends a halt to its cell again, in milliseconds.

While the cell is down, its open circuit delays all of its halts.
"""
BATCH: Final = 50
"""Halts that one step claims for a cell that answers.

The client sends a few of them at a time. If all time out, they still end before the lease.
"""
EMPTY_FOR_MS: Final = 10 * MINUTE_MS
"""Age in milliseconds from which Drawdown removes a halt without sandboxes to stop.

The cell did not acknowledge the halt. Sandboxes of the organisation at the cell count until they are stopped.
"""
CELL_BUDGET_MS: Final = 30 * SECOND_MS
"""Milliseconds that one dispatch spends on one cell."""


@dataclass(frozen=True)
class ClaimedHalt:
    """A halt that this worker may send.

    `request`: None if the cell does not have a URL. `halted_at`: the start of the halt, in milliseconds. `attempt`: the
    number of this attempt.
    """

    request: HaltRequest | None
    org_id: str
    cell_id: str
    halted_at: int
    attempt: int


@dataclass
class Dispatched:
    """The numbers of sent halts by outcome."""

    acknowledged: int = 0
    failed: int = 0


MISSED_WAIT_MS: Final = 200
"""Longest wait for the lock of a missed halt, in milliseconds.

If a host that is starting a sandbox has locked it, the next dispatch sends the halt.
"""


def dispatch(context: Context, provider: str = "") -> Steps[Dispatched]:
    """Send each due halt of the shard once.

    If a cell does not answer, or if its time is over, the next dispatch sends its other halts. `provider`: if not
    empty, send only halts of organisations that this provider bills.
    """
    run = _DispatchRun(context, provider)
    if not context.out_of_time():
        yield from run.newcomers()
    return run.totals


@dataclass
class _Lane:
    """The queue of one cell in a dispatch."""

    cell_id: str
    began_ms: int
    answers: bool = False
    """True if the cell has answered. Until then it gets one halt at a time."""


@dataclass
class _DispatchRun:
    """The state of a dispatch. `cells`: cells that have or had a queue."""

    context: Context
    provider: str
    totals: Dispatched = field(default_factory=Dispatched)
    cells: set[str] = field(default_factory=set)

    def newcomers(self, beside: Sequence[Steps[None]] = ()) -> Steps[bool]:
        """Run lanes for cells with due halts that do not have a lane yet.

        Return True if such cells exist. A cell can be new because a sandbox just moved to it. `beside`: lanes that
        continue at the same time.
        """
        now = self.context.clock.now_ms()
        cells: list[str] = yield Transaction("due_halts", partial(_due, now=now, run=self, taken=sorted(self.cells)))
        fresh = [cell for cell in cells if cell not in self.cells]  # another lane may have taken some of the cells
        self.cells.update(fresh)
        if fresh:
            results = yield RunTogether([*beside, *(self.lane(_Lane(cell, now)) for cell in fresh)])
            for result in results:
                if isinstance(result, Exception):
                    raise result
        return bool(fresh)

    def lane(self, lane: _Lane) -> Steps[None]:
        """Send the due halts of one cell, until the cell fails or its time is over."""
        breaker = self.context.cell_breaker(lane.cell_id)
        while not self.context.out_of_time():
            now = self.context.clock.now_ms()
            if now - lane.began_ms >= CELL_BUDGET_MS or not breaker.allows(now):
                log.warning("cell_left_for_later", cell=lane.cell_id, answers=breaker.failures == 0)
                break
            errors = yield from self._batch(lane)
            if not errors:
                break
            lane.answers = any(error is None or error.startswith(ANSWERED) for error in errors)
            breaker.note(failed=not lane.answers, now_ms=self.context.clock.now_ms())
            # A sandbox may have moved meanwhile. Its new cell then does not wait for this cell's timeouts.
            if not lane.answers and (yield from self.newcomers([self.lane(lane)])):
                return
        yield from self.newcomers()

    def _batch(self, lane: _Lane) -> Steps[Sequence[str | None]]:
        context, claim = self.context, self.context.new_claim()
        most = BATCH if lane.answers else 1
        now = context.clock.now_ms()
        work = partial(_claim, claim=claim, now=now, run=self, cell=lane.cell_id, most=most)
        until = now + LEASE_MS
        batch: list[ClaimedHalt] = yield Transaction("claim_halts", work)
        if not batch:
            return []
        # If a worker slept past its lease, it does not send, because the halt may be over.
        errors = yield from _send(batch, lambda: context.out_of_time() or context.clock.now_ms() >= until)
        now = context.clock.now_ms()
        yield Transaction("settle_halts", partial(_settle, batch=batch, errors=errors, claim=claim, now=now))
        failed = sum(error is not None for error in errors)
        self.totals.failed += failed
        self.totals.acknowledged += len(batch) - failed
        for halt, error in zip(batch, errors, strict=True):
            log.info("halt_sent", org=halt.org_id, cell=halt.cell_id, acknowledged=error is None, error=error)
        return errors

    def values(self, now: int) -> dict[str, object]:
        shard = self.context.shard
        return {"now_ms": now, "lo": shard.lo, "hi": shard.hi, "provider": self.provider}


def _send(batch: Sequence[ClaimedHalt], over: Over) -> Steps[list[str | None]]:
    sendable = [halt.request for halt in batch if halt.request is not None]
    answers: Sequence[str | None] = []
    if sendable:
        answers = yield SendHalts(sendable, over)
        assert len(answers) == len(sendable), "expected one response for each halt"
    left = iter(answers)
    return [
        next(left)
        if halt.request is not None
        else f"cell {halt.cell_id} does not have a URL. Run `drawdown cell set {typed(halt.cell_id, 'URL')}`"
        for halt in batch
    ]


def _due(connection: sa.Connection, *, now: int, run: _DispatchRun, taken: Sequence[str]) -> list[str]:
    """Return the cells with due halts, except the cells in `taken`."""
    values = run.values(now)
    SQL.run(connection, "forget_obsolete", {"empty_since_ms": now - EMPTY_FOR_MS})
    for cell in SQL.run(connection, "missed_cells", values).scalars().all():
        with suppress(LockHeld), waiting_at_most(connection, MISSED_WAIT_MS):
            SQL.run(connection, "make_missed_due", {**values, "cell_id": cell})
    SQL.run(connection, "forget_heeded", values)
    for row in SQL.run(connection, "make_ignored_due", {**values, "told_ms": now - STILL_RUNNING_MS}).all():
        if row.ignored >= ESCALATE_AFTER:
            log.error(
                "halt_ignored",
                cell=row.cell_id,
                org=row.org_id,
                acknowledged=row.ignored,
                since_ms=row.ignored_since_ms,
                detail="the cell acknowledged the halt, but the sandboxes still run",
            )
    return sorted(
        str(cell) for cell in SQL.run(connection, "due_cells", {**values, "taken_cells": list(taken)}).scalars()
    )


def _claim(
    connection: sa.Connection, *, claim: str, now: int, run: _DispatchRun, cell: str, most: int
) -> list[ClaimedHalt]:
    values = {**run.values(now), "cell_id": cell, "claim_owner": claim, "lease_end_ms": now + LEASE_MS, "at_most": most}
    rows = SQL.run(connection, "claim", values).all()
    url = SQL.run(connection, "url", {"cell_id": cell}).scalar()
    return [
        ClaimedHalt(
            None if url is None else HaltRequest(row.org_id, cell, str(url), row.halted_at),
            row.org_id,
            cell,
            row.halted_at,
            row.attempts,
        )
        for row in sorted(rows, key=lambda row: (row.org_id, row.halted_at))
    ]


def _settle(
    connection: sa.Connection, *, batch: Sequence[ClaimedHalt], errors: Sequence[str | None], claim: str, now: int
) -> None:
    SQL.run(
        connection,
        "settle",
        [
            {
                "org_id": halt.org_id,
                "cell_id": halt.cell_id,
                "halted_at": halt.halted_at,
                "claim_owner": claim,
                "due_at_ms": None if error is None else now + min(backoff_ms(halt.attempt), MOST_BACKOFF_MS),
                "acked_at_ms": now if error is None else None,
                "last_error": error,
            }
            for halt, error in zip(batch, errors, strict=True)
        ],
    )
