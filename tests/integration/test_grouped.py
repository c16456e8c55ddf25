"""Calls that are decided in one transaction get the answers that they would have got alone, and leave the same rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pytest
import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.ledger import grouped as ledger
from drawdown.ledger.accounts import Wallet
from drawdown.ledger.draws import Cost
from drawdown.ledger.lots import Terms as LotTerms
from drawdown.ledger.reservations import NotTogether, Reservation
from drawdown.schema.database import write
from drawdown.schema.errors import DrawdownError, LockHeld
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.access import keys as api_keys
from drawdown.worker.executions import actions as runs
from drawdown.worker.executions.actions import Accepted, RequestedExecution, Settled
from drawdown.worker.executions.grouped import Change
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import emission as emissions
from drawdown.worker.guard import grouped
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.emission import Emission
from drawdown.worker.guard.grouped import Call, End
from drawdown.worker.guard.use import Answer, Ask, Wish
from drawdown.worker.sources.events.types import Bringer
from drawdown.worker.wallets.actions import grant, set_rate
from tests.integration.guarding import Guarded

KEPT: Final = (
    "SELECT use_key, org_id, metric, number, month_ms, metric_number, asked, amount, state, decision, would, rule, "
    "enforced, limit_period, limit_amount, reservation, charged_micro, forgone_micro, fingerprint, at_ms, expires_ms, "
    "ended_ms, actor, reason FROM guard_uses ORDER BY 1",
    "SELECT org_id, metric, period, start_ms, used, uses, warned FROM guard_counters WHERE uses > 0 "
    "ORDER BY 1, 2, 3, 4",
    "SELECT org_id, metric, reason_code, enforced, count, amount, sample FROM guard_denials ORDER BY 1, 2, 3, 4",
    "SELECT reservation, org_id, customer_id, project, subject, action, estimate, amount_micro, drawn_micro, state, "
    "overage, accepted_ms, expires_ms, ended_ms, ended_by, ended_reason, fingerprint, actor, reason FROM reservations "
    "ORDER BY 1",
    "SELECT key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor, reason, "
    "reservation FROM ledger_entries ORDER BY 1",
    "SELECT account_id, balance_micro, held_micro FROM ledger_accounts ORDER BY 1",
    "SELECT e.source, e.event_id, e.event_type, e.org_id, e.quantity, e.ts, s.interval_s FROM usage_events e "
    "JOIN usage_samples s ON s.id = e.sample_id ORDER BY 1, 2, 3",
)
MARKED: Final = "SELECT org_id FROM orgs WHERE projection_due_ms IS NOT NULL"
SEEDS: Final = 25
PLANTED: Final = 8
TOKEN: Final = f"{api_keys.PREFIX}{'a' * 43}"
PROOF: Final = api_keys.hash_of(TOKEN)
ORGS: Final = ("acme", "globex", "poor", "owing")
LATER_MS: Final = 2 * MINUTE_MS
BEGIN_MS: Final = 1_767_225_600_000
Outcome = tuple[list[Any], list[list[tuple[Any, ...]]], set[str], list[int]]


@pytest.fixture
def guarded(engine: sa.Engine) -> Guarded:
    """`look` is free and limited, `idea` costs a credit; `poor` has little, and a lot of `owing` is over. Uses and runs
    of each go on."""
    made = Guarded(engine)
    for org, credits_ in (("globex", 50), ("poor", 6)):
        made.give(org, credits_)
    made.limit("look", 30)
    made.limit("look", 2, "hour")
    made.limit("idea", 14)
    for org in ORGS[:3]:
        made.fleet.assign(org)
    ends = LotTerms("bonus", expires_ms=made.now + MINUTE_MS)
    made.write(lambda c: give_lots(c, "owing", made, ends))
    made.write(lambda c: api_keys.create(c, TOKEN, "app", ("guard",), made.fleet.by, new=True))
    made.write(lambda c: set_rate(c, "tokens", 1_000, 1, made.fleet.by, from_ms=None))
    for org in ORGS:
        for at in range(3):
            made.reserve("idea", 1, org=org, key=f"held-{org}-{at}", for_ms=DAY_MS)
            request = Request(org, MICRO // 2, overage=("charge", "refuse", "cap")[at], for_ms=DAY_MS)
            made.write(partial(runs.accept, key=f"run-{org}-{at}", request=request, by=made.fleet.by))
    made.reserve("look", 3, org="globex", key="over", for_ms=MINUTE_MS)
    made.fleet.clock.at_ms += LATER_MS
    return made


def give_lots(connection: sa.Connection, customer: str, made: Guarded, terms: LotTerms) -> None:
    grant(connection, customer, 9 * MICRO, made.fleet.by, key=f"free {customer}", plan=None)
    grant(connection, customer, 5 * MICRO, made.fleet.by, key=f"ending {customer}", plan=None, terms=terms)


def calls_of(seed: int, made: Guarded) -> list[Call]:
    """Of several organisations, some of the same keys, some that make no sense."""
    stream = random.Random(seed)

    def one(at: int) -> Call:
        org, key = stream.choice(ORGS), f"k{seed}-{stream.randint(0, 12)}"
        kind = stream.choice(("use", "use", "held", "end", "accept", "draw", "finish"))
        number = stream.randint(0, 2)
        cost = Cost(stream.choice((0, MICRO // 10, MICRO // 2, MICRO)))
        if stream.random() < 0.2:
            cost = Cost(quantities={stream.choice(("tokens", "nothing")): stream.randint(1, 300)})
        if kind in ("use", "held"):
            wish = Wish(org, stream.choice(("look", "idea", "idea", "none")), stream.choice((1, 1, 2, 5, 0)))
            if stream.random() < 0.1:
                wish = replace(wish, payer="globex")
            event = emission(org, f"e{stream.randint(0, 9)}", stream) if kind == "use" else None
            return Ask(key, wish, made.fleet.by, "used" if kind == "use" else "held", event=event)
        if kind == "end":
            state: Any = stream.choice(("settled", "released"))
            return End(f"held-{org}-{number}", state, stream.choice((0, 1, 3)), "test", "a test")
        if kind == "accept":
            request = Request(org, stream.choice((MICRO, 3 * MICRO, 0)), project=stream.choice((None, "p")))
            if stream.random() < 0.3:
                request = Request(org, quantities={"tokens": stream.randint(1, 2_000)}, action="ask")
            return RequestedExecution(key, request, "test", "a test")
        if kind == "draw":
            return Change(f"run-{org}-{number}", "draw", cost, "test", "a test", number=at % 3)
        ended: Any = stream.choice(("settled", "released"))
        nothing = ended == "released" and stream.random() < 0.5
        return Change(f"run-{org}-{number}", ended, None if nothing else cost, "test", "a test")

    return [one(at) for at in range(stream.randint(1, 16))]


def emission(org: str, event_id: str, stream: random.Random) -> Emission | None:
    """Of some uses. Some have the key of another one's event, or a type that is charged at once."""
    if stream.random() < 0.4:
        return None
    event_type = stream.choice(("page.done", "page.done", "page.done", "idea"))
    event = UsageEvent("/guard", event_id, event_type, org, stream.choice((1, 2)), BEGIN_MS)
    return Emission(event, True, False, Bringer(key_name="app"))


def alone(connection: sa.Connection, call: Call, made: Guarded) -> Any:
    """As its route decides it alone."""
    by = made.fleet.by
    try:
        with connection.begin_nested():
            if isinstance(call, Ask):
                return guard.take(connection, call)
            if isinstance(call, End):
                end = guard.settle if call.state == "settled" else guard.release
                return end(connection, call.key, call.amount, replace(by, actor="test", reason="a test"))
            if isinstance(call, RequestedExecution):
                return runs.accept_asked(connection, call, made.now)
            if call.kind == "draw":
                return runs.draw(connection, call.key, call.number, call.cost or Cost(), call.by(made.now))
            finish = runs.settle if call.kind == "settled" else runs.release
            return finish(connection, call.key, call.cost, call.by(made.now))
    except DrawdownError as error:
        return type(error).__name__, getattr(error, "code", "")


def shown(answer: Any) -> Any:
    """An answer as its route shows it: of a wallet, what it has."""
    if isinstance(answer, Accepted):
        wallet = answer.wallet
        return answer.reservation, answer.repeated, wallet and (wallet.available_micro, wallet.balance_micro)
    if isinstance(answer, Settled):
        wallet = answer.wallet
        return answer.drawn, wallet and (wallet.available_micro, wallet.balance_micro)
    return answer


def outcome(made: Guarded, work: Callable[[sa.Connection], tuple[list[Any], list[int]]]) -> Outcome:
    """The answers, what is kept, who is to be asked about again, and which were decided alone: rolled back."""

    def whole(connection: sa.Connection) -> Outcome:
        answers, handed_back = work(connection)
        kept = [[tuple(row) for row in connection.execute(sa.text(text))] for text in KEPT]
        marked = {str(row.org_id) for row in connection.execute(sa.text(MARKED))}
        return list(map(shown, answers)), kept, marked, handed_back

    return write(made.fleet.engine, whole, rollback=True)


def together(made: Guarded, calls: Sequence[Call]) -> Outcome:
    def work(connection: sa.Connection) -> tuple[list[Any], list[int]]:
        _, answers = grouped.do_all(connection, [PROOF] * len(calls), calls, made.now)
        back = [at for at, one in enumerate(answers) if isinstance(one, NotTogether)]
        for at in back:
            answers[at] = alone(connection, calls[at], made)
        return answers, back

    return outcome(made, work)


def one_by_one(made: Guarded, calls: Sequence[Call], last: Sequence[int]) -> Outcome:
    """Each alone, those that are decided `last` after the others."""

    def work(connection: sa.Connection) -> tuple[list[Any], list[int]]:
        answers: dict[int, Any] = {}
        for at in (*(at for at in range(len(calls)) if at not in last), *last):
            answers[at] = alone(connection, calls[at], made)
        return [answers[at] for at in range(len(calls))], list(last)

    return outcome(made, work)


def differs(made: Guarded, seed: int) -> str:
    """In what deciding these calls together differs from deciding each alone; nothing where it is the same."""
    calls = calls_of(seed, made)
    found = together(made, calls)
    wanted = one_by_one(made, calls, found[3])
    for call, mine, right in zip(calls, found[0], wanted[0], strict=True):
        if mine != right:
            return f"{call}:\n{mine}\n{right}"
    for text, mine, right in zip(KEPT, found[1], wanted[1], strict=True):
        if mine != right:
            return f"{text}:\n{set(mine) ^ set(right)}"
    return "" if found[2] >= wanted[2] else f"not asked about again: {wanted[2] - found[2]}"


def test_grouped_calls_equal_calls_decided_alone(guarded: Guarded) -> None:
    kinds, all_, back = set(), 0, 0
    for seed in range(SEEDS):
        assert differs(guarded, seed) == "", seed
        answers, _, _, handed_back = together(guarded, calls_of(seed, guarded))
        all_, back = all_ + len(answers), back + len(handed_back)
        for at, one in enumerate(answers):
            if at not in handed_back:
                kinds.add((one.decision, one.state) if isinstance(one, Answer) else type(one[0]).__name__)
    assert {
        ("allow", "used"),
        ("allow", "held"),
        ("block", None),
        ("allow", "settled"),
        "Reservation",
        "Drawn",
    } <= kinds
    assert back < all_ * 0.7, "many make no sense, or have more to them; the others share a transaction"


def _a_hold_needs_no_room(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Wallet, "available_micro", property(lambda _: 10**12))


def _what_is_drawn_stays_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reservation, "left_micro", property(lambda _: 0))


def _the_second_counts_from_where_the_first_did(patch: pytest.MonkeyPatch) -> None:
    real = grouped._Work._book

    def wrong(self: Any, group: Any, *more: Any) -> Any:
        book = real(self, group, *more)
        book.counters = book.locked
        return book

    patch.setattr(grouped._Work, "_book", wrong)


def _a_use_goes_in_without_its_event(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(emissions, "is_kept", lambda _: True)


def _a_refused_event_takes_the_others_with_it(patch: pytest.MonkeyPatch) -> None:
    real = grouped._Work._emit

    def wrong(self: Any) -> Any:
        refused = real(self)
        self._emits = {}
        return {at: one for at, one in refused.items() if at < 0}

    patch.setattr(grouped._Work, "_emit", wrong)


@pytest.mark.parametrize(
    "plant",
    [
        _a_use_goes_in_without_its_event,
        _a_refused_event_takes_the_others_with_it,
        _what_is_drawn_stays_held,
        _the_second_counts_from_where_the_first_did,
        _a_hold_needs_no_room,
    ],
)
def test_planted_mistake_is_found(
    guarded: Guarded, plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(seed: int) -> str:
        calls = calls_of(seed, guarded)
        with monkeypatch.context() as patch:
            plant(patch)
            try:
                mine = together(guarded, calls)
            except DrawdownError as error:
                return str(error)
        right = one_by_one(guarded, calls, mine[3])
        return "" if mine[:2] == right[:2] else "differs"

    assert any(map(found, range(PLANTED)))


@pytest.mark.both_databases
def test_grouped_calls_with_invalid_api_key_are_not_decided(guarded: Guarded) -> None:
    asks = [Ask(f"n{at}", Wish("acme", "idea", 1), guarded.fleet.by) for at in range(2)]
    calls: list[Call] = [*asks, End("held-acme-0", "settled", 1, "test", "a test")]
    calls.append(Change("run-acme-0", "settled", Cost(1), "test", "a test"))
    other = api_keys.hash_of(f"{api_keys.PREFIX}{'b' * 43}")
    before = guarded.wallet()
    keys, answers = guarded.write(lambda c: grouped.do_all(c, [PROOF, other, other, other], calls, guarded.now))
    assert list(keys) == [PROOF] and answers[0].decision == "allow" and answers[1:] == [None] * 3
    assert guarded.wallet() == (before[0] - MICRO, before[1])
    guarded.prove()


@pytest.mark.both_databases
def test_concurrent_wallet_change_updates_balance_or_rejects_group(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what is read and what is written another transaction takes credit: here, a statement of the same one."""
    real = ledger.Moves.write

    def taken(micro: int) -> Callable[[Any, sa.Connection], Any]:
        def write_after(self: Any, connection: sa.Connection) -> Any:
            text = "UPDATE ledger_accounts SET held_micro = held_micro + :micro WHERE account_id = 'wallet:acme'"
            connection.execute(sa.text(text), {"micro": micro})
            return real(self, connection)

        return write_after

    ask = Ask("n1", Wish("acme", "idea", 1), guarded.fleet.by)
    available = guarded.consume("idea", key="first").balance_micro
    assert available is not None
    for micro, fits in ((available - MICRO, True), (available - MICRO + 1, False)):
        monkeypatch.setattr(ledger.Moves, "write", taken(micro))

        def work(connection: sa.Connection) -> Any:
            return grouped.do_all(connection, [PROOF], [ask], guarded.now)[1][0]

        if fits:
            assert write(guarded.fleet.engine, work, rollback=True).balance_micro == 0
        else:
            with pytest.raises(NotTogether):
                write(guarded.fleet.engine, work)
    monkeypatch.undo()
    assert guarded.fleet.rows("SELECT 1 FROM guard_uses WHERE use_key = 'n1'") == []
    guarded.prove()


def test_locked_counter_hands_grouped_calls_back(postgres: sa.Engine) -> None:
    made = Guarded(postgres)
    made.write(lambda c: api_keys.create(c, TOKEN, "app", ("guard",), made.fleet.by, new=True))
    made.limit("look", 30)
    made.consume("look", key="first")
    ask = Ask("n1", Wish("acme", "look", 1), made.fleet.by)
    with postgres.begin() as connection:
        connection.execute(sa.text("SELECT 1 FROM guard_counters FOR UPDATE")).all()
        with pytest.raises(LockHeld):
            made.write(lambda c: grouped.do_all(c, [PROOF], [ask], made.now))
    assert made.write(lambda c: grouped.do_all(c, [PROOF], [ask], made.now))[1][0].decision == "allow"
