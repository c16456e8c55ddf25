"""Uses of one counter that come at once over HTTP: few transactions, each its own answer, none beyond the limit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.schema.clock import FixedClock
from drawdown.schema.database import read, write
from drawdown.schema.errors import AnswerLost, LockHeld
from drawdown.schema.units import MICRO
from drawdown.server.api import programs, request_batching
from drawdown.server.http.errors import ApiError
from drawdown.server.usage import singles
from drawdown.worker.guard import grouped
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.verify.verify import verify
from tests.integration.guard_rush import rush_over_http
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key, refused
from tests.sqlite_databases import fresh

LIMIT_S = 40
"""A test that would wait for ever fails instead."""


@pytest.fixture
def shared(house: House, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many each transaction was asked for. acme may use 20 of `look`, and pay for 10 of `idea`."""
    seen: list[int] = []
    real = grouped.do_all

    def counted(connection: sa.Connection, proofs: Sequence[str], calls: Sequence[Any], now_ms: int) -> Any:
        seen.append(len(calls))
        return real(connection, proofs, calls, now_ms)

    monkeypatch.setattr(grouped, "do_all", counted)
    by = house.fleet.by
    for org in ("acme", "globex"):
        give(house, org, 10)
        make_key(house, org, "guard", org=org)

    def work(connection: sa.Connection) -> None:
        for name, price in (("look", 0), ("idea", MICRO)):
            guard_terms.set_metric(connection, name, Change(price_micro=price, phase=3), by)
            guard_terms.set_limit(connection, PlanLimit(name, "*", "month", 20), by)

    write(house.fleet.engine, work)
    return seen


Jobs = Sequence[tuple[str, dict[str, Any]]]


def asked(house: House, *rounds: Jobs) -> list[list[Any]]:
    """All of a round at once; the answers, in order."""

    async def work(caller: Caller) -> list[list[Any]]:
        program = Program(caller, key_of("acme"))

        async def one(act: str, order: dict[str, Any]) -> Any:
            body = json.dumps({"org_id": "acme", **order}).encode()
            return await caller.send("POST", f"/v1/guard/{act}", body, program.headers())

        return [list(await asyncio.gather(*(one(act, order) for act, order in orders))) for orders in rounds]

    found = served(house, work)
    assert read(house.fleet.engine, verify).breaches == []
    return found


def uses(metric: str, count: int) -> list[tuple[str, dict[str, Any]]]:
    acts = ("consume", "consume", "reserve")
    return [(acts[at % 3], {"key": f"{metric}-{at}", "metric": metric}) for at in range(count)]


@pytest.mark.parametrize(("metric", "most"), [("look", 20), ("idea", 10)])
@pytest.mark.both_databases
def test_guard_concurrent_uses_share_transactions_and_stop_at_limit(
    house: House, shared: list[int], metric: str, most: int
) -> None:
    first, again = asked(house, uses(metric, 30), uses(metric, 30))
    assert [one.json()["decision"] for one in first].count("block") == 30 - most
    assert max(shared) > 3 and len(shared) < 30
    assert house.fleet.rows("SELECT used, uses FROM guard_counters WHERE period = 'month'") == [(most, most)]
    assert sum(one.json()["repeated"] for one in again) == most


@pytest.mark.both_databases
def test_guard_invalid_use_does_not_reject_batch(house: House, shared: list[int]) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("consume", {"key": "idea-1", "metric": "idea", "quantity": 2}),
        ("consume", {"key": "k" * 195, "metric": "idea"}),
        ("consume", {"key": "x", "metric": "ideas"}),
        ("consume", {"key": "y", "metric": "idea", "payer": "nobody"}),
        uses("idea", 2)[1],
    ]
    _, found = asked(house, uses("idea", 2), [*wrong, *uses("idea", 5), *uses("look", 5)])
    assert [refused(one)[0] for one in found[:3]] == [409, 422, 404]
    assert found[3].json()["decision"] == "block", "that payer pays for nobody"
    assert [one.json()["decision"] for one in found[4:]] == ["allow"] * 11
    assert found[4].json()["repeated"] and max(shared) > 3


def test_guard_uses_beyond_queue_are_refused_as_busy_and_can_be_retried(
    house: House, shared: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_batching, "MOST_WAITING", 4)
    monkeypatch.setattr(request_batching, "MOST_TOGETHER", 2)
    answers, again = asked(house, uses("look", 20), uses("look", 3))
    busy = [one for one in answers if one.status_code == 429]
    assert {refused(one) for one in busy} == {(429, "busy")} and all("retry-after" in one.headers for one in busy)
    taken = {one.json()["state"] is not None for one in answers if one.status_code == 200}
    assert taken == {True} and max(shared) == 2
    assert {one.status_code for one in again} == {200}
    assert house.fleet.one("SELECT COUNT(*) FROM guard_uses") == 20 - len(busy) + sum(
        not one.json()["repeated"] for one in again
    )


class Hung:
    """Threads of a database that waits for a lock."""

    def __init__(self) -> None:
        self.lock = asyncio.Event()

    async def write(self, _work: object) -> None:
        await self.lock.wait()
        raise LockHeld("another program locks these rows")

    async def run(self, _work: object) -> None:
        await self.lock.wait()
        raise LockHeld("another program locks these rows")


@pytest.mark.parametrize("kind", ["uses", "events"])
def test_requests_that_no_longer_wait_for_lock_do_not_fill_queue(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Behind a locked row, the queue of requests that timed out was answered as too many concurrent requests."""
    monkeypatch.setattr(request_batching, "MOST_WAITING", 2)
    monkeypatch.setattr(singles, "MOST_SINGLES_OF_A_KEY", 2)

    async def work() -> None:
        hung: Any = Hung()
        way = request_batching.Way[str, Any](lambda _asked: None, lambda *_: [], lambda *_: None, lambda _asked: True)
        batcher = request_batching.RequestBatcher(hung, FixedClock(0), way, lambda: False)
        bodies = singles.Singles[str, Any](hung, lambda _engine, _asked: [])

        def ask() -> asyncio.Task[Any]:
            return asyncio.create_task(batcher.ask("use") if kind == "uses" else bodies.ask("key", "body"))

        first = ask()
        await asyncio.sleep(0)
        for _ in range(3):
            gone = [ask(), ask()]
            await asyncio.sleep(0)
            for one in gone:
                one.cancel()
            assert [type(one) for one in await asyncio.gather(*gone, return_exceptions=True)] == [
                asyncio.CancelledError
            ] * 2
        last = [ask(), ask(), ask()]
        await asyncio.sleep(0)
        hung.lock.set()
        answers = await asyncio.gather(first, *last, return_exceptions=True)
        assert [type(one) for one in answers] == [LockHeld, LockHeld, LockHeld, ApiError], "at most two wait"

    asyncio.run(work())


@pytest.mark.both_databases
def test_guard_batch_with_lost_answer_is_reported_and_retry_is_idempotent(
    house: House, shared: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit was done, and its answer lost, once."""
    real = house.server._programs.threads.write
    lost: list[int] = []

    async def losing(work: Any) -> Any:
        found = await real(work)
        if isinstance(found, list) and not lost:
            lost.append(len(found))
            raise AnswerLost("a secret of the driver's")
        return found

    monkeypatch.setattr(house.server._programs.threads, "write", losing)
    first, again = asked(house, uses("idea", 6), uses("idea", 6))
    assert [refused(one) for one in first if one.status_code != 200] == [(503, "answer_lost")] * lost[0]
    assert [one.json()["repeated"] for one in again] == [True] * 6
    assert house.fleet.one("SELECT SUM(charged_micro) FROM guard_uses") == 4 * MICRO, "two of six are held"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("kind", ["uses", "executions"])
def test_locked_wallet_of_org_does_not_hold_threads_of_others(
    house: House, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has one writer, so only PostgreSQL has a locked wallet."""
    monkeypatch.setattr(programs, "LOCK_WAIT_MS", 200)
    house.server.close()
    house.server = house.another()
    engine, by = house.fleet.engine, house.fleet.by
    names = [f"m-{number}" for number in range(programs.AT_ONCE + 1)]
    for org in ("acme", "globex"):
        give(house, org)
    make_key(house, "app", "guard", "executions:write")

    def set_terms(connection: sa.Connection) -> None:
        for name in names:
            guard_terms.set_metric(connection, name, Change(price_micro=MICRO, phase=3), by)
            guard_terms.set_limit(connection, PlanLimit(name, "*", "month", 20), by)

    write(engine, set_terms)

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))

        async def use(org: str, name: str) -> Any:
            order = {"org_id": org, "key": f"{org}-{name}", "metric": name}
            return await caller.send("POST", "/v1/guard/consume", json.dumps(order).encode(), program.headers())

        async def spend(name: str) -> Any:
            return await (use("acme", name) if kind == "uses" else program.post(f"/{name}/settle", {"actual": 1}))

        if kind == "executions":
            assert {(await program.accept(name)).status_code for name in names} == {200}
        with engine.begin() as other:
            other.exec_driver_sql("SELECT 1 FROM ledger_accounts WHERE account_id = 'wallet:acme' FOR UPDATE")
            late = [asyncio.create_task(spend(name)) for name in names]
            waits = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while other.exec_driver_sql(f"{waits} AND datname = current_database()").scalar_one() < programs.AT_ONCE:
                if any(one.done() for one in late):
                    break
                await asyncio.sleep(0.01)
            found = await asyncio.wait_for(use("globex", names[0]), LIMIT_S)
            assert found.status_code == 200 and found.json()["charged"] == 1, found.text
            answers = await asyncio.gather(*late)
        assert {refused(one) for one in answers} == {(503, "database")}
        assert all("retry-after" in one.headers for one in answers)
        assert house.fleet.one("SELECT COUNT(*) FROM ledger_entries WHERE kind = 'execution'") == 1
        again = [(await spend(name)).json() for name in names]
        assert [(one["charged"], one["repeated"]) for one in again] == [(1, False)] * len(names)

    served(house, work)
    assert read(engine, verify).breaches == []


def test_guard_limit_is_not_exceeded_while_server_is_killed(tmp_path: Path) -> None:
    """The smallest share of `python -m tests.integration.guard_rush --http`."""
    fresh(tmp_path / "rush.db").dispose()
    wrong, said, _ = rush_over_http(f"sqlite:///{tmp_path}/rush.db", tmp_path / "log", 4, 40, 1, 20, 2, 1)
    assert wrong == [] and said["kills"] == 1 and said["no answer"] > 0
    assert said["allow"] + said["warn"] + said["block"] == 40 and said["block"] > 5
    assert "Traceback" not in (tmp_path / "log").read_text()
