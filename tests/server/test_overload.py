"""Too much at once: what nobody proved keeps nothing waiting that somebody proved, and is held in bounds."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from drawdown.providers.http import NoAnswer
from drawdown.schema.units import SECOND_MS, WINDOW_MS
from drawdown.server import step_threads
from drawdown.server.api import gate, webhooks
from drawdown.server.http import bodies
from drawdown.server.http.bodies import Budget
from drawdown.server.http.errors import ApiError
from drawdown.worker.engine.breaker import OPEN_AFTER, OPEN_FOR_MS
from tests.server.house import Caller, House, served
from tests.server.intake import EVENTS
from tests.server.program import key_of, make_key
from tests.world import T0

LIMIT_S = 60
"""A test that would wait for ever fails instead."""
SOON_S = 0.5
"""After which the gate answers what it knows."""


def halted(house: House, count: int) -> list[str]:
    """So many organisations without credit, at Autumn."""
    names = [f"hz{number}" for number in range(count)]
    for name in names:
        house.customer(name)
    house.fleet.tick(T0 + WINDOW_MS)
    assert all(house.halted(name) for name in names)
    house.autumn_line.calls.clear()
    return names


@contextmanager
def hanging(house: House) -> Iterator[None]:
    house.autumn_line.hangs = True
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gate, "FRESH_WITHIN_S", SOON_S)
            yield
    finally:
        house.autumn_line.hangs = False


def test_hanging_provider_reads_do_not_delay_tick_or_assignment(lone: House) -> None:
    names = halted(lone, 12)
    lone.fleet.assign("acme", provider="embedded", from_ms=T0)
    ticks = lone.counts()["ticks"]

    async def work(caller: Caller) -> None:
        with hanging(lone):
            await asyncio.gather(*(caller.get(f"/v1/gate/{name}") for name in names))
            assert len(lone.autumn_line.calls) == step_threads.THREADS, "all the threads for reads hang"
            order = {"actor": "a", "reason": "r", "provider": "embedded", "dry_run": True}
            answer = await asyncio.wait_for(caller.admin("acme", "provider", order), LIMIT_S)
            assert answer.status_code == 200, answer.text
            tick = asyncio.create_task(caller.tick())
            async with asyncio.timeout(LIMIT_S):
                while lone.counts()["ticks"] == ticks:
                    await asyncio.sleep(0.01)
        assert (await tick).status_code == 200

    served(lone, work)


def test_unresponsive_provider_is_not_called_while_circuit_is_open(lone: House) -> None:
    names = halted(lone, 2 * (OPEN_AFTER + step_threads.THREADS))
    lone.autumn_line.cut = NoAnswer("hung up")

    async def ask(caller: Caller) -> None:
        await asyncio.gather(*(caller.get(f"/v1/gate/{name}") for name in names))
        await caller.settled()

    async def work(caller: Caller) -> None:
        await ask(caller)
        assert OPEN_AFTER <= len(lone.autumn_line.calls) < OPEN_AFTER + step_threads.THREADS
        due = lone.fleet.one("SELECT COUNT(*) FROM orgs WHERE projection_due_ms <= :now", now=lone.clock.at_ms)
        assert int(str(due)) >= len(names) - OPEN_AFTER - step_threads.THREADS, "what was not asked stays due"
        lone.autumn_line.cut = None
        lone.clock.at_ms += OPEN_FOR_MS
        lone.grant(names[0], 100)
        assert (await caller.get(f"/v1/gate/{names[0]}")).json()["allowed"], "one call decides, and it is asked again"

    served(lone, work)


def test_gate_provider_calls_per_second_are_bounded(lone: House) -> None:
    names = halted(lone, 3 * gate.ASKS_PER_S + 5)

    async def work(caller: Caller) -> None:
        for later_ms, calls in ((0, 2 * gate.ASKS_PER_S), (SECOND_MS, 3 * gate.ASKS_PER_S)):
            lone.clock.at_ms = T0 + WINDOW_MS + later_ms
            answers = await asyncio.gather(*(caller.get(f"/v1/gate/{name}") for name in names))
            await caller.settled()
            assert {one.json()["reason"] for one in answers} == {"credits_exhausted"}, "each has an answer"
            assert len(lone.autumn_line.calls) == calls

    served(lone, work)


def test_assignment_jobs_beyond_queue_are_refused_as_busy(lone: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_threads, "MAX_ORDERS", 3)
    halted(lone, 3)
    lone.fleet.assign("acme", provider="embedded", from_ms=T0)

    async def work(caller: Caller) -> None:
        with hanging(lone):
            waiting = []
            for number in range(3):
                order = {
                    "actor": "a",
                    "reason": str(number),
                    "provider": "autumn",
                    "dry_run": True,
                    "customer_id": "hz0",
                }
                waiting.append(asyncio.create_task(caller.admin("acme", "provider", order)))
                async with asyncio.timeout(LIMIT_S):
                    while caller.server.step_threads._ordered <= number:
                        await asyncio.sleep(0.01)
            refused = await caller.admin("acme", "provider", {**order, "reason": "one more"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
        assert {one.status_code for one in await asyncio.gather(*waiting)} <= {200, 409}
        assert caller.server.step_threads._ordered == 0

    served(lone, work)


class Raw:
    """One request as a socket gives it: what is read of its body is counted."""

    def __init__(self, house: House, path: str, headers: dict[str, str], client: str = "192.0.2.1") -> None:
        self.house, self.read = house, 0
        self.more: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.said: list[Any] = []
        self.scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode(),
            "query_string": b"", "root_path": "", "scheme": "http", "server": ("a", 80), "client": (client, 1),
            "headers": [(name.encode(), text.encode()) for name, text in headers.items()],
        }  # fmt: skip

    async def run(self) -> tuple[int, Any]:
        """Its status, and what it says."""

        async def receive() -> Any:
            self.read += 1
            return await self.more.get()

        async def send(message: Any) -> None:
            self.said.append(message)

        await self.house.server.app(self.scope, receive, send)
        return self.said[0]["status"], json.loads(b"".join(one.get("body", b"") for one in self.said[1:]))

    def part(self, size: int, *, last: bool = False) -> Raw:
        self.more.put_nowait({"type": "http.request", "body": b"x" * size, "more_body": not last})
        return self


@pytest.mark.parametrize(
    ("provider", "headers", "status"),
    [("nosuch", {}, 404), ("broken", {}, 503), ("stripe", {}, 400), ("autumn", {"stripe-signature": "t=1,v1=a"}, 400)],
)
def test_webhook_refused_by_headers_does_not_read_body(
    lone: House, provider: str, headers: dict[str, str], status: int
) -> None:
    async def work(_caller: Caller) -> None:
        request = Raw(lone, f"/webhooks/{provider}", {"content-length": "1000000", **headers})
        found, said = await asyncio.wait_for(request.run(), LIMIT_S)
        assert (found, request.read) == (status, 0) and set(said) == {"error"}
        assert (b"connection", b"close") in request.said[0]["headers"], "or its body would be read to find the next one"

    served(lone, work)


def test_request_bodies_beyond_share_of_address_are_refused_as_busy(lone: House) -> None:
    part = webhooks.MAX_BYTES // 2
    counted = part - bodies.SMALL_BODY_BYTES
    share = bodies.MAX_HELD_OF_AN_ADDRESS_BYTES // counted

    def sent(client: str) -> Raw:
        return Raw(lone, "/webhooks/stripe", {"stripe-signature": "t=1,v1=a"}, client).part(part)

    async def work(caller: Caller) -> None:
        budget = caller.server._budget
        held = [sent("192.0.2.1") for _ in range(share)]
        tasks = [asyncio.create_task(one.run()) for one in held]
        async with asyncio.timeout(LIMIT_S):
            while budget.bytes < share * counted:
                await asyncio.sleep(0.01)
        status, said = await sent("192.0.2.1").run()
        assert (status, said["error"]["code"]) == (503, "busy")
        assert caller.server.refused["bodies"] == 1
        small = Raw(lone, "/webhooks/stripe", {"stripe-signature": "t=1,v1=a"}, "192.0.2.1")
        assert (await small.part(bodies.SMALL_BODY_BYTES, last=True).run())[0] == 400, "what is small needs no room"
        other = sent("192.0.2.2").part(1, last=True)
        assert (await other.run())[0] == 400, "another caller's is read, and refused for its signature"
        for one in held:
            one.part(0, last=True)
        assert {status for status, _ in await asyncio.gather(*tasks)} == {400}
        assert budget.bytes == 0 and not budget._held and not budget._held_of_key, "all of it was given back"
        assert 'drawdown_server_refused_total{what="bodies"} 1.0' in (await caller.get("/metrics")).text

    served(lone, work)


def test_request_body_budget_is_shared_by_all_addresses() -> None:
    budget = Budget(Counter())
    part = bodies.MAX_HELD_OF_AN_ADDRESS_BYTES
    whole = bodies.MAX_HELD_BYTES // part
    for number in range(whole):
        budget.take(f"192.0.2.{number}", part, f"key-{number}")
    with pytest.raises(ApiError):
        budget.take("198.51.100.1", 1, "key")
    budget.give_back("192.0.2.0", part, "key-0")
    budget.take("198.51.100.1", part, "key")
    assert budget.bytes == bodies.MAX_HELD_BYTES


def test_large_batches_of_key_from_many_addresses_do_not_block_another_key(lone: House) -> None:
    for name in ("hostile", "app"):
        make_key(lone, name, "events:write", "guard")
    part = bodies.MAX_HELD_OF_AN_ADDRESS_BYTES

    def batch(client: str, key: str, size: int) -> Raw:
        head = {"authorization": f"Bearer {key_of(key)}", "content-type": "application/json"}
        return Raw(lone, EVENTS, head, client).part(size)

    async def work(caller: Caller) -> None:
        budget = caller.server._budget
        held = [batch(f"192.0.2.{number}", "hostile", part) for number in range(bodies.MAX_HELD_BYTES // part)]
        tasks = [asyncio.create_task(one.run()) for one in held]
        async with asyncio.timeout(LIMIT_S):
            while budget.bytes < bodies.MAX_HELD_OF_A_KEY_BYTES - part or caller.server.refused["bodies"] < 3:
                await asyncio.sleep(0.01)
        assert budget.bytes <= bodies.MAX_HELD_OF_A_KEY_BYTES
        assert (await batch("192.0.2.99", "hostile", part).run())[0] == 503
        large = batch("198.51.100.1", "app", part // 2).part(0, last=True)
        assert (await large.run())[0] == 422, "it is read, and its one item found to be too large"
        check = Raw(lone, "/v1/guard/check", {"authorization": f"Bearer {key_of('hostile')}"}, "192.0.2.1")
        assert (await check.part(2, last=True).run())[0] == 415, "what is small is read, of whomever it is"
        for one in held:
            one.part(0, last=True)
        assert {status for status, _ in await asyncio.gather(*tasks)} == {422, 503}
        assert budget.bytes == 0 and not budget._held_of_key

    served(lone, work)
