"""The identity of the database, whether its history is whole, and how to go on after a loss (rule R1).

Guarantee: a database that was restored, or that failed over to a copy which lacks commits, is noticed before anything
is sealed or sent on it. Three marks show it: its system identifier and timeline, its count of sends, which is also kept
outside of it, and the last tick that this machine began on it. The finding is written down in the database, so that
every machine stands still until `drawdown recover`.

After it, nothing of a window from before the loss is sent before its provider was asked for it. A push that the
provider has is accepted, or adopted at the provider's quantity. The seal makes the rest from the samples. So usage that
was billed and forgotten is not billed again, and usage that was not billed is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.providers.protocol import Capabilities
from drawdown.schema.audit import By, record
from drawdown.schema.errors import DrawdownError, UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import Recall, Remember, Steps, Transaction, Witness

SQL = queries(__file__)


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
    row = SQL.run(connection, "incarnation").one()
    return Incarnation(
        row.database_id, row.number, row.sends, row.system_id, row.timeline, row.doubted_reason, server_of(connection)
    )


def server_of(connection: sa.Connection) -> tuple[str | None, str | None]:
    """The server's system identifier and timeline; None where it has none, or does not tell."""
    if connection.dialect.name != "postgresql":
        return None, None
    try:
        with connection.begin_nested():
            server = SQL.run(connection, "server").one()
    except DBAPIError as error:  # a service that does not tell: the count of sends and the last tick remain
        if error.connection_invalidated:
            raise
        return None, None
    return str(server.system_id), str(server.timeline)


def recognise(connection: sa.Connection, witness: Witness | None, now_ms: int) -> Incarnation:
    """Compare the database with what is remembered of it; a difference is written down as its doubt."""
    found = read_incarnation(connection)
    if found.doubted is None:
        doubted = difference(connection, found, witness)
        if doubted is not None:
            SQL.run(connection, "doubt", {"doubted_ms": now_ms, "doubted_reason": doubted})
            return read_incarnation(connection)
        if (found.system_id, found.timeline) != found.server:
            _keep_server(connection, found)
    return found


def _keep_server(connection: sa.Connection, found: Incarnation) -> None:
    system, timeline = found.server
    SQL.run(connection, "keep_server", {"system_id": system, "timeline": timeline})


def read_doubt(connection: sa.Connection, witness: Witness | None) -> str | None:
    """Why this database may have lost history, by itself or by what is remembered of it. Nothing is written."""
    found = read_incarnation(connection)
    return found.doubted or difference(connection, found, witness)


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
        return None  # another machine has recovered it since this one looked
    if witness.number > found.number:
        return f"it is its incarnation {found.number}, and was {witness.number}: restored to before a recovery"
    if witness.sends > found.sends:
        return f"it knows of {found.sends:,} sends, and there were {witness.sends:,}: restored, or commits were lost"
    worker = worker_of_tick(connection, witness.tick_id)
    if witness.tick_id and worker != witness.tick_worker:  # 0: recovered before any tick was on record
        return f"it does not know of tick {witness.tick_id}, which this machine began: restored, or commits were lost"
    return None


def worker_of_tick(connection: sa.Connection, tick_id: int) -> str | None:
    """Who did a tick; None where it is not on record."""
    worker: str | None = SQL.run(connection, "worker_of_tick", {"tick_id": tick_id}).scalar_one_or_none()
    return worker


def count_sends(connection: sa.Connection, claimed: int, witness: Witness | None) -> Witness | None:
    """Count claimed sends, last in the transaction that claims them; returns what to remember before they leave.

    Errors: HistoryDoubted where the database is not the one that the tick began on, or stands still.
    """
    row = SQL.run(connection, "count_sends", {"claimed": claimed}).one_or_none()
    if row is None:
        raise HistoryDoubted(STANDS_STILL)
    if witness is None:
        return None
    if (row.database_id, row.number) != (witness.database_id, witness.number) or row.sends - claimed < witness.sends:
        raise HistoryDoubted("the database is not the one this tick began on: the next tick tells")
    return replace(witness, sends=int(row.sends))


STANDS_STILL = (
    "history was lost, so nothing is sealed, sent or released: `drawdown status` says why, `drawdown recover` goes on"
)


def require_same(connection: sa.Connection, witness: Witness | None) -> None:
    """What a tick read or claimed is worth nothing on another history: a worker may live through a restore, and through
    `recover`.

    Errors: HistoryDoubted where the database is not the one that the tick began on, or stands still.
    """
    require_whole(connection)
    if witness is None:
        return
    row = SQL.run(connection, "incarnation_and_tick", {"tick_id": witness.tick_id}).one()
    same = (row.database_id, row.number, row.worker or "") == (witness.database_id, witness.number, witness.tick_worker)
    if not same or row.sends < witness.sends:
        raise HistoryDoubted("the database is not the one this tick began on: the next tick tells")


def present(connection: sa.Connection) -> Witness:
    """The database as it is now, for a command that judges what it reads and changes something by it later.

    Errors: HistoryDoubted while it stands still.
    """
    require_whole(connection)
    row = SQL.run(connection, "incarnation_and_last_tick").one()
    return Witness(row.database_id, int(row.number), int(row.sends), int(row.tick_id), row.worker)


def require_whole(connection: sa.Connection) -> None:
    """Errors: HistoryDoubted while the database stands still."""
    if SQL.run(connection, "doubted").first() is not None:
        raise HistoryDoubted(STANDS_STILL)


@dataclass(frozen=True)
class Loss:
    """What happened in [from_ms, until_ms) may not be on record here."""

    from_ms: int
    until_ms: int


def read_losses(connection: sa.Connection) -> list[Loss]:
    """All there ever were."""
    return [Loss(row.from_ms, row.until_ms) for row in SQL.run(connection, "losses")]


def loss_of(window_ms: int, losses: Sequence[Loss]) -> Loss | None:
    """When the pushes of a window may have been sent, unknown to us."""
    its = [loss for loss in losses if window_ms < loss.until_ms]
    return Loss(min(loss.from_ms for loss in its), max(loss.until_ms for loss in its)) if its else None


@dataclass(frozen=True)
class Recovered:
    """What was lost, as far as one can tell, and what is done about it. Times are milliseconds."""

    found: str | None
    """What shows the loss; None: nothing was lost, and nothing was done."""
    from_ms: int = 0
    """The last moment that is on record: what happened since may be forgotten."""
    until_ms: int = 0
    number: int = 0
    """The database's incarnation from now on."""
    to_look_up: int = 0
    """Open pushes that are looked up before they are sent."""
    to_decide: int = 0
    """Open pushes of providers that cannot be asked, or that this machine does not have: a person decides (`drawdown
    push resolve`), unless a machine that has their provider can ask it."""
    last_sample_ms: int | None = None
    """The newest sample that is there: what hosts wrote since has to be written again."""
    recovered_ms: int | None = None
    """Where nothing was lost since: when it was recovered the last time, after a loss of [from_ms, until_ms)."""


def recover(
    context: Context, by: By, *, since_ms: int | None = None, restored: bool = False, dry_run: bool = False
) -> Steps[Recovered]:
    """Take the database as it is now for the one to go on with. The next ticks look up and settle.

    `since_ms`: the backup's moment, where a person knows it to be earlier than the last tick on record. `restored`: a
    person says that history was lost, though nothing here shows it.
    Errors: UsageError for a moment that is not in the past.
    """
    if since_ms is not None and since_ms > by.now_ms:
        raise UsageError("--since lies in the future: it is the moment that the backup was made")
    witness: Witness | None = yield Recall()
    work = partial(_recover, context=context, by=by, witness=witness, since_ms=since_ms, restored=restored)
    found, remember = yield Transaction("recover", work, rollback=dry_run)
    if found.found is not None and not dry_run:
        yield Remember(remember)
    done: Recovered = found
    return done


def _recover(
    connection: sa.Connection,
    *,
    context: Context,
    by: By,
    witness: Witness | None,
    since_ms: int | None,
    restored: bool,
) -> tuple[Recovered, Witness | None]:
    lock_buckets(connection)
    incarnation = recognise(connection, witness, by.now_ms)
    why = incarnation.doubted or ("a person says so" if restored else None)
    if why is None:
        return _as_it_was(connection, incarnation.number), None
    from_ms = _last_before_doubt(connection, by.now_ms)
    from_ms = from_ms if since_ms is None else min(from_ms, since_ms)
    # A process that claimed before the loss may still be sending what it claimed.
    until_ms = by.now_ms + LEASE_MS
    values = {
        "number": incarnation.number,
        "from_ms": from_ms,
        "until_ms": until_ms,
        "at_ms": by.now_ms,
        "found": why,
    }
    SQL.run(connection, "keep_loss", {**values, "actor": by.actor, "reason": by.reason})
    to_look_up, to_decide = _ask_first(connection, context.capabilities, by.now_ms)
    SQL.run(connection, "read_all_again")
    SQL.run(connection, "ask_all", {"now_ms": by.now_ms})
    remember = _begin_anew(connection, incarnation, witness)
    record(connection, "recover", f"incarnation {incarnation.number}", values, by)
    newest = SQL.run(connection, "newest_sample").scalar_one_or_none()
    last = None if newest is None else int(newest)
    return Recovered(why, from_ms, until_ms, remember.number, to_look_up, to_decide, last), remember


def _as_it_was(connection: sa.Connection, number: int) -> Recovered:
    """Nothing was lost; what is to be done after the last recovery is told again."""
    last = SQL.run(connection, "last_loss", {"number": number}).one_or_none()
    if last is None:
        return Recovered(None, number=number)
    return Recovered(None, int(last.from_ms), int(last.until_ms), number, recovered_ms=int(last.at_ms))


def _last_before_doubt(connection: sa.Connection, now_ms: int) -> int:
    last = SQL.run(connection, "last_before_doubt").scalar_one_or_none()
    return min(int(last or 0), now_ms)


def _ask_first(connection: sa.Connection, capabilities: Mapping[str, Capabilities], now_ms: int) -> tuple[int, int]:
    """What is open may have been sent since: it is looked up, or a person decides. Whether a provider can be asked that
    this machine does not have, others know: what is in doubt is theirs to look up, or a person's."""
    to_look_up = to_decide = 0
    for provider in sorted(SQL.run(connection, "providers_of_open").scalars()):
        declared = capabilities.get(provider)
        if declared is not None and declared.same_database:
            continue
        asks = declared is not None and declared.lookup
        values = {"provider": provider, "now_ms": now_ms, "state": "queued" if asks else "in_doubt"}
        values["rejected"] = int(asks or declared is None)
        changed = SQL.run(connection, "ask_first", values).rowcount
        to_look_up += changed if asks else 0
        to_decide += 0 if asks else changed
    return to_look_up, to_decide


def _begin_anew(connection: sa.Connection, incarnation: Incarnation, witness: Witness | None) -> Witness:
    ours = witness is not None and witness.database_id == incarnation.database_id
    before = (witness.number, witness.sends) if ours and witness else (0, 0)
    number, sends = max(incarnation.number, before[0]) + 1, max(incarnation.sends, before[1])
    system, timeline = incarnation.server
    values = {"number": number, "sends": sends, "system_id": system, "timeline": timeline}
    SQL.run(connection, "begin_anew", values)
    return present(connection)
