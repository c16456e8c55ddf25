"""Push: send due pushes to their provider and record each outcome.

Guarantee: Drawdown commits claim and attempt before it sends a byte (P1). The bytes sent are those of the outbox row. A
push without a response is due again under the same key, or is looked up. Responses are settled in portions as they
arrive, so that a process that dies loses few of them. For any number of due pushes, verdicts and halts wait at most for
one spell and its last calls.

The embedded ledger's own pushes are charged in place. One transaction picks, charges and settles them, so that a
response cannot be lost. Each key is charged once. A push is special if it was sent before, lacks a rate, exceeds a
bound, or was charged already. A special push stays due, and is then sent like a push of any provider. The outcomes of
such a send cover these cases.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import sqlalchemy as sa
import structlog

from drawdown.ledger.entries import MAX_ENTRY_MICRO, MOST_BALANCE_MICRO
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.providers.protocol import (
    Accepted,
    Capabilities,
    CustomerRead,
    CustomerState,
    Outcome,
    Part,
    ReadFailed,
    RetryAt,
    Unknown,
)
from drawdown.schema.errors import Refused
from drawdown.schema.locks import lock_rates
from drawdown.schema.sql import queries
from drawdown.schema.text import NEEDS_YOU, in_short
from drawdown.schema.units import DAY_MS, SECOND_MS
from drawdown.worker.catalog.balance_parts import note_parts, note_shown_parts
from drawdown.worker.catalog.costs import as_text
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import (
    LANES,
    NOT_SENT,
    Push,
    ReadCustomers,
    RunTogether,
    SaveWitness,
    Steps,
    Transaction,
    backoff_ms,
)
from drawdown.worker.engine.fair_queue import NotBegun
from drawdown.worker.engine.shard import Shard
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import count_sends, require_same
from drawdown.worker.push.claim import Claim, Claimed, claim_due, claim_size
from drawdown.worker.push.outcome import Settlement, safe_retention_ms, settle
from drawdown.worker.push.rows import plan
from drawdown.worker.push.wallet_mirror import draw, usage_of
from drawdown.worker.verdict.answers import ClaimAnswers, ClaimedAt, ask_after_push
from drawdown.worker.verdict.refresh_requests import NOT_ASKED, find_answer, mark_for_projection

log = structlog.get_logger()

SQL = queries(__file__)

SHOWN: Final = 120
"""Characters of a reason in the log."""
SENDING: Final = 5
"""Eighths of a tick's time after which further pushes are not sent."""
SPELL_MS: Final = 20 * SECOND_MS
"""Milliseconds for which Drawdown sends a provider's pushes in one turn.

After this time, verdicts and halts have their turn.
"""


@dataclass
class Pushed:
    """The number of pushes by their outcome.

    `rounds`: the number of claims.
    """

    accepted: int = 0
    other: int = 0
    rounds: int = 0
    calls_cut: dict[str, int] = field(default_factory=dict)
    """The fewest concurrent calls, by provider, if the provider refused calls as too many."""
    more: bool = False
    """True if the spell was over, so that more pushes may be due."""
    why: Counter[str] = field(default_factory=Counter)
    """The number of pushes that were not accepted, by the reason."""

    def note(self, settled: Sequence[Settlement]) -> None:
        """Add the counts of a portion."""
        accepted = sum(end.state == "accepted" for end in settled)
        self.accepted += accepted
        self.other += len(settled) - accepted
        self.why.update(f"{end.outcome}: {end.error}"[:SHOWN] for end in settled if end.state != "accepted")


def push_in_spells(
    context: Context, provider: str, others: Callable[[bool], Steps[list[object]]]
) -> Steps[list[object]]:
    """Send all due pushes of a provider, in spells.

    Run `others` after each spell, with True if more pushes may be due. Return the results of all steps. The result of a
    failed step is its exception.
    """
    at_once = 1 if context.capabilities[provider].in_flight == 1 else LANES
    expired: list[object] = yield RunTogether([expire(context, provider)])  # once, because it reads all due pushes
    done, more = [failure for failure in expired if failure is not None], True
    while more:
        pushed: list[object] = yield RunTogether([push(context, provider, SPELL_MS) for _ in range(at_once)])
        more = any(isinstance(lane, Pushed) and lane.more for lane in pushed)
        done += [*pushed, *(yield from others(more))]
    return done


def expire(context: Context, provider: str) -> Steps[None]:
    """Put due pushes in doubt, or queue them for a lookup, if a retry is unsafe (P2).

    Reject due pushes that were never sent and that the provider cannot accept. A claim checks rule P2 again. Request a
    refresh of organisations with a lost send.
    """
    capabilities, now = context.capabilities[provider], context.clock.now_ms()
    yield Transaction("expire", partial(_expire, provider=provider, capabilities=capabilities, now=now))


def push(context: Context, provider: str, spell_ms: int | None = None) -> Steps[Pushed]:
    """Send due pushes of a provider, claim after claim.

    This ends once all due pushes are sent, SENDING eighths of the tick's time or `spell_ms` are over, or the circuit
    breaker of the provider is open. Without `spell_ms`, it calls `expire` first.
    """
    done = Pushed()
    until_ms = None if spell_ms is None else context.clock.now_ms() + spell_ms
    if spell_ms is None:
        yield from expire(context, provider)
    if provider == EMBEDDED:
        done.accepted = yield from charge_in_place(context, context.new_claim(), SENDING, until_ms)
        if done.accepted:
            log.info("pushes_settled", provider=provider, accepted=done.accepted, in_place=True)
    while not context.out_of_time(SENDING) and context.breaker(provider).allows(context.clock.now_ms()):
        now, claim = context.clock.now_ms(), context.new_claim()
        done.more = until_ms is not None and now >= until_ms
        if done.more:
            break
        claimed: Claim = yield Transaction(
            "claim",
            partial(
                claim_due,
                provider=provider,
                claim=claim,
                now=now,
                capabilities=context.capabilities[provider],
                shard=context.shard,
                witness=context.witness,
            ),
        )
        if not claimed.pushes:
            break
        if claimed.witness is not None:
            context.witness = claimed.witness
            yield SaveWitness(claimed.witness)  # Drawdown counts sends outside of the database, too (R1)
        began = replace(done, why=done.why.copy())
        yield from _send_all(context, provider, claimed, claim, now, done, until_ms)
        done.rounds += 1
        log.info(
            "pushes_settled",
            provider=provider,
            accepted=done.accepted - began.accepted,
            other=done.other - began.other,
            why=dict(done.why - began.why),
            first_key=claimed.pushes[0].request.key,
        )
    return done


def _send_all(
    context: Context, provider: str, claimed: Claim, claim: str, now: int, done: Pushed, until_ms: int | None
) -> Steps[None]:
    """Send the claimed pushes, unless the lease runs out, and settle the responses.

    The lease is checked again right before each call (P1). Once the spell is over, further calls do not begin. Pushes
    for which no call began are due again. Unread customers are read before their pushes are sent. These pushes come
    last, so that the other pushes do not wait for these reads.
    """
    clock, lease_end, lane = context.clock, now + LEASE_MS, ClaimedAt(provider, context.capabilities[provider], now)
    sending = Push(
        provider,
        (),
        lambda: context.out_of_time(SENDING) or clock.now_ms() >= lease_end,
        lambda at_once: done.calls_cut.update({provider: at_once}),
        closed=lambda: until_ms is not None and clock.now_ms() >= until_ms,
        gives_way=len(claimed.pushes) == claim_size(lane.capabilities),
    )
    settles = partial(_settle_portion, context, lane, claim, ClaimAnswers(claimed.pushes), done)
    yield from _send(context, sending, [push for push in claimed.pushes if push.read_by_ms is None], settles)
    if unread := [push for push in claimed.pushes if push.read_by_ms is not None]:
        waiting: Mapping[int, Outcome] = yield from _read_unread(context, sending, unread)
        if waiting:
            yield from settles([unread[place] for place in waiting], list(waiting.values()))
        read = [push for place, push in enumerate(unread) if place not in waiting]
        yield from _send(context, sending, read, settles)


def _send(
    context: Context,
    sending: Push,
    batch: Sequence[Claimed],
    settles: Callable[[Sequence[Claimed], Sequence[Outcome]], Steps[None]],
) -> Steps[None]:
    breaker, clock = context.breaker(sending.provider), context.clock
    sending, left = replace(sending, batch=[push.request for push in batch]), set(range(len(batch)))
    sent, failed = False, True
    while left:
        outcomes = yield from _fetch(sending, sorted(left))
        left -= outcomes.keys()
        said = {type(outcome) for outcome in outcomes.values()} - {NotBegun}
        sent = sent or bool(said)
        if failed and not said <= {RetryAt, Unknown}:
            failed = False
            breaker.note(failed=False, now_ms=clock.now_ms())
        yield from settles([batch[place] for place in outcomes], list(outcomes.values()))
    if sent and failed:
        breaker.note(failed=True, now_ms=clock.now_ms())


def _settle_portion(
    context: Context,
    lane: ClaimedAt,
    claim: str,
    answers: ClaimAnswers,
    done: Pushed,
    portion: Sequence[Claimed],
    outcomes: Sequence[Outcome],
) -> Steps[None]:
    settled = _settled(context, lane.provider, portion, outcomes)
    yield Transaction(
        "settle",
        partial(
            _settle,
            batch=portion,
            settled=settled,
            claim=claim,
            now=context.clock.now_ms(),
            in_ledger=lane.capabilities.balance_in_ledger,
            witness=context.witness,
            ask=partial(ask_after_push, lane=lane, answers=answers.take(portion, outcomes)),
            note=partial(note_shown_parts, provider=lane.provider, shown=_shown_parts(portion, outcomes)),
        ),
    )
    done.note(settled)
    context.advanced("pushed", len(settled))


def _read_unread(context: Context, sending: Push, batch: Sequence[Claimed]) -> Steps[Mapping[int, Outcome]]:
    """Read the customers of unread pushes, and record their parts.

    This happens before the pushes are sent. Return the outcomes of the pushes that must wait for a read of their
    customer, by place.

    Autumn omits a one-time part from its responses as soon as it is used up exactly (seen in a recorded call). If the
    first push uses up an unknown part and its response is lost, the balance would prove that the push is absent (P5).
    """
    now, provider, reading = context.clock.now_ms(), sending.provider, context.reading(sending.provider)
    if sending.over() or sending.closed() or not context.breaker(provider).allows(now):
        return dict.fromkeys(range(len(batch)), NotBegun(now, NOT_SENT))
    customers = sorted({push.request.customer_id for push in batch})
    states: Mapping[str, CustomerRead] = dict.fromkeys(customers, NOT_ASKED)
    if reading.allows(now):
        about: Sequence[str] = customers
        try:
            states = yield ReadCustomers(provider, customers, lambda: sending.over() or sending.closed())
        except Exception as error:
            log.exception("provider_failed", provider=provider, first_key=batch[0].request.key)
            states, about = dict.fromkeys(customers, ReadFailed(in_short(error))), ()
        failed = all(isinstance(state, ReadFailed) for state in states.values())
        if not (failed and (sending.over() or sending.closed())):  # reads that ran out of time do not show a fault
            reading.note(failed=failed, now_ms=context.clock.now_ms(), about=about)
    now, found = context.clock.now_ms(), {customer: find_answer(states, customer) for customer in customers}
    if read := {customer: state for customer, state in found.items() if isinstance(state, CustomerState)}:
        yield Transaction("note_parts", partial(note_parts, provider=provider, read=read, now_ms=now))
    return {
        place: _wait_for_read(push, state, now)
        for place, push in enumerate(batch)
        if isinstance(state := found[push.request.customer_id], ReadFailed) and now < (push.read_by_ms or 0)
    }


def _wait_for_read(push: Claimed, state: ReadFailed, now_ms: int) -> NotBegun:
    by_person = NEEDS_YOU if state.reason.startswith(NEEDS_YOU) else ""
    why = f"{by_person}not sent before its customer is read: {state.reason.removeprefix(NEEDS_YOU)}"
    return NotBegun(now_ms + backoff_ms(push.request.attempt), why)


def _fetch(sending: Push, left: Sequence[int]) -> Steps[Mapping[int, Outcome]]:
    """Return the next outcomes, by place in the batch."""
    try:
        outcomes: Mapping[int, Outcome] = yield sending
        assert outcomes and outcomes.keys() <= set(left), f"{sending.provider} answered {list(outcomes)} of {left}"
    except Exception as error:  # a provider that breaks its contract does not show which pushes it charged
        log.exception("provider_failed", provider=sending.provider, first_key=sending.batch[left[0]].key)
        return dict.fromkeys(left, Unknown(in_short(error)))
    return outcomes


def _settled(
    context: Context, provider: str, batch: Sequence[Claimed], outcomes: Sequence[Outcome]
) -> list[Settlement]:
    now, capabilities = context.clock.now_ms(), context.capabilities[provider]
    return [
        settle(outcome, sent.request.attempt, now, capabilities, sent_before=sent.sent_before)
        for sent, outcome in zip(batch, outcomes, strict=True)
    ]


def _shown_parts(batch: Sequence[Claimed], outcomes: Iterable[Outcome]) -> dict[str, list[Part]]:
    """Return the parts of balances in the responses, each once, by customer."""
    shown: dict[str, dict[tuple[str, str], Part]] = defaultdict(dict)
    for sent, outcome in zip(batch, outcomes, strict=True):
        for part in outcome.parts if isinstance(outcome, Accepted) else ():
            shown[sent.request.customer_id][part.balance, part.name] = part
    return {customer: list(parts.values()) for customer, parts in shown.items()}


def _expire(connection: sa.Connection, *, provider: str, capabilities: Capabilities, now: int) -> None:
    kept = safe_retention_ms(capabilities)
    oldest = 0 if capabilities.oldest_ms is None else now - capabilities.oldest_ms
    values = {"provider": provider, "now_ms": now, "oldest_window_ms": oldest}
    marked: list[str] = []
    if not (capabilities.same_database or capabilities.balance_in_ledger):
        marked += SQL.run(connection, "lost", values).scalars()
    if kept is not None or oldest:
        limits = {"oldest_attempt_ms": -1 if kept is None else now - kept}
        state = "queued" if capabilities.lookup else "in_doubt"
        SQL.run(connection, "expire", {**values, **limits, "state": state})
    if oldest or capabilities.max_quantity is not None:
        words = {
            # Round up, because a provider may declare a little less than it accepts, to allow for a late call.
            "days": str(-(-(capabilities.oldest_ms or 0) // DAY_MS)),
            "largest_qty": capabilities.max_quantity or 2**63 - 1,
        }
        marked += SQL.run(connection, "reject_unsendable", {**values, **words}).scalars()
    if marked:  # lock organisations after all pushes, as each other transaction that locks both
        mark_for_projection(connection, marked, now)


def _settle(
    connection: sa.Connection,
    *,
    batch: Sequence[Claimed],
    settled: Sequence[Settlement],
    claim: str,
    now: int,
    in_ledger: bool,
    witness: Witness | None,
    ask: partial[None],
    note: partial[None],
) -> None:
    # If history was lost after the send, the push is looked up. Its key may now have another quantity here (R1).
    require_same(connection, witness)
    rows = [
        {
            "window_ms": sent.window_ms,
            "org_id": sent.org_id,
            "feature": sent.feature,
            "revision": sent.revision,
            "attempt": sent.request.attempt,
            "state": end.state,
            "due_at_ms": end.due_at_ms,
            "outcome": end.outcome,
            "error": end.error,
            "credit_cost": as_text(end.cost),
            # This attempt and all earlier ones are proven not to have arrived, so the provider does not know the key
            # (P2).
            "unsent": int(end.outcome == "retry" and not sent.sent_before and sent.first),
        }
        for sent, end in zip(batch, settled, strict=True)
    ]
    values = {"settlements": rows, "claim_owner": claim, "now_ms": now}
    plan(connection, "by_key_alone")
    changed = SQL.run(connection, "settle", values, changed="to_draw" if in_ledger else "")
    drawn = [usage_of(row) for row in changed if row.state == "accepted"] if in_ledger else []
    SQL.run(connection, "finish_attempts", values)
    if in_ledger:
        draw(connection, drawn, now)
    ask(connection, now_ms=now)
    note(connection, now_ms=now)  # after organisations, because a read locks in the same order


AT_ONCE: Final = 4_096
"""Most pushes that one transaction charges."""
MOST_RATE: Final = 10**12
"""Most micro-credits, and most base units, in a rate that is charged in place.

`ledger rate` has the same limit.
"""
MOST_PRODUCT: Final = 2**62
"""Twice the largest product of a quantity and its rate, so that results of SQL stay within 64 bits."""


class NotPlain(Refused):
    """Raised if a key was charged before, or a wallet would exceed its limit.

    The transaction is rolled back, and no push is charged.
    """


def charge_in_place(context: Context, claim: str, sending: int, until_ms: int | None = None) -> Steps[int]:
    """Charge the embedded ledger's plain pushes in place, and return their number.

    This ends once all plain pushes are charged, `sending` eighths of the tick's time are over, or `until_ms` has come.
    It also ends if a charge is refused (`NotPlain`), and the remaining pushes stay due.
    """
    done = 0
    while not context.out_of_time(sending):
        now = context.clock.now_ms()
        if until_ms is not None and now >= until_ms:
            break
        work = partial(charge_due, claim=claim, now=now, shard=context.shard, witness=context.witness)
        try:
            charged, witness = yield Transaction("charge", work)
        except NotPlain:
            break
        if witness is not None:
            context.witness = witness
            yield SaveWitness(witness)  # Drawdown counts charges outside of the database, too (R1)
        done += charged
        context.advanced("pushed", charged)
        if charged < AT_ONCE:
            break
    return done


def charge_due(
    connection: sa.Connection, *, claim: str, now: int, shard: Shard, witness: Witness | None
) -> tuple[int, Witness | None]:
    """Charge and settle at most AT_ONCE due pushes.

    Return the number of charged pushes, and the local checkpoint to save. The checkpoint is None if no push was
    charged, or if this machine does not have a checkpoint.

    Errors: NotPlain if a charge is refused. HistoryDoubted if the history changed, or a recovery is needed.
    """
    require_same(connection, witness)
    lock_rates(connection, shared=True)
    SQL.run(connection, "make_charges")
    plan(connection, "by_key", "by_turn")
    limits = {"now_ms": now, "at_most": AT_ONCE, "lo": shard.lo, "hi": shard.hi}
    most = {"most_rate": MOST_RATE, "most_product": MOST_PRODUCT, "most_entry_micro": MAX_ENTRY_MICRO}
    picked = SQL.run(connection, "pick_charges", {"provider": EMBEDDED, **limits, **most}).rowcount
    if not picked:
        return 0, None
    plan(connection, "end_by_turn")
    if SQL.run(connection, "post_charges", {"now_ms": now}).rowcount < picked:
        raise NotPlain("another push has already charged this key")
    SQL.run(connection, "move_charges")
    if SQL.run(connection, "charged_beyond", {"most": MOST_BALANCE_MICRO}).first() is not None:
        raise NotPlain("the charge exceeds the largest balance that a wallet can keep")
    SQL.run(connection, "settle_charges", {"now_ms": now, "claim_owner": claim})
    mark_for_projection(connection, SQL.run(connection, "charged_orgs").scalars().all(), now)
    return picked, count_sends(connection, picked, witness)
