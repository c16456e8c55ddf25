"""Adopt charges that only the provider has, at its quantities (R1, R2).

Guarantee: an adopted push is a further row of the outbox, accepted with evidence. Its window becomes dirty, so that the
next seal makes a push for the difference. That push sends a missing quantity, or gives back a quantity that was charged
twice. Drawdown adopts a charge that the provider lost as a negative quantity.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.providers.protocol import UnitCost
from drawdown.schema.audit import By, record
from drawdown.schema.sql import queries
from drawdown.schema.units import push_key
from drawdown.worker.catalog.costs import as_text
from drawdown.worker.push.rows import PushRow, find_push, find_pushes, window_of_push
from drawdown.worker.push.void import seal_again, void_one
from drawdown.worker.push.wallet_mirror import draw_if_ours
from drawdown.worker.verdict.refresh_requests import mark_for_projection

SQL = queries(__file__)


@dataclass(frozen=True)
class Other:
    """A push that only the provider has.

    `quantity`: in base units.
    """

    revision: int
    wire_key: str
    quantity: int


def adopt_other(connection: sa.Connection, push: PushRow, quantity: int, by: By, cost: UnitCost | None = None) -> None:
    """Void our push, and adopt the provider's push with the same key.

    Call this under S1's lock.

    `quantity`: the quantity of the provider's push, in base units. `cost`: the credits for one base unit; None:
    unknown.

    Errors: Refused if the push is below the floor.
    """
    evidence = f"the provider has {quantity:,} under this key, but Drawdown sent {push.sent_qty:,}"
    void_one(connection, push, by, evidence, "adopted", answered=False)
    _insert(connection, push, quantity, by, evidence, push.wire_key or push.key, credit_cost=as_text(cost))


def adopt_unknown(connection: sa.Connection, push: PushRow, other: Other, by: By) -> None:
    """Adopt a revision of this push's window that only the provider has (R1).

    Call this under S1's lock. The adopted push has the same revision in our outbox as at the provider. If an earlier
    revision is missing here, it was voided or never sent, and this records its void. If our outbox has voided the
    revision, its charge is adopted under the next number. A revision that our outbox already adopted does not change.
    """
    if _is_voided(connection, push, other):
        evidence = f"the provider has {other.quantity:,} under {other.wire_key}, which this database has voided"
        _insert(connection, push, other.quantity, by, evidence, other.wire_key)
        return
    for revision in range(_next_revision(connection, push), other.revision):
        _insert_absent(connection, push, revision, by)
    if _next_revision(connection, push) == other.revision:
        evidence = (
            f"the provider has {other.quantity:,} under {other.wire_key}, and this database does not have that push"
        )
        _insert(connection, push, other.quantity, by, evidence, other.wire_key, revision=other.revision)


def _is_voided(connection: sa.Connection, push: PushRow, other: Other) -> bool:
    """Return True if this revision is voided, and its charge was not adopted.

    If reconcile has adopted an excess since the void, that excess can be the revision's charge.
    """
    key = push_key(str(push.org_id), int(push.window_ms), str(push.feature), other.revision)
    row = find_pushes(connection, [key]).get(key)
    if row is None or row.state != "voided":
        return False
    window = window_of_push(push)
    if SQL.run(connection, "adopted_excess", {**window, "voided_ms": row.settled_ms}).first() is not None:
        return False
    return other.wire_key not in set(SQL.run(connection, "adopted_keys", window).scalars())


def _insert_absent(connection: sa.Connection, push: PushRow, revision: int, by: By) -> None:
    from drawdown.schema.tables.outbox import pushes, voids  # imported here, because it loads PostgreSQL's dialect

    where = {"window_ms": push.window_ms, "org_id": push.org_id, "feature": push.feature, "revision": revision}
    evidence = "the push belongs to the lost history. The provider has a later revision, but not this one"
    connection.execute(
        voids.insert().values(
            **where,
            at_ms=by.now_ms,
            evidence_kind="absent",
            evidence=evidence,
            actor=by.actor,
            reason=by.reason,
            attempts_then=0,
        )
    )
    connection.execute(
        pushes.insert().values(
            **where,
            provider=push.provider,
            customer_id=push.customer_id,
            sealed_qty=0,
            sent_qty=0,
            key=push_key(str(push.org_id), int(push.window_ms), str(push.feature), revision),
            sealed_at_ms=by.now_ms,
            seal_id=push.seal_id,
            state="voided",
            due_at_ms=by.now_ms,
            settled_ms=by.now_ms,
        )
    )


def adopt_excess(
    connection: sa.Connection,
    push: PushRow,
    quantity: int,
    by: By,
    evidence: str,
    *,
    drawn: bool = False,
    credit_cost: str | None = None,
) -> None:
    """Add a push for the difference between a window's charges and its pushes.

    Call this under S1's lock. Drawdown then reads the customer's balance again, because a read since the charge may not
    show the charge.

    `quantity`: the charges minus the pushes, in base units; negative for a lost charge. `drawn`: True if only the
    customer's balance shows the difference, and events do not. `credit_cost`: the credits for one base unit, as a text
    of `as_text` (None: unknown).
    """
    mark_for_projection(connection, [str(push.org_id)], by.now_ms)
    kind = "drawn" if drawn else "excess"
    _insert(connection, push, quantity, by, evidence, None, kind=kind, credit_cost=credit_cost)


def _next_revision(connection: sa.Connection, push: PushRow) -> int:
    return int(SQL.run(connection, "newest_revision", window_of_push(push)).scalar_one()) + 1


def _insert(
    connection: sa.Connection,
    push: PushRow,
    quantity: int,
    by: By,
    evidence: str,
    wire_key: str | None,
    *,
    kind: str = "other",
    revision: int | None = None,
    credit_cost: str | None = None,
) -> None:
    from drawdown.schema.tables.outbox import adoptions, pushes  # imported here as well

    revision = _next_revision(connection, push) if revision is None else revision
    key = push_key(str(push.org_id), int(push.window_ms), str(push.feature), revision)
    where = {"window_ms": push.window_ms, "org_id": push.org_id, "feature": push.feature, "revision": revision}
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    connection.execute(adoptions.insert().values(**where, **person, kind=kind, evidence=evidence))
    whose = {"provider": push.provider, "customer_id": push.customer_id, "seal_id": push.seal_id}
    sums = {"sealed_qty": quantity, "sent_qty": quantity, "credit_cost": credit_cost}
    times = dict.fromkeys(("sealed_at_ms", "due_at_ms", "settled_ms"), by.now_ms)
    connection.execute(
        pushes.insert().values(**where, **whose, **sums, **times, key=key, state="accepted", wire_key=wire_key)
    )
    adopted = find_push(connection, key)
    draw_if_ours(connection, [adopted], by.now_ms)
    seal_again(connection, [push])
    details = {"quantity": quantity, "evidence": evidence, "instead_of": push.key if wire_key else None}
    record(connection, "push_adopt", key, details, by)
