"""Bugs about jobs: who has one, when it is over, and who tells of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from drawdown.worker.jobs import queue, run_jobs
from drawdown.worker.jobs.run_jobs import Turn
from tests.simulation.mutants_remote import Patches


def _done_unseen(patches: Patches) -> None:
    """Nothing is replayed."""

    def wrong(*_given: Any) -> Any:
        yield from ()
        return Turn("done")

    patches.put(run_jobs, "_come", wrong)


def _half_is_all(patches: Patches) -> None:
    """Whatever time was up for stays undone."""
    right = vars(run_jobs)["replay"]

    def wrong(*given: Any, **more: Any) -> Any:
        found = yield from right(*given, **more)
        return replace(found, unfinished=False)

    patches.put(run_jobs, "replay", wrong)


def _each_tells(patches: Patches) -> None:
    """Whoever lay still for longer than its lease tells of what another one ended."""
    right = queue.end

    def wrong(*given: Any) -> bool:
        right(*given)
        return True

    patches.put(queue, "end", wrong)


JOBS: Final[dict[str, Callable[[Patches], None]]] = {
    "a job is over and was never done": _done_unseen,
    "a job whose time is up is done": _half_is_all,
    "two ticks tell of one job": _each_tells,
    "a job whose tick died is nobody's": lambda p: p.query(queue, "free", "lease_ms <= :now_ms", "lease_ms < 0"),
    "a job that is put back is nobody's": lambda p: p.query(
        queue, "put_back", "state = 'waiting'", "state = 'under_way'"
    ),
}
