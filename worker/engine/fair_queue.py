"""Queue pushes and reads so that customers take turns within the limits.

Guarantee: customers take turns, and a customer that must wait does not delay others. A line is one customer's pushes.
If a provider accepts the pushes of a feature one at a time, a line is one customer's pushes of one feature. The number
of concurrent calls is the number that the provider declares. If the provider refuses calls of several customers as too
many, the number is smaller, but at least 1. The calls in each second keep the provider's limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import zip_longest
from typing import Final, TypeVar

from drawdown.providers.protocol import Capabilities, Outcome, PushRequest, ReadFailed, RetryAt
from drawdown.schema.units import SECOND_MS
from drawdown.worker.engine.pace import Pace, pace

Answer = TypeVar("Answer")
AT_ONCE: Final = 4
"""Most pushes of one customer in flight.

If a provider fails, each of these pushes may stay in doubt for a day. Providers that limit customers refuse larger
bursts.
"""
PACED_MS: Final = 30 * SECOND_MS
"""Longest wait of a customer's pushes after "too many calls", in milliseconds.

A later tick sends the rest.
"""

TURNED_AWAY: Final = 10
"""Customers refused with "too many calls" in one round after which concurrent calls are halved.

The number is at most an eighth of the concurrent calls, but at least 2. It is below GIVE_UP_AFTER, after which the rest
is not sent.
"""
STEPS: Final = 32
"""Rounds without "too many calls" after which the concurrent calls are back at the maximum.

Each round adds at least 1/STEPS of the number that the provider declares.
"""
READ_TRIES: Final = 8
"""Attempts of a read that the provider rejects for too many calls.

Six halvings of the number of concurrent reads reduce it to one.
"""


@dataclass(frozen=True)
class NotBegun(RetryAt):
    """The outcome of a push without a call.

    Such a push does not count for the circuit of its provider.
    """


class InARow:
    """The number of calls that failed in a row."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, failed: bool) -> None:
        self.count = self.count + 1 if failed else 0


class CustomerLine:
    """A customer's line of pushes, with its limit of pushes in flight and its wait."""

    def __init__(self, at_once: int = 1) -> None:
        self.turn = asyncio.Semaphore(at_once)
        self._paced_since_ms: int | None = None
        self.wait_until_ms = 0
        """The time before which its calls must wait."""

    def note(self, answers: Sequence[Outcome], now_ms: int) -> None:
        """Adjust the wait by the outcomes of a call."""
        told = [answer.at_ms for answer in answers if isinstance(answer, RetryAt) and answer.too_many]
        if told:
            self.wait_until_ms = max(self.wait_until_ms, *told)
            self._paced_since_ms = now_ms if self._paced_since_ms is None else self._paced_since_ms

    def is_closed(self, now_ms: int) -> bool:
        """Return True if the wait is so long that a later tick sends the rest."""
        since = self._paced_since_ms
        return since is not None and self.wait_until_ms > now_ms and self.wait_until_ms - since > PACED_MS

    def left_over(self) -> NotBegun:
        """Return the outcome of a push that is left to a later tick."""
        return NotBegun(self.wait_until_ms, "not sent: too many calls for this customer", too_many=True)


class CustomerLines:
    """The lines of one provider."""

    def __init__(self, capabilities: Capabilities) -> None:
        self._capabilities = capabilities
        self._lines: dict[tuple[str, str], CustomerLine] = {}

    def of(self, push: PushRequest) -> CustomerLine:
        """Return the line of a push.

        If a call can have pushes of several customers, each push gets a new line, because such calls do not use lines.
        """
        if not self._has_lines:
            return CustomerLine()
        name = self._name(push)
        if name not in self._lines:
            self._lines[name] = CustomerLine(self._width)
        return self._lines[name]

    @property
    def _has_lines(self) -> bool:
        return self._capabilities.one_at_a_time or self._capabilities.batch_size == 1

    @property
    def _width(self) -> int:
        return 1 if self._capabilities.one_at_a_time else AT_ONCE

    def _name(self, push: PushRequest) -> tuple[str, str]:
        return push.customer_id, push.feature if self._capabilities.one_at_a_time else ""

    def streams(self, batch: Sequence[PushRequest]) -> Iterator[list[list[int]]]:
        """Yield streams of calls, each call as the indexes of its pushes in the batch.

        Calls of one stream are made one after another, and different streams run at the same time. A line has at most
        as many streams as it may have pushes in flight. Lines take turns.
        """
        size = self._capabilities.batch_size
        if not self._has_lines:
            yield from ([list(range(at, min(at + size, len(batch))))] for at in range(0, len(batch), size))
            return
        lines: dict[tuple[str, str], list[int]] = {}
        for place, push in enumerate(batch):
            lines.setdefault(self._name(push), []).append(place)
        if len(lines) == len(batch):  # each line has only one push
            yield from ([[place]] for place in range(len(batch)))
            return
        dealt = []
        for places in lines.values():
            calls = [places[at : at + size] for at in range(0, len(places), size)]
            dealt.append([calls[number :: self._width] for number in range(min(self._width, len(calls)))])
        for turn in zip_longest(*dealt):
            yield from (stream for stream in turn if stream is not None)


class StreamQueue:
    """The streams of a batch, each taken by one worker at a time.

    If a customer must wait, its stream is set aside and the others continue.
    """

    def __init__(self, streams: Iterator[list[list[int]]]) -> None:
        self._streams = streams
        self._aside: list[tuple[int, list[list[int]]]] = []

    def take(self, now_ms: int) -> tuple[list[list[int]], int] | None:
        """Return the next stream, and the time until which it must wait.

        The time is in milliseconds; 0: the stream need not wait. None: all streams are taken or done.

        The order is: streams with an ended wait, streams that were not begun, the stream with the shortest wait.
        """
        if not self._aside or self._aside[0][0] > now_ms:
            stream = next(self._streams, None)
            if stream is not None:
                return stream, 0
        if not self._aside:
            return None
        until_ms, stream = heappop(self._aside)
        return stream, until_ms

    def set_aside(self, stream: list[list[int]], until_ms: int) -> None:
        """Set a stream aside until its customer's wait ends."""
        heappush(self._aside, (until_ms, stream))


def by_customer(requests: Sequence[PushRequest], span_ms: int) -> Iterable[list[int]]:
    """Yield calls as the indexes of requests; each call is for one customer.

    `span_ms`: the longest span of one call; 0: each call has one request. The oldest call of each customer comes first.
    """
    calls: dict[str, list[list[int]]] = {}
    for place in sorted(range(len(requests)), key=lambda place: requests[place].ts):
        push = requests[place]
        of_customer = calls.setdefault(push.customer_id, [])
        if of_customer and span_ms and push.ts - requests[of_customer[-1][0]].ts < span_ms:
            of_customer[-1].append(place)
        else:
            of_customer.append([place])
    for turn in zip_longest(*calls.values()):
        yield from (places for places in turn if places is not None)


@dataclass
class Allowance:
    """The number of concurrent calls that are allowed.

    If the provider refuses calls of several customers as too many, the number is halved. After each round without such
    a refusal, the number grows by a step. This class is pure.
    """

    most: int
    allowed: int = 0
    least: int = 0
    """The fewest concurrent calls that were allowed so far."""
    begun: int = 0
    """The number of calls so far, which is also the number of the next call."""
    since: int = 0
    """The number of the first call of this round. Responses to earlier calls do not count."""
    _answers: int = 0
    _turned_away: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.allowed = self.least = self.most

    def begin(self) -> int:
        """Count a call, and return its number."""
        self.begun += 1
        return self.begun - 1

    def note(self, number: int, customer: str, *, turned_away: bool) -> bool:
        """Count a response, and return True if it reduced the allowed calls."""
        if number < self.since:
            return False
        self._answers += 1
        if turned_away:
            self._turned_away.add(customer)
        if cut := len(self._turned_away) >= min(max(self.allowed // 8, 2), TURNED_AWAY) and self.allowed > 1:
            self.allowed //= 2
            self.least = min(self.least, self.allowed)
        elif self._answers >= self.allowed and not self._turned_away:
            self.allowed = min(self.allowed + -(-self.most // STEPS), self.most)
        elif self._answers < self.allowed:
            return False
        self.since, self._answers, self._turned_away = self.begun, 0, set()
        return cut


Heed = Callable[[Allowance, int, str, bool], None]
"""Adjusts an allowance by a response. The arguments are the allowance, the call's number, its customer, and True if the
call was refused as too many calls.
"""


class Slots:
    """The slots for concurrent calls, within an allowance."""

    def __init__(self, most: int) -> None:
        self.allowance = Allowance(most)
        self._free = asyncio.Semaphore(most)
        self._held_back = 0

    def tell(self, cut: Callable[[int], None] | None) -> None:
        """Report the fewest concurrent calls that were allowed, if fewer than declared."""
        if cut is not None and self.allowance.least < self.allowance.most:
            cut(self.allowance.least)

    async def __aenter__(self) -> int:
        """Wait for a slot, and return the number of the call."""
        await self._free.acquire()
        return self.allowance.begin()

    async def __aexit__(self, *_error: object) -> None:
        self._held_back += 1
        while self._held_back > self.allowance.most - self.allowance.allowed:
            self._held_back -= 1
            self._free.release()


def turned_away(answer: object) -> bool:
    """Return True if a read was refused for too many calls."""
    said = answer.values() if isinstance(answer, Mapping) else answer if isinstance(answer, list | tuple) else (answer,)
    return any(isinstance(found, ReadFailed) and found.too_many for found in said)


class Reads:
    """All reads of a provider, within its limits.

    The limits are concurrent reads, reads a second, and lookups a second of one customer. `heed`: adjusts the allowance
    after each response.
    """

    def __init__(self, capabilities: Capabilities, processes: int, heed: Heed) -> None:
        self.slots = Slots(max(capabilities.in_flight // processes, 1))
        self._heed = heed
        self._all = pace(capabilities.reads_per_s, processes)
        self._allowed_one = capabilities.lookups_per_s
        self._of_customer: dict[str, Pace | None] = {}

    async def answer(
        self, ask: Callable[[], Awaitable[Answer]], customer_id: str, begin: Callable[[], bool], *, paced: bool
    ) -> Answer | None:
        """Return the response of a read; None if `begin` returned False first.

        If the provider refuses a read as too many calls, the read is repeated once if several concurrent reads are
        allowed. Otherwise, it is repeated only if fewer are allowed than when it was made. A single refused customer
        does not reduce that number. `paced`: keep within the rate for one customer.
        """
        answer, allowance = None, self.slots.allowance
        for tried in range(READ_TRIES):
            async with self.slots as number:
                await self._turn(customer_id if paced else None)
                if not begin():
                    return answer
                allowed, answer = allowance.allowed, await ask()
                away = turned_away(answer)
                self._heed(allowance, number, customer_id, away)
            fewer = allowance.allowed < allowed or (not tried and allowance.allowed > 1)
            if not (away and fewer):
                return answer
        return answer

    async def _turn(self, customer_id: str | None) -> None:
        """Wait until a read may be made. `customer_id`: None if its limit does not apply."""
        if customer_id is not None and self._allowed_one is not None:
            if customer_id not in self._of_customer:
                self._of_customer[customer_id] = pace(self._allowed_one)
            of_customer = self._of_customer[customer_id]
            assert of_customer is not None
            await of_customer.turn()
        if self._all is not None:
            await self._all.turn()
