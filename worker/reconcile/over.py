"""Reconcile, where a provider has more than we call accepted: in which windows.

Guarantee: an excess is given back once, and only in a window of ours that nothing else explains. At a provider that may
charge without an event, the customer's balance has to agree: it was drawn on by the excess as well (P5). A quantity
that was given back already, and that only the customer's balance shows, is no excess. A case that only the provider's
console could decide is left to a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import ReadFailed
from drawdown.schema.audit import By
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.push.adopt import adopt_excess
from drawdown.worker.push.rows import PushRow, Row
from drawdown.worker.reconcile.events import accepted_of, is_unclear, look_up, read_windows, windows_of
from drawdown.worker.reconcile.report import Line, of_line
from drawdown.worker.reconcile.short import MEANWHILE, Short

SQL = queries(__file__)

ONLY_THERE: Final = f"lie in windows of which only their console or the customer's balance tells: compare{MEANWHILE}"


def compare_over(context: Context, short: Short, settled_by: int, by: By) -> Steps[Line]:
    """They have more than we call accepted: find the windows, and adopt what is too much there. `short`: what of the
    line no event shows, which looks like more over there where it was given back."""
    line = short.line
    if short.balanced and not short.corrected:
        return replace(line, verdict="equal")
    if not short.doubted and line.ours - line.theirs == short.corrected + short.covered:
        verdict = line.verdict if short.corrected else "equal"
        return replace(line, corrected=abs(short.corrected), verdict=verdict)
    windows, there = yield from read_windows(line, short.by_window, context.out_of_time)
    excess: dict[Row, int] = {}
    by_hand, open_still, below = 0, 0, 0
    for row in windows:
        window = int(row.window_ms)
        read = there[window]
        if isinstance(read, ReadFailed):
            return replace(line, note=f"could not be read by window: {read.reason}")
        more = int(read.get(line.feature, 0)) - int(row.accepted) + short.unseen.get(window, 0)
        if more > 0 and (row.unsettled or row.settled_ms > settled_by or short.moving):
            open_still += more
        elif more > 0 and (row.by_hand or short.explained or window in short.doubted):
            by_hand += more
        elif more > 0 and row.window_ms < row.floor_ms:
            below += more
        elif more > 0:
            excess[row] = more
    for row in (yield from _unclear(context, line, list(excess))):
        by_hand += excess.pop(row)
    corrected: int = yield Transaction(
        "reconcile_over", partial(_adopt_windows, line=line, excess=excess, by=by, witness=context.witness)
    )
    open_still += sum(excess.values()) - corrected
    corrected -= short.corrected
    rest = line.theirs - line.ours - corrected + short.covered
    note = None if rest <= 0 else f"{rest:,} lie in no window of ours: somebody else charges this customer"
    if open_still:
        note = f"{open_still:,} lie in windows that were being settled: the next run tells"
    elif below:
        note = f"{below:,} lie below the floor, where nothing would be given back: settle them with the customer"
    elif by_hand:
        note = f"{by_hand:,} {ONLY_THERE}"
    return replace(line, corrected=corrected, note=note)


def _unclear(context: Context, line: Line, windows: Sequence[Row]) -> Steps[list[Row]]:
    """Windows where something may have been given back without a trace: that looks like more over there, and the
    balance alone tells."""
    capabilities = context.capabilities[line.provider]
    if not (windows and capabilities.lookup):
        return []
    rows: list[PushRow] = yield Transaction("reconcile_accepted", partial(accepted_of, line=line), rollback=True)
    there = {int(row.window_ms) for row in windows}
    rows = [row for row in rows if row.sent_qty < 0 and int(row.arrivals) > 1 and int(row.window_ms) in there]
    found = yield from look_up(line.provider, rows, capabilities, context.out_of_time)
    unclear = {
        int(row.window_ms)
        for row, result in zip(rows, found, strict=True)
        if is_unclear(row, result) or isinstance(result, ReadFailed)
    }
    return [row for row in windows if int(row.window_ms) in unclear]


def _adopt_windows(
    connection: sa.Connection, *, line: Line, excess: Mapping[Row, int], by: By, witness: Witness | None
) -> int:
    """Only in windows that are as they were before the provider was asked: else a push that was settled meanwhile, or
    an excess that another run adopted, would be given back."""
    lock_buckets(connection)
    require_same(connection, witness)
    now, adopted = set(windows_of(connection, line=line)) if excess else set(), 0
    for window, more in excess.items():
        if window not in now:
            continue
        row = _last_push(connection, line, int(window.window_ms))
        evidence = f"{line.provider} charged {more:,} more in this window than was pushed"
        adopt_excess(connection, row, more, by, evidence)
        adopted += more
    return adopted


def _last_push(connection: sa.Connection, line: Line, window_ms: int) -> PushRow:
    return SQL.run(connection, "last_push", {**of_line(line), "window_ms": window_ms}).one()
