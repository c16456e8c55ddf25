"""Calls to one provider, within what it declares: so many at once, so many a second, some of them one after the other.

Guarantee: a push that was not begun is said not to have been sent; a call that breaks the provider's contract has told
nothing about its own pushes, and nothing about any other's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import structlog
from aiolimiter import AsyncLimiter

from drawdown.providers.protocol import (
    CustomerRead,
    Drawn,
    LookupResult,
    Outcome,
    Provider,
    PushRequest,
    ReadFailed,
    RetryAt,
    Totals,
    Unknown,
)
from drawdown.schema.clock import Clock
from drawdown.worker.breaker import OPEN_FOR_MS

log = structlog.get_logger()

A = TypeVar("A")
B = TypeVar("B")
GIVE_UP_AFTER: Final = 20
"""Calls of one batch that fail in a row: what is left of it is not sent, or an outage would cost a timeout each."""
READS_AT_ONCE: Final = 16
SLICE_S: Final = 0.02
"""A limiter starts with a full bucket: it holds no more than a slice of a second's worth."""
USED_SHARE: Final = 0.94
"""Of the allowed rate. The rest is for calls that arrive closer together than they were sent: no second goes above."""


def in_short(error: Exception) -> str:
    """An error's first line: what follows may be a statement with other customers' values."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


class Calls:
    """All calls of one worker to one provider, for as long as one event loop runs."""

    def __init__(self, provider: Provider, clock: Clock) -> None:
        self._provider = provider
        self._clock = clock
        can = provider.capabilities
        self._slots = asyncio.Semaphore(can.in_flight)
        self._pushes = _limiter(can.calls_per_s)
        self._reads = _limiter(can.reads_per_s)
        self._of_customer: dict[str, AsyncLimiter | None] = {}
        self._lines: dict[tuple[str, str], asyncio.Lock] = {}

    async def push(self, batch: Sequence[PushRequest], before_ms: int) -> list[Outcome]:
        """Send a batch; one outcome each, in order."""
        can = self._provider.capabilities
        outcomes: list[Outcome | None] = [None] * len(batch)
        failed = _InARow()
        calls = _calls(batch, can.batch_size, in_lines=can.one_at_a_time)

        async def work() -> None:
            for line in calls:
                for places in line:
                    sent = [batch[place] for place in places]
                    answers = await self._call(sent, before_ms, failed)
                    for place, answer in zip(places, answers, strict=True):
                        outcomes[place] = answer

        await asyncio.gather(*(work() for _ in range(min(can.in_flight, len(batch)))))
        assert None not in outcomes, "each push has its outcome"
        return [one for one in outcomes if one is not None]

    async def _call(self, sent: Sequence[PushRequest], before_ms: int, failed: _InARow) -> Sequence[Outcome]:
        if not self._provider.capabilities.one_at_a_time:
            return await self._paced(sent, before_ms, failed)
        line = self._lines.setdefault((sent[0].customer_id, sent[0].feature), asyncio.Lock())
        async with line:
            return await self._paced(sent, before_ms, failed)

    async def _paced(self, sent: Sequence[PushRequest], before_ms: int, failed: _InARow) -> Sequence[Outcome]:
        async with self._slots:
            if self._pushes is not None:
                await self._pushes.acquire()
            now = self._clock.now_ms()
            if failed.count >= GIVE_UP_AFTER:
                return [RetryAt(now + OPEN_FOR_MS, f"not sent: {GIVE_UP_AFTER} calls in a row had failed")] * len(sent)
            if now >= before_ms:
                return [RetryAt(now, "not sent: the claim ran out before")] * len(sent)
            try:
                answers = await self._provider.push(sent)
                assert len(answers) == len(sent), f"{len(answers)} outcomes for {len(sent)} pushes"
            except Exception as error:  # a provider that breaks its contract has told us nothing about what was charged
                log.exception("provider_failed", provider=self._provider.name, first_key=sent[0].key)
                answers = [Unknown(in_short(error))] * len(sent)
            failed.note(all(isinstance(one, RetryAt | Unknown) for one in answers))
            return answers

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        """The state of any number of customers."""
        size = self._provider.capabilities.reads_a_call
        parts = [customer_ids[at : at + size] for at in range(0, len(customer_ids), size)]
        found: dict[str, CustomerRead] = {}
        for part, states in zip(parts, await self._each(parts, self._provider.customers), strict=True):
            one = dict.fromkeys(part, states) if isinstance(states, ReadFailed) else states
            found.update(one)
        return found

    async def look_up(self, requests: Sequence[PushRequest]) -> list[LookupResult]:
        return await self._each(requests, self._provider.lookup, lambda one: one.customer_id)

    async def totals(self, wanted: Sequence[tuple[str, int, int]]) -> list[Totals | ReadFailed]:
        return await self._each(wanted, lambda one: self._provider.totals(*one), lambda one: one[0])

    async def drawn(self, customer_ids: Sequence[str]) -> list[Mapping[str, Drawn] | ReadFailed]:
        return await self._each(customer_ids, self._provider.drawn)

    async def check(self, customer_ids: Sequence[str]) -> list[Sequence[str] | ReadFailed]:
        """What is wrong with each customer, a line each."""
        return await self._each(customer_ids, lambda one: self._provider.check((), (one,)))

    async def _each(
        self, asked: Sequence[A], ask: Callable[[A], Awaitable[B]], customer: Callable[[A], str] | None = None
    ) -> list[B | ReadFailed]:
        answers: list[B | ReadFailed] = [ReadFailed("not asked")] * len(asked)
        places = iter(range(len(asked)))

        async def work() -> None:
            for place in places:
                await self._may_read(None if customer is None else customer(asked[place]))
                try:
                    answers[place] = await ask(asked[place])
                except Exception as error:  # it has told us nothing: what cannot be read is neither zero nor absent
                    log.exception("provider_failed", provider=self._provider.name)
                    answers[place] = ReadFailed(in_short(error))

        at_once = min(READS_AT_ONCE, self._provider.capabilities.in_flight, len(asked))
        await asyncio.gather(*(work() for _ in range(at_once)))
        return answers

    async def _may_read(self, customer_id: str | None) -> None:
        a_second = self._provider.capabilities.lookups_per_s
        if customer_id is not None and a_second is not None:
            if customer_id not in self._of_customer:
                self._of_customer[customer_id] = _limiter(a_second)
            limiter = self._of_customer[customer_id]
            assert limiter is not None
            await limiter.acquire()
        if self._reads is not None:
            await self._reads.acquire()


class _InARow:
    """Counts calls that failed one after another."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, failed: bool) -> None:
        self.count = self.count + 1 if failed else 0


def _limiter(a_second: float | None) -> AsyncLimiter | None:
    """Nearly as fast as allowed, and in no second faster."""
    if a_second is None:
        return None
    at_once = max(a_second * SLICE_S, 1.0)
    return AsyncLimiter(at_once, at_once / (a_second * USED_SHARE))


def _calls(batch: Sequence[PushRequest], size: int, *, in_lines: bool) -> Iterator[list[list[int]]]:
    """The places of pushes in calls; calls of one line are made one after the other."""
    if not in_lines:
        yield from ([list(range(at, min(at + size, len(batch))))] for at in range(0, len(batch), size))
        return
    lines: dict[tuple[str, str], list[int]] = {}
    for place, one in enumerate(batch):
        lines.setdefault((one.customer_id, one.feature), []).append(place)
    for places in lines.values():
        yield [places[at : at + size] for at in range(0, len(places), size)]
