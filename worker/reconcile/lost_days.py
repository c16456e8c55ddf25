"""Reconcile days whose history was lost (rule R1): a provider's charges for customers of whom nothing is known here.

Guarantee: usage that was billed and forgotten, and whose samples nobody wrote again, has no push to be compared with.
It is reported all the same. Nothing is corrected by it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import ReadFailed, Totals
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS
from drawdown.worker.catalog.terms import stored_terms
from drawdown.worker.engine.effects import Over, ReadTotals, Steps, Transaction
from drawdown.worker.reconcile.report import Line, Reconciled, ReconcileScope, tell

CHUNK: Final = 200
NOTE: Final = "nothing is known of it here, and history was lost: import the samples of that day again"
SQL = queries(__file__)


@dataclass(frozen=True)
class Span:
    """The part of a day in which an organisation was billed as a customer, and may have been in what was lost."""

    org_id: str
    customer_id: str
    from_ms: int
    to_ms: int

    @property
    def day_ms(self) -> int:
        return self.from_ms - self.from_ms % DAY_MS


ComparedDays = Collection[tuple[str, str, str, int]]
"""(organisation, customer, feature, day) that the ordinary comparison has looked at, or has yet to."""


def compare_lost(
    provider: str,
    scope: ReconcileScope,
    compared: ComparedDays,
    since_ms: int,
    now_ms: int,
    done: Reconciled,
    over: Over,
) -> Steps[None]:
    """Ask for the totals of those days, and tell what no push of ours stands beside."""
    spans, pushed = yield Transaction(
        "reconcile_lost",
        partial(_lost, provider=provider, scope=scope, since_ms=since_ms, now_ms=now_ms),
        rollback=True,
    )
    known = {*compared, *pushed}
    for at in range(0, len(spans), CHUNK):
        part = spans[at : at + CHUNK]
        totals: Sequence[Totals | ReadFailed] = yield ReadTotals(
            provider, [(span.customer_id, span.from_ms, span.to_ms) for span in part], over
        )
        for span, read in zip(part, totals, strict=True):
            if isinstance(read, ReadFailed):
                done.not_read(span.customer_id, read.reason)
                continue
            for feature, theirs in sorted(read.items()):
                if theirs and (span.org_id, span.customer_id, feature, span.day_ms) not in known:
                    line = Line(
                        span.day_ms, span.org_id, provider, span.customer_id, feature, 0, int(theirs), "over", note=NOTE
                    )
                    done.compared += 1
                    done.differing.append(line)
                    tell(line)


def _lost(
    connection: sa.Connection, *, provider: str, scope: ReconcileScope, since_ms: int, now_ms: int
) -> tuple[list[Span], set[tuple[str, str, str, int]]]:
    """The spans, and of their days whatever was pushed: a day that was settled long ago is known, though no run of
    recent days compares it."""
    spans = _spans(connection, provider=provider, scope=scope, since_ms=since_ms, now_ms=now_ms)
    days = [{"org_id": org, "day_ms": day} for org, day in sorted({(one.org_id, one.day_ms) for one in spans})]
    values = {"provider": provider, "days": days, "day_length_ms": DAY_MS}
    pushed = SQL.run(connection, "pushed_then", values) if days else ()
    return spans, {(str(row.org_id), str(row.customer_id), str(row.feature), int(row.day_ms)) for row in pushed}


def _spans(
    connection: sa.Connection, *, provider: str, scope: ReconcileScope, since_ms: int, now_ms: int
) -> list[Span]:
    terms = stored_terms(connection).get(provider)
    live = (terms.live_from_ms if terms is not None else None) or 0
    values = {"provider": provider, "org_id": scope.org_id, "since_ms": since_ms}
    folded = {(row.org_id, row.customer_id, int(row.day_ms)) for row in SQL.run(connection, "folded", values)}
    spans = set()
    for row in SQL.run(connection, "lost_spans", values):
        # Whole days: a window of the day on which history broke off may have been billed after that.
        first = int(row.from_ms) - int(row.from_ms) % DAY_MS
        for day in range(first, min(int(row.until_ms), now_ms, scope.to_ms), DAY_MS):
            begins, ends = max(day, live, scope.from_ms), min(day + DAY_MS, int(row.until_ms), now_ms, scope.to_ms)
            begins, ends = begins - begins % 60_000, ends - ends % 60_000  # sums are told by the minute
            if begins < ends and (row.org_id, row.customer_id, day) not in folded:
                spans.add(Span(str(row.org_id), str(row.customer_id), begins, ends))
    return sorted(spans, key=lambda span: (span.from_ms, span.org_id, span.to_ms))
