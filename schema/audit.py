"""The audit: the record of people's actions.

Guarantee: every change by a person is on record with actor and reason, in the transaction that makes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit_chain import chained, hold
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class By:
    """When, by whom and why; and through what: the command line (`cli`; `cli --at` where the time was given), a signed
    request (`http`), or a program that calls the functions itself."""

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
    """Of what people add, one after the other: a row that is not there yet cannot be locked. Whoever was first has
    committed, and is seen from the next statement on: what is added is judged by that."""
    hold(connection)


def require_org(connection: sa.Connection, org_id: str) -> sa.Row[Any]:
    """The organisation's row.

    Errors: UnknownId where there is none, with the nearest; Refused where samples name it that no tick has seen yet.
    """
    from drawdown.schema.tables.orgs import orgs  # here: with it comes PostgreSQL's dialect

    row = connection.execute(sa.select(orgs).where(orgs.c.org_id == org_id)).one_or_none()
    if row is None:
        if ids.has_samples(connection, org_id):
            raise Refused(f"{org_id} has usage that no tick has seen yet: run `drawdown tick`, then try again")
        ids.require(connection, ids.ORG, org_id)
        raise Refused(f"{org_id} appeared this moment: try again")
    return row
