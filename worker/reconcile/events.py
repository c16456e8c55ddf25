"""What a provider's events tell of one line: of each push, and of each window.

Guarantee: reads only. What could not be read, or not before time was `over`, is said to be so, and never taken for
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities, Found, LookupResult, ReadFailed, Totals
from drawdown.schema.sql import queries
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.engine.asking import look_up_all
from drawdown.worker.engine.effects import Over, ReadTotals, Steps, Transaction
from drawdown.worker.push.rows import PushRow, Row, dated, request_of
from drawdown.worker.reconcile.report import Line, of_line

SQL = queries(__file__)

ByWindow = Mapping[int, Totals | ReadFailed]
"""What events show of each window of a line."""


def read_totals(
    provider: str, wanted: Sequence[tuple[str, int, int]], over: Over
) -> Steps[Sequence[Totals | ReadFailed]]:
    """What a provider has of each (customer, from, to), in their order."""
    found: Sequence[Totals | ReadFailed] = yield ReadTotals(provider, wanted, over)
    assert len(found) == len(wanted), f"{provider} answered {len(found)} of {len(wanted)} totals"
    return found


def accepted_of(connection: sa.Connection, *, line: Line) -> list[PushRow]:
    """The pushes of a line that we call accepted, and of which events have to tell."""
    return list(SQL.run(connection, "accepted", of_line(line)))


def look_up(
    provider: str, rows: Sequence[PushRow], capabilities: Capabilities, over: Over
) -> Steps[Sequence[LookupResult]]:
    """Ask for pushes (rows of `accepted_of`), in their order."""
    requests = [replace(request_of(row, capabilities), ts=dated(int(row.window_ms), int(row.dated_as))) for row in rows]
    return (yield from look_up_all(provider, requests, over))


def is_unclear(row: PushRow, found: LookupResult) -> bool:
    """Whether a later send may have charged without a trace: only the customer's balance tells."""
    return found == Found(0) and int(row.arrivals) > 1


def windows_of(connection: sa.Connection, *, line: Line) -> list[Row]:
    """What we call accepted of each window of a line."""
    return list(SQL.run(connection, "by_window", of_line(line)))


def read_windows(line: Line, before: ByWindow, over: Over) -> Steps[tuple[Sequence[Row], ByWindow]]:
    """The windows of a line as they stood, and what events showed of each after that; where that cannot be read, what
    they showed `before`. What was voided by then, for what was drawn in its place, is put right all the same."""
    windows: list[Row] = yield Transaction("reconcile_windows", partial(windows_of, line=line), rollback=True)
    asked = [int(row.window_ms) for row in windows]
    spans = [(line.customer_id, window, window + WINDOW_MS) for window in asked]
    totals = (yield from read_totals(line.provider, spans, over)) if spans else ()
    found = zip(asked, totals, strict=True)
    return windows, {at: before.get(at, read) if isinstance(read, ReadFailed) else read for at, read in found}
