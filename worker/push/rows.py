"""Find pushes by key, change many in one statement, and build their requests.

Guarantee: for any number of pushes, each read and each change is one statement. Pushes are found by the primary key of
the outbox, because the text of keys does not have an index. The same row always makes the same request bytes (P2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities, PushRequest
from drawdown.schema import ids
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, MINUTE_MS, OWN_MINUTES, PUSH_ID, parse_push_key

PUSH: Final = ids.Kind("push", (), "drawdown push list")
SQL = queries(__file__)

Row: TypeAlias = sa.Row[tuple[object, ...]]
PushRow: TypeAlias = Row
"""A row of `pushes`, with or without more columns."""


def push_id_of(push: Row) -> dict[str, object]:
    """Return the primary key of the push that a row is about."""
    return {name: getattr(push, name) for name in PUSH_ID}


def window_of_push(push: Row) -> dict[str, object]:
    """Return the window, organisation and feature of the push that a row is about."""
    return {"window_ms": push.window_ms, "org_id": push.org_id, "feature": push.feature}


def was_sent_before(push: PushRow, since_ms: int) -> bool:
    """Return True if a push was first sent before a time.

    An example of the time is the start of its provider's names and units. If the time of the first send is unknown, the
    time of the seal counts.
    """
    sent_ms = push.sealed_at_ms if push.first_attempt_ms is None else push.first_attempt_ms
    return int(sent_ms) < since_ms


def find_push(connection: sa.Connection, key: str) -> PushRow:
    """Return the push with a key, `usage:{org}:{window}:{feature}[:rN]`.

    Errors: UnknownId if it does not exist; Refused if `push fold` replaced the pushes of its day with daily sums.
    """
    return require_push(connection, find_pushes(connection, [key]), key)


def require_push(connection: sa.Connection, found: dict[str, PushRow], key: str) -> PushRow:
    """Return the push with a key from those that were read.

    Errors: UnknownId if it does not exist, with the nearest keys; Refused if `push fold` replaced the pushes of its day
    with daily sums.
    """
    if key not in found:
        _require_unfolded(connection, key)
        raise ids.unknown(PUSH, key, _around(connection, key))
    return found[key]


def _require_unfolded(connection: sa.Connection, key: str) -> None:
    push_id = parse_push_key(key)
    if push_id is None:
        return
    window_ms = int(push_id["window_ms"])
    where = {"day_ms": window_ms - window_ms % DAY_MS, "org_id": push_id["org_id"], "feature": push_id["feature"]}
    if SQL.run(connection, "folded", where).first() is not None:
        raise Refused(
            f"unknown push {key}: `drawdown push fold` replaced the pushes of its day with daily sums. To see the "
            "sums, run `drawdown usage ORG --from DAY --to DAY`. The ledger keeps a charge under the push's key"
        )


def _around(connection: sa.Connection, key: str) -> list[str]:
    """Return the keys on either side of this key.

    If this key is invalid, return the newest keys.
    """
    push_id = parse_push_key(key) or {"window_ms": 2**62, "org_id": "", "feature": "", "revision": 0}
    values = {**push_id, "at_most": ids.NEIGHBOURS}
    return [str(near) for side in ("keys_from", "keys_before") for near in SQL.run(connection, side, values).scalars()]


def find_pushes(connection: sa.Connection, keys: Iterable[str], *, hold: bool = False) -> dict[str, PushRow]:
    """Return the existing pushes among these keys, by key.

    `hold`: lock the pushes until the transaction ends. Without the lock, a push that is accepted meanwhile could be
    voided as if it were still in doubt.
    """
    push_ids = {key: push_id for key in keys if (push_id := parse_push_key(key)) is not None}
    values = {"push_ids": list(push_ids.values())}
    rows = SQL.run(connection, "find_pushes", values, held="hold_push" if hold else "")
    by_id = {tuple(push_id_of(row).values()): row for row in rows}
    return {key: by_id[where] for key, push_id in push_ids.items() if (where := tuple(push_id.values())) in by_id}


def change(
    connection: sa.Connection, rows: Sequence[Row], to: Literal["to_voided", "to_accepted", "to_due"], now_ms: int
) -> None:
    """Change the delivery state of pushes."""
    SQL.run(connection, "change", {"push_ids": [push_id_of(row) for row in rows], "now_ms": now_ms}, to=to)


def newest_unanswered(connection: sa.Connection, rows: Sequence[Row]) -> list[int | None]:
    """Return when the newest unanswered attempt of each push began.

    The times are in milliseconds. None: the push does not have an unanswered attempt.
    """
    found = SQL.run(connection, "newest_unanswered", {"push_ids": [push_id_of(row) for row in rows]})
    newest = {tuple(push_id_of(row).values()): int(row.newest_ms) for row in found}
    return [newest.get(tuple(push_id_of(row).values())) for row in rows]


def wire_key(key: str, capabilities: Capabilities) -> str:
    """Return a push's key at the provider: the key, or its hash if it is too long."""
    if capabilities.max_key_chars is None or len(key) <= capabilities.max_key_chars:
        return key
    return f"usage:{hashlib.sha256(key.encode()).hexdigest()}"


def dated(window_ms: int, revision: int) -> int:
    """Return the time of a push at its provider.

    It is in the middle of a minute of the push's window, so that any sum over the window includes the push.
    """
    return window_ms + min(revision, OWN_MINUTES) * MINUTE_MS + MINUTE_MS // 2


def request_of(row: sa.Row[tuple[object, ...]], capabilities: Capabilities) -> PushRequest:
    """Return the request to send, or to look up, for a row of `pushes`."""
    key = row.wire_key or wire_key(row.key, capabilities)
    ts = dated(row.window_ms, row.revision)
    return PushRequest(key, row.customer_id, row.feature, row.sent_qty, ts, row.attempts)


def plan(connection: sa.Connection, *ways: str) -> None:
    """Make PostgreSQL plan the next statements in these ways.

    `ways`: names of statements that change settings of PostgreSQL's planner. Without these settings, old statistics
    decide the plan.
    """
    for way in ways if connection.dialect.name == "postgresql" else ():
        SQL.run(connection, way)
