"""The audit: the record of people's actions, chained by hashes.

Guarantee: every change by a person is on record with actor and reason, in the transaction that makes it. Each row's
hash is over its content and the hash of the row before it. Rows are chained one transaction after the other, so that a
row that is changed, taken out, put in or moved shows (`verify`). The last rows show too: their number and the newest
hash are kept in a row of their own. A login that may write both tables can chain them again: `verify` prints the newest
hash, so that you can keep it elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class By:
    """The actor, the moment and the reason of an action, and the channel that it came by.

    `via`: the command line (`cli`; `cli --at` if the time was given), a signed request (`http`), or a program that
    calls the functions itself.
    """

    now_ms: int
    actor: str
    reason: str
    via: str = "program"


def record(connection: sa.Connection, action: str, target: str, details: Mapping[str, object], by: By) -> None:
    """Append to `operator_actions`."""
    record_many(connection, action, [(target, details)], by)


def record_many(
    connection: sa.Connection,
    action: str,
    done: Sequence[tuple[str, Mapping[str, object]]],
    by: By,
) -> None:
    """The same done to many targets: a row for each, in one statement."""
    same = {"at_ms": by.now_ms, "action": action, "actor": by.actor, "reason": by.reason, "via": by.via}
    rows = [{"target": target, "details": json.dumps(details, sort_keys=True)} for target, details in done]
    hashes = chained(connection, [{**same, **row} for row in rows])
    actions = [{**row, "hash": found} for row, found in zip(rows, hashes, strict=True)]
    SQL.run(connection, "record_actions", {**same, "actions": actions})


def in_turn(connection: sa.Connection) -> None:
    """Let only one transaction at a time add what follows.

    A row that does not exist yet cannot be locked. An earlier transaction has committed, so the next statement reads
    its rows and can judge by them.
    """
    hold(connection)


def require_org(connection: sa.Connection, org_id: str) -> sa.Row[Any]:
    """Return the organisation's row.

    Errors: UnknownId if there is none, with the nearest; Refused if samples name it that no tick has seen yet.
    """
    from drawdown.schema.tables.orgs import orgs  # here: with it comes PostgreSQL's dialect

    row = connection.execute(sa.select(orgs).where(orgs.c.org_id == org_id)).one_or_none()
    if row is None:
        if ids.has_samples(connection, org_id):
            raise Refused(f"{org_id} has usage that no tick has seen yet. Run `drawdown tick`, then try again")
        ids.require(connection, ids.ORG, org_id)
        raise Refused(f"{org_id} was just created. Try again")
    return row


HASHED: Final = ("at_ms", "action", "target", "details", "actor", "reason", "via")
"""The columns that a hash is over, in this order, after the hash before it."""
_AT_ONCE: Final = 1_000
"""Actions that one statement adds to the hash chain."""
_LAST_ID: Final = (1 << 63) - 1


@dataclass(frozen=True)
class Head:
    """The number of chained rows, and the newest one's hash; '' for an empty chain."""

    actions: int
    hash: str


def hash_after(before: str, row: Mapping[str, object]) -> str:
    """SHA-256 in hex."""
    return sha256(json.dumps([before, *(row[name] for name in HASHED)]).encode()).hexdigest()


def chained(connection: sa.Connection, rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the hashes of rows that are written next, in their order. No other transaction can write any meanwhile."""
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

    No other transaction can write a row meanwhile. The next statement reads what earlier transactions committed.
    """
    return _head(connection, lock="for_update")


def broken(connection: sa.Connection) -> Iterator[str]:
    """Return the faults of the chain, in words. A wrong row is reported once; the rows after it are judged again."""
    head, before, count = _head(connection), "", 0
    for row in _actions(connection):
        if row["hash"] != hash_after(before, {name: row[name] for name in HASHED}):
            yield (
                f"action {row['action_id']} ({row['action']} of {row['target']}) does not follow the one before it: "
                "it was changed or inserted, or one before it was removed or moved"
            )
        before, count = str(row["hash"]), count + 1
    if count != head.actions:
        yield f"{count} actions are on record, and there were {head.actions}"
    elif before != head.hash:
        yield "the last recorded action is not the newest one"


def _actions(connection: sa.Connection) -> Iterator[sa.RowMapping]:
    """Yield all rows on record, in their order, a page at a time. A number may be any: a row may have been put in."""
    start = -_LAST_ID - 1
    while start <= _LAST_ID:
        page = SQL.run(connection, "actions", {"from_id": start, "at_most": _AT_ONCE}).mappings().all()
        yield from page
        start = page[-1]["action_id"] + 1 if len(page) == _AT_ONCE else _LAST_ID + 1


def newest(connection: sa.Connection) -> str:
    """The newest hash: kept elsewhere, it shows a record that was chained again."""
    return _head(connection).hash


def head(connection: sa.Connection) -> Head:
    """Return the number of chained rows, and the newest one's hash."""
    return _head(connection)


def _head(connection: sa.Connection, lock: str = "") -> Head:
    row = SQL.run(connection, "chain_head", lock=lock).one()
    return Head(int(row.actions), str(row.hash))
