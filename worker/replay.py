"""Replay: seal a past range again and send what comes out.

Guarantee: what is sealed already is subtracted, so a replay of a healthy range sends nothing; it cannot bill twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from drawdown.schema.errors import UsageError
from drawdown.schema.units import WINDOW_MS, horizon, window_of
from drawdown.worker import seal as sealing
from drawdown.worker.actions import require_org
from drawdown.worker.context import Context
from drawdown.worker.effects import Steps, Together, Transaction
from drawdown.worker.project import project
from drawdown.worker.push import push
from drawdown.worker.seal_statements import SealRequest

SHOWN = 1000
"""How many of the found pushes are listed; all are counted."""


@dataclass(frozen=True)
class Found:
    """One push that the range still owed."""

    org_id: str
    window_ms: int
    feature: str
    revision: int
    quantity: int


@dataclass(frozen=True)
class Replayed:
    """What a range still owed: `pushes` and `quantity` in all, `first` the first of them."""

    from_ms: int
    to_ms: int
    pushes: int
    quantity: int
    first: Sequence[Found]


def replay(
    context: Context, org_ids: Sequence[str] | None, from_ms: int, to_ms: int, *, dry_run: bool
) -> Steps[Replayed]:
    """Seal what windows that touch [from_ms, to_ms) still owe, and push it; a dry run leaves nothing behind.

    Errors: UsageError for a range that is empty, in the future or before the floor; Refused for an unknown
    organisation.
    """
    now = context.clock.now_ms()
    start, end = window_of(from_ms), window_of(to_ms + WINDOW_MS - 1)
    if to_ms <= from_ms:
        raise UsageError("the range ends before it begins: --to must lie after --from")
    if start >= horizon(now):
        raise UsageError("the range lies in windows that are not closed yet; the next tick will seal them")
    request = SealRequest(
        shard=context.shard,
        horizon_ms=min(end, horizon(now)),
        now_ms=now,
        providers=context.known(),
        only=None if org_ids is None else tuple(org_ids),
    )
    found: Replayed = yield Transaction(
        "replay", partial(_replay, request=request, start=start, end=request.horizon_ms), rollback=dry_run
    )
    if found.pushes and not dry_run:
        results = yield Together([_send(context, provider) for provider in context.ready()])
        for result in results:
            if isinstance(result, Exception):
                raise result
    return found


def _send(context: Context, provider: str) -> Steps[None]:
    yield from push(context, provider)
    yield from project(context, provider)


def _replay(connection: sa.Connection, *, request: SealRequest, start: int, end: int) -> Replayed:
    for org_id in request.only or ():
        floor = require_org(connection, org_id).floor_ms
        if start < floor:
            raise UsageError(f"{org_id}: windows before {floor} are closed for good; start there")
    sealed = sealing.seal_range(connection, request, start, end)
    values = {"seal": sealed.seal_id, "start": start, "most": SHOWN}
    rows = connection.execute(
        sa.text(
            "SELECT org_id, window_ms, feature, revision, sealed_qty FROM pushes WHERE seal_id = :seal "
            "AND window_ms >= :start ORDER BY org_id, window_ms, feature LIMIT :most"
        ),
        values,
    )
    first = [Found(*row) for row in rows]
    quantity = connection.execute(
        sa.text("SELECT COALESCE(SUM(sealed_qty), 0) FROM pushes WHERE seal_id = :seal AND window_ms >= :start"),
        {"seal": sealed.seal_id, "start": start},
    ).scalar_one()
    return Replayed(start, end, sealed.pushes, int(quantity), first)
