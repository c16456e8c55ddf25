"""The client for programs with an event loop: what it shares, and what cancellation does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

from drawdown_client import AsyncClient, Blocked, Event, QueueFull, Settings, Unsent, Wish
from tests.client.book import KEY, URL, Book, hasty
from tests.client.counter import Counter


@pytest.fixture
def router() -> Iterator[respx.MockRouter]:
    with respx.mock(base_url=URL, using="httpx", assert_all_called=False) as made:
        yield made


def run(work: Callable[[AsyncClient], Awaitable[None]], **settings: Any) -> None:
    async def whole() -> None:
        async with AsyncClient(URL, KEY, Settings(batch_ms=0, **settings), world=hasty()) as client:
            await work(client)

    asyncio.run(whole())


def guarded(router: respx.MockRouter) -> Counter:
    made = Counter()
    router.post(path__startswith="/v1/guard/").side_effect = made.answer
    return made


def test_async_client_events_and_samples_arrive_once(router: respx.MockRouter, tmp_path: Path) -> None:
    events, samples, faults = Book(), Book(), [httpx.ConnectError("refused"), httpx.ReadError("cut")]

    def answer(request: httpx.Request) -> httpx.Response:
        if faults:
            raise faults.pop()
        return events.answer(request)

    router.post("/v1/events").side_effect = answer
    router.post("/v1/samples").side_effect = samples.answer

    async def work(client: AsyncClient) -> None:
        await asyncio.gather(*(client.record("page.render", number + 100, org_id="acme") for number in range(50)))
        assert await client.events.send(Event("page.render", 99, "acme", event_id="mine")) == ["mine"]
        await client.samples.send({"id": "s-1", "sandbox_id": "sb-1", "memory_mb": 512, "interval_s": 60})
        await client.flush(20)

    run(work, spool=tmp_path / "app.spool")
    assert events.numbers == list(range(99, 150)) and len(samples.kept) == 1


def test_async_client_full_queue_does_not_block_event_loop(router: respx.MockRouter) -> None:
    router.post("/v1/events").mock(httpx.Response(503, headers={"retry-after": "60"}))
    turns = 0

    async def work(client: AsyncClient) -> None:
        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        going = asyncio.create_task(turn())
        await client.record("page.render", 1, org_id="acme")
        with pytest.raises(QueueFull):
            await client.record("page.render", 2, org_id="acme")
        going.cancel()
        with pytest.raises(Unsent):
            await client.close(0.1)

    run(work, queue_items=1, block_s=0.3)
    assert turns > 5


def test_async_client_reads_retry_and_follow_pages(router: respx.MockRouter) -> None:
    router.get("/v1/balance/acme").side_effect = [httpx.Response(503), httpx.Response(200, json={"available": 1.5})]
    page = {"org_id": "acme", "from_ms": 300_000, "rows": [{"used": 1}], "next": "f:1"}
    route = router.get("/v1/usage/acme")
    route.side_effect = [
        httpx.Response(200, json=page),
        httpx.Response(200, json={**page, "next": None}),
    ]

    async def work(client: AsyncClient) -> None:
        assert dict(await client.balance("acme")) == {"available": 1.5}
        assert [dict(row) for row in (await client.usage("acme"))["rows"]] == [{"used": 1}, {"used": 1}]

    run(work)
    queries = [dict(call.request.url.params) for call in route.calls]
    assert queries == [{"by": "feature"}, {"by": "feature", "from_ms": "300000", "after": "f:1"}]


def test_async_budget_is_settled_released_or_blocked(router: respx.MockRouter) -> None:
    counter = guarded(router)

    async def work(client: AsyncClient) -> None:
        async with client.guard.budget("b-1", "idea.create", 6, org_id="acme") as budget:
            budget.actual = 4
        with pytest.raises(LookupError):
            async with client.guard.budget("b-2", "idea.create", 6, org_id="acme") as budget:
                budget.actual = 2
                raise LookupError
        with pytest.raises(Blocked):
            async with client.guard.budget("b-3", "idea.create", 600, org_id="acme"):
                pytest.fail("it ran")
        assert (await client.guard.check(Wish("acme", "idea.create", 94))).is_allowed
        assert (await client.guard.consume("c-1", Wish("acme", "idea.create", 90))).is_allowed

    run(work)
    assert counter.uses["b-1"] == {"state": "settled", "quantity": 4}
    assert counter.uses["b-2"] == {"state": "released", "quantity": 2}
    assert counter.used == 96


@pytest.mark.parametrize("when", ["enters", "runs", "settles"])
def test_async_budget_of_cancelled_task_is_ended(router: respx.MockRouter, when: str) -> None:
    """Cancelled while it enters, works or ends; cancelled twice, even. The cancellation goes on afterwards."""
    counter = Counter()
    slow = {"enters": "reserve", "runs": "release", "settles": "settle"}[when]
    is_slow = asyncio.Event()

    async def later(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.1)
        return counter.answer(request)

    async def answer(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith(slow):
            return counter.answer(request)
        is_slow.set()
        return await asyncio.shield(asyncio.ensure_future(later(request)))  # a server does what it has read

    router.post(path__startswith="/v1/guard/").side_effect = answer

    async def work(client: AsyncClient) -> None:
        entered = asyncio.Event()

        async def spend() -> None:
            async with client.guard.budget("b-1", "idea.create", 6, org_id="acme") as budget:
                budget.actual = 3
                entered.set()
                if when == "runs":
                    await asyncio.sleep(60)

        task = asyncio.create_task(spend())
        await (entered if when == "runs" else is_slow).wait()
        task.cancel()
        if when == "runs":
            await is_slow.wait()
            task.cancel()  # again, while it is given up
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work)
    wanted = {"enters": ("released", 0), "runs": ("released", 3), "settles": ("settled", 3)}[when]
    assert (counter.uses["b-1"]["state"], counter.uses["b-1"]["quantity"]) == wanted


def test_async_budget_of_task_cancelled_by_loop_end_is_released(router: respx.MockRouter) -> None:
    counter = guarded(router)

    async def main() -> None:
        client = AsyncClient(URL, KEY, world=hasty())
        entered = asyncio.Event()

        async def spend() -> None:
            async with client.guard.budget("b-1", "idea.create", 6, org_id="acme"):
                entered.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(spend())
        await entered.wait()
        assert not task.done()

    asyncio.run(main())
    assert counter.uses["b-1"] == {"state": "released", "quantity": 0}


def test_async_budget_with_extend_is_extended_until_block_ends(router: respx.MockRouter) -> None:
    counter = guarded(router)

    async def work(client: AsyncClient) -> None:
        async with client.guard.budget("b-1", "idea.create", 6, org_id="acme", hold_s=0.15, extend=True):
            while len(counter.said("extend")) < 3:
                await asyncio.sleep(0.01)
        count = len(counter.said("extend"))
        await asyncio.sleep(0.15)
        assert len(counter.said("extend")) == count

    run(work)


def test_async_client_error_in_block_is_raised_despite_unsent_items(router: respx.MockRouter) -> None:
    router.post("/v1/events").mock(httpx.Response(503, headers={"retry-after": "60"}))

    async def whole() -> None:
        async with AsyncClient(URL, KEY, Settings(close_s=0.1), world=hasty()) as client:
            await client.record("page.render", 1, org_id="acme")
            raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(whole())
