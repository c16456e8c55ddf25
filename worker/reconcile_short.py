"""Reconcile, where a provider has less than we call accepted: which pushes it does not have.

Guarantee: a push is voided only where its lookup shows that nothing was charged for it (P5); what only the customer's
balance could tell is left to a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy as sa

from drawdown.providers.protocol import Absent, CannotTell, Capabilities, Found, LookupResult, ReadFailed
from drawdown.worker import reconcile_sql as sql
from drawdown.worker.actions import lock_buckets
from drawdown.worker.adopt import adopt_other
from drawdown.worker.context import Context
from drawdown.worker.corrections import void_one
from drawdown.worker.decide import UNTRACED
from drawdown.worker.effects import LookUp, Steps, Transaction
from drawdown.worker.incarnation import Witness, require_same
from drawdown.worker.orgs import Said
from drawdown.worker.reconcile_report import Line, of_line
from drawdown.worker.requests import dated, request_of


def compare_short(context: Context, line: Line, settled_by: int, said: Said) -> Steps[Line]:
    """They have less than we call accepted: look up each push of that day, and void those they do not have. One that
    was settled meanwhile may not be seen there yet."""
    can = context.capabilities[line.provider]
    if not can.lookup:
        return replace(line, note="one push cannot be looked up there: compare with their console, then `push void`")
    rows: list[Any] = yield Transaction(
        "reconcile_accepted", lambda c: list(c.execute(sa.text(sql.ACCEPTED), of_line(line))), rollback=True
    )
    rows = [row for row in rows if row.settled_ms <= settled_by]
    found = yield from look_up(line.provider, rows, can)
    corrected: int = yield Transaction(
        "reconcile_short", partial(_void_absent, rows=rows, found=found, said=said, known=context.witness)
    )
    missing = line.ours - line.theirs - corrected
    untold = sum(isinstance(one, ReadFailed | CannotTell) for one in found)
    unclear = [row.key for row, one in zip(rows, found, strict=True) if is_unclear(row, one)]
    why = f"{untold:,} pushes of that day could not be looked up" if untold else "no push of that day is"
    why = f"of {len(unclear):,} pushes ({unclear[0]}): {UNTRACED}" if unclear else why
    note = None if not missing else f"{missing:,} more are missing, and {why}"
    return replace(line, corrected=corrected, note=note)


def look_up(provider: str, rows: Sequence[Any], can: Capabilities) -> Steps[Sequence[LookupResult]]:
    """Ask for pushes (rows of `ACCEPTED`), in their order."""
    requests = [replace(request_of(row, can), ts=dated(int(row.window_ms), int(row.dated_as))) for row in rows]
    found: Sequence[LookupResult] = (yield LookUp(provider, requests)) if requests else []
    return found


def _void_absent(
    connection: sa.Connection,
    *,
    rows: Sequence[Any],
    found: Sequence[LookupResult],
    said: Said,
    known: Witness | None,
) -> int:
    """Returns how much of a shortfall is explained, in base units."""
    lock_buckets(connection)
    require_same(connection, known)
    explained = 0
    for row, one in zip(rows, found, strict=True):
        if not _is_still(connection, row, "accepted"):
            continue
        if is_unclear(row, one):
            continue
        if isinstance(one, Absent) or one == Found(0):
            what = "absent" if isinstance(one, Absent) else "charged nothing"
            evidence = f"accepted, and {what} when it was looked up at {said.now_ms} under {row.wire_key or row.key}"
            void_one(connection, row, said, evidence, "absent", answered=False)
            explained += int(row.sent_qty)
        elif isinstance(one, Found) and one.quantity != row.sent_qty:
            adopt_other(connection, row, one.quantity, said)
            explained += int(row.sent_qty) - one.quantity
    return explained


def is_unclear(row: Any, found: LookupResult) -> bool:
    """Whether a later send may have charged without a trace: only the customer's balance tells."""
    return found == Found(0) and int(row.arrivals) > 1


def _is_still(connection: sa.Connection, row: Any, state: str) -> bool:
    where = {name: getattr(row, name) for name in ("window_ms", "org_id", "feature", "revision")}
    found = connection.execute(
        sa.text(
            "SELECT state FROM pushes WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature "
            "AND revision = :revision"
        ),
        where,
    ).scalar_one()
    return bool(found == state)
