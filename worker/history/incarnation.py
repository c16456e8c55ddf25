"""The identity of the database and the completeness of its history (rule R1).

`recover.py` has the work that follows a loss.

Guarantee: Drawdown detects a restored database, or a failover to a copy that lacks commits, before it seals or sends.
Four marks show it: the system identifier and timeline, the incarnation, the count of sends, and the last tick that
this machine began. The local checkpoint has the last three. Drawdown stores the finding in the database, so that every
machine stops until `drawdown recover`.

After a recovery, Drawdown looks up each window from before the loss at the provider before it sends a push of the
window. If the provider has the push, Drawdown accepts the push, or adopts the provider's quantity. If the provider
lacks a lookup, a person decides first. The seal makes the rest from the samples. So Drawdown bills only the usage that
the lost history did not bill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.schema.database import read, write
from drawdown.schema.errors import DrawdownError
from drawdown.schema.sql import queries
from drawdown.schema.text import counted
from drawdown.worker.engine.witness import Witness

SQL = queries(__file__)


class HistoryDoubted(DrawdownError):
    """Raised if the database was restored, or lost commits.

    Drawdown does not seal or send until `drawdown recover`.
    """


@dataclass(frozen=True)
class Incarnation:
    """The database's own identity, and that of its server.

    `number`: the incarnation, which grows by 1 with each recovery. `sends`: the number of claimed sends. `system_id`,
    `timeline`: the stored identity of the server. `doubted`: the reason for which history may be lost (None: the
    history is complete).
    """

    database_id: str
    number: int
    sends: int
    system_id: str | None
    timeline: str | None
    doubted: str | None
    server: tuple[str | None, str | None]
    """The server's system identifier and timeline (None: the server does not have or report it)."""


def read_incarnation(connection: sa.Connection) -> Incarnation:
    """Return the database's stored identity, and the identity of its server."""
    row = SQL.run(connection, "incarnation").one()
    return Incarnation(
        row.database_id, row.number, row.sends, row.system_id, row.timeline, row.doubted_reason, server_of(connection)
    )


def server_of(connection: sa.Connection) -> tuple[str | None, str | None]:
    """Return the server's system identifier and timeline.

    Each is None if the server does not have it or does not report it.
    """
    if connection.dialect.name != "postgresql":
        return None, None
    try:
        with connection.begin_nested():
            server = SQL.run(connection, "server").one()
    except DBAPIError as error:  # the service does not report its identity; Drawdown still compares sends and ticks
        if error.connection_invalidated:
            raise
        return None, None
    return str(server.system_id), str(server.timeline)


def recognise(connection: sa.Connection, witness: Witness | None, now_ms: int) -> Incarnation:
    """Compare the database with the local checkpoint. Store a difference as doubt.

    Return the identity of the database, with the stored doubt.
    """
    found = read_incarnation(connection)
    if found.doubted is None:
        doubted = difference(connection, found, witness)
        if doubted is not None:
            SQL.run(connection, "doubt", {"doubted_ms": now_ms, "doubted_reason": doubted})
            return read_incarnation(connection)
        if None not in found.server and (found.system_id, found.timeline) != found.server:
            system, timeline = found.server
            SQL.run(connection, "keep_server", {"system_id": system, "timeline": timeline})
    return found


def record_doubt(engine: sa.Engine, witness: Witness | None, now_ms: int) -> None:
    """Store a difference from the local checkpoint in its own transaction.

    A later refusal of other work does not roll it back. If there is no difference, this only reads, without a lock.
    """

    def is_new(connection: sa.Connection) -> bool:
        found = read_incarnation(connection)
        return found.doubted is None and difference(connection, found, witness) is not None

    if read(engine, is_new):
        write(engine, lambda connection: recognise(connection, witness, now_ms))


def read_doubt(connection: sa.Connection, witness: Witness | None) -> str | None:
    """Return the reason why this database may have lost history, or None.

    The reason is the stored doubt, or a difference from the local checkpoint. This only reads.
    """
    found = read_incarnation(connection)
    return found.doubted or difference(connection, found, witness)


def difference(connection: sa.Connection, found: Incarnation, witness: Witness | None) -> str | None:
    """Return why the database may have lost history, apart from a stored doubt.

    The stored identity may differ from that of the server, or the database may be behind the local checkpoint. None: no
    such difference is known.
    """
    system, timeline = found.server
    if None not in (system, found.system_id) and system != found.system_id:
        return (
            f"the database is on another PostgreSQL system ({system}, not {found.system_id}): "
            "it was restored from a dump, or copied"
        )
    if None not in (timeline, found.timeline) and timeline != found.timeline:
        return (
            f"the database's timeline changed from {found.timeline} to {timeline}: a standby took "
            "over, or a backup was restored"
        )
    if witness is None or witness.database_id != found.database_id or witness.number < found.number:
        return None  # no checkpoint of this database, or another machine has recovered it since
    if witness.number > found.number:
        return (
            f"the database has incarnation {found.number}, but this machine saw {witness.number}: "
            "it was restored to before a recovery"
        )
    if witness.sends > found.sends:
        return (
            f"the database has {counted(found.sends, 'send')}, but this machine saw {witness.sends:,}: it "
            "was restored, or commits were lost"
        )
    worker = worker_of_tick(connection, witness.tick_id)
    if witness.tick_id and worker != witness.tick_worker:  # 0: recovered before the first tick was recorded
        return (
            f"the database lacks tick {witness.tick_id}, which this machine began: it was "
            "restored, or commits were lost"
        )
    return None


def worker_of_tick(connection: sa.Connection, tick_id: int) -> str | None:
    """Return the worker of a tick; None if the tick is not recorded."""
    worker: str | None = SQL.run(connection, "worker_of_tick", {"tick_id": tick_id}).scalar_one_or_none()
    return worker


def count_sends(connection: sa.Connection, claimed: int, witness: Witness | None) -> Witness | None:
    """Count claimed sends. Call this last in the transaction that claims them.

    Return the checkpoint to save before the sends; None without a checkpoint.

    Errors: HistoryDoubted if the database is stopped, or is not that on which the tick began.
    """
    row = SQL.run(connection, "count_sends", {"claimed": claimed}).one_or_none()
    if row is None:
        raise HistoryDoubted(STANDS_STILL)
    if witness is None:
        return None
    if (row.database_id, row.number) != (witness.database_id, witness.number) or row.sends - claimed < witness.sends:
        raise HistoryDoubted("the database changed since this tick began. The next tick checks it")
    return replace(witness, sends=int(row.sends))


STANDS_STILL = (
    "history was lost, so Drawdown does not seal, send or release. Run `drawdown status` for "
    "the reason, then `drawdown recover`"
)


def require_same(connection: sa.Connection, witness: Witness | None) -> None:
    """Refuse to continue if the database changed since the tick began.

    A worker may still run during a restore, and during `recover`. On another history, the reads and claims of its tick
    are invalid.

    Errors: HistoryDoubted if the database is stopped, or is not that on which the tick began.
    """
    require_whole(connection)
    if witness is None:
        return
    row = SQL.run(connection, "incarnation_and_tick", {"tick_id": witness.tick_id}).one()
    same = (row.database_id, row.number, row.worker or "") == (witness.database_id, witness.number, witness.tick_worker)
    if not same or row.sends < witness.sends:
        raise HistoryDoubted("the database changed since this tick began. The next tick checks it")


def present(connection: sa.Connection) -> Witness:
    """Return a checkpoint of the database as it is now.

    Use this in a command that reads in one transaction and changes in a later one.

    Errors: HistoryDoubted while the database is stopped.
    """
    require_whole(connection)
    row = SQL.run(connection, "incarnation_and_last_tick").one()
    return Witness(row.database_id, int(row.number), int(row.sends), int(row.tick_id), row.worker)


def require_whole(connection: sa.Connection) -> None:
    """Check that the database does not have a stored doubt.

    This does not compare it with the local checkpoint. Call `recognise` first for that.

    Errors: HistoryDoubted.
    """
    if SQL.run(connection, "doubted").first() is not None:
        raise HistoryDoubted(STANDS_STILL)


@dataclass(frozen=True)
class Loss:
    """A loss of history: changes in [from_ms, until_ms) may not be recorded here."""

    from_ms: int
    until_ms: int


def read_losses(connection: sa.Connection) -> list[Loss]:
    """Return all losses of this database's history."""
    return [Loss(row.from_ms, row.until_ms) for row in SQL.run(connection, "losses")]


def loss_of(window_ms: int, losses: Sequence[Loss]) -> Loss | None:
    """Return the span in which unrecorded pushes of a window may have been sent.

    None: such a span does not exist.
    """
    its = [loss for loss in losses if window_ms < loss.until_ms]
    return Loss(min(loss.from_ms for loss in its), max(loss.until_ms for loss in its)) if its else None
