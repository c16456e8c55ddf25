"""Recover: go on after the database was restored, or lost commits in a failover (rule R1).

Guarantee: nothing of a window from before the loss is sent before its provider was asked for it. What the provider has
is accepted, or adopted at its quantity; the seal makes the rest from the samples. So what was billed and forgotten is
not billed again, and what was not billed is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema.audit import Said, record
from drawdown.schema.errors import UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import Recall, Remember, Steps, Transaction, Witness
from drawdown.worker.history.incarnation import Incarnation, present, recognise


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
    """Open pushes of providers that cannot be asked: a person decides (`drawdown push resolve`)."""
    last_sample_ms: int | None = None
    """The newest sample that is there: what hosts wrote since has to be written again."""


def recover(
    context: Context, said: Said, *, since_ms: int | None = None, restored: bool = False, dry_run: bool = False
) -> Steps[Recovered]:
    """Take the database as it is now for the one to go on with. The next ticks look up and settle.

    `since_ms`: the backup's moment, where a person knows it to be earlier than the last tick on record. `restored`: a
    person says that history was lost, though nothing here shows it.
    Errors: UsageError for a moment that is not in the past.
    """
    if since_ms is not None and since_ms > said.now_ms:
        raise UsageError("--since lies in the future: it is the moment that the backup was made")
    witness: Witness | None = yield Recall()
    work = partial(_recover, context=context, said=said, witness=witness, since_ms=since_ms, restored=restored)
    found, remember = yield Transaction("recover", work, rollback=dry_run)
    if found.found is not None and not dry_run:
        yield Remember(remember)
    done: Recovered = found
    return done


def _recover(
    connection: sa.Connection,
    *,
    context: Context,
    said: Said,
    witness: Witness | None,
    since_ms: int | None,
    restored: bool,
) -> tuple[Recovered, Witness | None]:
    lock_buckets(connection)
    known = recognise(connection, witness, said.now_ms)
    why = known.doubted or ("a person says so" if restored else None)
    if why is None:
        return Recovered(None, number=known.number), None
    from_ms = _last_known(connection, said.now_ms)
    from_ms = from_ms if since_ms is None else min(from_ms, since_ms)
    # A process that claimed before the loss may still be sending what it claimed.
    until_ms = said.now_ms + LEASE_MS
    values = {"number": known.number, "from_ms": from_ms, "until_ms": until_ms, "at_ms": said.now_ms, "found": why}
    connection.execute(sa.text(KEEP), {**values, "actor": said.actor, "reason": said.reason})
    to_look_up, to_decide = _ask_first(connection, context.capabilities, said.now_ms)
    connection.execute(sa.text(READ_ALL_AGAIN))
    connection.execute(sa.text(ASK_ALL), {"now": said.now_ms})
    remember = _begin_anew(connection, known, witness)
    record(connection, "recover", f"incarnation {known.number}", values, said)
    newest = connection.execute(sa.text("SELECT MAX(ts) FROM usage_samples WHERE problem IS NULL")).scalar_one_or_none()
    last = None if newest is None else int(newest)
    return Recovered(why, from_ms, until_ms, remember.number, to_look_up, to_decide, last), remember


# Ticks that found the doubt, and those after them, belong to the time after the loss: by their order, for one host's
# clock may be behind another's. When they began: one that lives through a restore ends after it.
LAST_KNOWN: Final = """
SELECT MAX(started_ms) FROM ticks
WHERE tick_id <= COALESCE((SELECT doubted_after_tick FROM incarnation), tick_id)
"""
KEEP: Final = """
INSERT INTO losses (number, from_ms, until_ms, at_ms, seal_id, found, actor, reason)
VALUES (:number, :from_ms, :until_ms, :at_ms, (SELECT COALESCE(MAX(seal_id), 0) FROM seals), :found, :actor, :reason)
"""
# S2: arrivals are counted by the database itself, which counts anew. Reading all of them again only costs time.
READ_ALL_AGAIN: Final = "UPDATE buckets SET cursor = 0, epoch = epoch + 1"
ASK_ALL: Final = """
UPDATE orgs SET projection_due_ms = :now, projection_asks = projection_asks + 1
WHERE billing_provider NOT IN ('legacy', 'none')
"""
OPEN: Final = """
UPDATE pushes SET state = :state, due_at_ms = :now, claim_owner = NULL, settled_ms = NULL,
    last_error = 'it may have been sent in the history that was lost: it is looked up first'
WHERE provider = :provider AND state IN ('due', 'queued', 'in_doubt', 'rejected')
    AND (state IN ('due', 'queued') OR (state = 'rejected' AND :state = 'queued'))
"""


def _last_known(connection: sa.Connection, now_ms: int) -> int:
    last = connection.execute(sa.text(LAST_KNOWN)).scalar_one_or_none()
    return min(int(last or 0), now_ms)


def _ask_first(connection: sa.Connection, capabilities: Mapping[str, Capabilities], now_ms: int) -> tuple[int, int]:
    """What is open may have been sent since: it is looked up, or a person decides."""
    to_look_up = to_decide = 0
    providers = connection.execute(
        sa.text("SELECT DISTINCT provider FROM pushes WHERE state IN ('due', 'queued', 'in_doubt', 'rejected')")
    ).scalars()
    for provider in sorted(providers):
        can = capabilities.get(provider)
        if can is not None and can.same_database:
            continue
        asks = can is None or can.lookup
        values = {"provider": provider, "now": now_ms, "state": "queued" if asks else "in_doubt"}
        changed = connection.execute(sa.text(OPEN), values).rowcount
        to_look_up += changed if asks else 0
        to_decide += 0 if asks else changed
    return to_look_up, to_decide


def _begin_anew(connection: sa.Connection, known: Incarnation, witness: Witness | None) -> Witness:
    ours = witness is not None and witness.database_id == known.database_id
    before = (witness.number, witness.sends) if ours and witness else (0, 0)
    number, sends = max(known.number, before[0]) + 1, max(known.sends, before[1])
    system, timeline = known.server
    connection.execute(
        sa.text(
            "UPDATE incarnation SET number = :number, sends = :sends, system_id = :system, timeline = :timeline, "
            "doubted_ms = NULL, doubted_reason = NULL, doubted_after_tick = NULL"
        ),
        {"number": number, "sends": sends, "system": system, "timeline": timeline},
    )
    return present(connection)
