"""The guard without a server: what fails open is let through, kept with its key, and told in order."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import respx

from drawdown_client import AsyncClient, Client, Refused, Settings, Unreachable, Wish, World, spool
from drawdown_client import guard_words as words
from drawdown_client.calls import Call
from drawdown_client.let_through import LetThrough
from drawdown_client.settings import MOST_REFUSALS
from tests.cases import cases
from tests.client.book import KEY, URL, hasty
from tests.client.counter import Counter

OPEN = Settings(fails_open=("login",), call_tries=1)


@pytest.fixture
def counter() -> Iterator[Counter]:
    made = Counter(limit=5)
    with respx.mock(base_url=URL, using="httpx") as router:
        router.post(path__startswith="/v1/guard/").side_effect = made.answer
        yield made


def login(quantity: int = 1) -> Wish:
    return Wish("acme", "login", quantity)


def test_client_fail_open_use_is_sent_later_whatever_limit(counter: Counter) -> None:
    with Client(URL, KEY, OPEN, world=hasty()) as client:
        counter.away = 503
        found = client.guard.consume("l-1", login(9))
        assert (found.decision, found.reason, found.degraded) == ("allow", "unreachable", True)
        assert client.guard.consume("l-1", login(9)).is_allowed
        assert client.guard.check(login()).degraded
        with pytest.raises(Unreachable):
            client.guard.consume("i-1", Wish("acme", "idea.create"))
        assert counter.uses == {}
        counter.away = 0
        assert not client.guard.consume("l-2", login()).is_allowed, "it is told before the next is asked for"
    assert counter.uses == {"l-1": {"state": "used", "quantity": 9}}
    assert [order.get("let_through") for order in counter.said("consume")] == [True, None]


def test_client_fail_open_budget_and_its_end_are_sent_in_order(counter: Counter) -> None:
    with Client(URL, KEY, OPEN, world=hasty()) as client:
        counter.away = 500
        with client.guard.budget("l-1", "login", 4, org_id="acme") as budget:
            budget.actual = 3
        with pytest.raises(ValueError), client.guard.budget("l-2", "login", 4, org_id="acme"):
            raise ValueError
        counter.away = 0
    assert counter.uses == {"l-1": {"state": "settled", "quantity": 3}, "l-2": {"state": "released", "quantity": 0}}
    assert [act for act, _ in counter.calls] == ["reserve", "settle", "reserve", "release"]


@cases("status", [400, 403, 404, 413])
def test_client_use_that_proxy_refuses_does_not_fail_open(counter: Counter, status: int) -> None:
    with Client(URL, KEY, OPEN, world=hasty()) as client:
        counter.proxy_says = status
        with pytest.raises(Refused, match=f"{status} no_code"):
            client.guard.consume("l-1", login())
        assert client.guard.fail_open.first() is None
    assert counter.uses == {} and client.guard.fail_open.lost == 0


@cases("status", [302, 503])
def test_client_use_that_proxy_does_not_pass_on_fails_open(counter: Counter, status: int) -> None:
    with Client(URL, KEY, OPEN, world=hasty()) as client:
        counter.proxy_says = status
        assert client.guard.consume("l-1", login(9)).reason == "unreachable"
        counter.proxy_says = 0
    assert counter.uses == {"l-1": {"state": "used", "quantity": 9}} and client.guard.fail_open.lost == 0


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_client_report_that_proxy_refuses_waits_behind_others(counter: Counter, client: Any) -> None:
    """It does not open the guard. The end of its use waits for it."""

    async def call(found: Any) -> Any:
        return await found if client is AsyncClient else found

    async def work() -> None:
        made = client(URL, KEY, replace(OPEN, call_tries=2), world=hasty())
        counter.away = 503
        await call(made.guard.reserve("x-1", login()))
        await call(made.guard.consume("l-1", login(2)))
        counter.away, counter.proxy_says, counter.proxy_refuses = 0, 403, "x"
        with pytest.raises(Refused, match="403 no_code"):
            await call(made.guard.consume("x-2", login()))
        assert counter.uses == {"l-1": {"state": "used", "quantity": 2}}
        assert not (await call(made.guard.consume("l-2", login(9)))).is_allowed
        assert (await call(made.guard.settle("x-1", 1))).reason == "unreachable"
        counter.proxy_says = 0
        await call(made.close())
        assert made.guard.fail_open.lost == 0

    asyncio.run(work())
    assert counter.uses["x-1"] == {"state": "settled", "quantity": 1} and set(counter.uses) == {"l-1", "x-1"}


def test_client_report_that_proxy_keeps_refusing_is_logged_as_lost(
    counter: Counter, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(URL, KEY, OPEN, world=hasty()) as client:
        counter.away = 503
        client.guard.consume("x-1", login())
        counter.away, counter.proxy_says, counter.proxy_refuses = 0, 403, "x"
        for _ in range(MOST_REFUSALS - 1):
            client.guard.check(login())
        assert client.guard.fail_open.has("x-1") and client.guard.fail_open.lost == 0
        client.guard.check(login())
        assert client.guard.fail_open.lost == 1
    assert '"key": "x-1"' in caplog.text and "403 no_code" in caplog.text


def test_client_report_is_kept_while_proxy_refuses_every_call() -> None:
    """An ingress without a route answered 404 for minutes, and the client dropped what waited."""
    clock = Clock(0.0, refuses="a")
    made = clock.queue("a")
    for _ in range(2 * MOST_REFUSALS):
        assert made.send("a") is not None
    assert made.has("a") and made.lost == 0
    for _ in range(MOST_REFUSALS):
        made.note_answer()
        made.send("a")
    assert not made.has("a") and made.lost == 1


def test_client_second_close_after_report_does_not_wait(counter: Counter) -> None:
    """The thread had ended, and `close` waited `close_s` for it."""
    client = Client(URL, KEY, replace(OPEN, close_s=60.0), world=hasty())
    counter.away = 503
    client.guard.consume("x-1", login())
    counter.away = 0
    client.close()
    again = threading.Thread(target=client.close)
    again.start()
    again.join(20)
    assert not again.is_alive()


def test_client_report_that_proxy_refused_waits_with_backoff() -> None:
    clock = Clock(0.0, refuses="a")
    made = clock.queue("a")
    for wait_s in (0.0, 0.125, 0.125, 0.25, 0.25):
        clock.now_s += wait_s
        assert made.send() is None
    assert len(clock.asked) == 3, "at 0.0, 0.25 and 0.75 s"
    assert made.send("a") is not None and len(clock.asked) == 4, "its own use does not wait"
    made.close(10.0)
    assert len(clock.asked) == 5 and made.lost == 1


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_client_use_behind_stuck_report_is_decided_by_server(counter: Counter, client: Any) -> None:
    """The server answers, but fails at one report: other uses are counted and blocked as ever."""

    async def work() -> list[Any]:
        made = client(URL, KEY, OPEN, world=hasty())

        async def consume(key: str, quantity: int) -> Any:
            found = made.guard.consume(key, login(quantity))
            return await found if client is AsyncClient else found

        counter.away = 503
        await consume("l-1", 9)
        counter.away, counter.fails = 0, "l-1"
        found = [await consume(*one) for one in (("l-2", 3), ("l-3", 3), ("l-1", 9))]
        counter.fails = ""
        closed = made.close()
        if client is AsyncClient:
            await closed
        return found

    allowed, blocked, again = asyncio.run(work())
    assert allowed.is_allowed and not allowed.degraded and not blocked.is_allowed
    assert again.is_allowed and again.degraded, "it was allowed before, so it still is"
    assert {key: use["quantity"] for key, use in counter.uses.items()} == {"l-1": 9, "l-2": 3}


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_client_stuck_report_does_not_delay_reports_of_other_uses(counter: Counter, client: Any) -> None:
    async def call(found: Any) -> Any:
        return await found if client is AsyncClient else found

    async def work() -> None:
        made = client(URL, KEY, OPEN, world=hasty())
        counter.away = 503
        await call(made.guard.reserve("l-1", login()))
        await call(made.guard.reserve("l-2", login(2)))
        await call(made.guard.settle("l-1", 1))
        await call(made.guard.settle("l-2", 2))
        counter.away, counter.fails = 0, "l-1"
        for _ in range(2):
            await call(made.guard.check(login()))
        assert counter.uses == {"l-2": {"state": "settled", "quantity": 2}}
        counter.fails = ""
        await call(made.close())

    asyncio.run(work())
    assert counter.uses["l-1"] == {"state": "settled", "quantity": 1}


class SlowReport:
    """A server that answers the report of a use only when the test lets it."""

    def __init__(self, counter: Counter, key: str) -> None:
        self.is_asked, self.may_answer = threading.Event(), threading.Event()
        self._key = key
        counter.before = self._wait

    def _wait(self, order: dict[str, Any]) -> None:
        if order.get("key") == self._key and order.get("let_through"):
            self.is_asked.set()
            assert self.may_answer.wait(10)


def test_client_call_does_not_wait_for_report_of_other_thread(counter: Counter) -> None:
    with Client(URL, KEY, OPEN, world=hasty()) as client, ThreadPoolExecutor(1) as pool:
        counter.away = 503
        client.guard.reserve("l-1", login(2))
        counter.away, slow = 0, SlowReport(counter, "l-1")
        other = pool.submit(client.guard.consume, "l-2", login())
        assert slow.is_asked.wait(10)
        assert not client.guard.consume("l-3", login()).degraded
        assert not client.guard.consume("l-4", login(9)).is_allowed
        assert client.guard.settle("l-1", 1).reason == "unreachable", "its start is on its way"
        assert not other.done()
        slow.may_answer.set()
        assert not other.result(10).degraded
    assert counter.uses["l-1"] == {"state": "settled", "quantity": 1} and set(counter.uses) == {"l-1", "l-2", "l-3"}
    assert [act for act, order in counter.calls if order["key"] == "l-1"] == ["reserve", "settle"]
    assert client.guard.fail_open.lost == 0


def test_async_client_call_does_not_wait_for_report_of_other_task(counter: Counter) -> None:
    async def work() -> None:
        async with AsyncClient(URL, KEY, OPEN, world=hasty()) as client:
            counter.away = 503
            await client.guard.consume("l-1", login())
            counter.away, slow = 0, SlowReport(counter, "l-1")
            other = asyncio.create_task(client.guard.consume("l-2", login()))
            assert await asyncio.to_thread(slow.is_asked.wait, 10)
            assert not (await client.guard.consume("l-3", login())).degraded
            assert not other.done()
            slow.may_answer.set()
            assert not (await other).degraded

    asyncio.run(work())
    assert set(counter.uses) == {"l-1", "l-2", "l-3"}


@pytest.mark.parametrize("is_told", [True, False])
def test_client_close_waits_for_report_of_other_thread(counter: Counter, is_told: bool) -> None:
    """Up to its limit. A report that is answered later was counted as lost."""
    client = Client(URL, KEY, replace(OPEN, close_s=20.0 if is_told else 0.0), world=hasty())
    with ThreadPoolExecutor(2) as pool:
        counter.away = 503
        client.guard.consume("l-1", login())
        counter.away, slow = 0, SlowReport(counter, "l-1")
        other = pool.submit(client.guard.consume, "l-2", login())
        assert slow.is_asked.wait(10)
        closed = pool.submit(client.close)
        if is_told:
            slow.may_answer.set()
        closed.result(10)
        slow.may_answer.set()
        other.exception(10)
    assert client.guard.fail_open.lost == (0 if is_told else 1)
    assert [order["key"] for order in counter.said("consume")].count("l-1") == 1


class Clock:
    """A world in which each report takes some seconds, and those of one key fail."""

    def __init__(self, each_s: float, fails: str = "", refuses: str = "") -> None:
        self.now_s = 100.0
        self.each_s, self.fails, self.refuses = each_s, fails, refuses
        self.asked: list[tuple[str, float | None]] = []

    def once(self, call: Call, within_s: float | None) -> Any:
        key = json.loads(call.body or b"")["key"]
        self.asked.append((key, within_s))
        self.now_s += self.each_s
        if key == self.fails:
            raise Unreachable("it fails")
        if key == self.refuses:
            raise Refused(403, "no_code", "of a proxy")
        return {"decision": "allow"}

    def queue(self, *keys: str, **settings: Any) -> LetThrough:
        slow: Any = type("Slow", (), {"uniform": lambda self, low, high: high})()
        made = LetThrough(replace(OPEN, **settings), World(monotonic_s=lambda: self.now_s, jitter=slow), self.once)
        for key in keys:
            made.keep(key, words.consume(key, login(), late=True), Unreachable("away"))
        return made


def test_client_close_sends_reports_within_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(4.0)
    made = clock.queue("a", "b", "c", "d", "e")
    made.close(10.0)
    assert clock.asked == [("a", 10.0), ("b", 6.0), ("c", 2.0)]
    assert made.lost == 2 and caplog.text.count("cannot record an allowed use") == 2


def test_client_close_sends_reports_behind_stuck_report() -> None:
    clock = Clock(1.0, fails="a")
    made = clock.queue("a", "b", "c")
    made.close(10.0)
    assert [key for key, _ in clock.asked] == ["a", "b", "c"] and made.lost == 1


def test_client_call_sends_reports_for_limited_time() -> None:
    """It waits meanwhile. Its own call tells it whether the server answers."""
    clock = Clock(9.0)
    made = clock.queue("a", "b", "c", "d", call_within_s=15.0)
    assert made.send() is not None and clock.asked == [("a", None), ("b", None)]
    assert made.send() is None and made.first() is None


def test_closed_client_does_not_allow_use_without_response() -> None:
    made = Clock(1.0).queue("a")
    made.close(10.0)
    with pytest.raises(Unreachable, match="away"):
        made.keep("b", words.consume("b", login(), late=True), Unreachable("away"))
    assert made.first() is None


def test_client_rate_limited_use_does_not_fail_open(counter: Counter) -> None:
    with Client(URL, KEY, OPEN, world=hasty()) as client:
        counter.away = 429
        with pytest.raises(Unreachable):
            client.guard.consume("l-1", login())
        counter.away = 0
    assert counter.uses == {}


def test_client_fail_open_uses_are_bounded(counter: Counter) -> None:
    with Client(URL, KEY, Settings(fails_open=("login",), call_tries=1, kept_calls=2), world=hasty()) as client:
        counter.away = 503
        for number in range(2):
            client.guard.consume(f"l-{number}", login())
        with pytest.raises(Unreachable):
            client.guard.consume("l-2", login())
        counter.away = 0
    assert set(counter.uses) == {"l-0", "l-1"}


@pytest.mark.parametrize("why", ["refused", "left at the end"])
def test_client_fail_open_use_not_recorded_is_logged_and_counted(
    counter: Counter, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(URL, KEY, OPEN, world=hasty())
    counter.away = 503
    client.guard.consume("l-1", login(7))
    client.guard.consume("l-2", login())
    if why == "refused":
        counter.away, counter.refuses = 0, "l-1"
    caplog.set_level(logging.ERROR)
    client.close()
    assert client.guard.fail_open.lost == (1 if why == "refused" else 2)
    lost = [one.getMessage() for one in caplog.records if "cannot record" in one.getMessage()]
    assert len(lost) == client.guard.fail_open.lost and '"key": "l-1"' in lost[0] and '"quantity": 7' in lost[0]
    assert set(counter.uses) == ({"l-2"} if why == "refused" else set())


def test_client_degraded_use_is_resent_before_its_end(counter: Counter) -> None:
    """Its end may come to another server, which does not know of it; and the first may never write it down."""
    with Client(URL, KEY, Settings(call_tries=1), world=hasty()) as client:
        counter.degraded = True
        with client.guard.budget("l-1", "login", 4, org_id="acme") as budget:
            budget.actual = 3
            assert client.guard.consume("l-2", login(2)).reason == "database_unreadable"
            counter.degraded = False
    assert counter.uses == {"l-1": {"state": "settled", "quantity": 3}, "l-2": {"state": "used", "quantity": 2}}
    assert [act for act, _ in counter.calls] == ["reserve", "consume", "settle"]


def test_client_settle_while_server_is_degraded_is_sent_later(counter: Counter) -> None:
    async def work() -> None:
        async with AsyncClient(URL, KEY, Settings(call_tries=1), world=hasty()) as client:
            counter.degraded = True
            assert (await client.guard.reserve("l-1", login(4))).is_allowed
            assert (await client.guard.settle("l-1", 3)).reason == "unreachable"
            counter.degraded = False

    asyncio.run(work())
    assert counter.uses == {"l-1": {"state": "settled", "quantity": 3}}


def test_async_client_fail_open_uses_are_sent_later(counter: Counter) -> None:
    async def work() -> Any:
        async with AsyncClient(URL, KEY, OPEN, world=hasty()) as client:
            counter.away = 503
            found = await asyncio.gather(*(client.guard.consume(f"l-{n}", login(3)) for n in range(3)))
            async with client.guard.budget("l-3", "login", 4, org_id="acme") as budget:
                budget.actual = 1
            with pytest.raises(Unreachable):
                await client.guard.consume("i-1", Wish("acme", "idea.create"))
            counter.away = 0
            return found

    assert all(one.degraded for one in asyncio.run(work()))
    assert {key: use["quantity"] for key, use in counter.uses.items()} == {"l-0": 3, "l-1": 3, "l-2": 3, "l-3": 1}


def test_client_fail_open_uses_in_spool_are_sent_at_next_start(counter: Counter, tmp_path: Path) -> None:
    """A spool keeps what the guard let through as it keeps events: the program may end before the server is back."""
    settings = replace(OPEN, spool=tmp_path / "web.spool")
    counter.away = 503
    with Client(URL, KEY, settings, world=hasty()) as client:
        client.guard.consume("l-1", login(4), event="page.export")
        client.guard.consume("l-2", login(3))
        assert client.guard.fail_open.lost == 0
    assert client.guard.fail_open.lost == 0 and counter.uses == {}
    counter.away = 0
    with Client(URL, KEY, settings, world=hasty()) as client:
        assert not client.guard.consume("l-3", login()).is_allowed
    assert {key: use["quantity"] for key, use in counter.uses.items()} == {"l-1": 4, "l-2": 3}
    first = counter.said("consume")[0]
    assert first["let_through"] is True and first["event"]["event_type"] == "page.export"
    with Client(URL, KEY, settings, world=hasty()) as client:
        client.guard.check(login())
    assert len(counter.said("consume")) == 3, "each was told once"


def test_client_fail_open_use_refused_by_server_moves_to_dead_letters(counter: Counter, tmp_path: Path) -> None:
    settings = replace(OPEN, spool=tmp_path / "web.spool")
    counter.away, counter.refuses = 503, "l-1"
    with Client(URL, KEY, settings, world=hasty()) as client:
        client.guard.consume("l-1", login())
    counter.away = 0
    with Client(URL, KEY, settings, world=hasty()) as client:
        assert client.guard.consume("l-2", login()).is_allowed and client.guard.fail_open.lost == 1
    (dead,) = (tmp_path / "web.spool.guard.dead").read_text().splitlines()
    assert json.loads(dead)["item"]["order"]["key"] == "l-1"
    assert (tmp_path / "web.spool.guard").read_bytes() == b""


def test_client_fork_starts_without_fail_open_uses(tmp_path: Path) -> None:
    fail_open = LetThrough(replace(OPEN, spool=tmp_path / "web.spool"), World(), _unasked)
    fail_open.keep("l-1", words.consume("l-1", login()), Unreachable("away"))
    assert fail_open._spool is not None
    other = os.dup(fail_open._spool._lock)  # that of the process that kept it, from which this one was forked
    fail_open._forked()
    assert fail_open.first() is None and not fail_open.has("l-1")
    fail_open.keep("l-2", words.consume("l-2", login()), Unreachable("away"))
    assert _first(fail_open) == words.consume("l-2", login())
    os.close(other)
    fail_open.give_up()
    again = LetThrough(replace(OPEN, spool=tmp_path / "web.spool"), World(), _unasked)
    assert _first(again) == words.consume("l-1", login())
    again.give_up()


def test_client_fork_without_free_spool_does_not_allow_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And its calls of the guard go on."""
    monkeypatch.setattr(spool, "MOST_SPOOLS", 1)
    fail_open = LetThrough(replace(OPEN, spool=tmp_path / "web.spool"), World(), _unasked)
    assert fail_open._spool is not None
    other = os.dup(fail_open._spool._lock)  # that of the process from which this one was forked
    fail_open._forked()
    assert fail_open.send() is None
    with pytest.raises(Unreachable, match="away"):
        fail_open.keep("l-1", words.consume("l-1", login()), Unreachable("away"))
    assert "cannot write a guard call to the spool: all spools are in use" in caplog.text
    os.close(other)
    fail_open.keep("l-1", words.consume("l-1", login()), Unreachable("away"))
    assert _first(fail_open) == words.consume("l-1", login())
    fail_open.give_up()


def _unasked(_call: Call, _within_s: float | None) -> Any:
    pytest.fail("it was sent")


def _first(fail_open: LetThrough) -> Call | None:
    found = fail_open.first()
    return None if found is None else found.call


def test_client_late_use_that_guard_blocks_is_counted_as_lost() -> None:
    """A key that is bound to an organisation cannot record it: the answer is a block, and nothing is stored."""
    with pytest.raises(Refused, match="blocked"):
        words.require_written({"decision": "block", "state": None, "reason": "limit"})
    words.require_written({"decision": "block", "state": "held", "reason": "limit"})
