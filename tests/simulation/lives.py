"""Many lives of one kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any, Final

import pytest

from tests.whole import WHOLE

MOST_MORE: Final = 12
"""Lives that are lived beyond those of every day."""


def lives(seeds: Iterable[int], missing: Callable[[], object]) -> Iterator[int]:
    """These seeds; then others for as long as something is `missing`. What happens in which life changes with whatever
    the product does: nothing has to be seen in one life alone."""
    first = tuple(seeds)
    yield from first
    more = (seed for seed in range(MOST_MORE + len(first)) if seed not in first)
    while missing() and (seed := next(more, None)) is not None:
        yield seed


def missing(expected: Set[str], there: Iterable[str]) -> set[str]:
    """What has yet to happen, since a life in which nothing happens proves nothing. The few lives of `make test` have
    to show a third of it, all lives all of it."""
    never = {*expected} - {*there}
    return never if WHOLE or 3 * len(never) > 2 * len(expected) else set()


def faults_in(
    simulated: Callable[[int, int, Any], Any],
    seeds: Iterable[int],
    ticks: int,
    monkeypatch: pytest.MonkeyPatch,
    wanted: Set[str],
) -> Counter[str]:
    """What went wrong in these lives, by kind, and in some more where what is `wanted` did not: none of them may break
    anything."""
    seen: Counter[str] = Counter()
    for seed in lives(seeds, lambda: missing(wanted, +seen)):
        outcome = simulated(seed, ticks, monkeypatch)
        assert outcome.breaches == [], seed
        seen.update(outcome.faults)
        monkeypatch.undo()
    assert missing(wanted, +seen) == set()
    return +seen
