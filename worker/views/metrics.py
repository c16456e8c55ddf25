"""The figures behind the metrics. Guarantee: reads only, by indexes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.worker.views.backlog import ASKABLE

UNANSWERED: Final = "unanswered"

_PACK: Final = "SELECT MIN(watermark_ms) AS pack FROM buckets WHERE watermark_ms > 0"
_HELD: Final = (
    "SELECT MIN(held_watermark_ms) AS held FROM orgs WHERE held_watermark_ms IS NOT NULL OR stopped_at_ms IS NOT NULL"
)
_PENDING: Final = "SELECT reason, SUM(seconds) AS seconds FROM pending_usage GROUP BY reason"
_OPEN: Final = """
SELECT provider, state, feature, COUNT(*) AS pushes, MIN(sealed_at_ms) AS oldest_ms, SUM(sealed_qty * 1.0) AS owed
FROM pushes WHERE state IN ('due', 'queued', 'in_doubt', 'rejected') GROUP BY provider, state, feature
"""
_HALTS: Final = "SELECT COUNT(*) AS due, MIN(halted_at) AS since_ms FROM halts WHERE due_at_ms IS NOT NULL"
_HALTED: Final = "SELECT COALESCE(halt_reason, '') AS reason, COUNT(*) AS orgs FROM orgs WHERE is_halted GROUP BY 1"
_STOPPED: Final = """
SELECT COUNT(*) FROM orgs
WHERE stopped_at_ms IS NOT NULL AND (held_watermark_ms IS NOT NULL OR stopped_at_ms IS NOT NULL)
"""
_PROJECTIONS: Final = f"""
SELECT COUNT(*) AS due, MIN(projection_due_ms) AS since_ms FROM orgs o WHERE projection_due_ms <= :now AND {ASKABLE}
"""
_SAMPLES: Final = """
SELECT c.cell_id AS cell, COUNT(*) AS samples FROM usage_samples s LEFT JOIN cells c ON c.cell_id = s.cell_id
WHERE s.ts >= :start AND s.ts < :end GROUP BY c.cell_id
"""
# Materialized, or SQLite reads all of them in the order of the grouping.
_WEBHOOKS: Final = """
WITH recent AS MATERIALIZED (SELECT provider, state FROM webhooks WHERE received_ms >= :since)
SELECT provider, state, COUNT(*) AS webhooks FROM recent GROUP BY provider, state
"""
_ATTEMPTS: Final = f"""
SELECT p.provider, COALESCE(a.outcome, '{UNANSWERED}') AS outcome, CASE {{within}} END AS within_ms,
    COUNT(*) AS attempts, SUM(a.finished_ms - a.started_ms) AS took_ms
FROM attempts a JOIN pushes p ON p.window_ms = a.window_ms AND p.org_id = a.org_id AND p.feature = a.feature
    AND p.revision = a.revision
WHERE a.started_ms >= :since GROUP BY 1, 2, 3
"""
_READS: Final = "SELECT provider, outcome, reads FROM provider_reads ORDER BY provider, outcome"
# There is no index on time: so many of the newest are a day of fourteen shards, or the last sixteen ticks of 256.
_TICKS: Final = """
SELECT bucket_lo, bucket_hi, started_ms, finished_ms, exit_status FROM (
    SELECT tick_id, bucket_lo, bucket_hi, started_ms, finished_ms, exit_status FROM ticks
    ORDER BY tick_id DESC LIMIT 4096) t
WHERE finished_ms >= :since ORDER BY tick_id DESC
"""
_ANY_TICK: Final = "SELECT tick_id FROM ticks WHERE finished_ms IS NOT NULL ORDER BY tick_id DESC LIMIT 1"


@dataclass(frozen=True)
class Watermarks:
    """The oldest of the pack, and of organisations that are held back; None: there is none."""

    pack_ms: int | None
    held_ms: int | None


@dataclass(frozen=True)
class OpenPushes:
    """Pushes that are not settled; `owed` in the feature's base units."""

    provider: str
    state: str
    feature: str
    pushes: int
    oldest_ms: int
    owed: float


@dataclass(frozen=True)
class WaitingCount:
    """How many wait, and since when the one that has waited longest does."""

    count: int
    since_ms: int | None


@dataclass(frozen=True)
class Attempts:
    """Attempts of one outcome that took at most `within_ms` (None: longer, or nobody knows), and all that they took."""

    provider: str
    outcome: str
    within_ms: int | None
    attempts: int
    took_ms: int | None


@dataclass(frozen=True)
class Reads:
    """Customers that a provider was asked about, since ever."""

    provider: str
    outcome: str
    reads: int


@dataclass(frozen=True)
class EndedTick:
    """A tick that ended, and the buckets it was for."""

    bucket_lo: int
    bucket_hi: int
    started_ms: int
    finished_ms: int
    exit_status: int


def watermarks(connection: sa.Connection) -> Watermarks:
    """How far sealing has come."""
    return Watermarks(connection.execute(sa.text(_PACK)).scalar(), connection.execute(sa.text(_HELD)).scalar())


def pending_seconds(connection: sa.Connection) -> dict[str, int]:
    """Used and not sealable yet, by reason."""
    return {row.reason: int(row.seconds) for row in connection.execute(sa.text(_PENDING))}


def dirty_windows(connection: sa.Connection) -> int:
    """Windows to be sealed again."""
    return _count(connection, "SELECT COUNT(*) FROM dirty_windows")


def open_pushes(connection: sa.Connection) -> list[OpenPushes]:
    """By provider, state and feature."""
    return [
        OpenPushes(row.provider, row.state, row.feature, int(row.pushes), int(row.oldest_ms), float(row.owed))
        for row in connection.execute(sa.text(_OPEN))
    ]


def known_providers(connection: sa.Connection) -> set[str]:
    """Providers that a tick has met."""
    return set(connection.execute(sa.text("SELECT provider FROM provider_states")).scalars())


def halts_due(connection: sa.Connection) -> WaitingCount:
    """Halts that a cell has not acknowledged."""
    return _waiting(connection, _HALTS)


def projections_due(connection: sa.Connection, now_ms: int) -> WaitingCount:
    """Organisations whose provider is to be asked."""
    return _waiting(connection, _PROJECTIONS, now=now_ms)


def halted_orgs(connection: sa.Connection) -> dict[str, int]:
    """How many, by reason."""
    return {row.reason: row.orgs for row in connection.execute(sa.text(_HALTED))}


def stopped_orgs(connection: sa.Connection) -> int:
    """Organisations that a person has to look at."""
    return _count(connection, _STOPPED)


def paused_providers(connection: sa.Connection) -> int:
    """Providers that a person paused."""
    return _count(connection, "SELECT COUNT(*) FROM provider_states WHERE paused_ms IS NOT NULL")


def doubted_histories(connection: sa.Connection) -> int:
    """1 where the database's history is in doubt (R1)."""
    return _count(connection, "SELECT COUNT(*) FROM incarnation WHERE doubted_ms IS NOT NULL")


def registered_cells(connection: sa.Connection) -> list[str]:
    """Their ids."""
    return list(connection.execute(sa.text("SELECT cell_id FROM cells")).scalars())


def samples_by_cell(connection: sa.Connection, from_ms: int, to_ms: int) -> dict[str | None, int]:
    """Samples dated in [from, to), by registered cell; None: what samples call their cell is anybody's to choose."""
    found = connection.execute(sa.text(_SAMPLES), {"start": from_ms, "end": to_ms})
    return {row.cell: int(row.samples) for row in found}


def webhooks_since(connection: sa.Connection, since_ms: int) -> dict[tuple[str, str], int]:
    """Genuine webhooks, by provider and state."""
    found = connection.execute(sa.text(_WEBHOOKS), {"since": since_ms})
    return {(row.provider, row.state): row.webhooks for row in found}


def attempts_since(connection: sa.Connection, since_ms: int, limits_ms: Sequence[int]) -> list[Attempts]:
    """Attempts begun since then, by provider, outcome and the first of these limits they stayed within."""
    within = " ".join(f"WHEN a.finished_ms - a.started_ms <= {int(limit)} THEN {int(limit)}" for limit in limits_ms)
    found = connection.execute(sa.text(_ATTEMPTS.replace("{within}", within)), {"since": since_ms})
    return [
        Attempts(
            row.provider, row.outcome, row.within_ms, row.attempts, None if row.took_ms is None else int(row.took_ms)
        )
        for row in found
    ]


def provider_reads(connection: sa.Connection) -> list[Reads]:
    """Counted for good, in the transaction that wrote them."""
    return [Reads(row.provider, row.outcome, row.reads) for row in connection.execute(sa.text(_READS))]


def ended_ticks(connection: sa.Connection, since_ms: int) -> list[EndedTick] | None:
    """Those that ended since then, the newest first; None where no tick ever did."""
    if connection.execute(sa.text(_ANY_TICK)).first() is None:
        return None
    return [EndedTick(**row) for row in connection.execute(sa.text(_TICKS), {"since": since_ms}).mappings()]


def last_tick_ms(connection: sa.Connection) -> int | None:
    """When a tick last ended; None: never."""
    at = connection.execute(sa.text("SELECT MAX(finished_ms) FROM ticks")).scalar_one_or_none()
    return None if at is None else int(at)


def _count(connection: sa.Connection, text: str) -> int:
    return int(connection.execute(sa.text(text)).scalar_one() or 0)


def _waiting(connection: sa.Connection, text: str, **values: int) -> WaitingCount:
    row = connection.execute(sa.text(text), values).one()
    return WaitingCount(row.due, None if row.since_ms is None else int(row.since_ms))
