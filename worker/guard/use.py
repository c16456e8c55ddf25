"""The guard: may so much of a metric be used now? Asked and used at once (`consume`); `guard_check` only asks.

Guarantee: a use is counted, charged and written down in one transaction, under the caller's key: the same again is the
first answer, and another content under it is refused. All limits of a metric hold, or nothing is used. It is charged by
a run of its own, `guard:KEY`, that is accepted and settled in that transaction: `verify`, statements and lots hold it
as they hold any run. Several uses of one counter may be decided in one transaction, one after another: each gets the
answer that it would have got alone, and what is wrong with one is no matter to the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from drawdown.guard.decide import IN_DOUBT, Verdict, beyond, decide, in_force
from drawdown.guard.periods import PERIODS, start_of
from drawdown.ledger.runs.draws import Cost
from drawdown.ledger.runs.grouped import NotTogether
from drawdown.ledger.runs.own_keys import require_open, shown
from drawdown.ledger.runs.reservations import Denied
from drawdown.schema.audit import By
from drawdown.schema.errors import DrawdownError, Refused, UsageError
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.actions import LIFE_MS
from drawdown.worker.executions.request import USE
from drawdown.worker.guard import counters as guard_counts
from drawdown.worker.guard import keys as guard_keys
from drawdown.worker.guard.answers import Answer, Costs, answer, of_use
from drawdown.worker.guard.check import check, check_all, check_by_keys
from drawdown.worker.guard.counters import Counters, Denials, State, Use
from drawdown.worker.guard.facts import Known, Wish, know, require_sane, run_of
from drawdown.worker.guard.keys import own_name, require_key

__all__ = ["Answer", "Wish", "check", "check_all", "check_by_keys"]


@dataclass(frozen=True)
class Ask:
    """A use that is asked for, at once or to be `held`; `own`: by an API key that is bound to its organisation. `dark`:
    it was let through before anybody could be asked."""

    key: str
    wish: Wish
    by: By
    state: State = "used"
    own: bool = False
    dark: bool = False

    @property
    def name(self) -> str:
        return own_name(self.wish.org_id, self.key) if self.own else self.key

    @property
    def fingerprint(self) -> str:
        """Tells a repetition from another use under the same key."""
        said = json.dumps([vars(self.wish), self.state], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def at(self, now_ms: int) -> Ask:
        return replace(self, by=replace(self.by, now_ms=now_ms))


@dataclass(frozen=True)
class Charged:
    """What a use cost, and whether it was charged (None: it was refused by `code`)."""

    costs: Costs
    reservation: str | None = None
    code: str | None = None


@dataclass
class _Book:
    """Counters that are locked, and what is decided of them in one transaction: `counters` are as they will be."""

    connection: sa.Connection
    known: Known
    locked: Counters
    counters: Counters
    uses: dict[str, Use]
    made: list[Use] = field(default_factory=list)
    denials: Denials = field(default_factory=Denials)
    passes: bool = False
    """Whether a use was let through beyond a limit."""


def consume(connection: sa.Connection, key: str, wish: Wish, by: By) -> Answer:
    """Use so much at once, where it may be used.

    Errors: Denied `other_content` for a key of another use; UnknownId; UsageError; DatabaseBusy.
    """
    return take(connection, Ask(key, wish, by))


def let_through(connection: sa.Connection, key: str, wish: Wish, by: By, state: State) -> Answer:
    """Count what was used, or is held, by a word that nobody could be asked for, whatever the limit; it is charged
    where there is credit. Errors: Denied `fails_closed`, `other_content`; UnknownId; UsageError; DatabaseBusy."""
    return take(connection, Ask(key, wish, by, state, dark=True))


def take(connection: sa.Connection, ask: Ask) -> Answer:
    """The same for whatever is asked for."""
    (found,) = take_all(connection, [ask])
    if isinstance(found, DrawdownError):
        raise found
    return found


def take_all(connection: sa.Connection, asked: Sequence[Ask]) -> list[Answer | DrawdownError]:
    """The same for several uses of one organisation's metric, at one moment: decided one after another, in their order.
    An error stands in the place of the answer of whoever is refused: nothing is kept of that one.

    Errors: NotTogether, UnknownId where they are to be asked for alone; DatabaseBusy.
    """
    found: list[Answer | DrawdownError | None] = [_wrong(one) for one in asked]
    keys = [(one.wish.org_id, one.key) for one, error in zip(asked, found, strict=True) if error is None]
    uses = guard_keys.read(connection, keys) if keys else {}
    for at, one in enumerate(asked):
        found[at] = found[at] or _before(uses, one)
    left = [at for at, one in enumerate(found) if one is None]
    if left:
        first = asked[left[0]]
        known = know(connection, first.wish, first.by.now_ms)
        guard_counts.lock_keys(connection, {f"{one.wish.org_id} {one.key}" for one in asked}, first.by.now_ms)
        counters = guard_counts.lock(connection, first.wish.org_id, first.wish.metric, first.by.now_ms)
        again = guard_keys.read(connection, keys)  # whoever waited for the same
        book = _Book(connection, known, counters, counters, again)
        for at in left:
            found[at] = _before(book.uses, asked[at]) or _answered(book, asked[at])
        _write(book, len(asked))
    return [one for one in found if one is not None]


def _wrong(ask: Ask) -> UsageError | None:
    try:
        require_key(ask.key)
        require_sane(ask.wish)
    except UsageError as error:
        return error
    return None


def _before(uses: dict[str, Use], ask: Ask) -> Answer | Denied | None:
    """The answer to a key that was used before."""
    before = guard_keys.before(uses, ask.wish.org_id, ask.key, own=ask.own)
    if before is None:
        return None
    if before.fingerprint != ask.fingerprint:
        return other_content(ask.key)
    return of_use(before, 0, ask.by.now_ms, repeated=True)


def _answered(book: _Book, ask: Ask) -> Answer | DrawdownError:
    try:
        return _decide(book, ask)
    except (Refused, UsageError) as error:
        return error


def _decide(book: _Book, ask: Ask) -> Answer:
    if not ask.own:
        require_open(ask.key)
    wish, known, before = ask.wish, book.known, book.counters
    if ask.dark and not known.metric.fails_open:
        text = f"{wish.metric} is not let through while nobody can be asked (`guard set {wish.metric} --fail open`)"
        raise Denied("fails_closed", text)
    verdict = _judged(known, before, ask)
    done = Charged(Costs())
    if verdict.decision != "block":
        done = _charge(book.connection, ask, known, is_beyond=beyond(known.facts(before), wish.amount))
        if done.code is not None and verdict.would != "block":
            verdict = _judged(known, before, ask, done.code)
    if ask.dark:
        done = replace(done, costs=replace(done.costs, degraded=True))
    if verdict.would == "block":
        book.denials.add(verdict.reason, wish.amount, ask.name, enforced=verdict.decision == "block")
    if verdict.decision == "block":
        return answer(wish.metric, wish.amount, verdict, done.costs, ask.by.now_ms)
    use = _use(ask, before, known, verdict, done)
    book.counters = guard_counts.after(
        before, wish.amount, in_force(known.facts(before)), known.metric.warn_ppm, uses=1
    )
    book.passes = book.passes or verdict.would == "block"
    book.made.append(use)
    book.uses[use.use_key] = use
    return answer(wish.metric, wish.amount, verdict, done.costs, ask.by.now_ms, use)


def _judged(known: Known, counters: Counters, ask: Ask, code: str | None = None) -> Verdict:
    """What is decided; of what was let through before, what would have been."""
    verdict = decide(known.facts(counters, code), ask.wish.amount)
    if ask.dark and verdict.decision == "block":
        return replace(verdict, decision="allow", enforced=False)
    return verdict


def _write(book: _Book, asked: int) -> None:
    """All that was decided. A limit is passed only where it was decided that it may."""
    known = book.known
    guard_counts.deny(book.connection, book.locked, book.denials, book.locked.at_ms, pays=known.pays)
    if not book.made:
        return
    passes = PERIODS if book.passes else ()
    guard_counts.write(book.connection, book.locked, book.counters, in_force(known.facts(book.locked)), passes=passes)
    if guard_counts.add_uses(book.connection, book.made) < len(book.made):
        raise other_content(shown(book.made[0].use_key)) if asked == 1 else NotTogether("a key was used this moment")


def refuse(
    connection: sa.Connection, counters: Counters, name: str, amount: int, known: Known, verdict: Verdict, now_ms: int
) -> None:
    """Count what was refused, or would be, of a use that is there."""
    denials = Denials()
    denials.add(verdict.reason, amount, name, enforced=verdict.decision == "block")
    guard_counts.deny(connection, counters, denials, now_ms, pays=known.pays)


def attempt(connection: sa.Connection, price: int, payer: str, work: Callable[[], Charged]) -> Charged:
    """Charge, or leave nothing behind where that is refused. Errors: Denied for a run's key of another content."""
    try:
        with connection.begin_nested():
            return work()
    except Denied as error:
        if error.code == "other_content":
            raise
        return Charged(Costs(price, 0, payer, None, error.code in IN_DOUBT), None, error.code)


def _charge(connection: sa.Connection, ask: Ask, known: Known, *, is_beyond: bool) -> Charged:
    """A run of its own, settled at once where it is used at once. What was let through beyond the metric's limit is
    charged to nobody where another pays by the metric's word."""
    terms = known.metric.price
    price = terms.held(ask.wish.amount) if ask.state == "held" else terms.of(ask.wish.amount)
    if not price:
        return Charged(Costs())
    run, name = run_of(ask.wish, known.metric, price), USE + ask.name
    if is_beyond and run.org_id != ask.wish.org_id:
        return Charged(Costs(price, 0, run.org_id))

    def work() -> Charged:
        done = executions.accept(connection, name, run, ask.by, of_use=True)
        paid, wallet, charged = done.reservation.customer_id, done.wallet, 0
        if ask.state == "used":
            ended = executions.settle(connection, name, Cost(price), ask.by, of_use=True)
            wallet, charged = ended.wallet, ended.drawn.charged_micro
        balance = None if wallet is None or paid != known.customer_id else wallet.available_micro
        return Charged(Costs(price, charged, paid, balance), name)

    return attempt(connection, price, run.payer or run.org_id, work)


def _use(ask: Ask, counters: Counters, known: Known, verdict: Verdict, done: Charged) -> Use:
    wish, by = ask.wish, ask.by
    bound = verdict.bound if verdict.bound is not None and verdict.would != "block" else None
    held = ask.state == "held"
    unpaid = 0 if done.reservation is not None or held else done.costs.price_micro
    return Use(
        use_key=ask.name,
        org_id=wish.org_id,
        metric=wish.metric,
        number=counters.uses + 1,
        month_ms=start_of("month", by.now_ms),
        metric_number=known.metric.number,
        asked=wish.amount,
        amount=wish.amount,
        state=ask.state,
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
        fingerprint=ask.fingerprint,
        at_ms=by.now_ms,
        expires_ms=by.now_ms + (wish.for_ms or LIFE_MS) if held else None,
        ended_ms=None if held else by.now_ms,
        actor=by.actor,
        reason=by.reason,
        price=known.metric.price,
        payer=done.costs.payer if done.reservation is not None else None,
    )


def other_content(key: str) -> Denied:
    text = f"the key {key} was used before, for something else: nothing was used; give a new key for another use"
    return Denied("other_content", text)
