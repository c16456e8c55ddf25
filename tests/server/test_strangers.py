"""Floods that need no key, or find nothing: counted is what they cost, and who waits for them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from starlette.types import Receive, Scope, Send

from drawdown.schema import ids
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import write
from drawdown.schema.migrate import require_ready
from drawdown.schema.units import MICRO
from drawdown.server.api import health, programs
from drawdown.server.http import limits
from drawdown.server.http.limits import ALL_FAILED_PER_S, FAILED_PER_S, OPEN_PER_S, TURNS_PER_S, Limits, Strangers
from drawdown.server.http.misses import LONGEST_MISS_S, MISSES_PER_S, Misses
from drawdown.worker.access import keys as api_keys
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key, refused
from tests.world import T0

FULL = 2 * OPEN_PER_S
"""What a caller may ask at once after a quiet second."""


class Counted:
    """An application that counts what comes to it, by path and address."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        self.calls[scope["path"], scope["client"][0]] += 1
        status = 401 if scope["path"] == "/v1/wrong" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Gates:
    """Limits around a counted application."""

    def __init__(self, known: Sequence[str] = ()) -> None:
        self.app, self.refused, self.clock = Counted(), Counter[str](), FixedClock(T0)

        def is_known(scope: Scope) -> bool:
            return dict(scope["headers"]).get(b"authorization", b"").decode() in known

        self.limits = Limits(self.app, self.clock, 1_000_000, self.refused, is_known)

    async def ask(self, path: str, address: str = "192.0.2.1", key: str = "") -> int:
        found: list[int] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                found.append(message["status"])

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        scope = {"type": "http", "method": "GET", "path": path, "client": (address, 1)}
        await self.limits({**scope, "headers": [(b"authorization", key.encode())]}, receive, send)
        return found[0]

    async def flood(self, count: int, path: str, address: str = "192.0.2.1") -> list[asyncio.Task[int]]:
        tasks = [asyncio.create_task(self.ask(path, address)) for _ in range(count)]
        await asyncio.sleep(0)
        return tasks


OPEN = ["/healthz", "/readyz", "/metrics", "/openapi.json", "/nothing", "/console/sign-in", "/my/usage"]


@pytest.mark.parametrize("path", OPEN)
def test_flood_of_open_paths_does_not_delay_another_address(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 connections of health had the gate answer after 11.9 s."""
    monkeypatch.setattr(limits, "LONGEST_TURN_S", 0.2)
    monkeypatch.setattr(limits, "LONGEST_TURN_S", 0.2)

    async def work() -> None:
        gates = Gates()
        tasks = await gates.flood(500, path)
        assert await gates.ask("/v1/gate/acme", "192.0.2.2") == 200
        assert await gates.ask("/healthz", "192.0.2.3") == 200
        before = gates.app.calls[path, "192.0.2.1"]
        assert FULL <= before <= FULL + 2, "no more of it was done before others were answered"
        said = Counter(await asyncio.gather(*tasks))
        done = gates.app.calls[path, "192.0.2.1"]
        if path == "/healthz":
            assert said == {200: 500}, "whether the process lives may always be asked"
        else:
            assert done == said[200] <= FULL + 3 * 0.2 * TURNS_PER_S and said[429] == 500 - done
            assert gates.refused["strangers"] == said[429]

    asyncio.run(work())


@pytest.mark.parametrize("path", ["/console/sign-in", "/my/usage"])
def test_flood_of_pages_does_not_delay_quiet_address_or_known_session(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LONGEST_TURN_S", 0.2)
    monkeypatch.setattr(limits, "TURNS_PER_S", 1)  # a busy machine takes longer than a hundredth of a second

    async def work() -> None:
        gates = Gates(known=["session"])
        tasks = await gates.flood(500, path)
        before = gates.app.calls[path, "192.0.2.1"]
        assert await gates.ask(path, "192.0.2.2") == 200, "a quiet address"
        assert await gates.ask(path, key="session") == 200, "a known person at the address of the flood"
        assert gates.app.calls[path, "192.0.2.1"] <= before + 2, "neither waited for the flood"
        assert await gates.ask("/nothing", key="session") == 429, "a session is a proof for pages alone"
        await asyncio.gather(*tasks)

    asyncio.run(work())


def test_wrong_keys_are_delayed_and_known_key_of_same_address_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LONGEST_TURN_S", 0.2)
    monkeypatch.setattr(limits, "LONGEST_TURN_S", 0.2)

    async def work() -> None:
        gates = Gates(known=["good"])
        for _ in range(2 * FAILED_PER_S):
            assert await gates.ask("/v1/wrong") == 401
        tasks = await gates.flood(300, "/v1/wrong")
        assert await gates.ask("/v1/right", key="good") == 200, "from the same address"
        assert await gates.ask("/v1/gate/acme") == await gates.ask("/v1/right", "192.0.2.2") == 200
        assert gates.app.calls["/v1/wrong", "192.0.2.1"] <= 2 * FAILED_PER_S + 2
        said = Counter(await asyncio.gather(*tasks))
        assert said[401] <= 3 * 0.2 * TURNS_PER_S and said[429] == 300 - said[401]
        gates.clock.at_ms += 60_000
        assert await gates.ask("/v1/right") == 200, "it is forgotten"

    asyncio.run(work())


def test_wrong_keys_of_many_addresses_share_budget() -> None:
    found, now = Strangers(), T0
    for number in range(2 * ALL_FAILED_PER_S):
        assert not found.is_suspect("192.0.2.9", now)
        found.failed(f"2001:db8:{number:x}::/64", now)
    assert found.is_suspect("192.0.2.9", now) and not found.is_suspect("192.0.2.9", now + 1_000)


def test_guard_check_with_made_up_keys_shares_separate_lookups(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 of them a second had each check of the guard wait for theirs."""
    monkeypatch.setattr(limits, "_has_own_limits", lambda _path: True)  # all of them are looked up here
    give(house, "acme")
    key = make_key(house, "app", "guard")

    def terms(connection: sa.Connection) -> None:
        guard_terms.set_metric(connection, "idea", Change(phase=3), house.fleet.by)
        guard_terms.set_limit(connection, PlanLimit("idea", "*", "month", 9), house.fleet.by)

    write(house.fleet.engine, terms)
    read: list[int] = []
    real = api_keys.find_all

    def counted(connection: sa.Connection, proofs: Any, now_ms: int) -> Any:
        if made_up := [proof for proof in proofs if proof != api_keys.hash_of(key)]:
            read.append(len(made_up))  # on a slow machine, the server reads its own key again
        return real(connection, proofs, now_ms)

    body = json.dumps({"org_id": "acme", "metric": "idea"}).encode()

    async def work(caller: Caller) -> None:
        async def check(name: str) -> int:
            headers = {"authorization": f"Bearer {name}", "content-type": "application/json"}
            return (await caller.send("POST", "/v1/guard/check", body, headers)).status_code

        assert await check(key) == 200
        monkeypatch.setattr(api_keys, "find_all", counted)
        flood = [asyncio.create_task(check(key_of(f"made-up-{number}"))) for number in range(200)]
        await asyncio.sleep(0)
        assert await check(key) == 200
        assert set(await asyncio.gather(*flood)) == {401}
        assert sum(read) == 200 and len(read) <= 20, "they are looked up together"

    served(house, work)


def test_mistyped_id_suggestions_are_bounded_per_second(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key of 16 connections had all others wait while 100,000 wallets were searched."""
    give(house, "acme")
    make_key(house, "app")
    searched: list[str] = []
    real = ids._around

    def counted(connection: sa.Connection, kind: ids.Kind, given: str) -> Any:
        searched.append(given)
        return real(connection, kind, given)

    monkeypatch.setattr(ids, "_around", counted)

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        said = [await program.get(f"/accounts/acme{number}") for number in range(40)]
        assert {refused(one) for one in said} == {(404, "unknown_org")}
        near = ["did you mean acme" in one.text for one in said]
        assert near == [True] * 2 * programs.NAMES_PER_S + [False] * (40 - 2 * programs.NAMES_PER_S)
        assert len(searched) == 2 * programs.NAMES_PER_S
        house.clock.at_ms += 1_000
        assert "did you mean acme" in (await program.get("/accounts/acmee")).text

    served(house, work)


def test_new_customers_beyond_suggestion_budget_must_be_declared(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the budget, Drawdown cannot find out that an id is mistyped, so the grant waits for `new`."""
    make_key(house, "app", "ledger:write", gives_micro=100 * MICRO)
    searched: list[str] = []

    def counted(_connection: sa.Connection, _kind: ids.Kind, given: str) -> list[str]:
        searched.append(given)
        return []

    monkeypatch.setattr(ids, "_around", counted)

    async def work(caller: Caller) -> None:
        async def grant(number: int, **more: object) -> Any:
            headers = Program(caller, key_of("app")).headers(**{"idempotency-key": f"{number}{more}"})
            body = json.dumps({"amount": 1, "reason": "trial", **more}).encode()
            return await caller.send("POST", f"/v1/wallets/customer-{number}/grants", body, headers)

        most = 2 * programs.NAMES_PER_S
        assert [(await grant(number)).status_code for number in range(most)] == [200] * most
        assert refused(await grant(most)) == (404, "unknown_org")
        assert len(searched) == most
        assert (await grant(most, new=True)).status_code == 200

    served(house, work)


def test_not_found_answers_of_key_are_delayed_progressively(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    ended = asyncio.Event()

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await ended.wait()

    async def work() -> None:
        found = Misses()
        for _ in range(2 * MISSES_PER_S):
            await found.wait("flood", T0)
        assert waits == []
        monkeypatch.setattr(asyncio, "sleep", noted)
        most = int(LONGEST_MISS_S * MISSES_PER_S)
        late = [asyncio.ensure_future(found.wait("flood", T0)) for _ in range(most + 50)]
        await asyncio.gather(found.wait("other", T0), found.wait("flood", T0 + 1_000))
        assert waits == [number / MISSES_PER_S for number in range(1, most)] + [LONGEST_MISS_S] * 51
        ended.set()
        await asyncio.gather(*late)
        waits.clear()
        await asyncio.gather(*(found.wait("flood", T0) for _ in range(2 * MISSES_PER_S)))
        assert waits[-1:] == [1 / MISSES_PER_S], "those that were answered count no more"

    asyncio.run(work())


def test_mistyped_ids_are_delayed_and_known_ids_of_same_key_are_not(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 connections of one key had the guard of all others answer six times as late."""
    give(house, "acme")
    make_key(house, "app")
    waiting: list[str] = []

    async def work(caller: Caller) -> None:
        program, ended = Program(caller, key_of("app")), asyncio.Event()

        async def held(_misses: Misses, key: str, _now_ms: int) -> None:
            waiting.append(key)
            await ended.wait()

        async def preview(org: str) -> int:
            return (await program.post("/preview", {"org_id": org, "estimate": 1})).status_code

        monkeypatch.setattr(Misses, "wait", held)
        flood = [
            *(asyncio.create_task(preview(f"acme{number}")) for number in range(4)),
            asyncio.create_task(_status(program.get("/executions/nothing"))),
        ]
        assert [await preview("acme"), await _status(program.get("/accounts/acme"))] == [200, 200]
        while len(waiting) < len(flood) and not any(one.done() for one in flood):
            await asyncio.sleep(0.01)
        assert not any(one.done() for one in flood) and set(waiting) == {"app"}
        ended.set()
        assert set(await asyncio.gather(*flood)) == {404}

    served(house, work)


async def _status(answer: Awaitable[httpx.Response]) -> int:
    return (await answer).status_code


def test_preview_does_not_wait_for_writers_and_mistyped_is_cheap(house: House) -> None:
    give(house, "acme")
    make_key(house, "app")
    ran: list[str] = []

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        for number in range(2 * programs.NAMES_PER_S):
            await program.post("/preview", {"org_id": f"acme{number}", "estimate": 1})
        with house.fleet.engine.connect() as held, held.begin():
            held.execute(sa.text("UPDATE orgs SET watch_due_ms = watch_due_ms"))
            sa.event.listen(house.fleet.engine, "before_cursor_execute", noted)
            answer = await asyncio.wait_for(program.post("/preview", {"org_id": "acme99", "estimate": 1}), 5)
            sa.event.remove(house.fleet.engine, "before_cursor_execute", noted)
            assert refused(answer) == (404, "unknown_org")
            assert (await asyncio.wait_for(program.post("/preview", {"org_id": "acme", "estimate": 1}), 5)).json()[
                "allowed"
            ]

    def noted(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        ran.append(statement)

    served(house, work)
    asked = [one for one in ran if not one.startswith(("BEGIN", "SET", "PRAGMA"))]
    assert len(asked) <= 8, "\n\n".join(one[:300] for one in asked)


def test_gate_with_all_other_threads_busy_is_answered(house: House) -> None:
    give(house, "acme")
    house.fleet.tick(house.clock.at_ms)

    async def work(caller: Caller) -> None:
        held = asyncio.Event()
        loop, server = asyncio.get_running_loop(), caller.server

        def wait(_connection: sa.Connection) -> None:
            asyncio.run_coroutine_threadsafe(held.wait(), loop).result(30)

        pools = (server.threads, server._programs.threads, server._programs.reading)
        busy = [asyncio.create_task(pool.read(wait)) for pool in pools for _ in range(8)]
        await asyncio.sleep(0.1)
        try:
            answer = await asyncio.wait_for(caller.get("/v1/gate/acme"), 10)
            assert answer.json()["allowed"] is True and answer.json()["reason"] is None
            assert (await asyncio.wait_for(caller.get("/readyz"), 10)).status_code == 200
        finally:
            held.set()
            await asyncio.gather(*busy)

    served(house, work)


def test_readiness_concurrent_requests_share_check(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[None] = []
    real = require_ready

    def counted(connection: sa.Connection) -> Any:
        looks.append(None)
        return real(connection)

    monkeypatch.setattr(health, "require_ready", counted)

    async def work(caller: Caller) -> None:
        said = await asyncio.gather(*(caller.get("/readyz") for _ in range(30)))
        assert {one.status_code for one in said} == {200} and len(looks) == 1

    served(house, work)
