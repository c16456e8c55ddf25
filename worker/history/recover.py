"""Recover after a restore of the database, or a failover that lost commits.

Source: rule R1.

Guarantee: Drawdown looks up each window from before the loss at the provider before it sends a push of the window. If
the provider has the push, Drawdown accepts the push, or adopts the provider's quantity. If the provider lacks a lookup,
a person decides first. The seal makes the rest from the samples. So Drawdown bills only the usage that the lost history
did not bill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema.audit import By, record
from drawdown.schema.errors import UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.catalog.terms import date_differing_terms
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import LoadWitness, SaveWitness, Steps, Transaction
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import Incarnation, present, recognise

SQL = queries(__file__)


@dataclass(frozen=True)
class Recovered:
    """A loss, as far as Drawdown knows it, and its consequences.

    Times are in milliseconds.
    """

    found: str | None
    """The evidence of the loss; None: history was not lost, and the call did not have an effect."""
    from_ms: int = 0
    """The start of the last tick on record, or an earlier time that a person gave. Changes after this time may be lost.
    """
    until_ms: int = 0
    number: int = 0
    """The database's incarnation from now on."""
    to_look_up: int = 0
    """The number of open pushes that are looked up before they are sent."""
    to_decide: int = 0
    """The number of open pushes to providers that lack a lookup, or are not installed on this machine.

    A person decides them (`drawdown push resolve`), unless another machine can look them up.
    """
    last_sample_ms: int | None = None
    """The time of the newest stored sample. Hosts must write later samples again."""
    other_terms: Sequence[str] = ()
    """Providers that declare other terms on this machine than in this database.

    A person decides their earlier pushes, unless a lookup finds exactly their charge.
    """
    recovered_ms: int | None = None
    """The time of an earlier recovery, if history was not lost since. In that case, [from_ms, until_ms) is the earlier
    loss.

    None: this call recovered the database, or it was never recovered.
    """


def recover(
    context: Context, by: By, *, since_ms: int | None = None, restored: bool = False, dry_run: bool = False
) -> Steps[Recovered]:
    """Continue with the database as it is now.

    The next ticks look up and settle open pushes.

    `since_ms`: the time of the backup, if a person knows that it is earlier than the last recorded tick. `restored`:
    True if a person states that history was lost, although Drawdown lacks evidence of the loss.

    Errors: UsageError for a time in the future, or if the local checkpoint cannot be read or written. StorageFull if
    the disk of the checkpoint is full. If only the write of the checkpoint fails, the recovery is already committed.
    """
    if since_ms is not None and since_ms > by.now_ms:
        raise UsageError(f"invalid --since {show_time(since_ms)}: it is in the future. Pass the time of the backup")
    witness: Witness | None = yield LoadWitness()
    work = partial(_recover, context=context, by=by, witness=witness, since_ms=since_ms, restored=restored)
    found, remember = yield Transaction("recover", work, rollback=dry_run)
    if found.found is not None and not dry_run:
        yield SaveWitness(remember)
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
    why = incarnation.doubted or ("a person requested it" if restored else None)
    if why is None:
        return _as_it_was(connection, incarnation.number), None
    from_ms = _last_before_doubt(connection, by.now_ms)
    from_ms = from_ms if since_ms is None else min(from_ms, since_ms)
    # A process that claimed pushes before the loss may still send them.
    until_ms = by.now_ms + LEASE_MS
    values = {
        "number": incarnation.number,
        "from_ms": from_ms,
        "until_ms": until_ms,
        "at_ms": by.now_ms,
        "found": why,
    }
    SQL.run(connection, "keep_loss", {**values, "actor": by.actor, "reason": by.reason})
    moved = date_differing_terms(connection, context.declared(), until_ms)
    to_look_up, to_decide = _ask_first(connection, context.capabilities, by.now_ms)
    SQL.run(connection, "read_all_again")
    SQL.run(connection, "ask_all", {"now_ms": by.now_ms})
    remember = _begin_anew(connection, incarnation, witness)
    details = {**values, "other_terms": moved} if moved else values
    record(connection, "recover", f"incarnation {incarnation.number}", details, by)
    newest = SQL.run(connection, "newest_sample").scalar_one_or_none()
    last = None if newest is None else int(newest)
    return Recovered(why, from_ms, until_ms, remember.number, to_look_up, to_decide, last, other_terms=moved), remember


def _as_it_was(connection: sa.Connection, number: int) -> Recovered:
    """Return the result of a recovery without lost history.

    If the database was recovered before, the result has the facts of the last recovery.
    """
    last = SQL.run(connection, "last_loss", {"number": number}).one_or_none()
    if last is None:
        return Recovered(None, number=number)
    return Recovered(None, int(last.from_ms), int(last.until_ms), number, recovered_ms=int(last.at_ms))


def _last_before_doubt(connection: sa.Connection, now_ms: int) -> int:
    last = SQL.run(connection, "last_before_doubt").scalar_one_or_none()
    return min(int(last or 0), now_ms)


def _ask_first(connection: sa.Connection, capabilities: Mapping[str, Capabilities], now_ms: int) -> tuple[int, int]:
    """Mark open pushes for a lookup, or for a decision by a person.

    The lost history may have sent these pushes. Return the numbers of both. If this machine lacks a provider, that
    provider's pushes become in doubt. Another machine then looks them up, or a person decides.
    """
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
