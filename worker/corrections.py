"""Taking back: samples that were wrong, and pushes that never arrived.

Guarantee: nothing is edited. A withdrawal and a void are rows of their own, with who and why; both make the window
dirty, so that the next tick seals the difference (S7, P5). What is unknown is never voided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.tables import pushes, voids, withdrawals
from drawdown.schema.units import window_of
from drawdown.worker.actions import lock_buckets, record
from drawdown.worker.mirror import draw_if_ours, give_back
from drawdown.worker.orgs import Said

_PROVEN = ("rejected", "in_doubt")

MAY_ARRIVE_MS: Final = 3_600_000
"""How long an attempt whose answer was never seen may still reach the provider, and be charged there (P5)."""


@dataclass(frozen=True)
class Withdrawn:
    """One sample taken out; `already` where it had been before."""

    sample_id: str
    org_id: str
    window_ms: int
    interval_s: int
    already: bool


def withdraw(connection: sa.Connection, sample_ids: Sequence[str], said: Said) -> list[Withdrawn]:
    """Declare samples wrong; each takes its whole sample out of what is owed.

    Errors: Refused, for all of them, where one is unknown, quarantined (it was never billed) or below the floor.
    """
    lock_buckets(connection)
    return [_withdraw_one(connection, sample_id, said) for sample_id in sample_ids]


def _withdraw_one(connection: sa.Connection, sample_id: str, said: Said) -> Withdrawn:
    sample = connection.execute(
        sa.text(
            "SELECT s.org_id, s.ts, s.memory_mb, s.interval_s, s.problem, COALESCE(o.floor_ms, 0) AS floor_ms, "
            "w.sample_id AS withdrawn FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id "
            "LEFT JOIN withdrawals w ON w.sample_id = s.id WHERE s.id = :id"
        ),
        {"id": sample_id},
    ).one_or_none()
    if sample is None:
        raise Refused(f"there is no sample {sample_id}")
    if sample.problem is not None:
        raise Refused(f"the sample {sample_id} is quarantined ({sample.problem}) and was never billed")
    window = window_of(sample.ts)
    found = Withdrawn(sample_id, sample.org_id, window, int(sample.interval_s), sample.withdrawn is not None)
    if found.already:
        return found
    if sample.ts < sample.floor_ms:
        raise Refused(f"the sample {sample_id} lies below the floor of {sample.org_id}: its window is closed for good")
    connection.execute(
        withdrawals.insert().values(
            sample_id=sample_id,
            org_id=sample.org_id,
            ts=sample.ts,
            memory_mb=sample.memory_mb,
            interval_s=int(sample.interval_s),
            at_ms=said.now_ms,
            actor=said.actor,
            reason=said.reason,
        )
    )
    make_dirty(connection, sample.org_id, window)
    details = {"org_id": sample.org_id, "window_ms": window, "interval_s": int(sample.interval_s)}
    record(connection, "sample_withdraw", sample_id, details, now_ms=said.now_ms, actor=said.actor, reason=said.reason)
    return found


def make_dirty(connection: sa.Connection, org_id: str, window_ms: int) -> None:
    """Have the difference of a window computed again by the next seal."""
    connection.execute(
        sa.text("INSERT INTO dirty_windows (org_id, window_ms) VALUES (:org, :window) ON CONFLICT DO NOTHING"),
        {"org": org_id, "window": window_ms},
    )


def find_push(connection: sa.Connection, key: str) -> sa.Row[Any]:
    """The push with a key, `usage:{org}:{window}:{feature}[:rN]`.

    Errors: Refused where there is none.
    """
    parts = key.split(":")
    revision = 0
    if len(parts) > 4 and parts[-1].startswith("r") and parts[-1][1:].isdigit() and parts[-3].isdigit():
        revision = int(parts.pop()[1:])
    row = None
    # No key holds a number that a column could not.
    if len(parts) >= 4 and parts[0] == "usage" and parts[-2].isdigit() and len(parts[-2]) < 17 and revision < 2**31:
        row = connection.execute(
            sa.select(pushes).where(
                pushes.c.window_ms == int(parts[-2]),
                pushes.c.org_id == ":".join(parts[1:-2]),
                pushes.c.feature == parts[-1],
                pushes.c.revision == revision,
            )
        ).one_or_none()
    if row is None:
        raise Refused(f"there is no push {key}; `drawdown push list` shows those that are open")
    return row


def void(
    connection: sa.Connection, keys: Sequence[str], said: Said, evidence: str, *, kind: str = "operator"
) -> list[str]:
    """Declare that pushes never reached their provider; what they held is owed again under the next revision.

    Errors: UsageError without evidence; Refused, for all of them, where one is neither rejected nor in doubt.
    """
    if not evidence.strip():
        raise UsageError("a void needs evidence: what shows that the provider does not have this push? (--evidence)")
    lock_buckets(connection)
    for key in keys:
        push = find_push(connection, key)
        if push.state not in _PROVEN:
            raise Refused(f"{key} is {push.state}: only a push that is rejected or in doubt can be voided")
        void_one(connection, push, said, evidence.strip(), kind)
    return list(keys)


def void_one(
    connection: sa.Connection, push: sa.Row[Any], said: Said, evidence: str, kind: str, *, answered: bool = True
) -> None:
    """Void one push, under S1's lock. `answered`: insist that no attempt of it may still be on its way; a lookup that
    waited that out has shown it already."""
    where = {name: getattr(push, name) for name in ("window_ms", "org_id", "feature", "revision")}
    if answered:
        _require_all_answered(connection, push, where, said.now_ms)
    if push.state == "accepted":
        give_back(connection, push, said.now_ms)
    connection.execute(
        voids.insert().values(
            **where, at_ms=said.now_ms, evidence_kind=kind, evidence=evidence, actor=said.actor, reason=said.reason
        )
    )
    connection.execute(
        sa.text(
            "UPDATE pushes SET state = 'voided', settled_ms = :now WHERE window_ms = :window_ms AND org_id = :org_id "
            "AND feature = :feature AND revision = :revision"
        ),
        {**where, "now": said.now_ms},
    )
    if push.sealed_qty != push.sent_qty:  # S10: the carry is what is sealed and not sent, of pushes that stand
        connection.execute(
            sa.text(
                "INSERT INTO carries (org_id, provider, customer_id, feature, carry_qty) "
                "VALUES (:org, :provider, :customer, :feature, -CAST(:change AS BIGINT)) "
                "ON CONFLICT (org_id, provider, customer_id, feature) "
                "DO UPDATE SET carry_qty = carries.carry_qty + excluded.carry_qty"
            ),
            {
                "change": push.sealed_qty - push.sent_qty,
                "org": push.org_id,
                "provider": push.provider,
                "customer": push.customer_id,
                "feature": push.feature,
            },
        )
    make_dirty(connection, push.org_id, push.window_ms)
    details = {"evidence": evidence, "evidence_kind": kind, "was": push.state}
    record(connection, "push_void", push.key, details, now_ms=said.now_ms, actor=said.actor, reason=said.reason)


def refuse_late(connection: sa.Connection, push: sa.Row[Any], reason: str, now_ms: int) -> None:
    """A push the provider had taken is refused by it after all: it is rejected, and what it drew is given back."""
    if push.state == "accepted":
        give_back(connection, push, now_ms)
    connection.execute(
        sa.text(
            "UPDATE pushes SET state = 'rejected', settled_ms = :now, last_error = :reason "
            "WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND revision = :revision"
        ),
        {
            **{name: getattr(push, name) for name in ("window_ms", "org_id", "feature", "revision")},
            "now": now_ms,
            "reason": f"refused later: {reason}"[:300],
        },
    )


def _require_all_answered(connection: sa.Connection, push: sa.Row[Any], where: dict[str, Any], now_ms: int) -> None:
    """An attempt held up on its way may be charged after a later one was rejected; voiding then would bill twice."""
    newest = connection.execute(
        sa.text(
            "SELECT MAX(started_ms) FROM attempts WHERE window_ms = :window_ms AND org_id = :org_id "
            "AND feature = :feature AND revision = :revision AND (outcome IS NULL OR outcome = 'unknown')"
        ),
        where,
    ).scalar_one_or_none()
    if newest is not None and now_ms - int(newest) < MAY_ARRIVE_MS:
        minutes = -(-(MAY_ARRIVE_MS - now_ms + int(newest)) // 60_000)
        raise Refused(
            f"{push.key}: an attempt whose answer was never seen may still arrive at {push.provider}; "
            f"void it in {minutes} minutes"
        )


def resolve_accepted(connection: sa.Connection, keys: Sequence[str], said: Said, evidence: str) -> list[str]:
    """Declare that the provider has these pushes.

    Errors: UsageError without evidence; Refused, for all of them, where one is settled or was never sent.
    """
    if not evidence.strip():
        raise UsageError("say what shows that the provider has this push (--evidence)")
    for key in keys:
        push = find_push(connection, key)
        # One that the provider would never take is rejected unsent: a person may have billed it there by hand.
        if push.state not in (*_PROVEN, "queued") or not (push.attempts or push.state == "rejected"):
            raise Refused(f"{key} is {push.state}: only a push that was sent and is not settled can be resolved")
        if push.provider == "embedded" and wallet.read_charge(connection, push.key) is None:
            raise Refused(f"{key}: the embedded ledger has no such charge, so it is --absent")
        connection.execute(
            pushes.update()
            .where(
                pushes.c.window_ms == push.window_ms,
                pushes.c.org_id == push.org_id,
                pushes.c.feature == push.feature,
                pushes.c.revision == push.revision,
            )
            .values(state="accepted", settled_ms=said.now_ms)
        )
        draw_if_ours(connection, push, said.now_ms)
        details = {"evidence": evidence.strip(), "was": push.state, "outcome": "accepted"}
        record(connection, "push_resolve", key, details, now_ms=said.now_ms, actor=said.actor, reason=said.reason)
    return list(keys)


def retry(connection: sa.Connection, keys: Sequence[str], said: Said) -> list[str]:
    """Send again: waiting pushes at once under their own key; rejected ones are voided, with the provider's rejection
    as evidence, so that the next tick seals them anew.

    Errors: Refused, for all of them, where one is settled or in doubt.
    """
    lock_buckets(connection)
    for key in keys:
        push = find_push(connection, key)
        if push.state == "rejected":
            void_one(connection, push, said, push.last_error or "the provider rejected it", "rejected")
        elif push.state == "due":
            connection.execute(
                pushes.update()
                .where(
                    pushes.c.window_ms == push.window_ms,
                    pushes.c.org_id == push.org_id,
                    pushes.c.feature == push.feature,
                    pushes.c.revision == push.revision,
                )
                .values(due_at_ms=said.now_ms)
            )
            record(connection, "push_retry", key, {}, now_ms=said.now_ms, actor=said.actor, reason=said.reason)
        else:
            raise Refused(f"{key} is {push.state}: only a push that is due or rejected can be sent again")
    return list(keys)
