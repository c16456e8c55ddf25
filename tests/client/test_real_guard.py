"""The client's guard and the server's: each act, a budget's ends, and an answer that was lost on its way."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import httpx
import pytest

from drawdown_client import AsyncClient, Blocked, Client, Event, Refused, Wish
from tests.acceptance.commands import drawdown, must
from tests.client.shop import open_shop

if importlib.util.find_spec("drawdown.server.api.guard") is None:
    pytest.skip("this server has no guard", allow_module_level=True)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[str, str, str]]:
    """Database, URL and key: acme may create 100 ideas a day, which cost a credit each."""
    database = f"sqlite:///{tmp_path}/drawdown.db"
    words = (
        "guard set idea.create --credits 1 --phase 3 --new --reason sold",
        "limit set idea.create 100 --per day --reason fair",
    )
    with open_shop(database, tmp_path, ("guard", "ledger:read"), words) as (url, key):
        yield database, url, key


def wish(amount: int = 1) -> Wish:
    return Wish("acme", "idea.create", amount, project="site", subject="ann")


def test_guard_client_operations_on_real_server_are_idempotent(shop: tuple[str, str, str]) -> None:
    database, url, key = shop
    with Client(url, key) as client:
        guard = client.guard
        found = guard.check(wish(100))
        assert (found.decision, found.limit, found.used, found.payer) == ("warn", 100, 0, "acme")
        assert guard.consume("c-1", wish(3)).is_allowed and guard.consume("c-1", wish(3)).repeated
        blocked = guard.consume("c-2", wish(98))
        assert (blocked.decision, blocked.enforced, blocked.reason) == ("block", True, "limit")
        assert blocked.options == ("request_override", "run_locally") and blocked.resets_at is not None
        with pytest.raises(Refused) as other:
            guard.consume("c-1", wish(4))
        assert (other.value.status, other.value.code) == (409, "other_content")
        assert guard.reserve("r-1", wish(10), hold_s=120).is_allowed
        assert guard.extend("r-1", to=20, hold_s=240).whole["quantity"] == 20
        assert guard.settle("r-1", 15, reason="done").whole["charged"] == 15 and guard.settle("r-1", 15).repeated
        assert guard.reserve("r-2", wish(10)).is_allowed and guard.release("r-2", 2).whole["charged"] == 2
        assert client.balance("acme")["available"] == 100 - 3 - 15 - 2
        assert guard.check(wish(1)).used == 20
        ways = {way.option: way for way in guard.options(wish(98))}
        assert {name for name, way in ways.items() if way.is_open} == {"request_override", "run_locally"}
        asked = ways["request_override"].call
        assert asked is not None and (asked["path"], asked["body"]["amount"]) == ("/v1/guard/overrides", 118)
        assert ways["top_up"].code == "not_credit"

    async def same() -> None:
        async with AsyncClient(url, key) as other:
            assert {way.option: way for way in await other.guard.options(wish(98))} == ways

    asyncio.run(same())
    assert drawdown(database, "verify").status == 0


def test_budget_on_real_server_is_reserved_settled_and_released(shop: tuple[str, str, str]) -> None:
    database, url, key = shop
    with Client(url, key) as client:
        with client.guard.budget("b-1", "idea.create", 6, org_id="acme") as budget:
            assert client.balance("acme")["reserved"] == 6
            budget.actual = 4
        assert budget.answer is not None and budget.answer.whole["charged"] == 4
        with pytest.raises(KeyboardInterrupt), client.guard.budget("b-2", "idea.create", 6, org_id="acme") as budget:
            budget.actual = 1
            raise KeyboardInterrupt
        with pytest.raises(Refused, match="settled"), client.guard.budget("b-1", "idea.create", 6, org_id="acme"):
            pytest.fail("it ran")
        with pytest.raises(Blocked), client.guard.budget("b-3", "idea.create", 96, org_id="acme"):
            pytest.fail("it ran")
        with client.guard.budget("b-4", "idea.create", 2, org_id="acme", hold_s=60, extend=True) as budget:
            pass
        found = client.balance("acme")
        assert (found["available"], found["reserved"]) == (100 - 4 - 1 - 2, 0)
        assert client.guard.check(wish()).used == 7
    assert drawdown(database, "verify").status == 0


def test_budget_with_bound_key_does_not_need_org(shop: tuple[str, str, str]) -> None:
    database, url, _ = shop
    key = must(database, "key", "create", "product", "--scope", "guard", "--org", "acme")["key"]
    with Client(url, key) as client:
        with client.guard.budget("b-1", "idea.create", 6) as budget:
            budget.actual = 4
        assert budget.answer is not None and budget.answer.whole["charged"] == 4
        assert client.guard.consume("c-1", Wish(None, "idea.create")).is_allowed
        assert client.guard.check(Wish(None, "idea.create")).used == 5
        with pytest.raises(ValueError, match="missing organisation"):
            client.guard.options(Wish(None, "idea.create"))
    assert drawdown(database, "verify").status == 0


def test_async_budgets_of_cancelled_tasks_are_released_on_real_server(shop: tuple[str, str, str]) -> None:
    _, url, key = shop

    async def work() -> None:
        async with AsyncClient(url, key) as client:
            entered = asyncio.Semaphore(0)

            async def spend(number: int) -> None:
                async with client.guard.budget(f"b-{number}", "idea.create", 5, org_id="acme") as budget:
                    budget.actual = number
                    entered.release()
                    await asyncio.sleep(600)

            tasks = [asyncio.create_task(spend(number)) for number in range(8)]
            for _ in tasks[:4]:
                await entered.acquire()
            for task in tasks:  # some work, some are still entering
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in found)
            assert (await client.balance("acme"))["reserved"] == 0

    asyncio.run(work())


def test_guard_client_lost_answers_across_threads_count_once(
    shop: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each third answer is lost after the server gave it; 40 uses under 20 keys are 20."""
    database, url, key = shop
    real, lock, count = httpx.HTTPTransport.handle_request, threading.Lock(), [0]

    def cut(self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        answer = real(self, request)
        with lock:
            count[0] += 1
            if count[0] % 3 == 0:
                answer.close()
                raise httpx.ReadError("cut")
        return answer

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", cut)
    with Client(url, key) as client:

        def use(turn: int) -> None:
            for number in range(20):
                assert client.guard.consume(f"c-{(number + turn * 5) % 20}", wish()).is_allowed

        threads = [threading.Thread(target=use, args=(turn,)) for turn in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.guard.check(wish()).used == 20
    assert must(database, "ledger", "show", "acme")["balance"] == 80
    assert drawdown(database, "verify").status == 0


def test_guard_client_use_with_event_is_billed_as_usage(shop: tuple[str, str, str]) -> None:
    """One call of each client: counted, and billed as usage; again, once; blocked, not at all."""
    database, url, _ = shop
    scopes = [word for scope in ("guard", "events:write", "usage:read") for word in ("--scope", scope)]
    key = drawdown(database, "key", "create", "seller", *scopes, "--quiet").out.strip()
    must(database, *["feature", "map-event", "page.export", "export", "--new", "--reason", "sold"])
    with Client(url, key) as client:
        found = client.guard.consume("e-1", wish(3), event="page.export")
        assert found.is_allowed and found.event == "accepted"
        assert client.guard.consume("e-1", wish(3), event="page.export").event == "duplicate"
        blocked = client.guard.consume("e-2", wish(98), event="page.export")
        assert not blocked.is_allowed and blocked.event is None

    async def work() -> None:
        async with AsyncClient(url, key) as client:
            event = Event("page.export", 40, source="/web", properties={"model": "small"})
            assert (await client.guard.consume("e-3", wish(2), event=event)).event == "accepted"
            row, *_ = [row for row in (await client.usage("acme", date(2026, 1, 1)))["rows"] if row["used"]]
            assert (row["feature"], row["used"]) == ("export", 43)

    asyncio.run(work())
