"""The lane *fill*: wallets that have run low are filled, what was called is settled, what is in doubt is looked up.

Guarantee: claim and attempt are committed before a byte leaves (P1); what was never answered is looked up and never
charged again blind. A step that dies anywhere leaves a row that the next one goes on from. A payment service that hangs
or is away costs its own wallets' time alone, and counts as no decline. Nothing is charged while history is in doubt
(R1): each transaction asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from drawdown.providers.payments.protocol import ChargeResult, InDoubt, NotSent
from drawdown.schema.text import in_short
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import ChargeMoney, LookUpMoney, Over, Remember, Steps, Together, Transaction
from drawdown.worker.topup.claim import Asks, Claim, claim_charges, claim_lookups
from drawdown.worker.topup.settle import Settled, end_of_charge, end_of_lookup, settle
from drawdown.worker.topup.topups import ALL, Begun, begin

log = structlog.get_logger()

FILLING = 7
"""Eighths of the time after which nothing more is charged."""


@dataclass
class Filled:
    """What one look did to top-ups."""

    begun: int = 0
    shadow: int = 0
    charged: int = 0
    looked_up: int = 0
    credited: int = 0
    declined: int = 0
    given_up: int = 0
    failures: list[str] = field(default_factory=list)

    def note(self, settled: Sequence[Settled]) -> None:
        for one in settled:
            if one.changed:
                self.credited += one.end.state == "credited"
                self.declined += one.end.declined
                self.given_up += one.end.state == "given_up"
                log.info(
                    "topup_settled",
                    topup=one.topup.charge.charge_id,
                    state=one.end.state,
                    answer=one.end.answer,
                    said=one.end.said,
                )


def fill(context: Context, only: str = ALL) -> Steps[Filled]:
    """Begin, charge and look up, of all wallets or one. Where there is no payment service, it does nothing at all."""
    done = Filled()
    if not context.payments or context.out_of_time(FILLING):
        return done
    ready = sorted(set(context.payments) - set(context.dormant_payments))
    now = context.clock.now_ms()
    work = partial(begin, ready=ready, now=now, witness=context.witness, only=only)
    begun: Begun = yield Transaction("topup_begin", work)
    done.begun, done.shadow = begun.live, begun.shadow
    lanes = [_at(context, service, only, done) for service in ready if service in begun.due_at]
    if lanes:
        for result in (yield Together(lanes)):
            if isinstance(result, Exception):
                raise result
    return done


def _at(context: Context, service: str, only: str, done: Filled) -> Steps[None]:
    """What is in doubt first: what it frees may be charged in the same look."""
    for one in (_look_up, _charge):
        while not context.out_of_time(FILLING) and context.paying(service).allows(context.clock.now_ms()):
            if not (yield from one(context, service, only, done)):
                break


def _asks(context: Context, service: str, only: str) -> Asks:
    now = context.clock.now_ms()
    return Asks(service, context.new_claim(), now, context.payments[service], context.witness, only)


def _charge(context: Context, service: str, only: str, done: Filled) -> Steps[bool]:
    """One batch; whether there was any."""
    asks = _asks(context, service, only)
    claim: Claim = yield Transaction("topup_claim", partial(claim_charges, asks=asks))
    if not claim.topups:
        return False
    if claim.witness is not None:
        context.witness = claim.witness
        yield Remember(claim.witness)  # R1: what may be charged is counted outside of the database, too
    charges = [one.charge for one in claim.topups]
    answers = yield from _answers(context, ChargeMoney(service, charges, _over(context, asks)))
    now = context.clock.now_ms()
    ends = [(found, end_of_charge(found, answer, now)) for found, answer in zip(claim.topups, answers, strict=True)]
    work = partial(settle, ends=ends, claim=asks.claim, now=now, witness=context.witness)
    settled: list[Settled] = yield Transaction("topup_settle", work)
    done.charged += len(answers)
    done.note(settled)
    return True


def _look_up(context: Context, service: str, only: str, done: Filled) -> Steps[bool]:
    """The same for what is in doubt."""
    asks = _asks(context, service, only)
    claim: Claim = yield Transaction("topup_claim_lookups", partial(claim_lookups, asks=asks))
    if not claim.topups:
        return False
    charges = [one.charge for one in claim.topups]
    answers = yield from _answers(context, LookUpMoney(service, charges, _over(context, asks)))
    now, can = context.clock.now_ms(), context.payments[service]
    ends = [
        (found, end_of_lookup(found, answer, asks.now, now, can, claim.loss))
        for found, answer in zip(claim.topups, answers, strict=True)
    ]
    work = partial(settle, ends=ends, claim=asks.claim, now=now, witness=context.witness, asked_ms=asks.now)
    settled: list[Settled] = yield Transaction("topup_settle_lookups", work)
    done.looked_up += len(answers)
    done.note(settled)
    return True


def _over(context: Context, asks: Asks) -> Over:
    return partial(_is_over, context, asks.now + LEASE_MS)


def _is_over(context: Context, lease_end_ms: int) -> bool:
    """Checked again right before each call (P1)."""
    return context.out_of_time(FILLING) or context.clock.now_ms() >= lease_end_ms


def _is_outage(answer: ChargeResult) -> bool:
    """What may be the service's fault, and no customer's."""
    return isinstance(answer, InDoubt) or (isinstance(answer, NotSent) and answer.retry_at_ms is not None)


def _answers(context: Context, asking: ChargeMoney | LookUpMoney) -> Steps[Sequence[ChargeResult]]:
    try:
        answers: Sequence[ChargeResult] = yield asking
        assert len(answers) == len(asking.charges), f"{len(answers)} answers for {len(asking.charges)} charges"
    except Exception as error:  # whoever breaks its contract has told us nothing about what was taken
        log.exception("payment_service_failed", service=asking.service)
        answers = [InDoubt(in_short(error))] * len(asking.charges)
    failed = all(_is_outage(answer) for answer in answers)
    context.paying(asking.service).note(failed=failed, now_ms=context.clock.now_ms())
    return answers
