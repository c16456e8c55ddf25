"""What the guard answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from drawdown.guard.decide import Decision, Verdict
from drawdown.guard.periods import Span, end_of
from drawdown.worker.guard.counters import State, Use

Option: TypeAlias = Literal["top_up", "sponsor", "request_override", "run_locally"]


@dataclass(frozen=True)
class Answer:
    """Whether something may be used, or what was: `decision` counts, `would` is what phase 3 would say. `rule` decided,
    for `reason`. Of the limit that is nearest (None: none ends): its period, amount, what was used before, what is left
    after, and when its period ends. `price_micro` is what it costs, `charged_micro` what was charged now and, where it
    is `repeated`, `charged_before_micro` what was charged then; `payer` who pays (None: it costs nothing, or is charged
    to nobody any more), `balance_micro` what that one has available (None: it is not asked for, or not for whoever asks
    to know). `options`: what else can be done. `degraded`: decided without knowing the credit. `repeated`: it was
    decided before, and nothing was done. `state` is that of the use (None: there is none)."""

    decision: Decision
    would: Decision
    enforced: bool
    rule: str
    reason: str
    metric: str
    amount: int
    period: Span | None
    limit: int | None
    used: int | None
    remaining: int | None
    resets_ms: int | None
    price_micro: int
    charged_micro: int
    payer: str | None
    balance_micro: int | None
    options: tuple[Option, ...]
    degraded: bool
    as_of_ms: int
    repeated: bool = False
    state: State | None = None
    expires_ms: int | None = None
    charged_before_micro: int = 0


@dataclass(frozen=True)
class Costs:
    """What it costs, what of that was charged now, who pays, and what that one has available."""

    price_micro: int = 0
    charged_micro: int = 0
    payer: str | None = None
    balance_micro: int | None = None
    degraded: bool = False


def answer(metric: str, amount: int, verdict: Verdict, costs: Costs, now_ms: int, use: Use | None = None) -> Answer:
    """By a verdict of now."""
    bound = verdict.bound
    ends = bound is not None and bound.amount is not None
    return Answer(
        decision=verdict.decision,
        would=verdict.would,
        enforced=verdict.enforced,
        rule=verdict.rule,
        reason=verdict.reason,
        metric=metric,
        amount=amount,
        period=bound.period if bound is not None and ends else None,
        limit=None if bound is None else bound.amount,
        used=verdict.used if ends else None,
        remaining=verdict.remaining,
        resets_ms=_resets_ms(bound.period if bound is not None and ends else None, now_ms),
        price_micro=costs.price_micro,
        charged_micro=costs.charged_micro,
        payer=costs.payer,
        balance_micro=costs.balance_micro,
        options=options_of(verdict),
        degraded=costs.degraded,
        as_of_ms=now_ms,
        state=None if use is None else use.state,
        expires_ms=None if use is None else use.expires_ms,
    )


def of_use(use: Use, charged_micro: int, now_ms: int, *, repeated: bool) -> Answer:
    """Of what was decided before: how it was, and what became of it."""
    return Answer(
        decision="warn" if use.decision == "warn" else "allow",
        would="block" if use.would == "block" else "warn" if use.would == "warn" else "allow",
        enforced=use.enforced,
        rule=use.rule,
        reason="decided_before",
        metric=use.metric,
        amount=use.amount,
        period=use.limit_period,
        limit=use.limit_amount,
        used=None,
        remaining=None,
        resets_ms=_resets_ms(use.limit_period, use.at_ms),
        price_micro=use.price_micro,
        charged_micro=charged_micro,
        payer=use.payer,
        balance_micro=None,
        options=(),
        degraded=use.degraded,
        as_of_ms=now_ms,
        repeated=repeated,
        charged_before_micro=use.charged_micro if repeated else 0,
        state=use.state,
        expires_ms=use.expires_ms,
    )


def _resets_ms(span: Span | None, at_ms: int) -> int | None:
    """What stands at once begins anew at no time."""
    return None if span is None or span == "at_once" else end_of(span, at_ms)


def options_of(verdict: Verdict) -> tuple[Option, ...]:
    """What whoever was refused, or would be, can do: nothing against an operator's word. A limit of what stands at once
    is the provider's or an operator's, and no override of the guard's stands in its place."""
    if verdict.would != "block" or verdict.rule == "operator":
        return ()
    if verdict.rule == "credits":
        return "top_up", "sponsor", "run_locally"
    is_at_once = verdict.bound is not None and verdict.bound.period == "at_once"
    return ("run_locally",) if is_at_once else ("request_override", "run_locally")
