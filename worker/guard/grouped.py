"""Decide calls that arrive together in one transaction.

The calls are uses, ends of uses, executions, and changes of executions, from any organisations.

Guarantee: each call gets the answer that it would get alone, and writes the same rows. If a call has an error, or is
not plain (see `executions.grouped`), its answer here is `NotTogether`, mostly `Alone`. Such a call does not write here,
the other calls continue, and the caller decides it alone later. A block of the guard is not an error. If rows changed
between read and write, the transaction is rolled back (`NotTogether`). The transaction takes locks in the guard's
order: counters, uses, executions, events, wallets. If it waits longer than MOST_WAIT_MS for a lock, it is rolled back.
Calls of an ended API key do not take effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa

from drawdown.guard.decide import Counted, in_force
from drawdown.guard.periods import Period, Span, starts
from drawdown.ledger import draws
from drawdown.ledger import grouped as ledger
from drawdown.ledger.accounts import HoldTerms, terms_of_row
from drawdown.ledger.draws import Line, lines_of
from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.ledger.grouped import Moved, Moves, Standing
from drawdown.ledger.reservations import NotTogether, Reservation
from drawdown.schema.audit import By
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.sql import Part, prepared, queries, read_together
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.executions import grouped as runs
from drawdown.worker.executions.actions import RequestedExecution
from drawdown.worker.executions.grouped import Alone, Change, Facts, WalletRow
from drawdown.worker.executions.request import USE, require_sane
from drawdown.worker.guard import counters as guard_counts
from drawdown.worker.guard import emission as emissions
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.counters import NO_END, Counters, Use
from drawdown.worker.guard.emission import Emission, Emitted
from drawdown.worker.guard.terms import MAX_UNITS, AskerTerms, run_of
from drawdown.worker.guard.use import Answer, Ask, AskerRows, Book, Charged, Costs, own_name

SQL = queries(__file__)

MOST_WAIT_MS: Final = 100
"""Longest wait of a shared transaction for a lock, in milliseconds."""


@dataclass(frozen=True)
class End:
    """The end of a reserved use, as a program requests it.

    `amount`: the total use, in base units. `org_id`: the organisation to which the API key is bound (None: unbound). A
    bound key finds the uses of its organisation, and changes those that it began.
    """

    key: str
    state: Literal["settled", "released"]
    amount: int
    actor: str
    reason: str
    org_id: str | None = None

    def by(self, now_ms: int) -> By:
        return By(now_ms, self.actor, self.reason, "http")

    @property
    def names(self) -> list[str]:
        return [self.key] if self.org_id is None else [own_name(self.org_id, self.key), self.key]


Call: TypeAlias = Ask | End | RequestedExecution | Change
_Group: TypeAlias = tuple[str, str]
"""An organisation and a metric.

A transaction changes their counters of one moment.
"""
_Counter: TypeAlias = tuple[str, str, Period, int]


def do_all(
    connection: sa.Connection, proofs: Sequence[str], calls: Sequence[Call], now_ms: int
) -> tuple[Mapping[str, ApiKey], list[Any]]:
    """Decide calls in one transaction, each by the API key with the hash in `proofs`.

    Return the valid keys, and the answers in the order of the calls. An answer is None if the call's API key has ended,
    and a NotTogether, mostly Alone, if the call must be decided alone.

    Errors: NotTogether if every call must be decided alone; LockHeld; DatabaseBusy.
    """
    with prepared(connection):
        work = _Work(connection, proofs, calls, now_ms)
        return work.keys, work.finish()


class _Work:
    """The transaction that decides the calls.

    Each step reads the facts that the next step needs. The last step writes.
    """

    def __init__(self, connection: sa.Connection, proofs: Sequence[str], calls: Sequence[Call], now_ms: int) -> None:
        self._connection, self._proofs, self._calls, self._now_ms = connection, proofs, calls, now_ms
        self._first: dict[str, Part] = {
            "wait": SQL.part("impatient", {"wait": f"{MOST_WAIT_MS}ms"}),
            "keys": api_keys.finding(proofs, now_ms),
        }
        self.keys: Mapping[str, ApiKey] = {}
        self._found: list[Any] = [None] * len(calls)
        self._moves = Moves(now_ms)
        self._books: dict[_Group, Book] = {}
        self._changed: list[Use] = []
        self._locked: dict[str, Use] = {}
        self._uses: dict[str, Use] = {}
        self._counters: dict[_Counter, Any] = {}
        self._missing: list[_Counter] = []
        self._runs: dict[str, Reservation] = {}
        self._emits: dict[int, Emission] = {}
        self._emitted: dict[int, Emitted] = {}
        ends = self._read_ends()
        moments = self._moments(ends)
        self._lock(ends, moments)
        before = list(self._found)
        self._decide(ends, moments)
        refused = self._emit()
        if refused:  # decide these calls alone, and the others again, because they have not written yet
            self._found = [refused.get(at, one) for at, one in enumerate(before)]
            self._moves, self._books, self._changed = Moves(now_ms), {}, []
            self._decide(ends, moments)
            if self._emit():
                raise NotTogether("an event was just refused")

    def finish(self) -> list[Any]:
        """Write the decisions and return the answers."""
        moved = self._moves.write(self._connection)
        runs.tell(self._connection, moved, self._now_ms)
        self._write_counters()
        answers = [one(moved) if callable(one) else one for one in self._found]
        return [one if proof in self.keys else None for one, proof in zip(answers, self._proofs, strict=True)]

    def _read(self, **parts: Part) -> dict[str, list[Any]]:
        """Run several reads in one statement. The first call also reads the API keys."""
        first, self._first = self._first, {}
        read = read_together(self._connection, **first, **parts)
        if first:
            self.keys = api_keys.index_keys(read["keys"])
        return read

    def _read_ends(self) -> dict[int, Use]:
        """Return the uses to end, which are not locked yet, by the places of their calls."""
        names = [name for one in self._calls if isinstance(one, End) for name in one.names]
        if not names:
            return {}
        uses = guard_counts.uses_of(self._read(uses=guard_counts.uses_part(names))["uses"])
        found, taken = {}, set[str]()
        for at, call in enumerate(self._calls):
            if not isinstance(call, End):
                continue
            use = _its_use(uses, call)
            if use is None or use.use_key in taken:
                self._found[at] = Alone("the use is unknown, or another call ends it")
                continue
            taken.add(use.use_key)
            found[at] = use
        return found

    def _moments(self, ends: Mapping[int, Use]) -> dict[_Group, int]:
        """Return the moment at which each group of calls counts.

        Calls of another moment are decided alone.
        """
        moments: dict[_Group, int] = {}
        for at, call in enumerate(self._calls):
            group = _group_of(call, ends.get(at))
            if isinstance(call, Ask) and (call.failed_open or guard.wrong(call) is not None):
                self._found[at] = Alone("the request is invalid, or a client already allowed the use")
            elif group is not None and isinstance(call, Ask):
                moments[group] = self._now_ms
            elif group is not None:
                moments.setdefault(group, ends[at].at_ms)
        return moments

    def _lock(self, ends: Mapping[int, Use], moments: Mapping[_Group, int]) -> None:
        """Lock keys, counters, uses and executions, in this order.

        Keys are locked only if a month turns. The counters are those of `moments` and of now.
        """
        held = [(USE + use.use_key, use.org_id) for use in ends.values() if use.reservation is not None]
        held += chain.from_iterable(one.names for one in self._calls if isinstance(one, Change))
        wanted = [
            (*group, period, start_ms)
            for group, moment_ms in moments.items()
            for period, start_ms in {*starts(moment_ms).items(), *starts(self._now_ms).items()}
        ]
        parts: dict[str, Part] = {}
        keys = {f"{one.wish.org_id} {one.key}" for one in self._calls if isinstance(one, Ask)}
        turn = guard_counts.keys_part(self._connection, keys, self._now_ms) if keys else None
        if turn is not None:
            parts["turn"] = turn
        if wanted:
            parts["counters"] = SQL.part("hold_counters", {"counters": _rows(wanted)})
        if ends:
            names = [use.use_key for use in ends.values()]
            parts["uses"] = guard_counts.uses_part(names, held="for_update")
        if held:
            parts["runs"] = ledger.hold_part(held)
        if not parts:
            return
        read = self._read(**parts)
        self._counters = _by_key(read.get("counters", ()))
        self._missing = [one for one in wanted if one not in self._counters]
        self._locked = guard_counts.uses_of(read.get("uses", ()))
        self._runs = {row.reservation: Reservation(**vars(row)) for row in read.get("runs", ())}

    def _decide(self, ends: Mapping[int, Use], moments: Mapping[_Group, int]) -> None:
        """Decide the calls one after another.

        The decisions use the rows that are read after all locks are taken.
        """
        seen, read = self._read_facts(ends)
        if self._missing and self._make(seen, ends):
            seen, read = self._read_facts(ends)
        standings = {
            row.customer_id: WalletRow(**vars(row)).standing(self._connection, self._now_ms)
            for row in read.get("wallets", ())
        }
        there = {row.reservation for row in read.get("there", ())}
        drawn: dict[str, list[Line]] = {}
        for row in read.get("drawn", ()):
            drawn.setdefault(row.reservation, []).extend(lines_of([row]))
        self._uses = guard_counts.uses_of(read.get("uses", ()))
        changed: set[str] = set()
        self._emits = {}
        for at, call in enumerate(self._calls):
            if self._proofs[at] not in self.keys or self._found[at] is not None:
                continue
            try:
                if isinstance(call, Ask):
                    self._found[at] = self._take(at, call.at(self._now_ms), seen[at])
                elif isinstance(call, End):
                    self._found[at] = self._end(call, ends[at], seen[at], standings, moments)
                elif isinstance(call, RequestedExecution):
                    self._found[at] = self._accept(call, seen[at], there, read.get("rates"))
                    there.update(call.names)
                else:
                    self._found[at] = self._change(call, standings, drawn, changed, read.get("rates"))
            except NotTogether as error:  # includes Alone
                self._found[at] = error

    def _make(self, seen: Mapping[int, AskerRows], ends: Mapping[int, Use]) -> bool:
        """Create and lock the missing counters of known organisations.

        Return True if a counter was missing.
        """
        groups = {_group_of(self._calls[at], ends.get(at)) for at, one in seen.items() if one.is_known}
        if made := [one for one in self._missing if one[:2] in groups]:
            rows = {"counters": _rows(made)}
            SQL.run(self._connection, "make", rows)
            self._counters |= _by_key(self._read(counters=SQL.part("hold_counters", rows))["counters"])
        return bool(made)

    def _read_facts(self, ends: Mapping[int, Use]) -> tuple[dict[int, AskerRows], dict[str, list[Any]]]:
        """Read the facts for the decisions, except the locked rows.

        Return the facts of the callers by the place of the call, and all rows that were read, by query.
        """
        asked: list[tuple[int, tuple[str, str, str]]] = []
        names, there, spans, has_quantities = list[str](), list[str](), list[Mapping[str, object]](), False
        for at, call in enumerate(self._calls):
            if isinstance(call, Ask):
                asked.append((at, (call.wish.org_id, call.wish.metric, call.wish.project or "")))
                names += (call.key, own_name(call.wish.org_id, call.key))
            elif at in ends:
                asked.append((at, (ends[at].org_id, ends[at].metric, "")))
            elif isinstance(call, RequestedExecution):
                asked.append((at, (call.request.org_id, call.request.action or "", call.request.project or "")))
                there += call.names
                has_quantities |= call.request.quantities is not None
            elif isinstance(call, Change) and (run := self._run_of(call)) is not None and call.kind == "draw":
                spans.append(draws.span(run.reservation, f"d{call.number}"))
                has_quantities |= call.cost is not None and call.cost.quantities is not None
        parts: dict[str, Part] = {}
        if asked:
            parts["seen"] = guard.seen_part([one for _, one in asked], self._now_ms)
        if names:
            parts["uses"] = guard_counts.uses_part(names)
        if there:
            parts["there"] = ledger.among_part(there)
        if spans:
            parts["drawn"] = ledger.entries_part(spans)
        if self._runs:
            parts["wallets"] = runs.wallets_part((one.customer_id for one in self._runs.values()), self._now_ms)
        if has_quantities:
            parts["rates"] = runs.rates_part()
        read = self._read(**parts) if parts or self._first else {}
        seen = guard.seen_of(read.get("seen", ()))
        return {at: seen[n] for n, (at, _) in enumerate(asked)}, read

    def _emit(self) -> dict[int, Alone]:
        """Record the events of the allowed uses.

        If one event is refused, roll all of them back. Return the refused events, by the places of their calls.
        """
        if not self._emits:
            return {}
        with self._connection.begin_nested() as turn:
            found = emissions.take_all(self._connection, list(self._emits.values()), self._now_ms)
            taken = dict(zip(self._emits, found, strict=True))
            refused = {
                at: Alone("the event of the use is refused") for at, one in taken.items() if not emissions.is_kept(one)
            }
            if refused:
                turn.rollback()
        self._emitted = {at: emissions.emitted(self._emits[at], one) for at, one in taken.items()}
        return refused

    def _take(self, at: int, ask: Ask, seen: AskerRows) -> runs.Finish:
        """Decide a use as `guard.take` does. Errors: Alone."""
        if guard.used_before(self._uses, ask.wish.org_id, ask.key, own=ask.own):
            raise Alone("the key was used before")
        book = self._book((ask.wish.org_id, ask.wish.metric), guard.known_with(ask.wish, seen), seen, self._now_ms)
        book.charge = lambda one, known, _: self._charged(one, known, seen)
        book.terms = guard.known_with(ask.wish, seen)
        try:
            answer = guard.decide_use(book, ask)
        except (Refused, UsageError) as error:
            raise error if isinstance(error, Alone) else Alone(str(error)) from error
        self._uses |= {name: book.uses[name] for name in (ask.name,) if name in book.uses}
        customer = book.terms.customer_id
        if ask.event is None or answer.state is None:
            return lambda moved: _shifted(answer, moved.get(customer))
        self._emits[at] = ask.event
        return lambda moved: replace(_shifted(answer, moved.get(customer)), event=self._emitted[at])

    def _charged(self, ask: Ask, known: AskerTerms, seen: AskerRows) -> Charged:
        """Charge a use to its own organisation's wallet.

        Return its cost and charge. Errors: Alone.
        """
        terms = known.metric.price
        price = terms.hold_micro(ask.wish.quantity) if ask.state == "held" else terms.of(ask.wish.quantity)
        if not price:
            return Charged(Costs())
        if ask.wish.payer is not None or known.metric.payer is not None:
            raise Alone("another wallet pays")
        run, name = run_of(ask.wish, known.metric, price), USE + ask.name
        require_sane(run)
        facts = _facts(self._connection, ask.wish.org_id, seen, self._now_ms)
        standing = facts.payer(self._connection)
        if facts.terms.most_hold_micro is not None and price > facts.terms.most_hold_micro:
            raise Alone("the price exceeds the plan's limit for one execution")
        wallet = runs.consume(standing, run, name, price, self._moves, facts.terms, ask.by, ends=ask.state == "used")
        if wallet is not None:
            charged = price if ask.state == "used" else 0
            return Charged(Costs(price, charged, standing.customer_id, wallet.available_micro), name)
        if not self._has_none(standing, facts.terms, price):
            raise Alone("the wallet may have enough credit after a full check")
        return Charged(Costs(price, 0, run.org_id), None, "no_credit")

    def _has_none(self, standing: Standing, terms: HoldTerms, price: int) -> bool:
        """Return True if a wallet without reservations lacks the credit for a price.

        The price is in micro-credits.
        """
        wallet = self._moves.wallet(standing)
        return wallet is not None and not wallet.held_micro and terms.held_for(price) > wallet.available_micro

    def _end(
        self, call: End, before: Use, seen: AskerRows, standings: Mapping[str, Standing], moments: Mapping[_Group, int]
    ) -> runs.Finish:
        """End a use as `guard.settle` does. Errors: Alone."""
        use, group, by = self._locked.get(before.use_key), (before.org_id, before.metric), call.by(self._now_ms)
        if use is None or use.state != "held" or (use.expires_ms or 0) <= self._now_ms:
            raise Alone("the use has ended or expired")
        if call.org_id is not None and use.actor != call.actor:
            raise Alone("another API key began the use")
        if starts(moments[group]) != starts(use.at_ms):
            raise Alone("the use belongs to the counters of an earlier period")
        if not 0 <= call.amount <= MAX_UNITS or (price := use.price.of(call.amount)) > MAX_ENTRY_MICRO:
            raise Alone("the quantity exceeds the maximum of a use")
        known = guard.known_with(guard.Wish(use.org_id, use.metric, 1), seen)
        book = self._book(group, known, seen, use.at_ms)
        charged = 0
        if use.reservation is not None:
            run = self._runs.get(use.reservation)
            standing = None if run is None else standings.get(run.customer_id)
            if run is None or standing is None or run.org_id != use.org_id:
                raise Alone("the wallet of another organisation pays")
            charged = runs.end_of_use(run, standing, call.state, price, self._moves, by)
        after = replace(
            use,
            state=call.state,
            amount=call.amount,
            charged_micro=charged,
            forgone_micro=price - charged,
            ended_ms=by.now_ms,
        )
        book.counters = guard_counts.after(
            book.counters, call.amount - use.amount, in_force(known.facts(book.counters)), known.metric.warn_ppm, uses=0
        )
        book.passes = True
        self._changed.append(after)
        answer = guard.of_use(after, charged, by.now_ms, repeated=False)
        return lambda _: answer

    def _accept(
        self, asked: RequestedExecution, seen: AskerRows, there: Iterable[str], rates: Sequence[Any] | None
    ) -> runs.Finish:
        if not set(asked.names).isdisjoint(there):
            raise Alone("the key was used before")
        facts = _facts(self._connection, asked.request.org_id, seen, self._now_ms)
        card = None if rates is None else runs.card_at(rates, self._now_ms)
        return runs.accept(self._connection, asked, facts, self._moves, card, self._now_ms)

    def _change(
        self,
        call: Change,
        standings: Mapping[str, Standing],
        drawn: Mapping[str, Sequence[Line]],
        changed: set[str],
        rates: Sequence[Any] | None,
    ) -> runs.Finish:
        run = self._run_of(call)
        if run is None or run.reservation in changed or run.reservation.startswith(USE):
            raise Alone("the execution is unknown, or another call changes it")
        standing = standings.get(run.customer_id)
        if standing is None:
            raise Alone("the execution does not have a wallet here")
        card = None if rates is None else runs.card_at(rates, run.accepted_ms)
        found = runs.change(call, run, standing, self._moves, drawn.get(run.reservation, ()), card, self._now_ms)
        changed.add(run.reservation)
        return found

    def _run_of(self, call: Change) -> Reservation | None:
        """Return the execution of a call.

        If the API key of the call is bound to an organisation, the execution must belong to that organisation.

        Another call of the transaction may have locked another organisation's execution with the same execution key.
        """
        there = ((self._runs[name], org) for name, org in call.names if name in self._runs)
        return next((run for run, org in there if org in ("", run.org_id)), None)

    def _book(self, group: _Group, known: AskerTerms, seen: AskerRows, at_ms: int) -> Book:
        """Return the book of a group's counters.

        Errors: Alone if expired uses must be subtracted first.
        """
        if seen.has_overs:
            raise Alone("expired uses must be released first")
        if group not in self._books:
            counters = self._counters_of(group, at_ms)
            self._books[group] = Book(lambda *_: Charged(Costs()), known, counters, counters, {})
        return self._books[group]

    def _counters_of(self, group: _Group, at_ms: int) -> Counters:
        rows = {period: self._counters[(*group, period, start)] for period, start in starts(at_ms).items()}
        counted: dict[Span, Counted] = {one: Counted(int(row.used), bool(row.warned)) for one, row in rows.items()}
        return Counters(*group, at_ms, counted, int(rows["month"].uses), rows=len(rows))

    def _write_counters(self) -> None:
        """Move the counters, and write the uses and refusals that they count.

        Errors: NotTogether if a limit was just reached or a key was just used.
        """
        books = [self._books[group] for group in sorted(self._books)]
        moves = [row for book in books for row in _moves_of(book)]
        if moves and SQL.run(self._connection, "move", {"moves": moves}).rowcount < len(moves):
            raise NotTogether("another use just reached a limit")
        for book in books:
            guard_counts.deny(self._connection, book.locked, book.denials, self._now_ms, pays=book.terms.pays)
        made = sorted(chain.from_iterable(book.new_uses for book in books), key=lambda use: use.use_key)
        if made and guard_counts.add_uses(self._connection, made) < len(made):
            raise NotTogether("a concurrent request used one of the keys")
        if self._changed:
            guard_counts.change_uses(self._connection, self._changed)


def _moves_of(book: Book) -> list[dict[str, object]]:
    """Return the changes of a group's counters, a row for each period.

    If the counters do not change, the result is empty.
    """
    if book.counters == book.locked:
        return []
    bounds = () if book.passes else in_force(book.terms.facts(book.locked))
    limits = {one.period: one.amount for one in bounds if one.amount is not None}
    found, then = book.locked, book.counters
    amount = then.counted["month"].used - found.counted["month"].used
    return [
        {
            "of_org": found.org_id,
            "of_metric": found.metric,
            "its_period": period,
            "begins_ms": start_ms,
            "amount": amount,
            "more_uses": then.uses - found.uses,
            "is_warned": then.counted[period].warned,
            "most": limits.get(period, NO_END),
        }
        for period, start_ms in starts(found.at_ms).items()
    ]


def _group_of(call: Call, ending: Use | None) -> _Group | None:
    """Return the group with the counters that a call moves.

    Return None if the call is not a use, and does not end a use.
    """
    if isinstance(call, Ask):
        return call.wish.org_id, call.wish.metric
    return None if ending is None else (ending.org_id, ending.metric)


def _its_use(uses: Mapping[str, Use], call: End) -> Use | None:
    if call.org_id is None:
        return uses.get(call.key)
    return guard.used_before(uses, call.org_id, call.key, own=True)


def _facts(connection: sa.Connection, org_id: str, seen: AskerRows, now_ms: int) -> Facts:
    """Return the facts of a requested execution, as read in `seen`."""
    account, balance, held, overdraft, over, due_ms, lots_over_ms, deferred = seen.wallet
    standing, plan = None, seen.plan or None
    if account is not None:
        row = WalletRow(
            seen.customer_id, balance, held, overdraft, over, plan, due_ms, lots_over_ms, deferred, bool(seen.has_used)
        )
        standing = row.standing(connection, now_ms)
    terms = terms_of_row(seen.terms)
    return Facts(seen.asker(org_id), standing, terms, bool(seen.is_blocked), bool(seen.has_other_owner))


def _shifted(answer: Answer, moved: Moved | None) -> Answer:
    """Correct an answer's balance by the amounts that earlier calls moved.

    The earlier calls are those of the same transaction.
    """
    if moved is None or not moved.shift or answer.balance_micro is None:
        return answer
    return replace(answer, balance_micro=answer.balance_micro + moved.shift)


def _rows(counters: Iterable[_Counter]) -> list[dict[str, object]]:
    names = ("of_org", "of_metric", "its_period", "begins_ms")
    return [dict(zip(names, one, strict=True)) for one in sorted(set(counters))]


def _by_key(rows: Iterable[Any]) -> dict[_Counter, Any]:
    return {(row.org_id, row.metric, row.period, int(row.start_ms)): row for row in rows}
