"""Adopt: take over what the provider was found to have, at the provider's quantity (R1, R2).

Guarantee: an adopted push is one more row of the outbox, accepted with evidence; its window becomes dirty, so that the
next seal computes the difference: what is missing is sent, what was charged twice is given back.
"""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.tables import adoptions, pushes
from drawdown.schema.units import push_key
from drawdown.worker.actions import record
from drawdown.worker.corrections import find_push, make_dirty, void_one
from drawdown.worker.mirror import draw_if_ours
from drawdown.worker.orgs import Said


def adopt_other(connection: sa.Connection, push: sa.Row[tuple[object, ...]], quantity: int, said: Said) -> None:
    """The provider has this push's key at another quantity. Ours is voided, theirs takes its place, under S1's lock."""
    evidence = f"the provider has {quantity:,} under this key, not {push.sent_qty:,}"
    void_one(connection, push, said, evidence, "adopted", answered=False)
    _insert(connection, push, quantity, said, evidence, push.wire_key or push.key)


def adopt_excess(
    connection: sa.Connection,
    push: sa.Row[tuple[object, ...]],
    quantity: int,
    said: Said,
    evidence: str,
    *,
    drawn: bool = False,
) -> None:
    """The provider charged `quantity` more in this push's window than was pushed, under S1's lock. `drawn`: its balance
    says so alone, and none of its events does."""
    _insert(connection, push, quantity, said, evidence, None, kind="drawn" if drawn else "excess")


def _insert(
    connection: sa.Connection,
    push: sa.Row[tuple[object, ...]],
    quantity: int,
    said: Said,
    evidence: str,
    known_as: str | None,
    *,
    kind: str = "other",
) -> None:
    where = {"window_ms": push.window_ms, "org_id": push.org_id, "feature": push.feature}
    revision = 1 + int(
        connection.execute(
            sa.text(
                "SELECT MAX(revision) FROM pushes WHERE window_ms = :window_ms AND org_id = :org_id "
                "AND feature = :feature"
            ),
            where,
        ).scalar_one()
    )
    key = push_key(str(push.org_id), int(push.window_ms), str(push.feature), revision)
    connection.execute(
        adoptions.insert().values(
            **where,
            revision=revision,
            at_ms=said.now_ms,
            kind=kind,
            evidence=evidence,
            actor=said.actor,
            reason=said.reason,
        )
    )
    connection.execute(
        pushes.insert().values(
            **where,
            revision=revision,
            provider=push.provider,
            customer_id=push.customer_id,
            sealed_qty=quantity,
            sent_qty=quantity,
            key=key,
            sealed_at_ms=said.now_ms,
            seal_id=push.seal_id,
            state="accepted",
            due_at_ms=said.now_ms,
            settled_ms=said.now_ms,
            wire_key=known_as,
        )
    )
    adopted = find_push(connection, key)
    draw_if_ours(connection, adopted, said.now_ms)
    make_dirty(connection, str(push.org_id), int(push.window_ms))
    details = {"quantity": quantity, "evidence": evidence, "instead_of": push.key if known_as else None}
    record(connection, "push_adopt", key, details, now_ms=said.now_ms, actor=said.actor, reason=said.reason)
