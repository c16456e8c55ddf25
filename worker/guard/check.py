"""The guard's questions: may so much of a metric be used now?

Guarantee: each is answered as `guard.consume` would answer it at that moment, and nothing is written. All that are
asked at once are read by one statement, however many they are, and answered by it where their own wallets pay and
nothing in those is due. For the others it is asked further, step by step, by what `consume` goes by.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from drawdown.guard.decide import IN_DOUBT, Counted, Limit, Override, decide
from drawdown.guard.periods import PERIODS, Span, starts
from drawdown.ledger.accounts import Wallet
from drawdown.ledger.plans import PLAIN, HoldTerms
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.errors import DrawdownError, Refused, UsageError
from drawdown.schema.sql import prepared, together
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.catalog.wallets import wallets_at
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.payer import Asker
from drawdown.worker.executions.permission import with_unbilled, without_freed
from drawdown.worker.executions.request import require_sane as require_sane_run
from drawdown.worker.guard import counters as guard_counts
from drawdown.worker.guard.answers import Answer, Costs, answer
from drawdown.worker.guard.counters import Counters
from drawdown.worker.guard.facts import SQL, Known, Wish, halted_by, know, limits_of, require_sane, run_of
from drawdown.worker.guard.terms import Metric

Paying: TypeAlias = tuple[str | None, Costs]
"""With which code credit is refused, and what it costs."""
NOTHING: Final[Paying] = None, Costs()


@dataclass(frozen=True)
class Seen:
    """What the statement says of one who asks: lists are its rows, of which those of `wallet` and `terms` hold nothing
    where there is none."""

    provider: str | None
    billed_as: str | None
    is_halted: bool | None
    halt_reason: str | None
    stopped_at_ms: int | None
    customer_id: str
    plan: str
    metric: list[Any] | None
    wallet: list[Any]
    terms: list[Any]
    pays: bool
    is_blocked: bool
    has_overs: bool
    has_other_owner: bool
    """The wallet may be somebody else's: `owners` says, for the time and the providers that count."""
    has_used: bool
    """There may be usage that the wallet is still to be charged for."""
    limits: list[list[Any]] | None
    overrides: list[list[Any]] | None
    counters: list[list[Any]] | None

    @property
    def is_known(self) -> bool:
        """Whether there is such a metric, and anybody knows the organisation."""
        return self.metric is not None and (self.provider is not None or self.wallet[0] is not None)


def check(connection: sa.Connection, wish: Wish, now_ms: int) -> Answer:
    """What `consume` would answer now. Nothing is written. Errors: UnknownId; UsageError."""
    (found,) = check_all(connection, [wish], now_ms)
    if isinstance(found, DrawdownError):
        raise found
    return found


def check_all(connection: sa.Connection, wishes: Sequence[Wish], now_ms: int) -> list[Answer | DrawdownError]:
    """The same for many, at one moment. An error stands in the place of the answer of whoever it is about."""
    return check_by_keys(connection, (), wishes, now_ms)[1]


def check_by_keys(
    connection: sa.Connection, proofs: Collection[str], wishes: Sequence[Wish], now_ms: int
) -> tuple[Mapping[str, ApiKey], list[Answer | DrawdownError]]:
    """The same, and whose keys these are, as `api_keys.find_all`: all of it by one statement."""
    asked = [
        {"n": n, "org_id": one.org_id, "metric": one.metric, "project": one.project or ""}
        for n, one in enumerate(wishes)
    ]
    moments = {"now_ms": now_ms, **{f"{period}_ms": start for period, start in starts(now_ms).items()}}
    part = SQL.part("seen", {"asked": asked, "asking": len(asked), **moments})
    with prepared(connection):
        read = together(connection, keys=api_keys.finding(proofs, now_ms), seen=part)
    seen = {int(row.n): Seen(*json.loads(row.seen)) for row in read["seen"]}
    found = [_answered(connection, wish, seen[n], now_ms) for n, wish in enumerate(wishes)]
    return api_keys.found(read["keys"]), found


def _answered(connection: sa.Connection, wish: Wish, seen: Seen, now_ms: int) -> Answer | DrawdownError:
    try:
        require_sane(wish)
        if not seen.is_known or seen.has_overs:
            return step_by_step(connection, wish, now_ms)
        known, paying = _known(wish, seen), NOTHING
        if known.metric.price.of(wish.amount):
            paying = _paying(connection, wish, known, seen, now_ms) or _previewed(connection, wish, known, now_ms)
        return _judged(wish, known, _counters(wish, seen, now_ms), paying, now_ms)
    except (Refused, UsageError) as error:
        return error


def _known(wish: Wish, seen: Seen) -> Known:
    assert seen.metric is not None
    number, price, per_units, payer, phase, warn_ppm, fails_open, counts = seen.metric
    metric = Metric(wish.metric, number, price, per_units, payer, phase, warn_ppm, bool(fails_open), counts)
    halted = bool(seen.is_halted)
    asker = Asker(wish.org_id, seen.provider, seen.billed_as, halted, seen.halt_reason, seen.stopped_at_ms)
    return Known(
        metric,
        asker,
        seen.customer_id,
        seen.plan or None,
        bool(seen.pays),
        halted_by(asker),
        limits_of(Limit(*one) for one in seen.limits or ()),
        tuple(Override(*one) for one in seen.overrides or ()),
    )


def _counters(wish: Wish, seen: Seen, now_ms: int) -> Counters:
    """As `guard_counts.look`, where no hold is over."""
    rows = {period: (Counted(used, bool(warned)), uses) for period, used, warned, uses in seen.counters or ()}
    none = Counted(), 0
    counted: dict[Span, Counted] = {period: rows.get(period, none)[0] for period in PERIODS}
    return Counters(wish.org_id, wish.metric, now_ms, counted, rows.get("month", none)[1], rows=len(rows))


def _paying(connection: sa.Connection, wish: Wish, known: Known, seen: Seen, now_ms: int) -> Paying | None:
    """As `executions.preview`, where the organisation's own wallet pays, nothing in it is due, and no step of the
    permission order but the last, credits, refuses; None elsewhere."""
    price, asker = known.metric.price.of(wish.amount), known.asker
    account, balance, held, overdraft, over, due_ms = seen.wallet
    is_sponsored = wish.payer is not None or known.metric.payer is not None
    is_due = due_ms is not None and due_ms <= now_ms
    may_run = not (seen.has_other_owner or asker.is_halted or asker.stopped_at_ms is not None)
    if account is None or is_sponsored or is_due or not may_run:
        return None
    here = asker.provider in (None, EMBEDDED, *EXEMPT_PROVIDERS) or asker.provider in wallets_at(connection)
    factor_ppm, unknown, most_hold, most_held, holds_halt = seen.terms
    terms = PLAIN if holds_halt is None else HoldTerms(factor_ppm, unknown, most_hold, most_held, bool(holds_halt))
    most = price if terms.most_hold_micro is None else terms.most_hold_micro
    if not here or seen.is_blocked or price > most:
        return None
    require_sane_run(run_of(wish, known.metric, price))
    found = Wallet(balance, seen.plan, None, held, overdraft, over)
    if seen.has_used:
        found = with_unbilled(connection, known.customer_id, found, now_ms)
    wallet, wanted = without_freed(connection, known.customer_id, found, now_ms), terms.held_for(price)
    if terms.most_held_micro is not None and wallet.held_micro + wanted > terms.most_held_micro:
        return None
    code = "no_credit" if wanted > wallet.available_micro else None
    return code, Costs(price, 0, known.customer_id, wallet.available_micro)


def step_by_step(connection: sa.Connection, wish: Wish, now_ms: int) -> Answer:
    """As `consume` goes, up to where that writes."""
    known = know(connection, wish, now_ms)
    counters = guard_counts.look(connection, wish.org_id, wish.metric, now_ms)
    paying = _previewed(connection, wish, known, now_ms) if known.metric.price.of(wish.amount) else NOTHING
    return _judged(wish, known, counters, paying, now_ms)


def _previewed(connection: sa.Connection, wish: Wish, known: Known, now_ms: int) -> Paying:
    price = known.metric.price.of(wish.amount)
    run = run_of(wish, known.metric, price)
    found = executions.preview(connection, run, now_ms, known.asker)
    balance = found.available_micro if found.customer_id == known.customer_id else None
    code = None if found.allowed else found.code
    return code, Costs(price, 0, found.customer_id or run.payer or run.org_id, balance, code in IN_DOUBT)


def _judged(wish: Wish, known: Known, counters: Counters, paying: Paying, now_ms: int) -> Answer:
    code, costs = paying
    return answer(wish.metric, wish.amount, decide(known.facts(counters, code), wish.amount), costs, now_ms)
