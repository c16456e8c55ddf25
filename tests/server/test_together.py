"""Runs that are accepted at once are decided together, and each is answered as if it had been alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.ledger import reservations as grouped
from drawdown.ledger.accounts import HoldTerms
from drawdown.schema.database import read, write
from drawdown.schema.errors import AnswerLost
from drawdown.schema.units import MICRO, MINUTE_MS
from drawdown.server.api import request_batching
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.actions import RequestedExecution
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import grouped as calls
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.provider.actions import set_rate as set_price
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets.actions import grant, set_plan_limit, set_rate
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key, refused
from tests.world import T0

BOXED = {"use": {"compute_1gb": 1}, "settled_by": "receipt", "sandboxes": ["sb-1"]}
Together = Callable[[sa.Connection, Sequence[RequestedExecution], int], list[executions.Accepted]]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many each shared transaction was asked for."""
    seen: list[int] = []
    real: Together = executions.accept_together
    first = calls.do_all

    def counted_first(connection: sa.Connection, proofs: Sequence[str], asked: Sequence[Any], now_ms: int) -> Any:
        seen.append(len(asked))
        return first(connection, proofs, asked, now_ms)

    monkeypatch.setattr(calls, "do_all", counted_first)

    def counted(
        connection: sa.Connection, asked: Sequence[RequestedExecution], now_ms: int
    ) -> list[executions.Accepted]:
        seen.append(len(asked))
        return real(connection, asked, now_ms)

    monkeypatch.setattr(executions, "accept_together", counted)
    return seen


def accepted(house: House, orders: Sequence[tuple[str, object, dict[str, Any]]]) -> list[Any]:
    """All of them at once; the answers, in order."""
    make_key(house, "app")

    async def work(caller: Caller) -> list[Any]:
        program = Program(caller, key_of("app"))
        return list(await asyncio.gather(*(program.accept(key, amount, **more) for key, amount, more in orders)))

    found = served(house, work)
    assert read(house.fleet.engine, verify).breaches == []
    return found


def held(house: House, org: str = "acme") -> object:
    return house.fleet.one("SELECT held_micro FROM ledger_accounts WHERE account_id = :id", id=f"wallet:{org}")


@pytest.mark.both_databases
def test_concurrent_executions_are_reserved_in_few_transactions(house: House, shared: list[int]) -> None:
    give(house, "acme")
    write(house.fleet.engine, lambda c: set_rate(c, "tokens", 1_000, 1, house.fleet.by, from_ms=None))
    orders: list[tuple[str, object, dict[str, Any]]] = [
        (f"e-{number}", 1 + number / 4, {"project": f"p-{number % 3}"}) for number in range(20)
    ]
    orders += [
        (f"t-{number}", None, {"use": {"tokens": 1_000}, "action": "ask", "for_ms": MINUTE_MS}) for number in (1, 2)
    ]
    answers = [one.json() for one in accepted(house, orders)]
    assert [(one["key"], one["repeated"], one["state"]) for one in answers] == [
        (key, False, "held") for key, *_ in orders
    ]
    assert [one["reserved"] for one in answers] == [1 + number / 4 for number in range(20)] + [1, 1]
    assert held(house) == sum(one["reserved_micro"] for one in answers)
    assert max(shared) > 2
    rows = house.fleet.rows("SELECT reservation, project, actor, expires_ms - accepted_ms FROM reservations ORDER BY 1")
    assert len(rows) == 22 and ("t-1", None, "key:app", MINUTE_MS) in rows
    assert ("e-4", "p-1", "key:app", 60 * MINUTE_MS) in rows


def test_concurrent_executions_beyond_credit_are_reserved_up_to_balance(house: House, shared: list[int]) -> None:
    give(house, "acme", 10)
    answers = accepted(house, [(f"e-{number}", 3, {}) for number in range(12)])
    assert sorted(one.status_code for one in answers) == [200] * 3 + [402] * 9
    assert held(house) == 9 * MICRO and shared
    assert {refused(one) for one in answers if one.status_code != 200} == {(402, "no_credit")}


@pytest.mark.both_databases
def test_concurrent_execution_with_invalid_estimate_does_not_reject_batch(house: House, shared: list[int]) -> None:
    """One bad request among good ones harms none of them; the same key twice is one run."""
    give(house, "acme")
    orders: list[tuple[str, object, dict[str, Any]]] = [
        ("first", 1, {}),
        *((f"e-{number}", 1, {}) for number in range(4)),
        ("same", 2, {}),
        ("same", 2, {}),
        ("nothing", 0, {}),
        ("none", None, {}),
    ]
    answers = accepted(house, orders)
    assert [one.status_code for one in answers] == [200] * 7 + [422] * 2
    assert sorted(one.json()["repeated"] for one in answers[5:7]) == [False, True]
    assert [refused(one)[1] for one in answers[7:]] == ["bad_estimate", "no_estimate"]
    assert held(house) == 7 * MICRO and shared


def test_concurrent_execution_with_other_content_is_refused_alone(house: House, shared: list[int]) -> None:
    give(house, "acme")
    answers = accepted(house, [("first", 1, {}), ("k", 1, {}), ("k", 2, {}), ("l", 1, {})])
    codes = [one.status_code for one in answers]
    assert codes[0] == codes[3] == 200 and sorted(codes[1:3]) == [200, 409]
    assert shared


def test_concurrent_executions_respect_plan_reservation_limit(house: House, shared: list[int]) -> None:
    give(house, "acme")
    terms = HoldTerms(most_held_micro=5 * MICRO)
    write(house.fleet.engine, lambda c: set_plan_limit(c, "small", 5, house.fleet.by, holds=vars(terms)))
    write(house.fleet.engine, lambda c: grant(c, "acme", 1, house.fleet.by, key="onto", plan="small"))
    answers = accepted(house, [(f"e-{number}", 1, {}) for number in range(8)])
    assert sorted(one.status_code for one in answers) == [200] * 5 + [409] * 3
    assert held(house) == 5 * MICRO and shared


def test_concurrent_executions_release_expired_reservation_first(house: House, shared: list[int]) -> None:
    give(house, "acme", 10)
    make_key(house, "app")

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        assert (await program.accept("old", 10)).status_code == 200
        house.clock.at_ms += 60 * MINUTE_MS
        found = await asyncio.gather(*(program.accept(f"e-{number}", 2) for number in range(5)))
        assert [one.status_code for one in found] == [200] * 5

    served(house, work)
    assert held(house) == 10 * MICRO
    assert read(house.fleet.engine, verify).breaches == []


def test_concurrent_executions_on_provider_balance_are_reserved_separately(house: House, shared: list[int]) -> None:
    house.autumn.account.add_customer("acme", house.clock.at_ms)
    house.autumn.account.grant("acme", "compute_1gb", 10, house.clock.at_ms)
    house.fleet.assign("acme", provider="autumn")
    price = (MICRO, 1)
    write(house.fleet.engine, lambda c: set_price(c, "autumn", "compute_1gb", price, house.fleet.by, from_ms=T0))
    house.fleet.tick(house.clock.at_ms)
    orders: list[tuple[str, object, dict[str, Any]]] = [
        (f"e-{number}", None, {"use": {"compute_1gb": 3}}) for number in range(8)
    ]
    answers = accepted(house, [*orders, ("credits", 3, {}), ("boxed", None, BOXED)])
    assert sorted(one.status_code for one in answers[:8]) == [200] * 3 + [402] * 5 and shared
    assert [refused(one) for one in answers[8:]] == [(409, "needs_quantities"), (409, "needs_wallet")]
    for one in (one.json() for one in answers[:8] if one.status_code == 200):
        assert (one["hold"], one["held"], one["balance"], one["balance_read_ms"]) == ("local", 3, 10, T0)
    last = min(one.json()["available"] for one in answers[:8] if one.status_code == 200)
    assert (last, house.fleet.rows("SELECT * FROM ledger_accounts")) == (1, [])


def test_concurrent_executions_of_halted_org_are_refused_alone(house: House) -> None:
    for org in ("acme", "still"):
        give(house, org)
    house.fleet.tick(house.clock.at_ms)
    write(house.fleet.engine, lambda c: orgs.halt(c, ["still"], house.fleet.by))
    orders: list[tuple[str, object, dict[str, Any]]] = [
        (f"{org}-{number}", 1, {"org_id": org}) for number in range(5) for org in ("acme", "still")
    ]
    answers = accepted(house, orders)
    assert [one.status_code for one in answers] == [200, 409] * 5
    assert (held(house), held(house, "still")) == (5 * MICRO, 0)


def test_concurrent_executions_per_transaction_are_bounded(
    house: House, shared: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_batching, "MOST_TOGETHER", 4)
    give(house, "acme")
    assert {one.status_code for one in accepted(house, [(f"e-{number}", 1, {}) for number in range(17)])} == {200}
    assert max(shared) == 4


@pytest.mark.both_databases
def test_concurrent_executions_with_lost_answer_retry_is_idempotent(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit was done, and its answer lost."""
    give(house, "acme")
    make_key(house, "app")
    real = house.server._programs.threads.write

    async def lost(work: Callable[[sa.Connection], Any]) -> Any:
        found = await real(work)
        if isinstance(found, list) and not any(isinstance(one, grouped.NotTogether) for one in found):
            raise AnswerLost("a secret of the driver's")
        return found

    async def whole(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        monkeypatch.setattr(house.server._programs.threads, "write", lost)
        found = await asyncio.gather(*(program.accept(f"e-{number}", 1) for number in range(6)))
        assert {refused(one) for one in found if one.status_code != 200} == {(503, "answer_lost")}
        again = await asyncio.gather(*(program.accept(f"e-{number}", 1) for number in range(6)))
        assert [(one.status_code, one.json()["repeated"]) for one in again] == [(200, True)] * 6

    served(house, whole)
    assert held(house) == 6 * MICRO


def test_executions_accept_together_reserves_all_or_fails(engine: sa.Engine) -> None:
    """The ledger's part, without a server."""
    house = House(engine)
    give(house, "acme", 10)
    asked = [RequestedExecution(f"e-{number}", Request("acme", 4 * MICRO), "test", "a test") for number in range(3)]
    with pytest.raises(grouped.NotTogether, match="lacks credit"):
        write(engine, lambda c: executions.accept_together(c, asked, house.clock.at_ms))
    assert house.fleet.rows("SELECT reservation FROM reservations") == [] and held(house) == 0
    made = write(engine, lambda c: executions.accept_together(c, asked[:2], house.clock.at_ms))
    assert [one.reservation.reservation for one in made] == ["e-0", "e-1"]
    stored = read(engine, lambda c: [grouped.read(c, f"e-{number}") for number in (0, 1)])
    assert stored == [one.reservation for one in made], "what is answered is what is stored"
    with pytest.raises(grouped.NotTogether, match="used before"):
        write(engine, lambda c: executions.accept_together(c, [asked[1], asked[2]], house.clock.at_ms))
    assert held(house) == 8 * MICRO
    house.server.close()
