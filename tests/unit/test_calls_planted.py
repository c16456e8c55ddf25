"""Bugs planted into the turns that customers take, and into what a provider is allowed: each turns a test red."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop
from typing import Any, Final

import pytest

from drawdown.worker.engine import calls, fair_queue
from drawdown.worker.engine.fair_queue import Allowance, CustomerLine, CustomerLines, Slots, StreamQueue
from tests.cases import cases
from tests.simulation.mutants_remote import Patches
from tests.unit import test_calls as sound


def _never_fewer(patches: Patches) -> None:
    patches.put(Allowance, "note", lambda self, number, customer, turned_away: False)


def _never_more(patches: Patches) -> None:
    right = Allowance.note

    def wrong(self: Allowance, number: int, customer: str, *, turned_away: bool) -> bool:
        before = self.allowed
        cut = right(self, number, customer, turned_away=turned_away)
        self.allowed = min(self.allowed, before)
        return cut

    patches.put(Allowance, "note", wrong)


def _what_held_before_counts(patches: Patches) -> None:
    """An answer to a call that was made before a cut makes another."""
    right = Allowance.note

    def wrong(self: Allowance, number: int, customer: str, *, turned_away: bool) -> bool:
        return right(self, max(number, self.since), customer, turned_away=turned_away)

    patches.put(Allowance, "note", wrong)


def _one_is_enough(patches: Patches) -> None:
    """Fewer are allowed as soon as one customer is turned away."""
    right = Allowance.note

    def wrong(self: Allowance, number: int, customer: str, *, turned_away: bool) -> bool:
        if turned_away:
            self._turned_away |= {f"{customer}-{more}" for more in range(fair_queue.TURNED_AWAY)}
        return right(self, number, customer, turned_away=turned_away)

    patches.put(Allowance, "note", wrong)


def _not_heeded(patches: Patches) -> None:
    """As many are made as were declared, whatever is allowed."""

    async def wrong(self: Slots, *_error: object) -> None:
        self._free.release()

    patches.put(Slots, "__aexit__", wrong)


def _turned_away_is_failed(patches: Patches) -> None:
    """Calls that were turned away count as an outage."""
    right = calls.Calls._note

    def wrong(self: Any, number: int, customer: str, answers: Any, failed: Any) -> None:
        right(self, number, customer, answers, failed)
        if any(getattr(answer, "too_many", False) for answer in answers):
            failed.count += 1

    patches.put(calls.Calls, "_note", wrong)


def _waits_come_first(patches: Patches) -> None:
    """Whoever has to wait is waited for before anybody else begins."""

    def wrong(self: StreamQueue, now_ms: int) -> Any:
        if self._aside:
            until_ms, stream = heappop(self._aside)
            return stream, until_ms
        return next(((stream, 0) for stream in self._streams), None)

    patches.put(StreamQueue, "take", wrong)


def _one_after_the_other(patches: Patches) -> None:
    """A customer has all its turns before the next one has its first."""
    right = CustomerLines.streams

    def wrong(self: CustomerLines, batch: Any) -> Iterator[list[list[int]]]:
        yield from sorted(right(self, batch), key=lambda stream: batch[stream[0][0]].customer_id)

    patches.put(CustomerLines, "streams", wrong)


def _lookups_take_no_turns(patches: Patches) -> None:
    right = fair_queue.by_customer
    patches.put(
        sound, "by_customer", lambda asked, span: sorted(right(asked, span), key=lambda at: asked[at[0]].customer_id)
    )


PLANTED: Final[dict[str, tuple[Callable[[Patches], None], Callable[[], None]]]] = {
    "no calls are cut": (
        _never_fewer,
        sound.test_calls_in_flight_drop_while_throttled_and_rise_after,
    ),
    "fewer calls are fewer for ever": (
        _never_more,
        sound.test_calls_in_flight_drop_while_throttled_and_rise_after,
    ),
    "what held before a cut makes another": (
        _what_held_before_counts,
        sound.test_calls_in_flight_drop_while_throttled_and_rise_after,
    ),
    "one customer makes all have fewer": (
        _one_is_enough,
        sound.test_throttled_customer_does_not_reduce_calls_of_other_customers,
    ),
    "what is allowed is not heeded by pushes": (
        _not_heeded,
        sound.test_pushes_in_flight_fall_to_limit_of_provider,
    ),
    "what is allowed is not heeded by reads": (
        _not_heeded,
        sound.test_reads_in_flight_fall_to_limit_of_provider,
    ),
    "whoever is turned away is out of order": (
        _turned_away_is_failed,
        sound.test_pushes_in_flight_fall_to_limit_of_provider,
    ),
    "whoever waits is waited for": (
        _waits_come_first,
        sound.test_stream_queue_takes_postponed_stream_after_its_wait,
    ),
    "customers take no turns": (
        _one_after_the_other,
        sound.test_push_streams_of_customers_take_turns_within_claim,
    ),
    "lookups take no turns": (
        _lookups_take_no_turns,
        sound.test_lookups_are_grouped_by_customer_and_span_in_turns,
    ),
    "a customer has as many on their way as there are": (
        lambda p: p.put(CustomerLines, "_width", 64),
        sound.test_customer_has_few_pushes_in_flight_and_other_customers_are_sent,
    ),
    "whoever is told to wait goes on": (
        lambda p: p.put(CustomerLine, "note", lambda self, answers, now_ms: None),
        sound.test_throttled_customer_waits_and_other_customers_are_sent,
    ),
}
"""How each is planted, and the test that it turns red."""


@cases("name", PLANTED)
def test_injected_bug_in_calls_is_found(name: str) -> None:
    plant, sees = PLANTED[name]
    patches = Patches()
    with patches.kept():
        plant(patches)
        with pytest.raises(AssertionError):
            sees()
