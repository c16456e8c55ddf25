"""Bugs planted into the turns of a backlog: windows, organisations, providers, halts. Each turns a test red."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
import sqlalchemy as sa

from drawdown.worker import tick
from drawdown.worker.engine import fair_queue
from drawdown.worker.engine.fair_queue import Allowance, Slots
from drawdown.worker.push import claim, push
from tests.integration import test_fairness as sound
from tests.simulation.mutants_remote import Patches
from tests.whole import share

Sees = Callable[[sa.Engine], None]


def _by_key(patches: Patches) -> None:
    """Whose credit ends soonest waits for its turn by name."""
    right = claim.claim_due

    def wrong(*given: Any, **more: Any) -> Any:
        found = right(*given, **more)
        return replace(found, pushes=sorted(found.pushes, key=lambda one: one.request.key))

    patches.put(sound, "claim_due", wrong)


def _only_the_oldest(patches: Patches) -> None:
    patches.put(claim, "longest_due", lambda most, name: most)


def _one_provider_after_the_other(patches: Patches) -> None:
    right = tick._lane

    def wrong(context: Any, provider: str, *, settling: bool) -> Any:
        done: list[Any] = []
        for one in context.ready() if provider == context.ready()[0] else ():
            done += yield from right(context, one, settling=settling)
        return done

    patches.put(tick, "_lane", wrong)


def _verdicts_come_last(patches: Patches) -> None:
    """Whoever is halted waits until all is sent."""
    right = push.push_in_spells

    def wrong(context: Any, provider: str, others: Any) -> Any:
        def at_the_end(more: bool) -> Any:
            return (yield from others(more)) if not more else []

        return (yield from right(context, provider, at_the_end))

    patches.put(tick, "push_in_spells", wrong)


def _not_begun_is_sent_before(patches: Patches) -> None:
    """What was claimed and not begun goes behind whatever was never claimed."""
    right = push._settle

    def wrong(connection: Any, *, settled: Any, **more: Any) -> None:
        right(connection, settled=[replace(one, outcome="unknown") for one in settled], **more)

    patches.put(sound, "settle_claim", wrong)


PLANTED: Final[dict[str, tuple[Callable[[Patches], None], Sees]]] = {
    "the newest go last": (
        lambda p: p.query(claim, "newest_unsent", "p.window_ms DESC", "p.window_ms"),
        sound.test_claim_with_backlog_takes_newest_first_and_some_oldest,
    ),
    "the oldest alone go": (_only_the_oldest, sound.test_claim_with_backlog_takes_newest_first_and_some_oldest),
    "whose credit ends soonest has no turn of its own": (
        _by_key,
        sound.test_claim_with_backlog_takes_newest_first_and_some_oldest,
    ),
    "the oldest wait for ever": (
        lambda p: p.put(claim, "LONGEST_DUE", 0),
        sound.test_claim_takes_some_attempted_pushes_beside_newest,
    ),
    "what was not begun goes behind a backlog": (
        _not_begun_is_sent_before,
        sound.test_claimed_push_not_begun_is_claimed_before_backlog,
    ),
    "a spell has no end": (
        lambda p: p.put(push, "SPELL_MS", 1_000 * push.SPELL_MS),
        sound.test_backlog_at_provider_does_not_delay_other_provider_or_halt,
    ),
    "verdicts come once all is sent": (
        _verdicts_come_last,
        sound.test_backlog_at_provider_does_not_delay_other_provider_or_halt,
    ),
    "one provider is sent to after the other": (
        _one_provider_after_the_other,
        sound.test_backlog_at_provider_does_not_delay_other_provider_or_halt,
    ),
    "nobody is told of a limit that was lowered": (
        lambda p: p.put(Slots, "tell", lambda self, cut: None),
        sound.test_lowered_provider_limit_is_reported_and_each_push_charged_once,
    ),
    "a limit that was lowered is not heeded": (
        lambda p: p.put(Allowance, "note", lambda self, number, customer, turned_away: False),
        sound.test_lowered_provider_limit_is_reported_and_each_push_charged_once,
    ),
    "a read that was turned away is left": (
        lambda p: p.put(fair_queue, "READ_TRIES", 1),
        sound.test_throttled_reads_are_reported_and_all_customers_are_read,
    ),
}
"""How each is planted, and the test that it turns red."""
DAILY: Final = share(list(PLANTED)[:1], whole=list(PLANTED))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", DAILY)
def test_fairness_injected_bug_is_found(name: str, engine: sa.Engine) -> None:
    plant, sees = PLANTED[name]
    patches = Patches()
    with patches.kept():
        plant(patches)
        with pytest.raises((AssertionError, ValueError)):  # the latter: of nothing where one thing is looked for
            sees(engine)
