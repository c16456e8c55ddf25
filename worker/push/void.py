"""Void pushes that never arrived: by a person, or when a customer has credit.

Guarantee: a void is a separate row, with actor and reason. It makes the window dirty, so that the next tick seals the
difference (P5). A push is not voided if its outcome is unknown, or if our own ledger has charged it.

Drawdown voids a rejected push that waits for credit only on three conditions. Its last response proves that it was not
charged, and a later read shows credit for its feature. Its provider still bills the organisation, which is not stopped.
Otherwise a person settles the push. The next seal bills its usage under a new key, because Autumn
stores the key of a charge that failed (observed in a recorded call). With each refusal, a push waits longer. Each tick
reads the balances of customers with waiting pushes, because Autumn does not send a webhook of a grant (observed in
recorded calls). If a push gives back usage, a person decides about it after MOST_GIVE_BACKS revisions of its window.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, Protocol

import sqlalchemy as sa
import structlog

from drawdown.ledger.wallet import read_charges
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.audit import By, record_many
from drawdown.schema.errors import Refused
from drawdown.schema.locks import lock_buckets, lock_charges, make_windows_dirty
from drawdown.schema.sql import queries
from drawdown.schema.text import counted
from drawdown.schema.units import DAY_MS
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.engine.shard import Shard
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.push.outcome import CREDIT_WAIT_MS
from drawdown.worker.push.rows import PushRow, change, newest_unanswered, push_id_of
from drawdown.worker.push.wallet_mirror import give_back
from drawdown.worker.verdict.refresh_requests import mark_for_projection

log = structlog.get_logger()

SQL = queries(__file__)

MAY_ARRIVE_MS: Final = 3_600_000
"""Milliseconds in which an unanswered attempt may still reach the provider.

The provider may then charge it (P5).
"""

Barrier = Literal["below_floor", "charged", "may_arrive", "not_charged"]


@dataclass(frozen=True)
class Refusal:
    """The reason why a person cannot resolve a push now.

    `barrier`: the name of the rule that protects the push. `text`: the error. `wait_ms`: milliseconds until the reason
    ends; 0: unknown.
    """

    key: str
    barrier: Barrier
    text: str
    wait_ms: int = 0


REJECTED: Final = "the provider rejected it"
DOUBTED: Final = "the provider rejected one attempt, but may have charged another: "


class OfWindow(Protocol):
    """An object that names a window of an organisation."""

    @property
    def org_id(self) -> str: ...
    @property
    def window_ms(self) -> int: ...


def refusals(
    connection: sa.Connection,
    chosen: Sequence[PushRow],
    now_ms: int,
    *,
    adopted: bool = False,
    answered: bool = True,
) -> Iterator[Refusal]:
    """Yield a refusal for each rule that protects a push from a void.

    Call this under S1's lock. A push may have several refusals.

    `adopted`: True if the provider's push takes the place of ours, so that charges of the ledger do not count.
    `answered`: True to refuse pushes with an attempt that may still arrive.
    """
    yield from _below_floor(connection, chosen)
    for key in () if adopted else sorted(_charged(connection, chosen)):
        text = f"the embedded ledger has charged {key} in the meantime. The next tick accepts it"
        yield Refusal(key, "charged", text)
    if answered:
        yield from _unanswered(connection, chosen, now_ms)


def seal_again(connection: sa.Connection, what: Sequence[OfWindow]) -> None:
    """Make windows dirty, so that the next seal computes their differences again.

    `what`: objects that each name a window.
    """
    windows = [{"org_id": named.org_id, "window_ms": named.window_ms} for named in what]
    make_windows_dirty(connection, SQL, "windows_to_seal_again", {"windows": windows})


def void_one(
    connection: sa.Connection, push: PushRow, by: By, evidence: str, kind: str, *, answered: bool = True
) -> None:
    """Void one push, as `void_many` does. Call this under S1's lock."""
    void_many(connection, [push], by, [evidence], kind, answered=answered)


def void_many(
    connection: sa.Connection,
    chosen: Sequence[PushRow],
    by: By,
    evidence: Sequence[str],
    kind: str,
    *,
    answered: bool = True,
) -> None:
    """Void pushes, each with its evidence.

    Call this under S1's lock. For any number of pushes, this runs a few statements. `answered`: True to refuse a push
    with an attempt that may still arrive. A caller with the proof of a lookup or of a cancellation passes False.

    Errors: Refused, for all of them, if a rule protects a push.
    """
    if not chosen:
        return
    for refusal in refusals(connection, chosen, by.now_ms, adopted=kind == "adopted", answered=answered):
        raise Refused(refusal.text)
    give_back(connection, [push for push in chosen if push.state == "accepted"], by.now_ms)
    voids = [
        {**push_id_of(push), "attempts_then": push.attempts, "evidence": why}
        for push, why in zip(chosen, evidence, strict=True)
    ]
    same = {"at_ms": by.now_ms, "evidence_kind": kind, "actor": by.actor, "reason": by.reason}
    SQL.run(connection, "void", {"voids": voids, **same})
    change(connection, chosen, "to_voided", by.now_ms)
    ask_again(connection, chosen, by.now_ms)
    _take_from_carries(connection, chosen)
    seal_again(connection, chosen)
    done = [
        (str(push.key), {"evidence": why, "evidence_kind": kind, "was": push.state})
        for push, why in zip(chosen, evidence, strict=True)
    ]
    record_many(connection, "push_void", done, by)


def void_rejected(connection: sa.Connection, what: Sequence[OfWindow], by: By) -> None:
    """Void rejected pushes of windows from which usage is withdrawn.

    Call this under S1's lock. The windows of the voided pushes are sealed again, so that one push has the remaining
    usage. Otherwise a correction would give back usage that was not charged. The correction could also be rejected, as
    these pushes were, if it costs more than the largest entry of a wallet. Pushes that may still be charged do not
    change.
    """
    windows = [{"org_id": org, "window_ms": ms} for org, ms in sorted({(one.org_id, one.window_ms) for one in what})]
    found = SQL.run(connection, "rejected_of", {"windows": windows}).all()
    if not found:
        return
    charged = _charged(connection, found)
    chosen = [
        push
        for push, newest_ms in zip(found, newest_unanswered(connection, found), strict=True)
        if push.key not in charged and not _may_arrive(newest_ms, by.now_ms)
    ]
    void_many(connection, chosen, by, [push.last_error or REJECTED for push in chosen], "rejected")


_CARRY: Final = ("org_id", "provider", "customer_id", "feature")


def _take_from_carries(connection: sa.Connection, voided: Sequence[PushRow]) -> None:
    """Subtract voided pushes from the carries (S10).

    A carry is the quantity of valid pushes that is sealed and not sent.
    """
    changes: dict[tuple[str, ...], int] = defaultdict(int)
    for push in voided:
        if push.sealed_qty != push.sent_qty:
            changes[tuple(getattr(push, name) for name in _CARRY)] -= push.sealed_qty - push.sent_qty
    if changes:
        carries = [{**dict(zip(_CARRY, whose, strict=True)), "carry_qty": less} for whose, less in changes.items()]
        SQL.run(connection, "add_to_carries", {"carries": carries})


def ask_again(connection: sa.Connection, settled: Sequence[PushRow], now_ms: int) -> None:
    """Request new verdicts of organisations with rejected pushes that are settled now.

    These pushes may have halted the organisations.
    """
    rejected = [str(push.org_id) for push in settled if push.state == "rejected"]
    if rejected:
        mark_for_projection(connection, rejected, now_ms)


def refuse_late(connection: sa.Connection, push: PushRow, reason: str, now_ms: int) -> str:
    """Reject a push that its provider refused after accepting it.

    Give back its draw, and return its new state: `rejected`, or `in_doubt`.

    If several attempts of the push may have arrived, the provider may have refused one attempt and charged another. In
    that case the push is in doubt, and looked up. It loses its claim, because a response that is still on its way is
    older than the refusal.
    """
    several = SQL.run(connection, "arrivals_of", push_id_of(push)).scalar_one() > 1
    state, words = ("in_doubt", DOUBTED) if several else ("rejected", "")
    _take_back(connection, push, state, f"rejected later: {words}{reason}", now_ms)
    return state


def put_in_doubt(connection: sa.Connection, push: PushRow, why: str, now_ms: int) -> None:
    """Put an accepted push in doubt, because its provider may no longer count it.

    Give back its draw. Drawdown looks the push up after MAY_ARRIVE_MS. Responses to earlier attempts do not make it
    accepted.
    """
    _take_back(connection, push, "in_doubt", why, now_ms)


def _take_back(connection: sa.Connection, push: PushRow, state: str, why: str, now_ms: int) -> None:
    if push.state == "accepted":
        give_back(connection, [push], now_ms)
    values = {"state": state, "reason": why[:300], "due_at_ms": now_ms + MAY_ARRIVE_MS}
    SQL.run(connection, "take_back", {**push_id_of(push), **values, "now_ms": now_ms})


def _charged(connection: sa.Connection, chosen: Sequence[PushRow]) -> set[str]:
    """Return the keys of the pushes that the embedded ledger has charged.

    The ledger is in this database. A process that was suspended may charge at any time, and its charge is valid.
    """
    ours = [str(push.key) for push in chosen if push.provider == EMBEDDED]
    if not ours:
        return set()
    lock_charges(connection)
    return set(read_charges(connection, ours))


def _may_arrive(newest_ms: int | None, now_ms: int) -> bool:
    return newest_ms is not None and now_ms - newest_ms < MAY_ARRIVE_MS


def _unanswered(connection: sa.Connection, chosen: Sequence[PushRow], now_ms: int) -> Iterator[Refusal]:
    """Refuse pushes with an unanswered attempt that may still arrive.

    The provider may charge such an attempt after it rejected a later attempt, and a void would then bill twice.
    """
    for push, newest in zip(chosen, newest_unanswered(connection, chosen), strict=True):
        if newest is not None and _may_arrive(newest, now_ms):
            wait_ms = MAY_ARRIVE_MS - now_ms + newest
            text = (
                f"cannot void {push.key}: an unanswered attempt may still arrive at "
                f"{push.provider}. Void it in {counted(-(-wait_ms // 60000), 'minute')}"
            )
            yield Refusal(str(push.key), "may_arrive", text, wait_ms)


def _below_floor(connection: sa.Connection, chosen: Sequence[PushRow]) -> Iterator[Refusal]:
    """Refuse pushes below the floor of their organisation (S4).

    Below the floor, Drawdown no longer seals, so the usage of a voided push would be lost.
    """
    orgs = [{"org_id": org} for org in sorted({str(push.org_id) for push in chosen})]
    floors = {row.org_id: int(row.floor_ms) for row in SQL.run(connection, "floors", {"orgs": orgs})}
    for push in chosen:
        if push.window_ms < floors.get(push.org_id, 0):
            text = (
                f"cannot void {push.key}: it falls below the floor of {push.org_id}. Settle it with the customer, then "
                f"run `drawdown push resolve {push.key} --outcome accepted --evidence TEXT`"
            )
            yield Refusal(str(push.key), "below_floor", text)


MOST_AGAIN: Final = 1_000
"""Rejections that one transaction bills again. A tick repeats the transaction until all are done."""
MOST_GIVE_BACKS: Final = 9
"""Revisions of a push that gives back credit, before only a person decides.

By then, the push has waited almost two days in all while its customer had credit.
"""
LONGEST_WAIT_MS: Final = DAY_MS
"""Longest wait between two attempts to bill a window again, in milliseconds."""


def bill_again(context: Context) -> Steps[int]:
    """Void pushes rejected for lack of credit if their customers have credit now.

    Return the number of voided pushes.
    """
    done = 0
    while not context.out_of_time():
        now = context.clock.now_ms()
        voided: int = yield Transaction(
            "bill_again", partial(_bill_again, shard=context.shard, now_ms=now, witness=context.witness)
        )
        done += voided
        if voided < MOST_AGAIN:
            break
    if done:
        log.info("billed_again", pushes=done)
    return done


def _bill_again(connection: sa.Connection, *, shard: Shard, now_ms: int, witness: Witness | None) -> int:
    values = {
        "now_ms": now_ms,
        "lo": shard.lo,
        "hi": shard.hi,
        "first_wait_ms": CREDIT_WAIT_MS,
        "longest_wait_ms": LONGEST_WAIT_MS,
        "most_give_backs": MOST_GIVE_BACKS,
        "at_most": MOST_AGAIN,
    }
    unread = SQL.run(connection, "unread", values).scalars().all()
    if SQL.run(connection, "waiting", values, held="").first() is None:
        _ask(connection, unread, now_ms)
        return 0  # usually, rejected pushes do not exist, or must still wait
    lock_buckets(connection)
    require_same(connection, witness)
    _ask(connection, unread, now_ms)  # after the lock above, because all transactions lock in this order
    # Lock the pushes, because a person may resolve a push as accepted meanwhile without the lock of S1.
    waiting = SQL.run(connection, "waiting", values, held="hold_push").all()
    chosen = [
        push
        for push, newest_ms in zip(waiting, newest_unanswered(connection, waiting), strict=True)
        if newest_ms is None or now_ms - newest_ms >= MAY_ARRIVE_MS
    ]
    by = By(now_ms, "drawdown", "the customer has credit again")
    void_many(connection, chosen, by, [push.last_error or REJECTED for push in chosen], "rejected")
    return len(chosen)


def _ask(connection: sa.Connection, unread: Sequence[str], now_ms: int) -> None:
    if unread:
        mark_for_projection(connection, unread, now_ms)
