"""Files of usage in the simulated world: whatever crashes or is lost, each content is billed once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from drawdown.worker.batches import take as taking
from tests.simulation.laid import simulated
from tests.simulation.lives import lives, missing
from tests.whole import share

HAPPENED: Final = frozenset({"taken", "repeated"})
SEEDS = share((2,), whole=tuple(range(40)))
TICKS = 12


def test_usage_files_are_each_billed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    for seed in lives(SEEDS, lambda: missing(HAPPENED, seen)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        outcome, laid = simulated(seed, TICKS, folder, monkeypatch)
        assert outcome.breaches == [], seed
        seen.update(laid.outcomes)
        monkeypatch.undo()
    assert missing(HAPPENED, seen) == set()


def test_planted_bug_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sum is a second too long."""
    right = taking._sample

    def wrong(*given: Any) -> Any:
        made = right(*given)
        return (*made[:6], made[6] + (made[6] < 86_400), *made[7:])

    monkeypatch.setattr(taking, "_sample", wrong)
    assert simulated(0, TICKS // 2, tmp_path, monkeypatch)[0].breaches
