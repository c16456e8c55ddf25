"""Which database this is, and whether its history is whole (rule R1).

Guarantee: a database that was restored, or that failed over to a copy which lacks commits, is noticed before anything
is sealed or sent on it: by its system identifier and timeline, by its count of sends, which is also kept outside of it,
and by the last tick that this host began on it. What was noticed is written down in the database, so that every host
stands still until `drawdown recover`.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.schema.errors import DrawdownError
from drawdown.worker.engine.effects import Witness


class HistoryDoubted(DrawdownError):
    """The database was restored, or lost commits. Nothing is sealed or sent until `drawdown recover`."""


@dataclass(frozen=True)
class Incarnation:
    """What the database says of itself, and of the server it lies on."""

    database_id: str
    number: int
    sends: int
    system_id: str | None
    timeline: str | None
    doubted: str | None
    server: tuple[str | None, str | None]
    """The server's own system identifier and timeline; None where it has none, or does not tell."""


def read_incarnation(connection: sa.Connection) -> Incarnation:
    """The database's own row, and its server's identity."""
    row = connection.execute(
        sa.text("SELECT database_id, number, sends, system_id, timeline, doubted_reason FROM incarnation")
    ).one()
    return Incarnation(
        row.database_id, row.number, row.sends, row.system_id, row.timeline, row.doubted_reason, server_of(connection)
    )


def server_of(connection: sa.Connection) -> tuple[str | None, str | None]:
    """The server's system identifier and timeline; None where it has none, or does not tell."""
    if connection.dialect.name != "postgresql":
        return None, None
    try:
        with connection.begin_nested():
            system, timeline = connection.execute(sa.text(SERVER)).one()
    except DBAPIError as error:  # a service that does not tell: the count of sends and the last tick remain
        if error.connection_invalidated:
            raise
        return None, None
    return str(system), str(timeline)


DOUBT = """
UPDATE incarnation SET doubted_ms = :now, doubted_reason = :why,
    doubted_after_tick = (SELECT COALESCE(MAX(tick_id), 0) FROM ticks)
"""
SERVER = "SELECT (SELECT system_identifier FROM pg_control_system()), left(pg_walfile_name(pg_current_wal_lsn()), 8)"


def recognise(connection: sa.Connection, witness: Witness | None, now_ms: int) -> Incarnation:
    """Compare the database with what is remembered of it; a difference is written down as its doubt."""
    found = read_incarnation(connection)
    if found.doubted is None:
        doubted = difference(connection, found, witness)
        if doubted is not None:
            connection.execute(
                sa.text(DOUBT),
                {"now": now_ms, "why": doubted},
            )
            return read_incarnation(connection)
        if (found.system_id, found.timeline) != found.server:
            _keep_server(connection, found)
    return found


def _keep_server(connection: sa.Connection, found: Incarnation) -> None:
    system, timeline = found.server
    connection.execute(
        sa.text("UPDATE incarnation SET system_id = :system, timeline = :timeline"),
        {"system": system, "timeline": timeline},
    )


def difference(connection: sa.Connection, found: Incarnation, witness: Witness | None) -> str | None:
    """Why this cannot be the database that was left, or None."""
    system, timeline = found.server
    if None not in (system, found.system_id) and system != found.system_id:
        return (
            f"it lies on another PostgreSQL system ({system}, not {found.system_id}): restored from a dump, or a copy"
        )
    if None not in (timeline, found.timeline) and timeline != found.timeline:
        return f"its timeline is {timeline}, and was {found.timeline}: a standby took over, or a backup was restored"
    if witness is None or witness.database_id != found.database_id or witness.number < found.number:
        return None  # another host has recovered it since this one looked
    if witness.number > found.number:
        return f"it is its incarnation {found.number}, and was {witness.number}: restored to before a recovery"
    if witness.sends > found.sends:
        return f"it knows of {found.sends:,} sends, and there were {witness.sends:,}: restored, or commits were lost"
    tick = connection.execute(
        sa.text("SELECT worker FROM ticks WHERE tick_id = :tick"), {"tick": witness.tick_id}
    ).scalar_one_or_none()
    if witness.tick_id and tick != witness.tick_worker:  # 0: recovered before any tick was on record
        return f"it does not know of tick {witness.tick_id}, which this host began: restored, or commits were lost"
    return None


def count_sends(connection: sa.Connection, claimed: int, known: Witness | None) -> Witness | None:
    """Count claimed sends, last in the transaction that claims them; returns what to remember before they leave.

    Errors: HistoryDoubted where the database is not the one that the tick began on, or stands still.
    """
    row = connection.execute(
        sa.text(
            "UPDATE incarnation SET sends = sends + :claimed WHERE doubted_ms IS NULL "
            "RETURNING database_id, number, sends"
        ),
        {"claimed": claimed},
    ).one_or_none()
    if row is None:
        raise HistoryDoubted(STANDS_STILL)
    if known is None:
        return None
    if (row.database_id, row.number) != (known.database_id, known.number) or row.sends - claimed < known.sends:
        raise HistoryDoubted("the database is not the one this tick began on: the next tick tells")
    return Witness(known.database_id, known.number, int(row.sends), known.tick_id, known.tick_worker)


STANDS_STILL = "history was lost, so nothing is sealed or sent: `drawdown status` says why, `drawdown recover` goes on"


def require_same(connection: sa.Connection, known: Witness | None) -> None:
    """What a tick read or claimed is worth nothing on another history: a worker may live through a restore, and through
    `recover`.

    Errors: HistoryDoubted where the database is not the one that the tick began on, or stands still.
    """
    require_whole(connection)
    if known is None:
        return
    row = connection.execute(
        sa.text(
            "SELECT i.database_id, i.number, i.sends, "
            "(SELECT t.worker FROM ticks t WHERE t.tick_id = :tick) AS worker FROM incarnation i"
        ),
        {"tick": known.tick_id},
    ).one()
    same = (row.database_id, row.number, row.worker or "") == (known.database_id, known.number, known.tick_worker)
    if not same or row.sends < known.sends:
        raise HistoryDoubted("the database is not the one this tick began on: the next tick tells")


def present(connection: sa.Connection) -> Witness:
    """The database as it is now, for a command that judges what it reads and changes something by it later.

    Errors: HistoryDoubted while it stands still.
    """
    require_whole(connection)
    row = connection.execute(
        sa.text(
            "SELECT i.database_id, i.number, i.sends, COALESCE(t.tick_id, 0) AS tick_id, "
            "COALESCE(t.worker, '') AS worker FROM incarnation i "
            "LEFT JOIN ticks t ON t.tick_id = (SELECT MAX(tick_id) FROM ticks)"
        )
    ).one()
    return Witness(row.database_id, int(row.number), int(row.sends), int(row.tick_id), row.worker)


def require_whole(connection: sa.Connection) -> None:
    """Errors: HistoryDoubted while the database stands still."""
    if connection.execute(sa.text("SELECT 1 FROM incarnation WHERE doubted_ms IS NOT NULL")).first() is not None:
        raise HistoryDoubted(STANDS_STILL)
