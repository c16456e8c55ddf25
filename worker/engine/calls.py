"""Call a provider or payment service within its limits and the tick's time.

Guarantee: a call that was not begun is answered as not sent. If a call breaks its contract, the outcome of its pushes
is unknown, and other pushes are not affected. A charge without a response in time is in doubt. A service that hangs
delays others only for the rest of the time, and `LAST_CHARGES_S`.

`Flight` returns responses as they arrive, each once. If a process dies, it loses few of them. At most `most` calls that
began are not completed, and a response waits at most a second for others. A call is completed once its responses were
fetched and the next responses are requested. Once `over` or `closed` returns True, further calls do not begin. After
all calls under way have ended, the calls that did not begin are answered. If `over` returns True, calls under way have
`grace_s` left. If only `closed` does, they have no time limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Final, Generic, TypeVar, cast, overload

import structlog

from drawdown.providers.payments.protocol import Charge, ChargeResult, FillsItself, InDoubt, NotSent, PaymentService
from drawdown.providers.protocol import (
    Cost,
    CustomerRead,
    Drawn,
    LookupResult,
    ManyLookups,
    Outcome,
    Provider,
    PushRequest,
    ReadFailed,
    RetryAt,
    TellsCosts,
    Totals,
    Unknown,
)
from drawdown.schema.clock import Clock
from drawdown.schema.text import in_short
from drawdown.schema.units import SECOND_MS
from drawdown.worker.engine.breaker import OPEN_FOR_MS
from drawdown.worker.engine.effects import (
    LANES,
    NOT_SENT,
    AskWhoFills,
    ChargeMoney,
    Cut,
    LookUp,
    LookUpMoney,
    Over,
    Push,
    never,
)
from drawdown.worker.engine.fair_queue import (
    Allowance,
    CustomerLine,
    CustomerLines,
    InARow,
    NotBegun,
    Reads,
    Slots,
    StreamQueue,
    by_customer,
)
from drawdown.worker.engine.pace import pace

log = structlog.get_logger()

A = TypeVar("A")
B = TypeVar("B")
GIVE_UP_AFTER: Final = 20
"""Consecutive failed calls of a batch after which Drawdown does not send the rest.

In an outage, each call would cost a timeout.
"""
MOST_UNSETTLED: Final = 512
"""Push calls to one provider without a recorded response, in all queues together.

If a process dies, Drawdown must look up the pushes of these calls, or send them again.
"""
LAST_ANSWERS_S: Final = 10.0
"""Seconds after the time limit to wait for responses to pushes in flight.

Drawdown must look up each push that is still without a response.
"""


class Calls:
    """All calls of a worker to one provider, in one event loop.

    `processes`: the number of processes that share the provider's limits equally.
    """

    def __init__(self, provider: Provider, clock: Clock, processes: int = 1) -> None:
        self._provider = provider
        self._clock = clock
        capabilities = provider.capabilities
        self._slots = Slots(max(capabilities.in_flight // processes, 1))
        self._pushes = pace(capabilities.calls_per_s, processes)
        self._reads = Reads(capabilities, processes, self._heed)
        self._lines = CustomerLines(capabilities)
        self._flights: dict[Push | LookUp, Flight[Outcome] | Flight[LookupResult]] = {}

    @overload
    async def fetch(self, effect: Push) -> Mapping[int, Outcome]: ...

    @overload
    async def fetch(self, effect: LookUp) -> Mapping[int, LookupResult]: ...

    async def fetch(self, effect: Push | LookUp) -> Mapping[int, Outcome | LookupResult]:
        """Return the next responses of a batch, by the index of their push in the batch.

        The first call starts the batch.
        """
        flight = self._flights.get(effect)
        if flight is None:
            flight = self._push(effect) if isinstance(effect, Push) else self._look_up(effect)
            self._flights[effect] = flight
        answers = await flight.fetch()
        if flight.is_done:
            del self._flights[effect]
        if isinstance(effect, Push):
            self._slots.tell(effect.cut)
        return answers

    async def close(self) -> None:
        """Cancel the calls under way, because their caller has ended."""
        for flight in self._flights.values():
            await flight.close()

    def _push(self, effect: Push) -> Flight[Outcome]:
        capabilities, batch = self._provider.capabilities, effect.batch
        flight = Flight(
            len(batch),
            effect.over,
            lambda place, begun: self._unanswered(batch[place], begun=begun),
            portion=capabilities.batch_size,
            most=MOST_UNSETTLED // LANES,
            grace_s=LAST_ANSWERS_S,
            closed=effect.closed,
        )
        failed, turns = InARow(), StreamQueue(self._lines.streams(batch))

        async def work() -> None:
            while (taken := turns.take(now := self._clock.now_ms())) is not None:
                stream, waited_ms = taken
                if waited_ms > now and effect.gives_way:
                    for place in (place for places in stream for place in places):
                        flight.answer(place, self._lines.of(batch[place]).left_over())
                    continue
                if waited_ms > now:
                    await asyncio.sleep((waited_ms - now) / SECOND_MS)
                while stream and not flight.over():
                    sent = {place: batch[place] for place in stream[0]}
                    if waits_ms := await self._call(flight, sent, failed, waited_ms):
                        turns.set_aside(stream, waits_ms)
                        break
                    del stream[0]

        flight.start([work] * min(capabilities.in_flight, len(batch)))
        return flight

    def _unanswered(self, push: PushRequest, *, begun: bool) -> Outcome:
        if begun:
            return Unknown("no response in time")
        line, now = self._lines.of(push), self._clock.now_ms()
        return line.left_over() if line.wait_until_ms > now else NotBegun(now, NOT_SENT)

    async def _call(self, flight: Flight[Outcome], sent: dict[int, PushRequest], failed: InARow, waited_ms: int) -> int:
        """Make one call in its customer's turn, unless the time is over.

        If the customer must wait, do not make the call, and return the end of the wait, in milliseconds. Otherwise
        return 0.
        """
        places, requests = list(sent), list(sent.values())
        line = self._lines.of(requests[0])
        async with line.turn:
            now = self._clock.now_ms()
            answers = self._not_sent(line, failed, len(sent), now)
            if answers is None and line.wait_until_ms > max(now, waited_ms):
                return line.wait_until_ms
            if answers is None:
                await flight.room()
                async with self._slots as number:
                    if self._pushes is not None:
                        await self._pushes.turn()
                    if flight.over():
                        return 0
                    flight.begin(places)
                    answers = await self._answered(requests)
                    self._note(number, requests[0].customer_id, answers, failed)
                line.note(answers, self._clock.now_ms())
        for place, answer in zip(places, answers, strict=True):
            flight.answer(place, answer)
        return 0

    def _note(self, number: int, customer: str, answers: Sequence[Outcome], failed: InARow) -> None:
        """Adjust the limits of later calls by a response."""
        allowance = self._slots.allowance
        too_many = any(isinstance(answer, RetryAt) and answer.too_many for answer in answers)
        if not (too_many and (number < allowance.since or allowance.allowed > 1)):  # first reduce concurrent calls
            failed.note(all(isinstance(answer, RetryAt | Unknown) for answer in answers))
        self._heed(allowance, number, customer, too_many)

    def _heed(self, allowance: Allowance, number: int, customer: str, turned_away: bool) -> None:
        if allowance.note(number, customer, turned_away=turned_away):
            log.warning("calls_cut", provider=self._provider.name, at_once=allowance.allowed)

    def _not_sent(self, line: CustomerLine, failed: InARow, count: int, now: int) -> Sequence[Outcome] | None:
        """Return the outcomes of a call that must not be made.

        None: the call may be made.
        """
        if failed.count >= GIVE_UP_AFTER:
            return [NotBegun(now + OPEN_FOR_MS, f"not sent: {GIVE_UP_AFTER} calls in a row failed")] * count
        if line.is_closed(now):
            return [line.left_over()] * count
        return None

    async def _answered(self, sent: Sequence[PushRequest]) -> Sequence[Outcome]:
        try:
            answers = await self._provider.push(sent)
            assert len(answers) == len(sent), f"outcomes: {len(answers)}, pushes: {len(sent)}"
        except Exception as error:  # a provider that breaks its contract does not show which pushes it charged
            log.exception("provider_failed", provider=self._provider.name, first_key=sent[0].key)
            return [Unknown(in_short(error))] * len(sent)
        return answers

    def _look_up(self, effect: LookUp) -> Flight[LookupResult]:
        """Look up pushes, with one call for a customer's pushes within a span.

        The provider declares the span. Customers take turns, so that a customer with many pushes does not delay others.
        """
        requests = effect.requests
        # Drawdown requests a lost response again, so one portion can have all responses. It then compares a customer's
        # responses together, unless they take longer than PORTION_S.
        flight = Flight[LookupResult](len(requests), effect.over, _unread, portion=len(requests))
        calls = iter(by_customer(requests, self._provider.capabilities.lookup_span_ms))

        async def work() -> None:
            for places in calls:
                await flight.room()
                asked = [requests[place] for place in places]
                find, begin = partial(self._look_up_all, asked), partial(flight.may_begin, places)
                answers = await self._reads.answer(find, asked[0].customer_id, begin, paced=True)
                if answers is None:
                    return
                for place, answer in zip(places, answers, strict=True):
                    flight.answer(place, answer)

        flight.start([work] * self._reads_at_once(len(requests)))
        return flight

    async def _look_up_all(self, asked: Sequence[PushRequest]) -> Sequence[LookupResult]:
        try:
            if not self._provider.capabilities.lookup_span_ms:
                return [await self._provider.lookup(push) for push in asked]
            answers = await cast(ManyLookups, self._provider).lookup_many(asked)
            assert len(answers) == len(asked), f"answers: {len(answers)}, lookups: {len(asked)}"
        except Exception as error:  # a failed lookup does not show that the push is absent
            log.exception("provider_failed", provider=self._provider.name, first_key=asked[0].key)
            return [ReadFailed(in_short(error))] * len(asked)
        return answers

    async def customers(
        self, customer_ids: Sequence[str], over: Over = never, cut: Cut | None = None
    ) -> Mapping[str, CustomerRead]:
        """Return the states of customers, or ReadFailed, by id.

        `cut`: receives the fewest concurrent calls that were allowed, if fewer than declared (None: not called).
        """
        size = self._provider.capabilities.reads_a_call
        parts = [customer_ids[at : at + size] for at in range(0, len(customer_ids), size)]
        found: dict[str, CustomerRead] = {}
        read = await self._each(parts, self._provider.customers, lambda part: part[0], over)
        for part, states in zip(parts, read, strict=True):
            found.update(dict.fromkeys(part, states) if isinstance(states, ReadFailed) else states)
        self._reads.slots.tell(cut)
        return found

    async def totals(self, wanted: Sequence[tuple[str, int, int]], over: Over = never) -> list[Totals | ReadFailed]:
        return await self._each(
            wanted, lambda asked: self._provider.totals(*asked), lambda asked: asked[0], over, paced=True
        )

    async def drawn(self, customer_ids: Sequence[str], over: Over = never) -> list[Mapping[str, Drawn] | ReadFailed]:
        return await self._each(customer_ids, self._provider.drawn, str, over)

    async def costs(self, known: Sequence[Cost]) -> Sequence[Cost] | ReadFailed:
        """Return the costs of units of features in credits, or ReadFailed.

        `known`: the costs learned before.
        """
        (found,) = await self._each([known], cast(TellsCosts, self._provider).costs, lambda _: "")
        return found

    async def check(self, customer_ids: Sequence[str]) -> list[Sequence[str] | ReadFailed]:
        """Return the faults of each customer as lines of text, or ReadFailed; in order."""
        return await self._each(customer_ids, lambda customer: self._provider.check((), (customer,)), str)

    async def _each(
        self,
        asked: Sequence[A],
        ask: Callable[[A], Awaitable[B]],
        customer: Callable[[A], str],
        over: Over = never,
        *,
        paced: bool = False,
    ) -> list[B | ReadFailed]:
        """Make one call for each item, and return the responses in order.

        `paced`: keep within the rate for one customer.
        """
        flight = Flight[B | ReadFailed](len(asked), over, _unread)
        places = iter(range(len(asked)))

        async def work() -> None:
            for place in places:
                await flight.room()
                one, begin = partial(self._ask_or_fail, ask, asked[place]), partial(flight.may_begin, [place])
                answer = await self._reads.answer(one, customer(asked[place]), begin, paced=paced)
                if answer is None:
                    return
                flight.answer(place, answer)

        flight.start([work] * self._reads_at_once(len(asked)))
        answers: dict[int, B | ReadFailed] = {}
        try:
            while not flight.is_done:
                answers.update(await flight.fetch())
        finally:
            await flight.close()
        return [answers[place] for place in range(len(asked))]

    async def _ask_or_fail(self, ask: Callable[[A], Awaitable[B]], asked: A) -> B | ReadFailed:
        try:
            return await ask(asked)
        except Exception as error:  # a failed read does not show that the value is zero or absent
            log.exception("provider_failed", provider=self._provider.name)
            return ReadFailed(in_short(error))

    def _reads_at_once(self, count: int) -> int:
        return min(self._reads.slots.allowance.most, count)


def _unread(_place: int, begun: bool) -> ReadFailed:
    return ReadFailed("no response in time" if begun else "not read: no time was left")


PORTION: Final = 128
"""Responses that are fetched together, unless one call has more.

The number is so small that a lost portion costs little, and so large that commits cost little.
"""
PORTION_S: Final = 1.0
"""Longest time that a response waits for others, to be written in one transaction."""
POLL_S: Final = 0.1
"""Seconds between two checks of the time limit (`over`) during a wait for a response."""


class Flight(Generic[A]):
    """The responses to `count` requests, which arrive one by one.

    A place is the index of a request. `instead`: a function that returns the result for a place without a response. Its
    second argument is True if the call was begun.
    """

    def __init__(
        self,
        count: int,
        over: Callable[[], bool],
        instead: Callable[[int, bool], A],
        *,
        portion: int = PORTION,
        most: int | None = None,
        grace_s: float = 0.0,
        closed: Callable[[], bool] | None = None,
    ) -> None:
        self._over = over
        self._closed = closed
        self._instead = instead
        self._portion = max(PORTION, portion)
        self._grace_s = grace_s
        self._left = set(range(count))
        self._call_of: dict[int, set[int]] = {}
        """For each begun place, the places of its call that are not completed."""
        self._ready: dict[int, A] = {}
        self._fetched: list[int] = []
        self._first_at = 0.0
        self._changed = asyncio.Event()
        self._room = asyncio.Semaphore(count if most is None else most)
        self._tasks: list[asyncio.Task[None]] = []
        self._ends_at: float | None = None

    def over(self) -> bool:
        """Return True if further calls must not begin."""
        return self._over() or (self._closed is not None and self._closed())

    def start(self, works: Iterable[Callable[[], Awaitable[None]]]) -> None:
        """Start coroutines that make the calls at the same time."""
        self._tasks = [asyncio.ensure_future(self._whole(work)) for work in works]

    async def _whole(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            self._changed.set()

    async def room(self) -> None:
        """Wait until one more call may begin."""
        await self._room.acquire()

    def begin(self, places: Iterable[int]) -> None:
        """Record that a call begins. A crash can lose its responses from then on."""
        call = set(places)
        self._call_of.update(dict.fromkeys(call, call))

    def may_begin(self, places: Iterable[int]) -> bool:
        """Record that a call begins, and return True. Return False if time is over."""
        if self.over():
            return False
        self.begin(places)
        return True

    def answer(self, place: int, answer: A) -> None:
        """Store the response for a place."""
        self._left.remove(place)
        self._ready[place] = answer
        if len(self._ready) == 1:
            self._first_at = asyncio.get_running_loop().time()
        if len(self._ready) in (1, self._portion) or not self._left:
            self._changed.set()

    @property
    def is_done(self) -> bool:
        """Return True if all responses were fetched."""
        return not self._left and not self._ready

    async def fetch(self) -> dict[int, A]:
        """Return the next portion of responses, by place.

        The portion is empty only if all responses were fetched. Errors: those that the coroutines raise.
        """
        loop = asyncio.get_running_loop()
        self._done_with_fetched()
        while self._left and len(self._ready) < self._portion:
            if self._ready and loop.time() - self._first_at >= PORTION_S:
                break
            if all(task.done() for task in self._tasks) or self._is_over(loop.time()):
                await self._give_up()
                break
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._changed.wait()
        found = {place: self._ready.pop(place) for place in list(islice(self._ready, self._portion))}
        self._first_at = loop.time()
        self._fetched = list(found)
        return found

    def _done_with_fetched(self) -> None:
        for place in self._fetched:
            call = self._call_of.pop(place, None)
            if call is None:
                continue  # a call did not send this request
            call.remove(place)
            if not call:
                self._room.release()
        self._fetched = []

    def _is_over(self, at: float) -> bool:
        if self._left.isdisjoint(self._call_of) and self.over():
            return True  # all calls under way have ended, and further calls must not begin
        if self._ends_at is None and self._over():
            self._ends_at = at + self._grace_s
        return self._ends_at is not None and at >= self._ends_at

    async def _give_up(self) -> None:
        """Cancel the calls, and answer the remaining places with `instead`."""
        await self.close()
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        for place in sorted(self._left):
            self.answer(place, self._instead(place, place in self._call_of))

    async def close(self) -> None:
        """Cancel the calls under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


PAYMENTS_AT_ONCE: Final = 8
"""Concurrent calls to a payment service."""
LAST_CHARGES_S: Final = 5.0
"""Seconds after the time limit to wait for responses to charges in flight.

Drawdown must look up each charge that is still without a response.
"""


async def answers(service: PaymentService, effect: ChargeMoney | LookUpMoney, clock: Clock) -> list[ChargeResult]:
    """Return the service's responses, one for each charge, in order.

    NotSent: the charge was not begun. InDoubt: the service failed, or did not answer in time.
    """
    charges = isinstance(effect, ChargeMoney)

    def instead(_place: int, begun: bool) -> ChargeResult:
        if charges and not begun:
            return NotSent(NOT_SENT, clock.now_ms())
        return InDoubt("no response in time")

    flight = Flight[ChargeResult](len(effect.charges), effect.over, instead, grace_s=LAST_CHARGES_S if charges else 0.0)
    places = iter(range(len(effect.charges)))

    async def work() -> None:
        for place in places:
            if flight.over():
                return
            flight.begin([place])
            flight.answer(place, await _answer(service, effect.charges[place], charges=charges))

    flight.start([work] * min(PAYMENTS_AT_ONCE, len(effect.charges)))
    found: dict[int, ChargeResult] = {}
    try:
        while not flight.is_done:
            found.update(await flight.fetch())
    finally:
        await flight.close()
    return [found[place] for place in range(len(effect.charges))]


async def _answer(service: PaymentService, request: Charge, *, charges: bool) -> ChargeResult:
    try:
        answer = await (service.charge(request) if charges else service.look_up(request))
        assert isinstance(answer, ChargeResult), f"{type(answer).__name__} is not a ChargeResult"
    except Exception as error:  # the outcome of the charge is unknown
        log.exception("payment_service_failed", service=service.name, charge=request.charge_id)
        return InDoubt(in_short(error))
    return answer


async def who_fills(service: PaymentService, effect: AskWhoFills) -> NotSent | InDoubt | None:
    """Return a value that shows whether a payment service tops up a customer itself.

    NotSent: the service does. InDoubt: the service failed, or did not answer before the effect was `over`. None: the
    service does not, or cannot be called, or cannot answer this question.
    """
    if service.dormant is not None or not isinstance(service, FillsItself):
        return None
    task = asyncio.ensure_future(service.fills_itself(effect.customer_id))
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=POLL_S)
            if not task.done() and effect.over():
                return InDoubt("no response in time")
    finally:
        task.cancel()
    try:
        return task.result()
    except Exception as error:  # it is unknown whether the service itself tops up
        log.exception("payment_service_failed", service=service.name, customer=effect.customer_id)
        return InDoubt(in_short(error))
