"""Bugs planted into Stripe's stream: each turns a test of it red. Others show in the simulation (`mutants_stream`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pytest

from drawdown.providers.http import Answer
from drawdown.providers.protocol import Accepted, Rejected, RetryAt, Unknown
from drawdown.providers.stripe import stream
from drawdown.providers.stripe.stream import Stream
from drawdown.providers.stripe.wire import common_headers
from tests.cases import cases
from tests.contract import test_stripe_stream as sound
from tests.contract.stripe_setup import error, said

Plant = Callable[[pytest.MonkeyPatch], None]


def _never_halved(patch: pytest.MonkeyPatch) -> None:
    """What a call of many is refused for counts for each of them."""
    patch.setattr(stream, "_refused", lambda result: False)
    right = stream.outcome

    def wrong(result: Any, *rest: Any) -> Any:
        return Rejected("refused") if getattr(result, "status", 0) == 400 else right(result, *rest)

    patch.setattr(stream, "outcome", wrong)


def _turned(patch: pytest.MonkeyPatch) -> None:
    right = Stream.send

    async def wrong(self: Stream, batch: Any) -> Any:
        return (await right(self, batch))[::-1]

    patch.setattr(Stream, "send", wrong)


def _left_is_taken(patch: pytest.MonkeyPatch) -> None:
    """What a batch that ends early did not come to counts as sent."""

    def wrong(at_ms: int, reason: str, **more: Any) -> Any:
        return Accepted() if reason.startswith("not sent: Stripe refused too many") else RetryAt(at_ms, reason, **more)

    patch.setattr(stream, "RetryAt", wrong)


def _kept_though_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stream, "_expired", lambda result: False)


def _over_is_refused(patch: pytest.MonkeyPatch) -> None:
    right, over = stream.outcome, stream._expired
    patch.setattr(stream, "outcome", lambda result, *rest: Rejected("") if over(result) else right(result, *rest))


def _a_session_each_call(patch: pytest.MonkeyPatch) -> None:
    right = stream._session

    def wrong(result: Any, now_ms: int) -> Any:
        made = right(result, now_ms)
        return replace(made, until_ms=now_ms) if isinstance(made, stream.Session) else made

    patch.setattr(stream, "_session", wrong)


def _anybody_says_it(patch: pytest.MonkeyPatch) -> None:
    """An answer without Stripe's Request-Id is Stripe's."""
    patch.setattr(stream, "request_id", lambda answer: "req")


def _by_the_accounts_key(patch: pytest.MonkeyPatch) -> None:
    right = stream.meter_events

    def wrong(settings: Any, session: Any, batch: Any) -> Any:
        made = right(settings, session, batch)
        return replace(made, headers={**made.headers, **common_headers(settings)})

    patch.setattr(stream, "meter_events", wrong)


def _no_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stream, "MAX_CALLS", 1_000)


def _already_is_refused(patch: pytest.MonkeyPatch) -> None:
    """An identifier that was taken before is sealed anew."""
    right = stream.outcome

    def wrong(result: Any, *rest: Any) -> Any:
        there = isinstance(result, Answer) and b"already" in result.body
        return Rejected("there already") if there else right(result, *rest)

    patch.setattr(stream, "outcome", wrong)


ALREADY: Final = said(400, error("An event already exists with identifier k."), request_id="req_1")
PLANTED: Final[dict[str, tuple[Plant, Callable[[], None]]]] = {
    "one bad event refuses its batch": (
        _never_halved,
        sound.test_stream_batch_with_invalid_event_rejects_only_that_event,
    ),
    "answers of halves are turned round": (_turned, sound.test_stream_batch_with_invalid_event_rejects_only_that_event),
    "what a batch did not come to is taken": (
        _left_is_taken,
        sound.test_stream_batch_of_invalid_events_is_rejected_in_part_and_retried,
    ),
    "halves of halves have no end": (
        _no_end,
        sound.test_stream_batch_of_invalid_events_is_rejected_in_part_and_retried,
    ),
    "a session that is over is used again": (
        _kept_though_over,
        sound.test_stream_session_expired_in_batch_is_renewed_and_pushes_retried,
    ),
    "a session that is over refuses its batch": (
        _over_is_refused,
        sound.test_stream_session_expired_in_batch_is_renewed_and_pushes_retried,
    ),
    "each call has a session of its own": (
        _a_session_each_call,
        sound.test_stream_batch_is_sent_in_single_call_under_shared_session,
    ),
    "anything in between says that it is taken": (
        _anybody_says_it,
        partial(sound.test_stream_answers_map_to_outcome_they_prove, said(200, {}), Unknown),
    ),
    "anything in between refuses": (
        _anybody_says_it,
        partial(sound.test_stream_answers_map_to_outcome_they_prove, said(400, error("x", code="y")), Unknown),
    ),
    "the account's key is sent along": (_by_the_accounts_key, sound.test_stream_event_has_documented_fields),
    "what is there already is refused": (
        _already_is_refused,
        partial(sound.test_stream_answers_map_to_outcome_they_prove, ALREADY, Unknown),
    ),
}


@cases("name", PLANTED)
def test_stream_bug_breaks_its_test(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, sees = PLANTED[name]
    sees()
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        sees()
