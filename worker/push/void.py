"""Taking back: samples that were wrong, and pushes that never arrived.

Guarantee: nothing is edited. A withdrawal and a void are rows of their own, with who and why; both make the window
dirty, so that the next tick seals the difference (S7, P5). What is unknown is never voided.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.schema import ids
from drawdown.schema.audit import Said, lock_buckets, make_dirty, record, record_many
from drawdown.schema.database import insert_rows, rows_sql
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.schema.tables import withdrawals
from drawdown.schema.units import window_of
from drawdown.worker.history.incarnation import require_whole
from drawdown.worker.history.losses import loss_of, read_losses
from drawdown.worker.push.rows import PLACE, change, find_pushes, newest_unanswered, place_of, require_push
from drawdown.worker.push.wallet_mirror import draw_if_ours, give_back
from drawdown.worker.seal.arrivals import UNSEEN

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

    Errors: Refused, for all of them, where one is unknown, quarantined (it was never billed), below the floor, or of
    a window that was not sealed since history was lost; HistoryDoubted while the database stands still.
    """
    lock_buckets(connection)
    require_whole(connection)
    done = [_withdraw_one(connection, sample_id, said) for sample_id in sample_ids]
    seal_again(connection, [one for one in done if not one.already])  # last: it makes the next one unsealed
    return done


UNSEALED: Final = (
    "SELECT 1 FROM usage_samples s LEFT JOIN orgs o ON o.org_id = s.org_id LEFT JOIN buckets b ON b.id = o.bucket "
    "WHERE s.id = :id AND (b.id IS NULL OR {unseen} "
    "OR s.ts >= COALESCE(o.held_watermark_ms, b.watermark_ms) OR EXISTS (SELECT 1 FROM dirty_windows d "
    "WHERE d.org_id = s.org_id AND d.window_ms = s.ts - s.ts % 300000))"
)


def _is_unsealed(connection: sa.Connection, sample_id: str) -> bool:
    text = UNSEALED.replace("{unseen}", UNSEEN[connection.dialect.name])
    return connection.execute(sa.text(text), {"id": sample_id}).first() is not None


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
        ids.require(connection, ids.SAMPLE, sample_id)
        raise Refused(f"the sample {sample_id} appeared this moment: try again")
    if sample.problem is not None:
        raise Refused(f"the sample {sample_id} is quarantined ({sample.problem}) and was never billed")
    window = window_of(sample.ts)
    found = Withdrawn(sample_id, sample.org_id, window, int(sample.interval_s), sample.withdrawn is not None)
    if found.already:
        return found
    if loss_of(window, read_losses(connection)) and _is_unsealed(connection, sample_id):
        # Without a push of ours its provider would never be asked, and may have billed it (R1).
        raise Refused(
            f"the sample {sample_id} lies in the time whose history was lost, and was not sealed since: withdraw it "
            "after the next tick"
        )
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
    details = {"org_id": sample.org_id, "window_ms": window, "interval_s": int(sample.interval_s)}
    record(connection, "sample_withdraw", sample_id, details, said)
    return found


def seal_again(connection: sa.Connection, what: Sequence[Any]) -> None:
    """Have the differences of windows computed again by the next seal; each of `what` names one."""
    shape = rows_sql(connection, {"org_id": "text", "window_ms": "bigint"})
    rows = [{"org_id": one.org_id, "window_ms": one.window_ms} for one in what]
    make_dirty(connection, f"({shape}) r WHERE 1 = 1", {"rows": json.dumps(rows)})


def void(
    connection: sa.Connection,
    keys: Sequence[str],
    said: Said,
    evidence: str,
    *,
    kind: str = "operator",
    although_accepted: bool = False,
) -> list[str]:
    """Declare that pushes never reached their provider; what they held is owed again under the next revision.
    `although_accepted`: one that its provider had accepted, and has lost since, may be among them.

    Errors: UsageError without evidence; Refused, for all of them, where one is neither rejected nor in doubt, or lies
    below the floor; HistoryDoubted while the database stands still: what it calls unsent may have been sent since (R1).
    """
    if not evidence.strip():
        raise UsageError("a void needs evidence: what shows that the provider does not have this push? (--evidence)")
    lock_buckets(connection)
    require_whole(connection)
    with _all_or_none(keys):
        states = (*_PROVEN, "accepted") if although_accepted else _PROVEN
        chosen = _chosen(connection, keys, states, "only a push that is rejected or in doubt can be voided")
        void_many(connection, chosen, said, [evidence.strip()] * len(chosen), kind)
    return [push.key for push in chosen]


@contextmanager
def _all_or_none(keys: Sequence[str]) -> Iterator[None]:
    """One transaction holds them all, so one that does not fit refuses all; with many, that is worth a word."""
    try:
        yield
    except (Refused, UnknownId) as error:
        if len(keys) > 1:
            error.args = (f"{error}; none of the {len(keys):,} was changed",)
        raise


def _chosen(connection: sa.Connection, keys: Sequence[str], states: Sequence[str], rule: str) -> list[sa.Row[Any]]:
    """The pushes with these keys, each once, held until the transaction ends.

    Errors: Refused where one is not there or in no such state.
    """
    found = find_pushes(connection, keys, hold=True)
    chosen: dict[str, sa.Row[Any]] = {}
    for key in keys:
        push = require_push(connection, found, key)
        if push.state not in states:
            raise Refused(f"{key} is {push.state}: {rule}")
        chosen[push.key] = push
    return list(chosen.values())


def void_one(
    connection: sa.Connection, push: sa.Row[Any], said: Said, evidence: str, kind: str, *, answered: bool = True
) -> None:
    """Void one push, under S1's lock."""
    void_many(connection, [push], said, [evidence], kind, answered=answered)


def void_many(
    connection: sa.Connection,
    chosen: Sequence[Any],
    said: Said,
    evidence: Sequence[str],
    kind: str,
    *,
    answered: bool = True,
) -> None:
    """Void pushes under S1's lock, each with its evidence, in a few statements however many there are. `answered`:
    insist that no attempt of them may still be on its way; a lookup that waited that out has shown it already."""
    if not chosen:
        return
    _require_above_floor(connection, chosen)
    if answered:
        _require_all_answered(connection, chosen, said.now_ms)
    give_back(connection, [push for push in chosen if push.state == "accepted"], said.now_ms)
    person = {"actor": said.actor, "reason": said.reason}
    rows = [
        {**place_of(push), "attempts_then": push.attempts, "evidence": why}
        for push, why in zip(chosen, evidence, strict=True)
    ]
    same = {"at_ms": said.now_ms, "evidence_kind": kind, **person}
    insert_rows(connection, "voids", {**PLACE, "attempts_then": "bigint", "evidence": "text"}, rows, same=same)
    change(connection, chosen, "state = 'voided', settled_ms = :now", said.now_ms)
    _take_from_carries(connection, chosen)
    seal_again(connection, chosen)
    done = [
        (str(push.key), {"evidence": why, "evidence_kind": kind, "was": push.state})
        for push, why in zip(chosen, evidence, strict=True)
    ]
    record_many(connection, "push_void", done, said)


_CARRY: Final = dict.fromkeys(("org_id", "provider", "customer_id", "feature"), "text")


def _take_from_carries(connection: sa.Connection, voided: Sequence[Any]) -> None:
    """S10: the carry is what is sealed and not sent, of pushes that stand."""
    changes: dict[tuple[str, ...], int] = defaultdict(int)
    for push in voided:
        if push.sealed_qty != push.sent_qty:
            changes[tuple(getattr(push, name) for name in _CARRY)] -= push.sealed_qty - push.sent_qty
    if changes:
        insert_rows(
            connection,
            "carries",
            {**_CARRY, "carry_qty": "bigint"},
            [{**dict(zip(_CARRY, whose, strict=True)), "carry_qty": change} for whose, change in changes.items()],
            end=f"ON CONFLICT ({', '.join(_CARRY)}) DO UPDATE SET carry_qty = carries.carry_qty + excluded.carry_qty",
        )


def refuse_late(connection: sa.Connection, push: sa.Row[Any], reason: str, now_ms: int) -> None:
    """A push the provider had taken is refused by it after all: it is rejected, and what it drew is given back. It
    loses its claim: an answer that is still on its way says what held before the refusal, and changes nothing."""
    if push.state == "accepted":
        give_back(connection, [push], now_ms)
    connection.execute(
        sa.text(
            "UPDATE pushes SET state = 'rejected', claim_owner = NULL, settled_ms = :now, last_error = :reason "
            "WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature AND revision = :revision"
        ),
        {**place_of(push), "now": now_ms, "reason": f"refused later: {reason}"[:300]},
    )


def _require_above_floor(connection: sa.Connection, chosen: Sequence[Any]) -> None:
    """S4: below the floor nothing is sealed any more, so what a void takes out would never be owed again."""
    shape = rows_sql(connection, {"org_id": "text"})
    rows = json.dumps([{"org_id": org} for org in sorted({str(push.org_id) for push in chosen})])
    found = connection.execute(
        sa.text(f"SELECT o.org_id, o.floor_ms FROM ({shape}) w JOIN orgs o ON o.org_id = w.org_id"), {"rows": rows}
    )
    floors = {row.org_id: int(row.floor_ms) for row in found}
    for push in chosen:
        if push.window_ms < floors.get(push.org_id, 0):
            raise Refused(
                f"{push.key} lies below the floor of {push.org_id}, where nothing would be sealed in its place: settle "
                "it with the customer, then `drawdown push resolve KEY --accepted --evidence ...`"
            )


def _require_all_answered(connection: sa.Connection, chosen: Sequence[Any], now_ms: int) -> None:
    """An attempt held up on its way may be charged after a later one was rejected; voiding then would bill twice."""
    for push, newest in zip(chosen, newest_unanswered(connection, chosen), strict=True):
        if newest is not None and now_ms - newest < MAY_ARRIVE_MS:
            minutes = -(-(MAY_ARRIVE_MS - now_ms + newest) // 60_000)
            raise Refused(
                f"{push.key}: an attempt whose answer was never seen may still arrive at {push.provider}; "
                f"void it in {minutes} minutes"
            )


def resolve_accepted(connection: sa.Connection, keys: Sequence[str], said: Said, evidence: str) -> list[str]:
    """Declare that the provider has these pushes.

    Errors: UsageError without evidence; Refused, for all of them, where one is settled or was never sent;
    HistoryDoubted while the database stands still.
    """
    if not evidence.strip():
        raise UsageError("say what shows that the provider has this push (--evidence)")
    require_whole(connection)
    rule = "only a push that was sent and is not settled can be resolved"
    with _all_or_none(keys):
        chosen = _chosen(connection, keys, (*_PROVEN, "queued"), rule)
        charged = wallet.read_charges(connection, [push.key for push in chosen if push.provider == "embedded"])
        for push in chosen:
            # One that the provider would never take is rejected unsent: a person may have billed it there by hand.
            if not (push.attempts or push.state == "rejected"):
                raise Refused(f"{push.key} is {push.state}: {rule}")
            if push.provider == "embedded" and push.key not in charged:
                raise Refused(f"{push.key}: the embedded ledger has no such charge, so it is --absent")
    change(connection, chosen, "by_hand = (state = 'rejected'), state = 'accepted', settled_ms = :now", said.now_ms)
    draw_if_ours(connection, chosen, said.now_ms)
    about = {"evidence": evidence.strip(), "outcome": "accepted"}
    done = [(push.key, {**about, "was": push.state}) for push in chosen]
    record_many(connection, "push_resolve", done, said)
    return [push.key for push in chosen]


def retry(connection: sa.Connection, keys: Sequence[str], said: Said) -> list[str]:
    """Send again: waiting pushes at once under their own key; rejected ones are voided, with the provider's rejection
    as evidence, so that the next tick seals them anew.

    Errors: Refused, for all of them, where one is settled or in doubt; HistoryDoubted while the database stands still.
    """
    lock_buckets(connection)
    require_whole(connection)
    with _all_or_none(keys):
        chosen = _chosen(connection, keys, ("due", "rejected"), "only a push that is due or rejected can be sent again")
        rejected = [push for push in chosen if push.state == "rejected"]
        why = [push.last_error or "the provider rejected it" for push in rejected]
        void_many(connection, rejected, said, why, "rejected")
    waiting = [push for push in chosen if push.state == "due"]
    change(connection, waiting, "due_at_ms = :now", said.now_ms)
    done = [(str(push.key), dict[str, object]()) for push in waiting]
    record_many(connection, "push_retry", done, said)
    return [push.key for push in chosen]
