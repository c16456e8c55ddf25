"""Many lives of one kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest


def faults_in(
    simulated: Callable[[int, int, Any], Any], seeds: Iterable[int], ticks: int, monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """What went wrong in these lives, by kind: none of them may break anything."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        outcome = simulated(seed, ticks, monkeypatch)
        assert outcome.breaches == [], seed
        seen.update(outcome.faults)
        monkeypatch.undo()
    return seen
