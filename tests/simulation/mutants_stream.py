"""Bugs about Stripe's stream of meter events: its sessions, its batches, and what its own answers mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from drawdown.providers import stripe
from drawdown.providers.http import NoAnswer
from drawdown.providers.protocol import Accepted, Rejected
from drawdown.providers.stripe import stream
from tests.simulation.mutants_remote import Patches


def _said(patches: Patches, wrong: Callable[[Any], Any]) -> None:
    """`wrong` says what an answer means; None where the right meaning stands."""
    right = stream.outcome
    patches.put(stream, "outcome", lambda result, push, now_ms: wrong(result) or right(result, push, now_ms))


def _over_is_taken(patches: Patches) -> None:
    _said(patches, lambda result: Accepted() if stream._expired(result) else None)


def _broken_is_refused(patches: Patches) -> None:
    _said(patches, lambda result: Rejected("HTTP 500") if getattr(result, "status", 0) == 500 else None)


def _no_answer_is_refused(patches: Patches) -> None:
    _said(patches, lambda result: Rejected("no answer") if isinstance(result, NoAnswer) else None)


def _too_many_is_taken(patches: Patches) -> None:
    """Whoever is told to come later believes to be done."""
    _said(patches, lambda result: Accepted() if getattr(result, "status", 0) == 429 else None)


def _changed(patches: Patches, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    right = stream._event
    patches.put(stream, "_event", lambda settings, push: change(right(settings, push)))


def _unfit_takes_the_next(patches: Patches) -> None:
    """A push that is not streamed is told what came of the one after it."""
    right = stripe.StripeProvider.push

    async def wrong(self: Any, batch: Any) -> Any:
        found = list(await right(self, batch))
        fit = [one for one in found if not isinstance(one, Rejected)]
        return [*fit, *(one for one in found if isinstance(one, Rejected))]

    patches.put(stripe.StripeProvider, "push", wrong)


def _one_answers_for_all(patches: Patches) -> None:
    """What one push of a batch was told is what all were told."""
    right = stripe.StripeProvider.push

    async def wrong(self: Any, batch: Any) -> Any:
        found = list(await right(self, batch))
        return [found[0]] * len(found)

    patches.put(stripe.StripeProvider, "push", wrong)


def _old_is_lost(patches: Patches) -> None:
    """Whatever is not streamed is called taken."""
    right = stripe.StripeProvider._unfit

    def wrong(self: Any, push: Any, is_active: Any) -> Any:
        return None if right(self, push, is_active) is None else Accepted()

    patches.put(stripe.StripeProvider, "_unfit", wrong)


STREAM: Final[dict[str, Callable[[Patches], None]]] = {
    "a session that is over took the batch": _over_is_taken,
    "a batch that broke over there is refused": _broken_is_refused,
    "a batch without an answer is refused": _no_answer_is_refused,
    "a batch that came too soon is taken": _too_many_is_taken,
    "a batch is dated by the day": lambda p: _changed(
        p, lambda event: event | {"timestamp": f"{str(event['timestamp'])[:10]}T00:00:00Z"}
    ),
    "an identifier is cut off": lambda p: _changed(p, lambda event: event | {"identifier": event["identifier"][:24]}),
    "what is not streamed moves the others' answers": _unfit_takes_the_next,
    "one of a batch answers for all": _one_answers_for_all,
    "what is not streamed is called taken": _old_is_lost,
}
