"""Bugs about who is asked after pushes: whom an answer leaves alone, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from drawdown.worker.verdict import answers, project, rules
from tests.simulation.mutants_remote import Patches


def _halted_left_alone(patches: Patches) -> None:
    right = rules.ask_at_ms

    def wrong(known: Any, remaining: Any, now_ms: int) -> int:
        return now_ms + 1 if known.is_halted else right(known, remaining, now_ms)

    patches.put(answers, "ask_at_ms", wrong)


def _an_answer_overwrites(patches: Patches) -> None:
    def wrong(row: Any, remaining: Any) -> int | None:
        return None if remaining is None or row.balance_micro is None else remaining.left_micro

    patches.put(answers, "_to_note", wrong)


def _answers_for_what_came_after(patches: Patches) -> None:
    right = project.after_read

    def wrong(*rest: Any, asked_again: bool) -> Any:
        return right(*rest, asked_again=False)

    patches.put(project, "after_read", wrong)


NEED: Final[dict[str, Callable[[Patches], None]]] = {
    "the halted are left to their turn": _halted_left_alone,
    "a turn never comes": lambda p: p.query(
        project, "in_turn", "o.refresh_deadline_ms <= :now_ms", "o.refresh_deadline_ms < 0"
    ),
    "a turn comes after a day": lambda p: p.put(rules, "TURN_MS", 24 * rules.TURN_MS),
    "an answer to a push overwrites whatever was read": _an_answer_overwrites,
    "a read answers for pushes that were settled after it": _answers_for_what_came_after,
}
