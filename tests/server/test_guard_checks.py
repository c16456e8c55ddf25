"""Checks of the guard over HTTP: few statements however many ask, no waiting for writers, no answer to a key that is
over."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from drawdown.schema.database import read, write
from drawdown.schema.units import MICRO
from drawdown.server.api import programs, request_batching
from drawdown.worker.access import keys as api_keys
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.guard.use import Wish
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key, refused

Check = Callable[..., Coroutine[Any, Any, httpx.Response]]
ORGS = ("acme", "globex", "wayne")
PLAIN = ("BEGIN", "SET", "COMMIT", "ROLLBACK", "SAVEPOINT")
STATEMENTS = 1
"""Of a transaction that answers checks: their keys, and all that they go by, at once."""


def with_checks(house: House, work: Callable[[Check], Awaitable[None]]) -> None:
    """Three organisations with 100 credits; `idea` costs one, five a month, and `tea` what the host pays."""
    by = house.fleet.by
    for org in ORGS:
        give(house, org)
        make_key(house, org, "guard", org=org)
    make_key(house, "app", "guard")

    def terms(connection: sa.Connection) -> None:
        guard_terms.set_metric(connection, "idea", Change(price_micro=MICRO, phase=3), by)
        guard_terms.set_metric(connection, "tea", Change(price_micro=MICRO, phase=3, payer="wayne"), by)
        for metric in ("idea", "tea"):
            guard_terms.set_limit(connection, PlanLimit(metric, "*", "month", 5), by)

    write(house.fleet.engine, terms)

    async def whole(caller: Caller) -> None:
        async def check(key: str = "app", **order: object) -> httpx.Response:
            body = json.dumps({"org_id": "acme", "metric": "idea", **order}).encode()
            return await caller.send("POST", "/v1/guard/check", body, Program(caller, key_of(key)).headers())

        for key in ("app", *ORGS) * 2:  # each is found and its use noted, and then recalled as noted
            assert (await check(key, org_id="acme" if key == "app" else key)).status_code == 200
            await caller.settled()
        await work(check)
        await caller.settled()

    served(house, whole)


@contextmanager
def stated(house: House) -> Iterator[list[str]]:
    """What the database is asked for meanwhile."""
    found: list[str] = []

    def note(*given: Any) -> None:
        text = " ".join(given[2].split())
        if not text.startswith(PLAIN):
            found.append(text)

    sa.event.listen(house.fleet.engine, "before_cursor_execute", note)
    yield found
    sa.event.remove(house.fleet.engine, "before_cursor_execute", note)


@pytest.mark.both_databases
def test_guard_concurrent_checks_share_statements(house: House) -> None:
    async def work(check: Check) -> None:
        with stated(house) as alone:
            assert (await check()).json()["decision"] == "allow"
        assert len(alone) == STATEMENTS, alone
        with stated(house) as many:
            found = await asyncio.gather(*(check(org_id=ORGS[n % 3], quantity=1 + n % 7) for n in range(30)))
        decisions = ["allow", "allow", "allow", "warn", "warn", "block", "block"]
        assert [one.json()["decision"] for one in found] == [decisions[n % 7] for n in range(30)]
        assert len(many) <= 3 * STATEMENTS, "the first one alone, and then all that came meanwhile"

    with_checks(house, work)


def test_guard_concurrent_checks_are_answered_as_if_separate(house: House) -> None:
    """Whatever they ask for, and with whosever key."""
    orders: list[tuple[str, dict[str, object]]] = [
        ("app", {}), ("app", {"metric": "ideas"}), ("acme", {"metric": "ideas"}), ("app", {"org_id": "acmee"}),
        ("globex", {"org_id": "globex", "quantity": 6}), ("app", {"metric": "tea"}), ("acme", {"payer": "wayne"}),
        ("app", {"org_id": "wayne", "metric": "tea", "quantity": 5}), ("app", {"quantity": 10**12}),
        ("acme", {"org_id": "wayne"}),
    ]  # fmt: skip

    async def work(check: Check) -> None:
        alone = [await check(key, **order) for key, order in orders]
        found = await asyncio.gather(*(check(key, **order) for key, order in orders))
        for order, one, other in zip(orders, alone, found, strict=True):
            assert (one.status_code, one.json()) == (other.status_code, {**other.json(), **_moment(one)}), order
        assert "did you mean idea?" in found[1].text and "did you mean" not in found[2].text
        assert [one.status_code for one in found] == [200, 404, 404, 404, 200, 200, 200, 200, 422, 403]

    with_checks(house, work)


def _moment(answer: httpx.Response) -> dict[str, object]:
    return {name: value for name, value in answer.json().items() if name == "as_of"}


def test_guard_check_with_ended_key_is_unauthorized(house: House) -> None:
    """It was recalled; the transaction that would answer finds it again, and so does whoever is refused before."""
    wrong: tuple[dict[str, object], ...] = ({"metric": ""}, {"org_id": "wayne"})

    async def work(check: Check) -> None:
        by, said = house.fleet.by, vars(house.server._fail_open)["_keys"]._said
        for order in wrong:
            assert (await check("acme", **order)).status_code in (403, 422)
        write(house.fleet.engine, lambda c: api_keys.end(c, "acme", by))
        for order in ({}, *wrong, {}):
            recalled = dict(said)
            assert refused(await check("acme", **order)) == (401, "unauthorized"), order
            said.update(recalled)
        found = await asyncio.gather(*(check(key) for key in ("app", "acme") * 5))
        assert [one.status_code for one in found] == [200, 401] * 5
        house.clock.at_ms += api_keys.LEAST_LIFE_MS
        assert (await check()).status_code == 200

    with_checks(house, work)


def test_guard_check_with_ended_key_and_missing_org_is_unauthorized(house: House) -> None:
    async def work(check: Check) -> None:
        said = vars(house.server._fail_open)["_keys"]._said
        assert refused(await check("app", org_id=None)) == (422, "bad_value")
        recalled = dict(said)
        write(house.fleet.engine, lambda c: api_keys.end(c, "app", house.fleet.by))
        said.update(recalled)
        assert refused(await check("app", org_id=None)) == (401, "unauthorized")

    with_checks(house, work)


@pytest.mark.both_databases
def test_guard_check_does_not_wait_for_writers(house: House) -> None:
    """Neither for the file or row that another writes, nor for the threads of programs that wait for it."""

    async def work(check: Check) -> None:
        free, held = threading.Event(), threading.Event()

        def hold(connection: sa.Connection) -> None:
            connection.execute(sa.text("UPDATE ledger_accounts SET held_micro = held_micro"))
            held.set()
            free.wait(60)

        threads = house.server._programs.threads
        writing = [asyncio.create_task(threads.write(hold)) for _ in range(programs.AT_ONCE)]
        await asyncio.to_thread(held.wait, 60)
        found = await asyncio.wait_for(asyncio.gather(*(check() for _ in range(5))), 30)
        assert {one.status_code for one in found} == {200} and not any(one.done() for one in writing)
        free.set()
        await asyncio.gather(*writing)

    with_checks(house, work)


def test_guard_check_is_not_blocked_by_hanging_check(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_batching, "STUCK_S", 0.05)
    hangs, real = [threading.Event()], guard.check_by_keys

    def stuck(*given: Any) -> Any:
        if hangs:
            hangs.pop().wait(60)
        return real(*given)

    async def work(check: Check) -> None:
        (event,) = hangs
        monkeypatch.setattr(guard, "check_by_keys", stuck)
        first = asyncio.create_task(check())
        while hangs:
            await asyncio.sleep(0.01)
        assert (await asyncio.wait_for(check(), 30)).status_code == 200
        assert not first.done()
        event.set()
        assert (await first).status_code == 200

    with_checks(house, work)


def test_guard_check_with_other_payer_adds_few_statements(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody else: then each check would be as dear."""
    seen: list[str] = []
    real = executions.preview

    def noted(connection: sa.Connection, request: Request, *rest: Any) -> Any:
        seen.append(request.org_id)
        return real(connection, request, *rest)

    monkeypatch.setattr(executions, "preview", noted)

    async def work(check: Check) -> None:
        for metric in ("idea", "tea", "idea"):
            with stated(house) as found:
                said = (await check(metric=metric)).json()
            assert (said["decision"], said["payer"]) == ("allow", "acme" if metric == "idea" else "wayne")
            assert len(found) <= (STATEMENTS if metric == "idea" else STATEMENTS + 8), found
        write(house.fleet.engine, lambda c: guard.consume(c, "use", Wish("acme", "idea", 3), house.fleet.by))
        assert (await check(quantity=3)).json()["decision"] == "block"

    with_checks(house, work)
    assert seen == ["wayne"]
    assert read(house.fleet.engine, lambda c: guard.check(c, Wish("acme", "idea", 1), house.clock.at_ms)).used == 3
