"""Calls under way: what is handed out when, who waits for whom, and what is said of what was never answered."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import pytest

from drawdown.providers.protocol import (
    Accepted,
    CustomerRead,
    CustomerState,
    FoundPush,
    LookupResult,
    Outcome,
    PushRequest,
    ReadFailed,
    RetryAt,
    Unknown,
)
from drawdown.schema.clock import FixedClock
from drawdown.schema.units import DAY_MS, MINUTE_MS, SECOND_MS
from drawdown.worker.engine.calls import MOST_UNSETTLED, PORTION, Calls
from drawdown.worker.engine.effects import LANES, LookUp, Push
from drawdown.worker.engine.fair_queue import (
    AT_ONCE,
    PACED_MS,
    Allowance,
    CustomerLines,
    NotBegun,
    StreamQueue,
    by_customer,
)
from tests.cases import cases
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0

T = TypeVar("T")
LONG_S = 60.0
"""Longer than any of this takes: who waits for it waits for ever."""


def done(work: Callable[[], Awaitable[T]]) -> T:
    async def whole() -> T:
        async with asyncio.timeout(LONG_S):
            return await work()

    return asyncio.run(whole())


def push(number: int, customer: str = "acme", ts: int = T0) -> PushRequest:
    return PushRequest(f"{customer}-{number}", customer, "compute", 1, ts, 1)


class Slow(FakeProvider):
    """Answers once `released` is set, and counts who is asked at once."""

    def __init__(self, released: bool = False, **changes: object) -> None:
        super().__init__(capabilities(batch_size=1, in_flight=256, **changes))
        self.released = asyncio.Event()
        if released:
            self.released.set()
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    def held(self, one: PushRequest) -> bool:
        return True

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        customer = batch[0].customer_id
        self.under_way[customer] += 1
        self.most[customer] = max(self.most[customer], self.under_way[customer])
        try:
            if self.held(batch[0]):
                await self.released.wait()
            return await FakeProvider.push(self, batch)
        finally:
            self.under_way[customer] -= 1


class OneHangs(Slow):
    def held(self, one: PushRequest) -> bool:
        return one.customer_id == "hangs"


def test_push_calls_return_answers_while_another_call_hangs() -> None:
    async def work() -> None:
        provider = OneHangs()
        calls = Calls(provider, FixedClock(T0))
        batch = [push(0, "hangs"), *(push(n, f"c{n}") for n in range(1, 300))]
        effect, told = Push("fake", batch, lambda: False), dict[int, Outcome]()
        while len(told) < len(batch) - 1:
            portion = await calls.fetch(effect)
            assert 0 < len(portion) <= PORTION
            told.update(portion)
        assert 0 not in told and set(told.values()) == {Accepted()}
        provider.released.set()
        assert await calls.fetch(effect) == {0: Accepted()}

    done(work)


@cases("at_once", [8, 512])
def test_push_calls_unsettled_answers_are_bounded(at_once: int) -> None:
    """Nobody asks for the next answers as long as those fetched are being written down, however long that takes."""

    async def work() -> None:
        provider = Slow(released=True)
        provider.capabilities = capabilities(batch_size=1, in_flight=at_once)
        calls = Calls(provider, FixedClock(T0))
        lanes = [Push("fake", [push(n, f"{lane}-{n}") for n in range(600)], lambda: False) for lane in range(LANES)]
        written = 0
        for _ in range(4):
            fetched = [await calls.fetch(effect) for effect in lanes]
            assert [len(one) for one in fetched] == [PORTION] * LANES
            for _ in range(2_000):
                await asyncio.sleep(0)
            assert len(provider.charged) - written <= MOST_UNSETTLED == 512
            written += sum(len(one) for one in fetched)
        await calls.close()

    done(work)


def test_push_calls_after_time_limit_are_not_begun_and_hanging_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drawdown.worker.engine.calls.LAST_ANSWERS_S", 0.05)

    async def work() -> None:
        provider, up = Slow(), False
        calls = Calls(provider, FixedClock(T0))
        batch = [push(n) for n in range(AT_ONCE + 3)]
        effect = Push("fake", batch, lambda: up)
        first = asyncio.ensure_future(calls.fetch(effect))
        while provider.most["acme"] < AT_ONCE:
            await asyncio.sleep(0.01)
        up = True
        told = await first
        kinds = [type(told[place]) for place in range(len(batch))]
        assert kinds == [Unknown] * AT_ONCE + [NotBegun] * 3
        assert provider.seen == []

    done(work)


def test_customer_has_few_pushes_in_flight_and_other_customers_are_sent() -> None:
    async def work() -> None:
        provider = OneHangs()
        calls = Calls(provider, FixedClock(T0))
        batch = [push(n, "hangs") for n in range(300)] + [push(n, "other") for n in range(20)]
        effect, told = Push("fake", batch, lambda: False), dict[int, Outcome]()
        while len(told) < 20:
            told.update(await calls.fetch(effect))
        assert {batch[place].customer_id for place in told} == {"other"}
        assert provider.most["hangs"] == AT_ONCE
        await calls.close()

    done(work)


class Limited(Slow):
    """Takes `allowed` pushes of a customer, and then none until a time."""

    def __init__(self, clock: FixedClock, allowed: int, wait_ms: int) -> None:
        super().__init__(released=True)
        self.clock, self.allowed, self.wait_ms = clock, allowed, wait_ms
        self.refused: Counter[str] = Counter()

    def open(self) -> None:
        self.allowed = 10_000

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        customer = batch[0].customer_id
        if customer == "busy" and sum(one.customer_id == customer for one in self.charged.values()) >= self.allowed:
            self.refused[customer] += 1
            asyncio.get_running_loop().call_later(self.wait_ms / 2_000, self.open)
            return [RetryAt(self.clock.at_ms + self.wait_ms, "429", too_many=True)]
        return await FakeProvider.push(self, batch)


def test_throttled_customer_waits_and_other_customers_are_sent() -> None:
    async def work() -> None:
        clock = FixedClock(T0)
        provider = Limited(clock, allowed=10, wait_ms=PACED_MS + SECOND_MS)
        calls = Calls(provider, clock)
        batch = [push(n, "busy") for n in range(500)] + [push(n, "other") for n in range(50)]
        effect, told = Push("fake", batch, lambda: False), dict[int, Outcome]()
        while len(told) < len(batch):
            told.update(await calls.fetch(effect))
        refused = provider.refused["busy"]
        ends = Counter((batch[place].customer_id, type(answer)) for place, answer in told.items())
        assert ends == {
            ("busy", Accepted): 10,
            ("busy", RetryAt): refused,
            ("busy", NotBegun): 490 - refused,
            ("other", Accepted): 50,
        }
        assert 0 < refused <= AT_ONCE, "a burst is refused once, and not push by push"

    done(work)


class TurnsAway(Slow):
    """Has the customers of one name wait for nearly as long as they are paced, each time."""

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        if batch[0].customer_id.startswith("busy"):
            return [RetryAt(T0 + PACED_MS - SECOND_MS, "429", too_many=True)]
        return await super().push(batch)


def test_many_throttled_customers_do_not_stop_other_customers() -> None:
    """As many as would have all the streams there are. Where others are due they are left."""

    async def work() -> None:
        provider = TurnsAway(released=True)
        provider.capabilities = capabilities(batch_size=1, in_flight=64)
        calls = Calls(provider, FixedClock(T0))
        batch = [push(n, f"busy-{n % 16}") for n in range(320)] + [push(n, f"other-{n % 9}") for n in range(200)]
        effect, told = Push("fake", batch, lambda: False, gives_way=True), dict[int, Outcome]()
        while len(told) < len(batch):
            told.update(await calls.fetch(effect))
        ends = Counter((batch[place].customer_id[:4], type(answer)) for place, answer in told.items())
        assert (ends["othe", Accepted], ends["busy", RetryAt] + ends["busy", NotBegun]) == (200, 320)
        assert ends["busy", RetryAt] <= 16 * AT_ONCE, "none was waited for, to be refused again"

    done(work)


def test_stream_queue_takes_postponed_stream_after_its_wait() -> None:
    turns = StreamQueue(iter([[[0]], [[1]], [[2]]]))
    turns.set_aside([[8]], 200)
    turns.set_aside([[9]], 100)
    taken = [turns.take(now_ms) for now_ms in (0, 99, 100, 100, 100, 100)]
    assert taken == [([[0]], 0), ([[1]], 0), ([[9]], 100), ([[2]], 0), ([[8]], 200), None]


def test_calls_after_spell_are_not_begun_and_calls_in_flight_are_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("drawdown.worker.engine.calls.LAST_ANSWERS_S", 0.0)

    async def work() -> None:
        provider, shut = OneHangs(), False
        calls = Calls(provider, FixedClock(T0))
        batch = [push(n, "hangs") for n in range(AT_ONCE + 200)]
        effect, told = Push("fake", batch, lambda: False, closed=lambda: shut), dict[int, Outcome]()
        first = asyncio.ensure_future(calls.fetch(effect))
        while provider.most["hangs"] < AT_ONCE:
            await asyncio.sleep(0.01)
        shut = True
        await asyncio.sleep(0.3)
        assert not first.done()
        provider.released.set()
        told.update(await first)
        while len(told) < len(batch):
            told.update(await calls.fetch(effect))
        assert Counter(map(type, told.values())) == {Accepted: AT_ONCE, NotBegun: 200}

    done(work)


def test_short_wait_of_throttled_customer_is_waited_for() -> None:
    async def work() -> None:
        clock = FixedClock(T0)
        provider = Limited(clock, allowed=1, wait_ms=10)
        calls = Calls(provider, clock)
        batch = [push(n, "busy") for n in range(3 * AT_ONCE)]
        effect, told = Push("fake", batch, lambda: False), dict[int, Outcome]()
        while len(told) < len(batch):
            told.update(await calls.fetch(effect))
        assert 0 < provider.refused["busy"] <= AT_ONCE
        assert len(provider.charged) == len(batch) - provider.refused["busy"], "the rest came after the wait"

    done(work)


class Lists(FakeProvider):
    """Looks up all pushes of a customer and day by one call."""

    def __init__(self, lookups_per_s: float = 1_000) -> None:
        lists = {
            "in_flight": 8, "batch_size": 1, "lookup_lag_ms": 0, "lookup_span_ms": DAY_MS,
            "lookups_per_s": lookups_per_s,
        }  # fmt: skip
        super().__init__(capabilities(**lists))
        self.asked: list[tuple[str, int]] = []

    async def lookup_many(self, requests: Sequence[PushRequest]) -> Sequence[LookupResult]:
        assert len({one.customer_id for one in requests}) == 1
        self.asked.append((requests[0].customer_id, len(requests)))
        return [FoundPush(int(one.key.split("-")[1])) for one in requests]


def test_lookups_of_a_customer_keep_its_rate() -> None:
    async def work() -> None:
        calls, loop = Calls(Lists(lookups_per_s=10), FixedClock(T0)), asyncio.get_running_loop()
        asked = [push(n, "one", T0 + n * DAY_MS) for n in range(4)]
        effect, told, began = LookUp("fake", asked), dict[int, LookupResult](), loop.time()
        while len(told) < len(asked):
            told.update(await calls.fetch(effect))
        assert loop.time() - began > 0.3, "three waits of a tenth of a second follow the first call"

    done(work)


def test_lookups_of_customer_and_day_share_a_single_list() -> None:
    async def work() -> None:
        provider = Lists()
        calls = Calls(provider, FixedClock(T0))
        many = [push(n, "many", T0 + n * MINUTE_MS) for n in range(485)]
        asked = [*many, *(push(n, f"c{n}") for n in range(8))]
        effect, told = LookUp("fake", asked), dict[int, LookupResult]()
        while len(told) < len(asked):
            told.update(await calls.fetch(effect))
        assert [told[place] for place in range(len(asked))] == [FoundPush(int(one.key.split("-")[1])) for one in asked]
        assert sorted(provider.asked) == [("c0", 1), *((f"c{n}", 1) for n in range(1, 8)), ("many", 485)]

    done(work)


def test_lookups_are_grouped_by_customer_and_span_in_turns() -> None:
    asked = [push(0, "a", T0 + DAY_MS), push(1, "a", T0), push(2, "a", T0 + DAY_MS - 1), push(3, "b", T0)]
    assert list(by_customer(asked, DAY_MS)) == [[1, 2], [3], [0]]
    assert list(by_customer(asked, 0)) == [[1], [3], [2], [0]]


def test_push_streams_of_customers_take_turns_within_claim() -> None:
    batch = [*(push(number, "a") for number in range(3 * AT_ONCE)), push(0, "b"), push(0, "c")]
    firsts = [batch[stream[0][0]].customer_id for stream in CustomerLines(capabilities(batch_size=1)).streams(batch)]
    assert firsts == ["a", "b", "c"] + ["a"] * (AT_ONCE - 1)


def test_spell_over_before_begin_leaves_calls_awaited() -> None:
    async def work() -> None:
        calls = Calls(Slow(), FixedClock(T0))
        asked = [push(0), push(1)]
        for effect in (Push("fake", asked, lambda: True), LookUp("fake", asked, lambda: True)):
            assert len(await calls.fetch(effect)) == len(asked)

    gc.collect()  # what other tests left behind says what it has to say before
    gc.freeze()  # the next search is for what is made here
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        done(work)
        gc.collect()
    assert [str(one.message) for one in said] == []


def test_calls_in_flight_drop_while_throttled_and_rise_after() -> None:
    """A provider that takes ten at once, of 64 that it declares, and later all of them."""
    allowance, seen = Allowance(64), list[int]()
    for asked in range(600):
        takes = 10 if asked < 300 else 64
        numbers = [allowance.begin() for _ in range(allowance.allowed)]
        for place, number in enumerate(numbers):
            allowance.note(number, f"org-{number}", turned_away=place >= takes)
        seen.append(allowance.allowed)
    assert 5 <= min(seen[10:300]) < max(seen[10:300]) <= 12, "about as many as it takes"
    assert (seen[-1], allowance.least) == (64, min(seen))


def test_throttled_customer_does_not_reduce_calls_of_other_customers() -> None:
    allowance = Allowance(64)
    for number in range(1_000):
        assert not allowance.note(allowance.begin(), f"org-{number % 2}", turned_away=number % 2 == 0)
    assert allowance.allowed == 64


async def _turns() -> None:
    """A call's time, in turns of the loop: by the clock a busy machine would turn away more."""
    for _ in range(10):
        await asyncio.sleep(0)


class Narrow(Slow):
    """Takes so many calls at once, and turns the others away."""

    takes = 20

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        self.seen += batch
        self.under_way["all"] += 1
        try:
            taken = self.under_way["all"] <= self.takes
            await _turns()
            return [self._one(push) if taken else RetryAt(T0 + SECOND_MS, "429", too_many=True) for push in batch]
        finally:
            self.under_way["all"] -= 1

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        self.under_way["all"] += 1
        try:
            taken = self.under_way["all"] <= self.takes
            await _turns()
            told = await super().customers(customer_ids)
            return told if taken else dict.fromkeys(told, ReadFailed("429", too_many=True))
        finally:
            self.under_way["all"] -= 1


def test_reads_in_flight_fall_to_limit_of_provider() -> None:
    """By 64 reads at once 44 of each round would fail; lookups and totals are reads, too."""
    provider, told, names = Narrow(released=True), list[int](), [f"org-{number}" for number in range(3_000)]

    async def whole() -> Mapping[str, CustomerRead]:
        return await Calls(provider, FixedClock(T0)).customers(names, cut=told.append)

    found = done(whole)
    assert list(found) == names
    assert sum(isinstance(state, CustomerState) for state in found.values()) > 2_500
    assert min(told) <= provider.takes


def test_pushes_in_flight_fall_to_limit_of_provider() -> None:
    """Nothing is lost, and nothing is sent twice."""
    provider, told = Narrow(released=True), list[int]()
    provider.capabilities = capabilities(batch_size=1, in_flight=128)  # one lane's half of 256
    batch = [push(1, f"org-{number}") for number in range(3_000)]

    async def whole() -> list[Outcome]:
        calls = Calls(provider, FixedClock(T0))
        effect, found = Push("fake", batch, lambda: False, told.append), dict[int, Outcome]()
        while len(found) < len(batch):
            found.update(await calls.fetch(effect))
        return [found[place] for place in range(len(batch))]

    outcomes = done(whole)
    assert len(provider.seen) == len(batch), "none is left because too many were turned away in a row"
    accepted = sum(isinstance(outcome, Accepted) for outcome in outcomes)
    assert accepted == len(provider.charged) and accepted > 2_500
    assert min(told) <= provider.takes
