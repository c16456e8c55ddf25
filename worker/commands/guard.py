"""The guard: may so much of a metric be used now? Asked (`check`), or asked and used at once (`consume`).

Guarantee: a use is counted, charged and written down in one transaction, under the caller's key: the same again is the
first answer, and another content under it is refused. All limits of a metric hold, or nothing is used. It is charged by
a run of its own, `guard:KEY`, that is accepted and settled in that transaction: `verify`, statements and lots hold it
as they hold any run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import sqlalchemy as sa

from drawdown.guard.decide import IN_DOUBT, Verdict, decide, in_force
from drawdown.guard.periods import PERIODS, start_of
from drawdown.ledger.runs.draws import Cost
from drawdown.ledger.runs.reservations import Denied
from drawdown.schema.audit import By
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.worker.commands import executions, guard_counts
from drawdown.worker.commands.executions import LIFE_MS
from drawdown.worker.commands.guard_answers import Answer, Costs, answer, of_use
from drawdown.worker.commands.guard_counts import Counters, State, Use
from drawdown.worker.commands.guard_facts import Known, Wish, know, require_sane, run_of

__all__ = ["Answer", "Wish"]

RUN: Final = "guard:"
"""Stands before a use's key in that of its run."""


@dataclass(frozen=True)
class Charged:
    """What a use cost, and whether it was charged (None: it was refused by `code`)."""

    costs: Costs
    reservation: str | None = None
    code: str | None = None


Charging: TypeAlias = Callable[[sa.Connection, str, Wish, Known, By], Charged]


def check(connection: sa.Connection, wish: Wish, now_ms: int) -> Answer:
    """What `consume` would answer now. Nothing is written. Errors: UnknownId; UsageError."""
    require_sane(wish)
    known = know(connection, wish, now_ms)
    counters = guard_counts.look(connection, wish.org_id, wish.metric, now_ms)
    price, code, costs = known.metric.price.of(wish.amount), None, Costs()
    if price:
        run = run_of(wish, known.metric, price)
        found = executions.preview(connection, run, now_ms)
        balance = found.available_micro if found.customer_id == known.customer_id else None
        code = None if found.allowed else found.code
        costs = Costs(price, 0, found.customer_id or run.payer or run.org_id, balance, code in IN_DOUBT)
    return answer(wish.metric, wish.amount, decide(known.facts(counters, code), wish.amount), costs, now_ms)


def consume(connection: sa.Connection, key: str, wish: Wish, by: By) -> Answer:
    """Use so much at once, where it may be used.

    Errors: Denied `other_content` for a key of another use; UnknownId; UsageError; DatabaseBusy.
    """
    return take(connection, key, wish, by, "used", settled_at_once)


def take(
    connection: sa.Connection, key: str, wish: Wish, by: By, state: State, charging: Charging, *, dark: bool = False
) -> Answer:
    """The same for what is `used`, or `held` to be used, and charged as is said. `dark`: it was let through before
    anybody could be asked (errors: Denied `fails_closed` for a metric that does not allow that)."""
    require_key(key)
    require_sane(wish)
    said = fingerprint(wish, state)
    before = guard_counts.read_use(connection, key)
    if before is not None:
        return _again(before, said, by.now_ms)
    known = know(connection, wish, by.now_ms)
    if dark and not known.metric.fails_open:
        text = f"{wish.metric} is not let through while nobody can be asked (`guard set {wish.metric} --fail open`)"
        raise Denied("fails_closed", text)
    counters = guard_counts.lock(connection, wish.org_id, wish.metric, by.now_ms)
    before = guard_counts.read_use(connection, key)  # whoever waited for the same
    if before is not None:
        return _again(before, said, by.now_ms)
    verdict = judged(known, counters, wish.amount, dark=dark)
    done = Charged(Costs())
    if verdict.decision != "block":
        done = charging(connection, key, wish, known, by)
        if done.code is not None and verdict.would != "block":
            verdict = judged(known, counters, wish.amount, done.code, dark=dark)
    if dark:
        done = replace(done, costs=replace(done.costs, degraded=True))
    if verdict.would == "block":
        refuse(connection, key, wish, known, verdict, by.now_ms)
    if verdict.decision == "block":
        return answer(wish.metric, wish.amount, verdict, done.costs, by.now_ms)
    use = _use(key, wish, by, state, said, counters, known, verdict, done)
    count(connection, counters, wish.amount, known, verdict)
    if not guard_counts.add_use(connection, use):
        raise other_content(key)
    return answer(wish.metric, wish.amount, verdict, done.costs, by.now_ms, use)


def let_through(connection: sa.Connection, key: str, wish: Wish, by: By, state: State) -> Answer:
    """Count what was used, or is held, by a word that nobody could be asked for, whatever the limit; it is charged
    where there is credit. Errors: Denied `fails_closed`, `other_content`; UnknownId; UsageError; DatabaseBusy."""
    return take(connection, key, wish, by, state, held if state == "held" else settled_at_once, dark=True)


def judged(known: Known, counters: Counters, amount: int, code: str | None = None, *, dark: bool = False) -> Verdict:
    """What is decided; of what was let through before, what would have been."""
    verdict = decide(known.facts(counters, code), amount)
    if dark and verdict.decision == "block":
        return replace(verdict, decision="allow", enforced=False)
    return verdict


def count(connection: sa.Connection, counters: Counters, amount: int, known: Known, verdict: Verdict) -> None:
    """One use more. It passes a limit only where it was decided that it may."""
    bounds = {one.period: one for one in in_force(known.facts(counters))}
    passes = PERIODS if verdict.would == "block" else ()
    guard_counts.move(connection, counters, amount, bounds, known.metric.warn_ppm, uses=1, passes=passes)


def refuse(connection: sa.Connection, key: str, wish: Wish, known: Known, verdict: Verdict, now_ms: int) -> None:
    """Count what was refused, or would be."""
    guard_counts.deny(
        connection, wish.org_id, wish.metric, verdict.reason, wish.amount, now_ms,
        enforced=verdict.decision == "block", pays=known.pays, sample=key,
    )  # fmt: skip


def attempt(connection: sa.Connection, price: int, payer: str, work: Callable[[], Charged]) -> Charged:
    """Charge, or leave nothing behind where that is refused. Errors: Denied for a run's key of another content."""
    try:
        with connection.begin_nested():
            return work()
    except Denied as error:
        if error.code == "other_content":
            raise
        return Charged(Costs(price, 0, payer, None, error.code in IN_DOUBT), None, error.code)


def require_key(key: str) -> None:
    """Errors: UsageError."""
    if not is_clean_id(key) or not is_clean_id(RUN + key):
        raise UsageError("a use's key has 1 to 194 characters, none of them control characters")


def fingerprint(wish: Wish, state: State) -> str:
    """Tells a repetition from another use under the same key."""
    said = json.dumps([vars(wish), state], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def settled_at_once(connection: sa.Connection, key: str, wish: Wish, known: Known, by: By) -> Charged:
    price = known.metric.price.of(wish.amount)
    if not price:
        return Charged(Costs())
    run = run_of(wish, known.metric, price)

    def work() -> Charged:
        executions.accept(connection, RUN + key, run, by)
        done = executions.settle(connection, RUN + key, Cost(price), by)
        paid = done.drawn.reservation
        balance = None if done.wallet is None or paid.customer_id != known.customer_id else done.wallet.available_micro
        return Charged(Costs(price, done.drawn.charged_micro, paid.customer_id, balance), RUN + key)

    return attempt(connection, price, run.payer or run.org_id, work)


def held(connection: sa.Connection, key: str, wish: Wish, known: Known, by: By) -> Charged:
    price = known.metric.price.of(wish.amount)
    if not price:
        return Charged(Costs())
    run = run_of(wish, known.metric, price)

    def work() -> Charged:
        done = executions.accept(connection, RUN + key, run, by)
        paid = done.reservation.customer_id
        balance = None if done.wallet is None or paid != known.customer_id else done.wallet.available_micro
        return Charged(Costs(price, 0, paid, balance), RUN + key)

    return attempt(connection, price, run.payer or run.org_id, work)


def _use(
    key: str, wish: Wish, by: By, state: State, said: str, counters: Counters, known: Known, verdict: Verdict,
    done: Charged,
) -> Use:  # fmt: skip
    bound = verdict.bound if verdict.bound is not None and verdict.would != "block" else None
    held = state == "held"
    unpaid = 0 if done.reservation is not None or held else done.costs.price_micro
    return Use(
        use_key=key,
        org_id=wish.org_id,
        metric=wish.metric,
        number=counters.uses + 1,
        month_ms=start_of("month", by.now_ms),
        metric_number=known.metric.number,
        asked=wish.amount,
        amount=wish.amount,
        state=state,
        decision=verdict.decision,
        would=verdict.would,
        rule=verdict.rule,
        enforced=verdict.enforced,
        limit_period=None if bound is None else bound.period,
        limit_amount=None if bound is None else bound.amount,
        degraded=done.costs.degraded,
        reservation=done.reservation,
        charged_micro=done.costs.charged_micro,
        forgone_micro=unpaid,
        fingerprint=said,
        at_ms=by.now_ms,
        expires_ms=by.now_ms + (wish.for_ms or LIFE_MS) if held else None,
        ended_ms=None if held else by.now_ms,
        actor=by.actor,
        reason=by.reason,
    )


def _again(before: Use, said: str, now_ms: int) -> Answer:
    if before.fingerprint != said:
        raise other_content(before.use_key)
    return of_use(before, 0, now_ms, repeated=True)


def other_content(key: str) -> Denied:
    text = f"the key {key} was used before, for something else: nothing was used; give a new key for another use"
    return Denied("other_content", text)
