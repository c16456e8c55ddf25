"""Reconcile, from the other side: what balances say was drawn, beside what was pushed.

Guarantee: what was drawn twice for a push that was sent twice is adopted, and so given back; whatever else draws on a
balance is somebody else's, and only said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from drawdown.providers.protocol import Drawn, ReadFailed
from drawdown.schema.units import DAY_MS
from drawdown.worker import reconcile_sql as sql
from drawdown.worker.actions import lock_buckets
from drawdown.worker.adopt import adopt_excess
from drawdown.worker.context import Context
from drawdown.worker.decide import visible_by
from drawdown.worker.effects import ReadDrawn, Steps, Transaction
from drawdown.worker.incarnation import Witness, require_same
from drawdown.worker.orgs import Said
from drawdown.worker.provider_states import wire_since
from drawdown.worker.reconcile_report import Line, Reconciled, Scope, above, tell

CHUNK: Final = 200


def compare_drawn(
    context: Context, provider: str, ready: Sequence[Any], scope: Scope, said: Said, done: Reconciled
) -> Steps[None]:
    """Balances beside pushes: a key store that failed open draws twice, and leaves one event."""
    customers = sorted({row.customer_id for row in ready})
    features = {customer: {row.feature for row in ready if row.customer_id == customer} for customer in customers}
    for at in range(0, len(customers), CHUNK):
        part = customers[at : at + CHUNK]
        read: Sequence[Mapping[str, Drawn] | ReadFailed] = yield ReadDrawn(provider, part)
        for customer, balances in zip(part, read, strict=True):
            if isinstance(balances, ReadFailed):
                done.not_read(customer, balances.reason)
                continue
            for feature in sorted(features[customer] & set(balances)):
                line: Line | None = yield Transaction(
                    "reconcile_drawn",
                    partial(
                        _compare_drawn,
                        provider=provider,
                        customer=customer,
                        feature=feature,
                        drawn=balances[feature],
                        settled_by=visible_by(said.now_ms, context.capabilities[provider]),
                        correct=scope.correct,
                        said=said,
                        known=context.witness,
                    ),
                )
                if line is not None and above(line, scope.threshold):
                    tell(line)
                    done.differing.append(line)


def _compare_drawn(
    connection: sa.Connection,
    *,
    provider: str,
    customer: str,
    feature: str,
    drawn: Drawn,
    settled_by: int,
    correct: bool,
    said: Said,
    known: Witness | None,
) -> Line | None:
    if correct:
        lock_buckets(connection)
        require_same(connection, known)
    since = drawn.since_ms or 0
    if since < wire_since(connection, provider):
        return None  # something was drawn under another name, or in another unit
    values = {"provider": provider, "customer": customer, "feature": feature, "since": since}
    found = connection.execute(sa.text(sql.DRAWN), values).all()
    if not found or any(row.unsettled or row.settled_ms > settled_by for row in found):
        return None
    ours, org = sum(int(row.ours) for row in found), str(max(found, key=lambda row: int(row.settled_ms)).org_id)
    if drawn.quantity <= ours:
        return None  # less drawn than pushed: a top-up, a reset or a lost event; events tell those apart
    line = Line(since - since % DAY_MS, org, provider, customer, feature, ours, drawn.quantity, "over")
    again = connection.execute(sa.text(sql.SENT_AGAIN), values).all()
    most = sum(row.may_be for row in again)
    if drawn.quantity - ours > most:
        return replace(line, note="the balance was drawn on by more than pushes sent twice: somebody else uses it too")
    if not correct:
        return replace(
            line, note="the balance was drawn on twice for pushes that were sent twice: --correct gives it back"
        )
    return replace(line, corrected=_adopt_drawn(connection, again, drawn.quantity - ours, said))


def _adopt_drawn(connection: sa.Connection, again: Sequence[Any], excess: int, said: Said) -> int:
    """Attribute what was drawn too much to pushes that were sent twice: exact matches first, then in their order."""
    left = excess
    for row in sorted(again, key=lambda one: (one.sent_qty != excess, one.window_ms, one.revision)):
        part = min(left, row.may_be)
        if part > 0:
            evidence = (
                f"may have arrived {row.arrived} times; the balance was drawn on by {part:,} more than was pushed"
            )
            adopt_excess(connection, row, part, said, evidence, drawn=True)
            left -= part
    return excess - left
