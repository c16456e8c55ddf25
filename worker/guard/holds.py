"""What is held to be used: reserved by its estimate, settled by what it was, or given up.

Guarantee: what is held counts as used until it ends, or until its hold is over; then it counts as what it was. The
counters of the hour, day and month in which it was reserved move by the difference, in the transaction of the end.
Money is held by a run of the same end, `guard:KEY`. What was used above the estimate counts, and is charged, all the
same.
"""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from drawdown.guard.decide import Verdict, beyond, decide, in_force
from drawdown.guard.periods import PERIODS
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.runs import reservations
from drawdown.ledger.runs.draws import Cost
from drawdown.ledger.runs.own_keys import shown
from drawdown.ledger.runs.reservations import Denied
from drawdown.schema import ids
from drawdown.schema.audit import By
from drawdown.schema.errors import UsageError
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.actions import LIFE_MS
from drawdown.worker.executions.request import require_life
from drawdown.worker.guard import counters as guard_counts
from drawdown.worker.guard.answers import Answer, Costs, answer, of_use
from drawdown.worker.guard.counters import Counters, State, Use
from drawdown.worker.guard.facts import Known, Wish, know
from drawdown.worker.guard.keys import require_key
from drawdown.worker.guard.terms import MAX_UNITS
from drawdown.worker.guard.use import Ask, Charged, attempt, refuse, take


def reserve(connection: sa.Connection, key: str, wish: Wish, by: By) -> Answer:
    """Hold so much to be used, where it may be used, for an hour or as long as is said. Errors: those of
    `guard.consume`."""
    return take(connection, Ask(key, wish, by, "held"))


def settle(connection: sa.Connection, key: str, actual: int, by: By) -> Answer:
    """End it with what was used in all, also after its hold was over; what is left is free. Errors: Denied `ended`,
    `other_content`; UnknownId; UsageError."""
    return _end(connection, key, "settled", actual, by)


def release(connection: sa.Connection, key: str, incurred: int, by: By) -> Answer:
    """Give it up; what it used all the same counts. Errors: as `settle`."""
    return _end(connection, key, "released", incurred, by)


def extend(connection: sa.Connection, key: str, to: int | None, for_ms: int | None, by: By) -> Answer:
    """Have it hold `to` base units in all, and go on for `for_ms` from now (an hour); neither shrinks. It tells that
    the use goes on. Where so much may not be used, nothing changes.

    Errors: Denied `ended`; UnknownId; UsageError.
    """
    require_life(for_ms)
    if to is not None and not 0 < to <= MAX_UNITS:
        raise UsageError(f"what is held is a whole number from 1 to {MAX_UNITS:,} base units of the metric")
    counters, use = _locked(connection, key, by.now_ms)
    if use.state != "held":
        raise _ended(use)
    wanted, life_ms = max(to or 0, use.amount), for_ms or LIFE_MS
    more, until = wanted - use.amount, max(by.now_ms + life_ms, use.expires_ms or 0)
    known = know(connection, Wish(use.org_id, use.metric, 1), by.now_ms)
    reason = "allowed"
    if more:
        verdict, done = _grown(connection, use, counters, wanted, life_ms, known, by)
        reason = verdict.reason
        if verdict.decision == "block":
            return answer(use.metric, wanted, verdict, done.costs, by.now_ms, use)
    if use.reservation is not None:
        executions.extend(connection, use.reservation, None, life_ms, by, of_use=True)
    grown = replace(use, amount=wanted, expires_ms=until)
    _moved(connection, counters, more, known)
    guard_counts.change_use(connection, grown)
    return replace(of_use(grown, 0, by.now_ms, repeated=grown == use), reason=reason)


def _grown(
    connection: sa.Connection, use: Use, counters: Counters, wanted: int, life_ms: int, known: Known, by: By
) -> tuple[Verdict, Charged]:
    """Whether it may hold so much; its run holds the price of it, by the terms of its acceptance. A run that cannot
    hold more, and is let through, goes on with what it holds."""
    wish, done = Wish(use.org_id, use.metric, wanted - use.amount), Charged(Costs())
    verdict = decide(known.facts(counters), wish.amount)
    if verdict.decision != "block" and use.reservation is not None:
        run, price, payer = use.reservation, use.price.held(wanted), use.payer or use.org_id

        def work() -> Charged:
            executions.extend(connection, run, price, life_ms, by, of_use=True)
            return Charged(Costs(price, 0, payer), run)

        done = attempt(connection, price, payer, work)
        if done.code is not None and verdict.would != "block":
            verdict = decide(known.facts(counters, done.code), wish.amount)
    if verdict.would == "block":
        refuse(connection, counters, use.use_key, wish.amount, known, verdict, by.now_ms)
    return verdict, done


def _end(connection: sa.Connection, key: str, state: State, amount: int, by: By) -> Answer:
    if not 0 <= amount <= MAX_UNITS:
        raise UsageError(f"what was used is a whole number from 0 to {MAX_UNITS:,} base units of the metric")
    counters, use = _locked(connection, key, by.now_ms)
    if use.state == state:
        if use.amount != amount:
            text = f"{shown(key)} is {state} already, with {use.amount:,}: what was used is said once"
            raise Denied("other_content", text)
        return of_use(use, 0, by.now_ms, repeated=True)
    if use.state != "held" and (use.state, state) != ("expired", "settled"):
        raise _ended(use)
    price = use.price.of(amount)
    if price > MAX_ENTRY_MICRO:  # where no run says so
        raise UsageError("a use costs a thousand million credits at most")
    known = know(connection, Wish(use.org_id, use.metric, 1), by.now_ms)
    is_beyond = beyond(known.facts(counters), amount - use.amount)
    charged = 0 if use.reservation is None else _charged(connection, use, state, price, by, is_beyond=is_beyond)
    after = replace(
        use,
        state=state,
        amount=amount,
        charged_micro=charged,
        forgone_micro=price - charged,
        ended_ms=by.now_ms,
    )
    _moved(connection, counters, amount - use.amount, known)
    guard_counts.change_use(connection, after)
    return of_use(after, charged, by.now_ms, repeated=False)


def _charged(connection: sa.Connection, use: Use, state: State, price: int, by: By, *, is_beyond: bool) -> int:
    """End a use's run: what was charged of its price. What its payer allows no more of is charged to nobody: what is
    used is used, and has to be counted. Who pays because the metric says so pays nothing that `is_beyond` its limit,
    nor more than it has. What was held lies within all that, until its hold is over."""
    assert use.reservation is not None
    held = reservations.read(connection, use.reservation)
    assert held is not None
    by_metric = held.org_id != use.org_id
    kept = held.amount_micro if held.state == "held" and held.expires_ms > by.now_ms else 0
    for cost in (price, min(price, held.amount_micro), 0):
        if by_metric and is_beyond and cost > held.amount_micro:
            continue
        try:
            with connection.begin_nested():
                said = Cost(cost) if cost or state == "settled" else None
                end = executions.settle if state == "settled" else executions.release
                done = end(connection, use.reservation, said, by, of_use=True)
                if by_metric and cost > kept and done.wallet is not None and done.wallet.available_micro < 0:
                    raise Denied("payer_limit", f"{held.customer_id} has no credit for so much more")
                return done.drawn.charged_micro
        except Denied as error:
            if error.code != "payer_limit" or not cost:
                raise
    raise AssertionError("nothing at all is within any limit")


def _locked(connection: sa.Connection, key: str, now_ms: int) -> tuple[Counters, Use]:
    """A use that nobody else ends meanwhile, expired if it is due; and the counters that count it."""
    require_key(key)
    use = guard_counts.read_use(connection, key)
    if use is None:
        ids.require(connection, ids.USE, key)
        raise UsageError(f"{key} appeared this moment: try again")
    guard_counts.lock(connection, use.org_id, use.metric, now_ms)
    counters = guard_counts.lock_of(connection, use)
    found = guard_counts.hold_use(connection, key)
    assert found is not None
    if found.state == "used":
        raise Denied("ended", f"{shown(key)} was used at once: it cannot be settled, released or extended")
    return counters, found


def _moved(connection: sa.Connection, counters: Counters, amount: int, known: Known) -> None:
    """What was used is counted whatever the limit is by now."""
    bounds = in_force(known.facts(counters))
    then = guard_counts.after(counters, amount, bounds, known.metric.warn_ppm, uses=0)
    guard_counts.write(connection, counters, then, bounds, passes=PERIODS)


def _ended(use: Use) -> Denied:
    late = "settle it with what was used, which it may be late" if use.state == "expired" else "reserve another one"
    return Denied("ended", f"{shown(use.use_key)} is {use.state}; {late}")
