"""Confirm: ask the provider for the outcome of pushes that no answer proves, once its lag is over.

Guarantee: a push whose outcome was never proven is neither accepted nor sent again blind (P2, P3). A void push was
looked up and was absent, later than it could still have been applied (P5). A failed look-up changes only the time of
the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.ledger.wallet import read_charges
from drawdown.providers.protocol import Absent, Capabilities, Found, LookupResult, ReadFailed
from drawdown.schema.audit import By
from drawdown.schema.locks import lock_buckets, lock_charges
from drawdown.schema.sql import queries
from drawdown.worker.catalog.costs import as_text
from drawdown.worker.engine.asking import fetch_lookups
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import LookUp, Steps, Transaction
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import require_same
from drawdown.worker.push.adopt import adopt_other, adopt_unknown
from drawdown.worker.push.claim import claim_lookups
from drawdown.worker.push.lookup_drawn import Weighed, ends_by_balance, weigh
from drawdown.worker.push.lost_revisions import CarryDoubt, Sought, carry_doubt, look_further
from drawdown.worker.push.outcome import Adopt, Asked, Settlement, Void, after_lookup
from drawdown.worker.push.rows import PushRow, find_push, push_id_of, request_of, wire_key
from drawdown.worker.push.void import void_one
from drawdown.worker.push.wallet_mirror import draw, usage_of
from drawdown.worker.verdict.asks import mark_for_projection

log = structlog.get_logger()
SQL = queries(__file__)

ASKING: Final = 5
"""Eighths of a tick's time after which nothing more is looked up."""


@dataclass
class Confirmed:
    """What lookups came to."""

    asked: int = 0
    accepted: int = 0
    voided: int = 0
    adopted: int = 0

    def add(self, other: Confirmed) -> None:
        """Count a portion, once its transaction is kept: what conflicts is run again."""
        self.asked += other.asked
        self.accepted += other.accepted
        self.voided += other.voided
        self.adopted += other.adopted


def confirm(context: Context, provider: str) -> Steps[Confirmed]:
    """Look up every push of one provider whose time has come."""
    done = Confirmed()
    capabilities = context.capabilities[provider]
    while capabilities.lookup and not context.out_of_time(ASKING):
        now, claim = context.clock.now_ms(), context.new_claim()
        asked: Sequence[Sought] = yield Transaction(
            "claim_lookups",
            partial(
                claim_lookups,
                provider=provider,
                claim=claim,
                now=now,
                shard=context.shard,
                witness=context.witness,
                together=capabilities.drawn,
            ),
        )
        if not asked:
            break
        if not (yield from _look_up_batch(context, provider, asked, claim, now + LEASE_MS, done)):
            break
    return done


def _look_up_batch(
    context: Context, provider: str, asked: Sequence[Sought], claim: str, lease_end: int, done: Confirmed
) -> Steps[bool]:
    """Look up a batch, and write down what comes back as it comes; whether anything could be read."""
    capabilities = context.capabilities[provider]
    looking = LookUp(
        provider,
        [request_of(sought.row, capabilities) for sought in asked],
        lambda: context.out_of_time(ASKING) or context.clock.now_ms() >= lease_end,
    )
    # What a lookup proves, it proves of the time it was made: this process may sleep before it writes that down.
    asked_ms = context.clock.now_ms()
    left, read = set(range(len(asked))), False
    told: dict[int, LookupResult] = {}
    while left:
        told |= yield from fetch_lookups(looking, sorted(left))
        left -= told.keys()
        answers = {place: told.pop(place) for place in _ready(told, asked, left, capabilities)}
        if not answers:
            continue
        portion, found = yield from look_further(
            provider, [asked[place] for place in answers], list(answers.values()), capabilities
        )
        weighed = yield from weigh(provider, portion, found, asked_ms, capabilities, looking.over)
        came_to: Confirmed = yield Transaction(
            "confirm",
            partial(
                _apply,
                asked=portion,
                found=found,
                claim=claim,
                asked_ms=asked_ms,
                now=context.clock.now_ms(),
                capabilities=capabilities,
                witness=context.witness,
                provider=provider,
                weighed=weighed,
            ),
        )
        done.add(came_to)
        read = read or not all(isinstance(result, ReadFailed) for result in found)
    return read


def _ready(
    told: Mapping[int, LookupResult], asked: Sequence[Sought], left: Collection[int], capabilities: Capabilities
) -> list[int]:
    """Places of the answers that can be judged by now. One balance tells of all that is absent, and of none without
    the others: they are weighed together."""
    unasked = {asked[place].row.customer_id for place in left} if capabilities.drawn else set()
    return [place for place in sorted(told) if told[place] != Absent() or asked[place].row.customer_id not in unasked]


def _keep_wire_key(connection: sa.Connection, row: PushRow, capabilities: Capabilities) -> PushRow:
    """What is there, though no attempt of ours is known, keeps the name it was found under: late refusals name it by
    that, and it is not what a person charged by hand."""
    if row.attempts or row.wire_key:
        return row
    SQL.run(connection, "keep_wire_key", {**push_id_of(row), "wire_key": wire_key(row.key, capabilities)})
    return find_push(connection, row.key)


def _apply(
    connection: sa.Connection,
    *,
    asked: Sequence[Sought],
    found: Sequence[LookupResult],
    claim: str,
    asked_ms: int,
    now: int,
    capabilities: Capabilities,
    witness: Witness | None,
    provider: str,
    weighed: Weighed,
) -> Confirmed:
    done = Confirmed(asked=len(asked))
    require_same(connection, witness)  # what was asked of a history that was lost is asked again (R1)
    if capabilities.same_database:
        found = _charged_meanwhile(connection, asked, found)
    looked = [
        after_lookup(result, _asked(connection, sought, capabilities), asked_ms, capabilities)
        for result, sought in zip(found, asked, strict=True)
    ]
    if any(isinstance(end, Adopt | Void) or sought.others for end, sought in zip(looked, asked, strict=True)):
        lock_buckets(connection)
    mine = partial(_still_mine, connection, claim=claim)
    ends = ends_by_balance(connection, provider, asked, found, looked, weighed, asked_ms, mine)
    by = By(now, "drawdown", "looked up")
    for sought, end in zip(asked, ends, strict=True):
        if isinstance(end, Settlement):
            if _settle(connection, sought.row, end, claim, now, asked_ms) and end.state == "accepted":
                done.accepted += 1
                if capabilities.balance_in_ledger:
                    draw(connection, [usage_of(sought.row)], now)
                _keep_wire_key(connection, sought.row, capabilities)
                done.adopted += _adopt_others(connection, sought, by)
        elif _still_mine(connection, sought.row, claim):  # else somebody has settled it meanwhile, or looks it up
            done.add(_replace(connection, sought, end, by, asked_ms, capabilities))
    mark_for_projection(connection, [str(sought.row.org_id) for sought in asked], now)
    return done


def _replace(
    connection: sa.Connection, sought: Sought, end: Adopt | Void, by: By, asked_ms: int, capabilities: Capabilities
) -> Confirmed:
    """A push that is not there as it is here: theirs takes its place, or none does, and what it held is owed again."""
    row = sought.row
    _note(connection, row, asked_ms, f"found {end.quantity}" if isinstance(end, Adopt) else "absent")
    adopted = _adopt_others(connection, sought, by)
    if isinstance(end, Adopt):
        adopt_other(connection, _keep_wire_key(connection, row, capabilities), end.quantity, by, end.cost)
        log.error("push_adopted", key=row.key, ours=row.sent_qty, theirs=end.quantity)
        return Confirmed(adopted=adopted + 1)
    void_one(connection, row, by, end.evidence, "absent", answered=False)
    log.warning("push_absent", key=row.key, evidence=end.evidence)
    return Confirmed(adopted=adopted, voided=1)


def _charged_meanwhile(
    connection: sa.Connection, asked: Sequence[Sought], found: Sequence[LookupResult]
) -> list[LookupResult]:
    """Our own ledger is read again in the transaction that rests on it: a process that lay still may have charged."""
    lock_charges(connection)
    absent = [str(it.row.key) for it, result in zip(asked, found, strict=True) if isinstance(result, Absent)]
    charged = read_charges(connection, absent)
    keys = [str(sought.row.key) for sought in asked]
    return [Found(charged[key]) if key in charged else result for key, result in zip(keys, found, strict=True)]


def _adopt_others(connection: sa.Connection, sought: Sought, by: By) -> int:
    for other in sought.others:
        adopt_unknown(connection, sought.row, other, by)
        log.error("push_adopted", key=sought.row.key, revision=other.revision, theirs=other.quantity)
    return len(sought.others)


def _asked(connection: sa.Connection, sought: Sought, capabilities: Capabilities) -> Asked:
    row, loss = sought.row, sought.loss
    lost = loss is not None and row.attempts == 0
    doubt = carry_doubt(connection, row, capabilities) if lost else CarryDoubt()
    return Asked(
        state=str(row.state),
        sent_qty=int(row.sent_qty),
        lookups=int(row.lookups),
        last_sent_ms=sought.last_sent_ms,
        first_sent_ms=sought.first_sent_ms,
        claimed=bool(row.claimed),
        lost=lost,
        others=bool(sought.others),
        arrivals=int(row.arrivals),
        stale=doubt.stale,
        waits=doubt.waits,
    )


def _settle(connection: sa.Connection, row: PushRow, end: Settlement, claim: str, now: int, asked_ms: int) -> bool:
    values = {
        **push_id_of(row),
        "claim_owner": claim,
        "now_ms": now,
        "looked_up_ms": asked_ms,
        "state": end.state,
        "due_at_ms": end.due_at_ms,
        "last_error": end.error,
        "lookup_answer": end.outcome,
        "first_sent_ms": end.first_sent_ms,
        "never_sent": int(end.never_sent),
        "credit_cost": as_text(end.cost),
    }
    return SQL.run(connection, "settle_lookup", values).rowcount == 1


def _note(connection: sa.Connection, row: PushRow, asked_ms: int, answer: str) -> None:
    """Keep with the push what was answered, before it is voided."""
    SQL.run(connection, "note_lookup", {**push_id_of(row), "looked_up_ms": asked_ms, "lookup_answer": answer})


def _still_mine(connection: sa.Connection, row: PushRow, claim: str) -> bool:
    return SQL.run(connection, "hold_if_claimed", {**push_id_of(row), "claim_owner": claim}).first() is not None
