"""Cancel pushes: a wrong push is undone at its provider, then voided here.

Guarantee: the provider is asked only after the intent is committed (rule P1), and a push is voided only once the
provider has confirmed (rule P5). `intend` puts the push in doubt. Until the command ends, the push counts as neither
accepted nor absent: nothing is sent in its place, `status` and `push list` show it, and ticks look it up from an hour
on. A process can die between the two transactions, or an answer can be lost. Then there are three ways on, and none
loses money:

- The command runs again. The provider cancels by identifier, so it does no more than once, and the push is voided.
- The look-up finds the push: the cancellation did not happen. The push is accepted again at its quantity.
- The look-up does not find the push: a tick voids it once the provider could no longer apply it, and it is owed again.

The provider may confirm and then fail to do it: then its totals are higher than ours, and reconcile shows it (R2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Cancelled, Capabilities, PushRequest, ReadFailed
from drawdown.schema.audit import By, record_many
from drawdown.schema.clock import utc
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.units import SECOND_MS
from drawdown.worker.history.incarnation import require_whole
from drawdown.worker.push.rows import PushRow, find_pushes, request_of, require_push
from drawdown.worker.push.void import put_in_doubt, refusals, void_many

SQL = queries(__file__)

MAX_KEYS: Final = 100
"""Of one command: the provider is asked about one after the other."""
CANCELLING: Final = (
    "cancelling it there: not confirmed yet; run `drawdown push cancel` for it again, or let it be looked up"
)


@dataclass(frozen=True)
class Intent:
    """One push that is to be cancelled, and the request that names it there."""

    key: str
    provider: str
    request: PushRequest


def intend(
    connection: sa.Connection, keys: Sequence[str], by: By, capabilities: Mapping[str, Capabilities]
) -> list[Intent]:
    """Write down that pushes are to be cancelled, each once. `capabilities`: of the providers that can be asked now.

    Errors: UsageError without a reason or for too many keys; Refused, for all of them, where one cannot be cancelled;
    HistoryDoubted while the database stands still.
    """
    if not by.reason.strip() or by.reason == "not given":
        raise UsageError("push cancel: no reason was given. Pass --reason 'why these pushes are wrong'")
    chosen = list(dict.fromkeys(keys))
    if len(chosen) > MAX_KEYS:
        raise UsageError(f"push cancel: {len(chosen):,} keys are more than {MAX_KEYS}. Run it for {MAX_KEYS} at a time")
    lock_buckets(connection)
    require_whole(connection)
    found = find_pushes(connection, chosen, hold=True)
    pushes = [require_push(connection, found, key) for key in chosen]
    before = set(SQL.run(connection, "asked_before", {"keys": [{"key": push.key} for push in pushes]}).scalars())
    for push in pushes:
        _require_cancellable(push, capabilities.get(str(push.provider)), push.key in before, by.now_ms)
    for refusal in refusals(connection, pushes, by.now_ms):
        raise Refused(refusal.text)
    for push in pushes:
        put_in_doubt(connection, push, CANCELLING, by.now_ms)
    done = [(str(push.key), {"was": push.state, "provider": push.provider}) for push in pushes]
    record_many(connection, "push_cancel", done, by)
    return [
        Intent(str(push.key), str(push.provider), request_of(push, capabilities[str(push.provider)])) for push in pushes
    ]


def _require_cancellable(push: PushRow, can: Capabilities | None, asked_before: bool, now_ms: int) -> None:
    """Errors: Refused."""
    failed = f"cancel {push.key}"
    if can is None:
        raise Refused(f"{failed}: {push.provider} cannot be asked now. See `drawdown provider list`")
    if can.cancel_within_ms is None:
        raise Refused(
            f"{failed}: {push.provider} cannot cancel a push. Withdraw its samples (`drawdown sample withdraw`), and "
            "the next tick gives back what it charged"
        )
    if push.state != "accepted" and not (push.state == "in_doubt" and asked_before):
        raise Refused(f"{failed}: it is {push.state}, and only an accepted push can be cancelled. {_next_step(push)}")
    sent_ms = push.first_attempt_ms
    if sent_ms is None or now_ms - sent_ms > can.cancel_within_ms:
        since = "at an unknown time" if sent_ms is None else f"at {utc(sent_ms)}"
        hours = can.cancel_within_ms // (3_600 * SECOND_MS)
        raise Refused(
            f"{failed}: it was sent {since}, and {push.provider} cancels within {hours} hours. Withdraw its samples "
            "(`drawdown sample withdraw`), and the next tick gives back what it charged"
        )


def _next_step(push: PushRow) -> str:
    if push.state in ("rejected", "in_doubt"):
        return f"See `drawdown push resolve {push.key}`"
    return f"See `drawdown push show {push.key}`"


@dataclass(frozen=True)
class CancelReport:
    """What came of it, by key: voided now, voided before by another, and not confirmed, with the reason."""

    voided: list[str]
    before: list[str]
    unconfirmed: dict[str, str]


def conclude(
    connection: sa.Connection, asked: Sequence[Intent], answers: Sequence[Cancelled | ReadFailed], by: By
) -> CancelReport:
    """Void what the provider has cancelled; all else stays in doubt, and is looked up.

    Errors: HistoryDoubted while the database stands still.
    """
    lock_buckets(connection)
    require_whole(connection)
    evidence = {
        intent.key: answer.evidence
        for intent, answer in zip(asked, answers, strict=True)
        if isinstance(answer, Cancelled)
    }
    found = find_pushes(connection, evidence, hold=True)
    # One that a look-up accepted meanwhile was looked up before the provider had worked the cancellation off.
    chosen = [push for push in found.values() if push.state in ("in_doubt", "accepted")]
    why = [f"cancelled at {push.provider}: {evidence[str(push.key)]}" for push in chosen]
    void_many(connection, chosen, by, why, "operator", answered=False)
    voided = [str(push.key) for push in chosen]
    unconfirmed = {
        intent.key: answer.reason
        for intent, answer in zip(asked, answers, strict=True)
        if isinstance(answer, ReadFailed)
    }
    return CancelReport(voided, [key for key in evidence if key not in voided], unconfirmed)
