"""Processes that take batches and fold really die; each content is billed once all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.batches import FOLD_AT, READ_AT, killed_in_turn
from tests.whole import at_length


@at_length("make crash")
def test_batches_with_killed_import_and_folding_are_billed_once(tmp_path: Path) -> None:
    rounds = 8
    kills = killed_in_turn(tmp_path, f"sqlite:///{tmp_path}/drawdown.db", rounds)
    assert kills == 2 * rounds * len(READ_AT) + len(FOLD_AT)


@at_length("make mutants")
def test_planted_bug_is_found(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/drawdown.db"
    with pytest.raises(AssertionError, match=r"windows with \(sealed, expected\)"):
        killed_in_turn(tmp_path, url, 1, READ_AT[:1], planted="noted first")
