"""Who bills an organisation, from when on.

Guarantee: an assignment starts at or after the watermark, or fills a hole where nothing was ever assigned (P4);
whatever it mends becomes dirty, so that the next tick seals it (S6).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import Said, record, require_org
from drawdown.schema.clock import utc
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.locks import lock_buckets, make_dirty
from drawdown.schema.units import EXEMPT_PROVIDERS, WINDOW_MS, next_window
from drawdown.worker.catalog.mapping import mapping_rows, segments, segments_sql
from drawdown.worker.catalog.wallets import one_wallet_at
from drawdown.worker.commands.orgs import register
from drawdown.worker.verdict.overrides import apply_now


@dataclass(frozen=True)
class Assigned:
    """One assignment that was made, and what used time it brings in (`mended_s`, seconds that had been pending)."""

    org_id: str
    provider: str
    customer_id: str
    start_ms: int
    mended_s: int
    before_start_s: int


@dataclass(frozen=True)
class _Place:
    """A customer at a provider. `one_wallet` are the providers at which it would have the same wallet."""

    provider: str
    customer_id: str
    one_wallet: Sequence[str]


def assign(
    connection: sa.Connection,
    org_ids: Sequence[str],
    provider: str,
    said: Said,
    *,
    customer_id: str | None = None,
    from_ms: int | None = None,
) -> list[Assigned]:
    """Assign organisations to a provider, from the next window boundary on unless a time is given.

    Errors: Refused where that would rewrite sealed windows, or take another organisation's customer or wallet.
    """
    if customer_id is not None and len(org_ids) != 1:
        raise UsageError("--customer names one customer, so give exactly one organisation")
    start = start_of(from_ms, said)
    lock_buckets(connection)
    customers = [(org, org if customer_id is None else customer_id) for org in org_ids]
    return [assign_one(connection, org, provider, customer, start, said) for org, customer in customers]


def unassigned(connection: sa.Connection) -> list[str]:
    """Organisations with no assignment at all, those first seen in samples included."""
    seen = connection.execute(
        sa.text(
            "SELECT org_id FROM orgs o WHERE NOT EXISTS (SELECT 1 FROM assignments a WHERE a.org_id = o.org_id) "
            "UNION SELECT DISTINCT s.org_id FROM usage_samples s WHERE s.problem IS NULL AND NOT EXISTS "
            "(SELECT 1 FROM orgs o WHERE o.org_id = s.org_id) ORDER BY 1"
        )
    )
    return [str(name) for name in seen.scalars()]


def start_of(from_ms: int | None, said: Said) -> int:
    """When an assignment begins: at the next window boundary, unless a time is given.

    Errors: UsageError for a time that is no boundary.
    """
    start = next_window(said.now_ms) if from_ms is None else from_ms
    if start % WINDOW_MS:
        raise UsageError("--from must lie on a window boundary (a multiple of five minutes)")
    return start


def assign_one(
    connection: sa.Connection,
    org_id: str,
    provider: str,
    customer_id: str,
    start: int,
    said: Said,
    *,
    in_ledger: Collection[str] = (),
) -> Assigned:
    """Assign one organisation, under S1's lock. `in_ledger`: providers that declare that their customers' balances lie
    in the ledger, met by a tick or not. Errors: as `assign`."""
    register(connection, org_id)
    place = _Place(provider, customer_id, one_wallet_at(connection, provider, in_ledger))
    if customer_id and (filled := _fill_customer(connection, org_id, place, said)) is not None:
        return filled
    later = _require_free(connection, org_id, start)
    _check_customer(connection, org_id, place, start, later)
    _insert(connection, org_id, place, start, later, said)
    _take_effect(connection, org_id, start, said.now_ms)
    if provider in EXEMPT_PROVIDERS and start <= said.now_ms:
        apply_now(connection, [org_id], said.now_ms)  # nobody will ask about it again
    details = {"provider": provider, "customer": customer_id, "start_ms": start}
    record(connection, "org_assign", org_id, details, said)
    mended, before = _mend(connection, org_id, start)
    return Assigned(org_id, provider, customer_id, start, mended, before)


def _require_free(connection: sa.Connection, org_id: str, start: int) -> int | None:
    """When the only assignment there is begins, where it begins later. Errors: Refused where one may not begin then."""
    floor = require_org(connection, org_id).floor_ms
    if start < floor:
        raise Refused(f"{org_id}: windows before its floor are closed for good; start at or after {floor}")
    first, later = connection.execute(
        sa.text(
            "SELECT MIN(start_ms), MIN(CASE WHEN start_ms >= :start THEN start_ms END) FROM assignments "
            "WHERE org_id = :org"
        ),
        {"org": org_id, "start": start},
    ).one()
    if later == start:
        raise Refused(
            f"{org_id} has an assignment that starts then already: `drawdown org show {org_id}`, and "
            f"`drawdown org assign {org_id} --undo` before it begins"
        )
    if later is not None and first != later:
        raise Refused(f"{org_id} has a later assignment already, from {utc(later)} on; `drawdown org show {org_id}`")
    if first is not None and first < start:
        _require_unsealed(connection, org_id, start)
    return None if later is None else int(later)


def _insert(connection: sa.Connection, org_id: str, place: _Place, start: int, end: int | None, said: Said) -> None:
    """The one before it ends where it begins."""
    values = {"org": org_id, "start": start}
    connection.execute(
        sa.text("UPDATE assignments SET end_ms = :start WHERE org_id = :org AND end_ms IS NULL AND start_ms < :start"),
        values,
    )
    person = {"now": said.now_ms, "actor": said.actor, "reason": said.reason}
    connection.execute(
        sa.text(
            "INSERT INTO assignments (org_id, start_ms, end_ms, provider, customer_id, at_ms, actor, reason) "
            "VALUES (:org, :start, :end, :provider, :customer, :now, :actor, :reason)"
        ),
        {**values, "end": end, "provider": place.provider, "customer": place.customer_id, **person},
    )


def _fill_customer(connection: sa.Connection, org_id: str, place: _Place, said: Said) -> Assigned | None:
    """Give an assignment its customer where it had none: nothing was sealed for it yet. None where that is not so."""
    provider, customer_id = place.provider, place.customer_id
    found = connection.execute(
        sa.text(
            "SELECT start_ms, end_ms FROM assignments WHERE org_id = :org AND provider = :provider "
            "AND customer_id = '' AND end_ms IS NULL"
        ),
        {"org": org_id, "provider": provider},
    ).one_or_none()
    if found is None:
        return None
    _check_customer(connection, org_id, place, found.start_ms, found.end_ms)
    connection.execute(
        sa.text("UPDATE assignments SET customer_id = :customer WHERE org_id = :org AND start_ms = :start"),
        {"customer": customer_id, "org": org_id, "start": found.start_ms},
    )
    _take_effect(connection, org_id, found.start_ms, said.now_ms)
    details = {"provider": provider, "customer": customer_id, "start_ms": found.start_ms}
    record(connection, "org_customer", org_id, details, said)
    mended, before = _mend(connection, org_id, found.start_ms)
    return Assigned(org_id, provider, customer_id, found.start_ms, mended, before)


def cancel(connection: sa.Connection, org_id: str, said: Said) -> Assigned:
    """Take back an assignment that has not begun; whoever billed before goes on.

    Errors: Refused where the latest one is in force already.
    """
    lock_buckets(connection)
    require_org(connection, org_id)
    found = connection.execute(
        sa.text("SELECT * FROM assignments WHERE org_id = :org ORDER BY start_ms DESC LIMIT 2"), {"org": org_id}
    ).all()
    if not found or found[0].start_ms <= said.now_ms:
        raise Refused(f"{org_id} has no assignment that begins later; `drawdown org list --scheduled` shows such")
    latest = found[0]
    _require_unsealed(connection, org_id, latest.start_ms)  # by a machine whose clock is ahead of this one's
    connection.execute(
        sa.text("DELETE FROM assignments WHERE org_id = :org AND start_ms = :start"),
        {"org": org_id, "start": latest.start_ms},
    )
    if len(found) == 2:
        before = found[1]
        place = _Place(before.provider, before.customer_id, one_wallet_at(connection, before.provider))
        _check_customer(connection, org_id, place, latest.start_ms, None)
        connection.execute(
            sa.text("UPDATE assignments SET end_ms = NULL WHERE org_id = :org AND start_ms = :start"),
            {"org": org_id, "start": before.start_ms},
        )
    details = {"provider": latest.provider, "customer": latest.customer_id, "start_ms": latest.start_ms}
    record(connection, "org_assign_cancel", org_id, details, said)
    return Assigned(org_id, latest.provider, latest.customer_id, latest.start_ms, 0, 0)


def _check_customer(connection: sa.Connection, org_id: str, place: _Place, start: int, end: int | None) -> None:
    """A customer is one organisation's at a time; and so is a wallet, whichever provider it is drawn on for."""
    provider, customer_id = place.provider, place.customer_id
    if provider in EXEMPT_PROVIDERS or not customer_id:
        return
    other = connection.execute(
        sa.text(
            "SELECT org_id, provider FROM assignments WHERE provider IN :providers AND customer_id = :customer "
            "AND org_id <> :org AND (end_ms IS NULL OR end_ms > :start) AND (:end IS NULL OR start_ms < :end) "
            "ORDER BY start_ms LIMIT 1"
        ).bindparams(sa.bindparam("end", end, sa.BigInteger), sa.bindparam("providers", expanding=True)),
        {"providers": list(place.one_wallet), "customer": customer_id, "org": org_id, "start": start},
    ).one_or_none()
    if other is None:
        return
    if other.provider == provider:
        raise Refused(
            f"the customer {customer_id} at {provider} belongs to the organisation {other.org_id} in that time"
        )
    raise Refused(
        f"{org_id} at {provider} and {other.org_id} at {other.provider} would draw on one wallet, that of the customer "
        f"{customer_id}: give {org_id} another customer (--customer), or assign {other.org_id} elsewhere before"
    )


def _require_unsealed(connection: sa.Connection, org_id: str, start: int) -> None:
    watermark = connection.execute(
        sa.text(
            "SELECT COALESCE(o.held_watermark_ms, b.watermark_ms) FROM orgs o JOIN buckets b ON b.id = o.bucket "
            "WHERE o.org_id = :org"
        ),
        {"org": org_id},
    ).scalar_one()
    if start < watermark:
        raise Refused(
            f"{org_id}: windows up to {watermark} are sealed for its present provider; start at or after that"
        )


def _take_effect(connection: sa.Connection, org_id: str, start: int, now_ms: int) -> None:
    connection.execute(
        sa.text(
            "UPDATE orgs SET billing_provider = COALESCE((SELECT provider FROM assignments a WHERE a.org_id = :org "
            "AND a.start_ms <= :now AND (a.end_ms IS NULL OR :now < a.end_ms)), billing_provider), "
            "projection_due_ms = :due, projection_asks = projection_asks + 1, balance_micro = NULL, "
            "balance_read_ms = NULL, unseen_micro = NULL, unread_since_ms = NULL WHERE org_id = :org"
        ),
        {"org": org_id, "now": now_ms, "due": min(now_ms, start)},
    )


# Beside what a seal wrote down as pending: what none has come to yet, of windows that nobody was to bill.
_WAITING: Final = """
WITH segments (lo, hi, start_ms, end_ms, feature, unit) AS ({segments}),
waiting AS (
    SELECT window_ms, seconds FROM pending_usage WHERE org_id = :org AND reason <> 'no_mapping'
    UNION ALL
    SELECT s.ts - s.ts % 300000, s.interval_s FROM orgs o JOIN buckets b ON b.id = o.bucket
    JOIN usage_samples s ON s.org_id = o.org_id AND s.ts >= COALESCE(o.held_watermark_ms, b.watermark_ms)
    JOIN segments g ON s.memory_mb BETWEEN g.lo AND g.hi AND s.ts - s.ts % 300000 >= g.start_ms
        AND s.ts - s.ts % 300000 < g.end_ms
    LEFT JOIN withdrawals w ON w.sample_id = s.id
    WHERE o.org_id = :org AND s.problem IS NULL AND w.sample_id IS NULL AND NOT EXISTS (
        SELECT 1 FROM assignments a WHERE a.org_id = o.org_id AND a.start_ms < :start AND a.start_ms <= s.ts
            AND (a.end_ms IS NULL OR s.ts < a.end_ms OR a.end_ms = :start))
)
SELECT COALESCE(SUM(CASE WHEN window_ms >= :start THEN seconds END), 0),
    COALESCE(SUM(CASE WHEN window_ms < :start THEN seconds END), 0) FROM waiting
"""


def _mend(connection: sa.Connection, org_id: str, start: int) -> tuple[int, int]:
    """Mark the windows that had waited for an assignment; returns (seconds mended, seconds still before the start)."""
    values = {"org": org_id, "start": start}
    make_dirty(connection, "pending_usage WHERE org_id = :org AND window_ms >= :start", values)
    waiting = _WAITING.replace("{segments}", segments_sql(segments(mapping_rows(connection))))
    seconds = connection.execute(sa.text(waiting), values).one()
    return int(seconds[0]), int(seconds[1])
