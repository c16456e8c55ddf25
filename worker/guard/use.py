"""Check, consume, reserve and settle uses of a metric.

Guarantee: one transaction counts, charges and records an allowed use, under the caller's key. A repeated call gets the
first decision, with the use's present state. If a call sends other content with the key of a stored use, it fails. If a
use is blocked, it does not count, and its key is not stored, so a repeated call is decided again. If a use is charged,
the execution `guard:KEY` charges it, and is accepted in the same transaction. Unless the use is a reservation, that
transaction also settles the execution. `verify`, statements and lots treat this execution as any other. One transaction
may decide several uses of a counter, one after another. Each use gets the answer that it would get alone, and an error
of one use does not affect the others.

A check gets the decision that `consume` would give at that moment, and does not write. It returns the price and the
payer even if a limit blocks the use. One statement reads the facts for all checks that arrive together. If another
wallet pays, or if a change of the wallet is due, Drawdown reads more facts for that check.

A reserved amount counts as used until the use ends or its reservation expires. Then the final amount counts. The
transaction that ends the use corrects the counters of the hour, day and month of the reservation by the difference.

A use may emit an event (`emission`), so that the seal bills the use. If the use is allowed, the same transaction
records the event.

If an API key is bound to an organisation, its use keys belong to that organisation. Use keys of unbound API keys are
unique among all organisations, and separate from use keys of bound API keys. If an unbound API key sent a use key for
the organisation, a bound API key that sends the same use key finds that use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.guard.decide import IN_DOUBT, Counted, Decision, Limit, Override, Verdict, beyond, decide, in_force
from drawdown.guard.periods import PERIODS, Span, end_of, start_of, starts
from drawdown.ledger import own_keys, reservations
from drawdown.ledger.accounts import Wallet, terms_of_row
from drawdown.ledger.draws import Cost
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.own_keys import require_open, strip_own_prefix
from drawdown.ledger.reservations import Denied, NotTogether
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema import ids
from drawdown.schema.audit import By
from drawdown.schema.errors import DrawdownError, Refused, UsageError, explain_race
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import Part, prepared, read_together
from drawdown.schema.text import counted, quote_value
from drawdown.schema.units import EXEMPT_PROVIDERS, MAX_ID_CHARS, as_credits
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.catalog.wallets import wallets_at
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.actions import LIFE_MS
from drawdown.worker.executions.permission import Asker, with_unbilled, without_freed
from drawdown.worker.executions.request import USE, require_life
from drawdown.worker.executions.request import require_sane as require_sane_run
from drawdown.worker.guard import counters as guard_counts
from drawdown.worker.guard import emission as emissions
from drawdown.worker.guard.counters import Counters, Denials, State, Use
from drawdown.worker.guard.emission import Emission, Emitted
from drawdown.worker.guard.terms import (
    MAX_UNITS,
    SQL,
    AskerTerms,
    Metric,
    Wish,
    halted_by,
    know,
    limits_of,
    require_sane,
    run_of,
)

__all__ = ["Answer", "Wish", "check", "check_all", "check_by_keys"]


@dataclass(frozen=True)
class Ask:
    """A request for a use, immediate or as a reservation (`state` is `held`).

    `own`: the caller's API key is bound to the organisation. `failed_open`: the client allowed the use while it could
    not reach the server.
    """

    key: str
    wish: Wish
    by: By
    state: State = "used"
    own: bool = False
    failed_open: bool = False
    event: Emission | None = None
    """The event that the use emits if it is allowed; None: it does not emit an event."""

    @property
    def name(self) -> str:
        return own_name(self.wish.org_id, self.key) if self.own else self.key

    @property
    def fingerprint(self) -> str:
        """Return a hash of the content of the request.

        The hash distinguishes a repeated call from another use under the same key.
        """
        event = [] if self.event is None else [self.event.content]
        said = json.dumps([vars(self.wish), self.state, *event], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def at(self, now_ms: int) -> Ask:
        return replace(self, by=replace(self.by, now_ms=now_ms))


@dataclass(frozen=True)
class Charged:
    """The cost of a use, and the reservation that charges it.

    `reservation` None: the use is not charged. `code`: the reason why the charge was refused (None: it was not
    refused).
    """

    costs: Costs
    reservation: str | None = None
    code: str | None = None


@dataclass
class Book:
    """Locked counters, and the decisions about them in one transaction.

    `locked`: the counters before the decisions. `counters`: the counters after the decisions. `charge`: the function
    that charges a use; its last parameter is True if the use exceeds an enforced limit. `emit`: the function that
    records the event of a use, before a wallet is locked. If the use is blocked later, the caller rolls the event back.
    """

    charge: Callable[[Ask, AskerTerms, bool], Charged]
    terms: AskerTerms
    locked: Counters
    counters: Counters
    uses: dict[str, Use]
    new_uses: list[Use] = field(default_factory=list)
    denials: Denials = field(default_factory=Denials)
    passes: bool = False
    """True if a use was allowed beyond a limit."""
    emit: Callable[[Ask], Emitted | None] = lambda _: None


def consume(connection: sa.Connection, key: str, wish: Wish, by: By, event: Emission | None = None) -> Answer:
    """Count and charge a use immediately if it is allowed, and emit its event.

    Errors: Denied `other_content` for a key of another use, and `bad_event`; UnknownId; UsageError; DatabaseBusy.
    """
    return take(connection, Ask(key, wish, by, event=event))


def let_through(connection: sa.Connection, key: str, wish: Wish, by: By, state: State) -> Answer:
    """Count a use or a reservation that a client allowed without the server.

    The use counts even above a limit, and is charged if the payer has credit. The metric's payer is not charged if the
    use exceeds an enforced limit.

    Errors: Denied `fails_closed`, `other_content`; UnknownId; UsageError; DatabaseBusy.
    """
    return take(connection, Ask(key, wish, by, state, failed_open=True))


def take(connection: sa.Connection, ask: Ask) -> Answer:
    """Decide one requested use. Errors: as `consume` and `let_through`."""
    (found,) = take_all(connection, [ask])
    if isinstance(found, DrawdownError):
        raise found
    return found


def take_all(connection: sa.Connection, asked: Sequence[Ask]) -> list[Answer | DrawdownError]:
    """Decide several uses of one organisation's metric at one moment.

    The function decides the uses one after another, in their order. A refused use has an error in place of its answer,
    and does not count.

    Errors: NotTogether or UnknownId if the uses must be decided alone; DatabaseBusy.
    """
    found: list[Answer | DrawdownError | None] = [wrong(one) for one in asked]
    keys = [(one.wish.org_id, one.key) for one, error in zip(asked, found, strict=True) if error is None]
    uses = read_by_keys(connection, keys) if keys else {}
    for at, one in enumerate(asked):
        found[at] = found[at] or _before(uses, one)
    left = [at for at, one in enumerate(found) if one is None]
    if left:
        first = asked[left[0]]
        known = know(connection, first.wish, first.by.now_ms)
        guard_counts.lock_keys(connection, {f"{one.wish.org_id} {one.key}" for one in asked}, first.by.now_ms)
        counters = guard_counts.lock(connection, first.wish.org_id, first.wish.metric, first.by.now_ms)
        again = read_by_keys(connection, keys)  # a call that waited for the same lock finds the use now
        book = Book(partial(_charge, connection), known, counters, counters, again, emit=partial(_emit, connection))
        for at in left:
            found[at] = _before(book.uses, asked[at]) or _answered(connection, book, asked[at])
        _write(connection, book, len(asked))
    return [one for one in found if one is not None]


def wrong(ask: Ask) -> UsageError | None:
    """Return the error of an invalid request; None if it is valid."""
    try:
        require_key(ask.key)
        require_sane(ask.wish)
    except UsageError as error:
        return error
    return None


def _before(uses: dict[str, Use], ask: Ask) -> Answer | Denied | None:
    """Return the answer to a key that was used before; None for a new key."""
    before = used_before(uses, ask.wish.org_id, ask.key, own=ask.own)
    if before is None:
        return None
    if before.fingerprint != ask.fingerprint:
        return other_content(ask.key)
    return replace(of_use(before, 0, ask.by.now_ms, repeated=True), event=emissions.before(ask.event))


def _answered(connection: sa.Connection, book: Book, ask: Ask) -> Answer | DrawdownError:
    try:
        if ask.event is None:
            return decide_use(book, ask)
        with connection.begin_nested() as turn:
            found = decide_use(book, ask)
            if found.state is None:  # blocked; if the charge was refused, the event is already recorded
                turn.rollback()
            return found
    except (Refused, UsageError) as error:
        return error


def _emit(connection: sa.Connection, ask: Ask) -> Emitted | None:
    return None if ask.event is None else emissions.emit(connection, ask.event, ask.by.now_ms)


def decide_use(book: Book, ask: Ask) -> Answer:
    if not ask.own:
        require_open(ask.key)
    wish, known, before = ask.wish, book.terms, book.counters
    if ask.failed_open and not known.metric.fails_open:
        text = f"{wish.metric} fails closed, so a client cannot allow its use without the server. "
        text += f"To change this, run `drawdown guard set {wish.metric} --fail open`"
        raise Denied("fails_closed", text)
    verdict = _decide_use(known, before, ask)
    done, event = Charged(Costs()), None
    if verdict.decision != "block":
        event = book.emit(ask)
        done = book.charge(ask, known, beyond(known.facts(before), wish.quantity))
        if done.code is not None and verdict.would != "block":
            verdict = _decide_use(known, before, ask, done.code)
    if ask.failed_open:
        done = replace(done, costs=replace(done.costs, degraded=True))
    if verdict.would == "block":
        book.denials.add(verdict.reason, wish.quantity, ask.name, enforced=verdict.decision == "block")
    if verdict.decision == "block":
        return answer(wish.metric, wish.quantity, verdict, done.costs, ask.by.now_ms)
    use = _use(ask, before, known, verdict, done)
    book.counters = guard_counts.after(
        before, wish.quantity, in_force(known.facts(before)), known.metric.warn_ppm, uses=1
    )
    book.passes = book.passes or verdict.would == "block"
    book.new_uses.append(use)
    book.uses[use.use_key] = use
    return replace(answer(wish.metric, wish.quantity, verdict, done.costs, ask.by.now_ms, use), event=event)


def _decide_use(known: AskerTerms, counters: Counters, ask: Ask, code: str | None = None) -> Verdict:
    """Return the decision about a use.

    If a client already allowed the use, return `allow`, and keep the original decision in `would`.
    """
    verdict = decide(known.facts(counters, code), ask.wish.quantity)
    if ask.failed_open and verdict.decision == "block":
        return replace(verdict, decision="allow", enforced=False)
    return verdict


def _write(connection: sa.Connection, book: Book, asked: int) -> None:
    """Write all decisions. The counters exceed a limit only if a decision allowed it."""
    known = book.terms
    guard_counts.deny(connection, book.locked, book.denials, book.locked.at_ms, pays=known.pays)
    if not book.new_uses:
        return
    passes = PERIODS if book.passes else ()
    guard_counts.write(connection, book.locked, book.counters, in_force(known.facts(book.locked)), passes=passes)
    if guard_counts.add_uses(connection, book.new_uses) < len(book.new_uses):
        raise (
            other_content(strip_own_prefix(book.new_uses[0].use_key))
            if asked == 1
            else NotTogether("a concurrent request used one of the keys")
        )


def refuse(
    connection: sa.Connection,
    counters: Counters,
    name: str,
    amount: int,
    known: AskerTerms,
    verdict: Verdict,
    now_ms: int,
) -> None:
    """Count a refused extension of an existing use, enforced or not."""
    denials = Denials()
    denials.add(verdict.reason, amount, name, enforced=verdict.decision == "block")
    guard_counts.deny(connection, counters, denials, now_ms, pays=known.pays)


def attempt(connection: sa.Connection, price: int, payer: str, work: Callable[[], Charged]) -> Charged:
    """Run `work`, which charges a use.

    If the charge is refused, roll it back, and return the reason as `code`.

    Errors: Denied `other_content` if the execution's key has another content.
    """
    try:
        with connection.begin_nested():
            return work()
    except Denied as error:
        if error.code == "other_content":
            raise
        return Charged(Costs(price, 0, payer, None, error.code in IN_DOUBT), None, error.code)


def _charge(connection: sa.Connection, ask: Ask, known: AskerTerms, is_beyond: bool) -> Charged:
    """Charge a use by its own execution.

    If the use is not a reservation, the execution is settled immediately. If the use exceeds the metric's limit, and
    the metric names another payer, that payer is not charged.
    """
    terms = known.metric.price
    price = terms.hold_micro(ask.wish.quantity) if ask.state == "held" else terms.of(ask.wish.quantity)
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


def _use(ask: Ask, counters: Counters, known: AskerTerms, verdict: Verdict, done: Charged) -> Use:
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
        asked=wish.quantity,
        amount=wish.quantity,
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
    text = (
        f"key {key} belongs to another use. This use was not counted. To repeat that call, send its first body. "
        "If this is another use, use a new key"
    )
    return Denied("other_content", text)


@dataclass(frozen=True)
class Costs:
    """The cost of a use and its payer.

    `price_micro`: the cost. `charged_micro`: the part of the cost that this call charged. `balance_micro`: the payer's
    available credit (None: it was not read, or the organisation does not pay with its own credit). All are in
    micro-credits. `payer` None: the use is free, or was blocked before a charge; then `price_micro` is 0. `degraded`:
    the credit was unknown, or a client allowed the use without the server.
    """

    price_micro: int = 0
    charged_micro: int = 0
    payer: str | None = None
    balance_micro: int | None = None
    degraded: bool = False


Paying: TypeAlias = tuple[str | None, Costs]
"""The code of the refused charge (None: it is not refused), and the cost."""
NOTHING: Final[Paying] = None, Costs()


@dataclass(frozen=True)
class AskerRows:
    """The facts about a caller, as one statement reads them.

    `provider`, `billed_as`: the provider, and the customer there (None: not assigned). `pays`: the customer
    `customer_id` ever bought credit. `is_blocked`: the operator blocked the project, or the metric as an action.
    `has_overs`: expired uses still count. A list of values is one row. If a wallet or its plan's terms do not exist,
    the values in `wallet` or `terms` are None.
    """

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
    """The wallet may have another owner.

    See `owners` for the time and the providers that count.
    """
    has_used: bool
    """The wallet may still have to pay for recorded usage."""
    limits: list[list[Any]] | None
    overrides: list[list[Any]] | None
    counters: list[list[Any]] | None

    @property
    def is_known(self) -> bool:
        """Return True if the metric exists, and the organisation is known."""
        return self.metric is not None and (self.provider is not None or self.wallet[0] is not None)

    def asker(self, org_id: str) -> Asker:
        """Return the caller, as `read_asker` does."""
        return Asker(org_id, self.provider, self.billed_as, bool(self.is_halted), self.halt_reason, self.stopped_at_ms)


def check(connection: sa.Connection, wish: Wish, now_ms: int) -> Answer:
    """Return the answer that `consume` would give now, without a write.

    Errors: UnknownId; UsageError.
    """
    (found,) = check_all(connection, [wish], now_ms)
    if isinstance(found, DrawdownError):
        raise found
    return found


def check_all(connection: sa.Connection, wishes: Sequence[Wish], now_ms: int) -> list[Answer | DrawdownError]:
    """Check many wishes at one moment.

    Return an answer or an error for each wish, in their order.
    """
    return check_by_keys(connection, (), wishes, now_ms)[1]


def check_by_keys(
    connection: sa.Connection, proofs: Collection[str], wishes: Sequence[Wish], now_ms: int
) -> tuple[Mapping[str, ApiKey], list[Answer | DrawdownError]]:
    """Read API keys and the facts about wishes by one statement, and check the wishes.

    Return the valid keys of `proofs`, by hash, and the answers in the order of the wishes (see `check_all`).
    """
    part = seen_part([(one.org_id, one.metric, one.project or "") for one in wishes], now_ms)
    with prepared(connection):
        read = read_together(connection, keys=api_keys.finding(proofs, now_ms), seen=part)
    seen = seen_of(read["seen"])
    found = [_checked(connection, wish, seen[n], now_ms) for n, wish in enumerate(wishes)]
    return api_keys.index_keys(read["keys"]), found


def known_with(wish: Wish, seen: AskerRows) -> AskerTerms:
    """Return the facts for a decision from the rows of a caller.

    Errors: NotTogether if the metric or the organisation is unknown.
    """
    if not seen.is_known:
        raise NotTogether(f"unknown metric {wish.metric}, or unknown organisation {wish.org_id}")
    return known_of(wish, seen)


def seen_part(asked: Sequence[tuple[str, str, str]], now_ms: int) -> Part:
    """Return the query of the facts about callers, with rows for `seen_of`.

    `asked`: an organisation, a metric and a project for each caller.
    """
    rows = [{"n": n, "org_id": org, "metric": metric, "project": name} for n, (org, metric, name) in enumerate(asked)]
    moments = {"now_ms": now_ms, **{f"{period}_ms": start for period, start in starts(now_ms).items()}}
    return SQL.part("seen", {"asked": rows, "asking": len(rows), **moments})


def seen_of(rows: Sequence[Any]) -> dict[int, AskerRows]:
    """Return the facts about callers from the rows of `seen_part`, by their index."""
    return {int(row.n): AskerRows(*json.loads(row.seen)) for row in rows}


def _checked(connection: sa.Connection, wish: Wish, seen: AskerRows, now_ms: int) -> Answer | DrawdownError:
    try:
        require_sane(wish)
        if not seen.is_known or seen.has_overs:
            return step_by_step(connection, wish, now_ms)
        known, paying = known_of(wish, seen), NOTHING
        if known.metric.price.of(wish.quantity):
            paying = _paying(connection, wish, known, seen, now_ms) or _previewed(connection, wish, known, now_ms)
        return _answer_of(wish, known, _counters(wish, seen, now_ms), paying, now_ms)
    except (Refused, UsageError) as error:
        return error


def known_of(wish: Wish, seen: AskerRows) -> AskerTerms:
    """Return the facts for a decision from the rows of a caller that `is_known`."""
    assert seen.metric is not None
    number, price, per_units, payer, phase, warn_ppm, fails_open, counts = seen.metric
    metric = Metric(wish.metric, number, price, per_units, payer, phase, warn_ppm, bool(fails_open), counts)
    asker = seen.asker(wish.org_id)
    return AskerTerms(
        metric,
        asker,
        seen.customer_id,
        seen.plan or None,
        bool(seen.pays),
        halted_by(asker),
        limits_of(Limit(*one) for one in seen.limits or ()),
        tuple(Override(*one) for one in seen.overrides or ()),
    )


def _counters(wish: Wish, seen: AskerRows, now_ms: int) -> Counters:
    """Return the counters as `guard_counts.look` does.

    The metric must not have expired uses.
    """
    rows = {period: (Counted(used, bool(warned)), uses) for period, used, warned, uses in seen.counters or ()}
    none = Counted(), 0
    counted: dict[Span, Counted] = {period: rows.get(period, none)[0] for period in PERIODS}
    return Counters(wish.org_id, wish.metric, now_ms, counted, rows.get("month", none)[1], rows=len(rows))


def _paying(connection: sa.Connection, wish: Wish, known: AskerTerms, seen: AskerRows, now_ms: int) -> Paying | None:
    """Return the result of `executions.preview` in the plain case; otherwise None.

    The function uses only facts that are already read. The case is plain if the organisation's own wallet pays, a
    change of the wallet is not due, and only the last step of permission, credits, may refuse.
    """
    price, asker = known.metric.price.of(wish.quantity), known.asker
    account, balance, held, overdraft, over, due_ms, *_ = seen.wallet
    is_sponsored = wish.payer is not None or known.metric.payer is not None
    is_due = due_ms is not None and due_ms <= now_ms
    may_run = not (seen.has_other_owner or asker.is_halted or asker.stopped_at_ms is not None)
    if account is None or is_sponsored or is_due or not may_run:
        return None
    here = asker.provider in (None, EMBEDDED, *EXEMPT_PROVIDERS) or asker.provider in wallets_at(connection)
    terms = terms_of_row(seen.terms)
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
    """Return the answer that `consume` would give, without its writes."""
    known = know(connection, wish, now_ms)
    counters = guard_counts.look(connection, wish.org_id, wish.metric, now_ms)
    paying = _previewed(connection, wish, known, now_ms) if known.metric.price.of(wish.quantity) else NOTHING
    return _answer_of(wish, known, counters, paying, now_ms)


def _previewed(connection: sa.Connection, wish: Wish, known: AskerTerms, now_ms: int) -> Paying:
    price = known.metric.price.of(wish.quantity)
    run = run_of(wish, known.metric, price)
    found = executions.preview(connection, run, now_ms, known.asker)
    balance = found.available_micro if found.customer_id == known.customer_id else None
    code = None if found.allowed else found.code
    return code, Costs(price, 0, found.customer_id or run.payer or run.org_id, balance, code in IN_DOUBT)


def _answer_of(wish: Wish, known: AskerTerms, counters: Counters, paying: Paying, now_ms: int) -> Answer:
    code, costs = paying
    return answer(wish.metric, wish.quantity, decide(known.facts(counters, code), wish.quantity), costs, now_ms)


def reserve(connection: sa.Connection, key: str, wish: Wish, by: By) -> Answer:
    """Reserve a quantity for a use, if the use is allowed.

    The reservation expires after `wish.for_ms`, or after an hour. Errors: as `consume`.
    """
    return take(connection, Ask(key, wish, by, "held"))


def settle(connection: sa.Connection, key: str, actual: int, by: By) -> Answer:
    """End a reserved use with the total used quantity, even if it has expired.

    `actual`: the used quantity, in base units. The call releases the rest of the reservation.

    Errors: Denied `ended`, `other_content`; UnknownId; UsageError.
    """
    return _end(connection, key, "settled", actual, by)


def release(connection: sa.Connection, key: str, incurred: int, by: By) -> Answer:
    """Cancel a reserved use.

    `incurred`: the quantity that was used already, in base units, which counts.

    Errors: as `settle`; Denied `ended` also for an expired use, which you can only settle.
    """
    return _end(connection, key, "released", incurred, by)


def extend(connection: sa.Connection, key: str, to: int | None, for_ms: int | None, by: By) -> Answer:
    """Extend a reservation to `to` base units in all, and to `for_ms` from now.

    `to` None: the quantity does not change. `for_ms` None: an hour.

    The call never reduces the quantity or the time until expiry. A caller can use it as a heartbeat of the use. If the
    guard does not allow the quantity, the reservation does not change, and its time of expiry does not either. The
    answer is then a block. Otherwise the answer has the first call's decision, and this call's `reason`.

    Errors: Denied `ended`; UnknownId; UsageError.
    """
    require_life(for_ms)
    if to is not None and not 0 < to <= MAX_UNITS:
        raise UsageError(
            f"invalid quantity to reserve {to}: expected a whole number from 1 to {MAX_UNITS:,} base units of the "
            "metric"
        )
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
    connection: sa.Connection, use: Use, counters: Counters, wanted: int, life_ms: int, known: AskerTerms, by: By
) -> tuple[Verdict, Charged]:
    """Decide whether a use may reserve more.

    The use's execution reserves the price, by the terms of the execution's acceptance. If the execution cannot reserve
    more, but the use is allowed, the use continues with the present reservation.
    """
    wish, done = Wish(use.org_id, use.metric, wanted - use.amount), Charged(Costs())
    verdict = decide(known.facts(counters), wish.quantity)
    if verdict.decision != "block" and use.reservation is not None:
        run, price, payer = use.reservation, use.price.hold_micro(wanted), use.payer or use.org_id

        def work() -> Charged:
            executions.extend(connection, run, price, life_ms, by, of_use=True)
            return Charged(Costs(price, 0, payer), run)

        done = attempt(connection, price, payer, work)
        if done.code is not None and verdict.would != "block":
            verdict = decide(known.facts(counters, done.code), wish.quantity)
    if verdict.would == "block":
        refuse(connection, counters, use.use_key, wish.quantity, known, verdict, by.now_ms)
    return verdict, done


def _end(connection: sa.Connection, key: str, state: State, amount: int, by: By) -> Answer:
    if not 0 <= amount <= MAX_UNITS:
        raise UsageError(
            f"invalid used quantity {amount}: expected a whole number from 0 to {MAX_UNITS:,} base units of the metric"
        )
    counters, use = _locked(connection, key, by.now_ms)
    if use.state == state:
        if use.amount != amount:
            text = (
                f"{strip_own_prefix(key)} is already {state}, with {counted(use.amount, 'base unit')}. To repeat the "
                "call, send this quantity"
            )
            raise Denied("other_content", text)
        return of_use(use, 0, by.now_ms, repeated=True)
    if use.state != "held" and (use.state, state) != ("expired", "settled"):
        raise _ended(use, state)
    price = use.price.of(amount)
    if price > MAX_ENTRY_MICRO:  # without an execution, only this check bounds the price
        raise UsageError(
            f"invalid cost {as_credits(price)} of a use: expected at most 1,000,000,000 credits. "
            "Send a part of the quantity, and reserve another use for the rest"
        )
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
    """End a use's execution. Return the charged part of its price, in micro-credits.

    A use in the past must count, so the part above the payer's limit is not charged. If the metric names the payer, the
    payer does not pay for use that `is_beyond` the limit, or for more than its credit. Until the reservation expires,
    the reserved amount is within these limits.
    """
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
                    raise Denied("payer_limit", f"{held.customer_id} lacks credit for the excess")
                return done.drawn.charged_micro
        except Denied as error:
            if error.code != "payer_limit" or not cost:
                raise
    raise AssertionError("every quantity would exceed a limit")


def _locked(connection: sa.Connection, key: str, now_ms: int) -> tuple[Counters, Use]:
    """Lock a use, and return it with the locked counters that count it.

    If the use's reservation is past its end, the function marks the use as expired. Errors: UnknownId; UsageError;
    Denied `ended` if the use was not a reservation.
    """
    require_key(key)
    use = guard_counts.read_use(connection, key)
    if use is None:
        ids.require(connection, ids.USE, key)
        raise UsageError(explain_race("use", strip_own_prefix(key)))
    guard_counts.lock(connection, use.org_id, use.metric, now_ms)
    counters = guard_counts.lock_of(connection, use)
    found = guard_counts.hold_use(connection, key)
    assert found is not None
    if found.state == "used":
        raise Denied(
            "ended",
            f"the call consume already counted {strip_own_prefix(key)}, so you cannot settle, release or extend it. "
            "For further use, reserve another use",
        )
    return counters, found


def _moved(connection: sa.Connection, counters: Counters, amount: int, known: AskerTerms) -> None:
    """Add an amount to a use's counters, even above a limit."""
    bounds = in_force(known.facts(counters))
    then = guard_counts.after(counters, amount, bounds, known.metric.warn_ppm, uses=0)
    guard_counts.write(connection, counters, then, bounds, passes=PERIODS)


def _ended(use: Use, asked: str = "") -> Denied:
    """Return the refusal of a use that has ended.

    `asked`: the requested state; empty to extend the use.
    """
    if use.state == "expired":
        then = "Settle the use with its quantity, even if it is late"
    elif not asked:
        then = "Reserve another use"
    elif use.state == "settled":
        then = f"It counts {counted(use.amount, 'base unit')}. Do not reserve this quantity again"
    else:
        then = f"It counts {counted(use.amount, 'base unit')}. To count the rest, reserve another use for only the rest"
    return Denied("ended", f"{strip_own_prefix(use.use_key)} is {use.state}. {then}")


def own_name(org_id: str, key: str) -> str:
    """Return the stored name of a use key of an organisation's own API key."""
    return own_keys.own_name(org_id, key, USE)


def require_key(key: str) -> None:
    """Refuse an invalid use key. Errors: UsageError."""
    if not is_clean_id(key) or not is_clean_id(USE + key):
        most = MAX_ID_CHARS - len(USE)
        raise UsageError(
            f"invalid use key {quote_value(key)}: expected 1 to {most} characters without control characters"
        )


def read_by_keys(connection: sa.Connection, keys: Sequence[tuple[str, str]]) -> dict[str, Use]:
    """Return the existing uses of keys by name.

    `keys`: pairs of an organisation and a use key.
    """
    names = {name for org_id, key in keys for name in (key, own_name(org_id, key))}
    return guard_counts.read_uses(connection, sorted(names))


def used_before(uses: Mapping[str, Use], org_id: str, key: str, *, own: bool) -> Use | None:
    """Return the earlier use of a use key; None if the key is new.

    `own`: the API key is bound to the organisation.
    """
    all_ = uses.get(key)
    if not own:
        return all_
    return uses.get(own_name(org_id, key)) or (all_ if all_ is not None and all_.org_id == org_id else None)


def use_of(connection: sa.Connection, org_id: str, key: str) -> Use | None:
    """Return an organisation's use by its use key; None if it does not exist.

    Errors: UsageError for an invalid key.
    """
    require_key(key)
    return used_before(read_by_keys(connection, [(org_id, key)]), org_id, key, own=True)


Option: TypeAlias = Literal["top_up", "sponsor", "request_override", "run_locally"]


@dataclass(frozen=True)
class Answer:
    """The answer about a use. Quantities are in base units.

    - `decision`: the decision that counts. `would`: the decision of phase 3. `rule`: the rule that decided, because of
      `reason`.
    - `period`, `limit`: the nearest limit (None: all are unlimited, or missing, or an earlier call decided the use and
      phase 3 would block it). `used`: the use before this use (None: as `limit`, or an earlier call decided it).
      `remaining`: the rest after this use (None: as `used`). `resets_ms`: the end of the period (None: without one).
      `enforced`: the phase enforces the decision. `expires_ms`: the end of a reservation (None: it was not reserved).
    - `price_micro`: the cost (0 if a limit or the operator blocks the use; a check returns the cost even then).
      `charged_micro`: the charge of this call. `charged_before_micro`: the earlier charge of the use, if this call is
      `repeated`.
    - `payer`: the payer (None: it is free, or the payer is not charged, or as for a price of 0). `balance_micro`: the
      payer's available credit (None: it was not read, or the caller may not see it).
    - `options`: the ways out of a block. `degraded`: the guard decided while the credit was unknown.
    - `repeated`: an earlier call decided the use, and this call did not change it.
    - `state`: the state of the use (None: it is not recorded). `event`: the outcome of the event that it emits.
    """

    decision: Decision
    would: Decision
    enforced: bool
    rule: str
    reason: str
    metric: str
    quantity: int
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
    event: Emitted | None = None


def answer(metric: str, quantity: int, verdict: Verdict, costs: Costs, now_ms: int, use: Use | None = None) -> Answer:
    """Return the answer for a verdict that was just reached."""
    bound = verdict.bound
    ends = bound is not None and bound.amount is not None
    return Answer(
        decision=verdict.decision,
        would=verdict.would,
        enforced=verdict.enforced,
        rule=verdict.rule,
        reason=verdict.reason,
        metric=metric,
        quantity=quantity,
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
    """Return the answer about an earlier use: its decision, and its state now."""
    return Answer(
        decision="warn" if use.decision == "warn" else "allow",
        would="block" if use.would == "block" else "warn" if use.would == "warn" else "allow",
        enforced=use.enforced,
        rule=use.rule,
        reason="decided_before",
        metric=use.metric,
        quantity=use.amount,
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
    """Return the time when a span begins again, in milliseconds.

    Return None for an `at_once` limit.
    """
    return None if span is None or span == "at_once" else end_of(span, at_ms)


def options_of(verdict: Verdict) -> tuple[Option, ...]:
    """Return the ways out of a block, for a caller that was or would be blocked.

    A block by an operator does not have a way out. An `at_once` limit belongs to the provider or an operator, so a
    limit override does not replace it.
    """
    if verdict.would != "block" or verdict.rule == "operator":
        return ()
    if verdict.rule == "credits":
        return "top_up", "sponsor", "run_locally"
    is_at_once = verdict.bound is not None and verdict.bound.period == "at_once"
    return ("run_locally",) if is_at_once else ("request_override", "run_locally")
