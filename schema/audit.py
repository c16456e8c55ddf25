"""The record of people's actions, chained by hashes.

Guarantee: every change by a person is on record with actor and reason, in the transaction that makes it. The hash of a
row covers its content and the hash of the previous row. Rows are chained one transaction after another, so `verify`
finds a row that was changed, removed, inserted or moved. It also finds removed last rows, because a separate row stores
the number of rows and the newest hash. A login that can write both tables can make a new chain. So `verify` prints the
newest hash, and you can store the hash elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.errors import Refused, explain_race
from drawdown.schema.sql import queries
from drawdown.schema.text import counted

SQL = queries(__file__)


@dataclass(frozen=True)
class By:
    """The actor, the moment and the reason of an action, and its channel.

    `via` is one of these channels:

    - `cli`: the command line, or `cli --at` with a given time.
    - `console`: the console.
    - `my`: the pages at /my/ for an organisation's own people.
    - `http`: a request with a key or a signature.
    - `webhook`: a provider's webhook.
    - `program`: a program that calls the functions itself.
    """

    now_ms: int
    actor: str
    reason: str
    via: str = "program"


def record(connection: sa.Connection, action: str, target: str, details: Mapping[str, object], by: By) -> None:
    """Append an action to `operator_actions`."""
    record_many(connection, action, [(target, details)], by)


def record_many(
    connection: sa.Connection,
    action: str,
    done: Sequence[tuple[str, Mapping[str, object]]],
    by: By,
) -> None:
    """Append the same action for many targets, one row each, in one statement."""
    same = {"at_ms": by.now_ms, "action": action, "actor": by.actor, "reason": by.reason, "via": by.via}
    rows = [{"target": target, "details": json.dumps(details, sort_keys=True)} for target, details in done]
    hashes = chained(connection, [{**same, **row} for row in rows])
    actions = [{**row, "hash": found} for row, found in zip(rows, hashes, strict=True)]
    SQL.run(connection, "record_actions", {**same, "actions": actions})


def in_turn(connection: sa.Connection) -> None:
    """Lock the chain, so that transactions that call this run one after another.

    Call it before you add rows of any table that depend on the present rows. A lock of rows cannot replace it, because
    the new rows do not exist yet. The next statement reads the rows of all earlier callers.
    """
    hold(connection)


def require_org(connection: sa.Connection, org_id: str) -> sa.Row[Any]:
    """Return the organisation's row.

    Errors: UnknownId if it does not exist, with the nearest id. Refused if it has samples that a tick has not read yet,
    or if another call just created it.
    """
    from drawdown.schema.tables.orgs import orgs  # imported here because it loads PostgreSQL's dialect

    row = connection.execute(sa.select(orgs).where(orgs.c.org_id == org_id)).one_or_none()
    if row is None:
        if ids.has_samples(connection, org_id):
            raise Refused(
                f"a tick has not registered {org_id}, which has samples. Run `drawdown tick`, then try again. If the "
                "error repeats, run `drawdown sample quarantined`"
            )
        ids.require(connection, ids.ORG, org_id)
        raise Refused(explain_race("organisation", org_id))
    return row


HASHED: Final = ("at_ms", "action", "target", "details", "actor", "reason", "via")
"""The columns that a hash covers, in this order, after the previous hash."""
_AT_ONCE: Final = 1_000
"""Actions that one statement reads to check the hash chain."""
_LAST_ID: Final = (1 << 63) - 1


@dataclass(frozen=True)
class Head:
    """The number of chained rows, and the hash of the newest row.

    The hash is '' for an empty chain.
    """

    actions: int
    hash: str


def hash_after(before: str, row: Mapping[str, object]) -> str:
    """Return the hash of a row after the previous hash: SHA-256 in hex."""
    return sha256(json.dumps([before, *(row[name] for name in HASHED)]).encode()).hexdigest()


def chained(connection: sa.Connection, rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Move the chain's head past these rows, and return their hashes in order.

    The caller must then write the rows in this transaction. The chain is locked, so other transactions cannot write
    rows meanwhile.
    """
    head = hold(connection)
    hashes: list[str] = []
    for row in rows:
        hashes.append(hash_after(hashes[-1] if hashes else head.hash, row))
    SQL.run(
        connection,
        "move_chain_head",
        {"actions": head.actions + len(hashes), "hash": hashes[-1] if hashes else head.hash},
    )
    return hashes


def hold(connection: sa.Connection) -> Head:
    """Lock the chain until this transaction ends, and return its head.

    Other transactions cannot write rows meanwhile. The next statement reads the rows that earlier transactions
    committed.
    """
    return _head(connection, lock="for_update")


def broken(connection: sa.Connection) -> Iterator[str]:
    """Yield the faults of the chain, as text.

    A wrong row is reported once. The next row is checked against the hash that the wrong row has.
    """
    head, before, count = _head(connection), "", 0
    for row in _actions(connection):
        if row["hash"] != hash_after(before, {name: row[name] for name in HASHED}):
            yield (
                f"action {row['action_id']} ({row['action']} of {row['target']}) does not follow the previous action. "
                "Either this action was changed or inserted, or an earlier action was removed or moved"
            )
        before, count = str(row["hash"]), count + 1
    if count != head.actions:
        yield f"the audit log has {counted(count, 'action')}, and its chain counts {head.actions}"
    elif before != head.hash:
        yield "the hash of the last action differs from the newest hash of the chain"


def _actions(connection: sa.Connection) -> Iterator[sa.RowMapping]:
    """Yield all rows on record, in the order of their numbers, a page at a time.

    A row that someone inserted can have any number.
    """
    start = -_LAST_ID - 1
    while start <= _LAST_ID:
        page = SQL.run(connection, "actions", {"from_id": start, "at_most": _AT_ONCE}).mappings().all()
        yield from page
        start = page[-1]["action_id"] + 1 if len(page) == _AT_ONCE else _LAST_ID + 1


def newest(connection: sa.Connection) -> str:
    """Return the newest hash.

    If you store the hash elsewhere, you can detect a record that was chained again.
    """
    return _head(connection).hash


def head(connection: sa.Connection) -> Head:
    """Return the number of chained rows, and the hash of the newest."""
    return _head(connection)


def _head(connection: sa.Connection, lock: str = "") -> Head:
    row = SQL.run(connection, "chain_head", lock=lock).one()
    return Head(int(row.actions), str(row.hash))
