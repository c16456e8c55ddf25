"""The siege of Autumn in the setting of a credit system: a small one in one process, and with processes at length."""

from __future__ import annotations

from pathlib import Path

import pytest

from drawdown.providers.autumn import events, wire
from drawdown.worker.push import evidence, push
from drawdown.worker.reconcile import reconcile
from drawdown.worker.verdict import project
from tests.crash.autumn.alone import alone
from tests.crash.autumn.books import GIVEN_BACK, LIMITED, PARTED, SPLIT, USED_UP
from tests.crash.autumn.run import ENOUGH, short_of
from tests.crash.autumn.siege import in_credits
from tests.crash.planted import PLANTED
from tests.whole import at_length, share

PUSHES, KILLS, SEED = 120, 8, 7
"""The seed finds each planted bug."""
CHANGED_BY = {
    "blind to balances": [(reconcile, "compare_drawn")],
    "used up is lost": [(push, "note_shown_parts"), (push, "note_parts"), (project, "note_parts")],
    "own used up is lost": [(evidence, "levels")],
    "asked is charged": [(wire, "charged"), (events, "charged")],
}
"""Planted bugs, and what each replaces."""


@pytest.mark.parametrize("seed", share([SEED], whole=[SEED, 1, 2, 3, 4, 5, 6, 9, 10, 11]))
def test_kills_at_counted_steps_at_autumn_do_not_differ_silently(seed: int, tmp_path: Path) -> None:
    found = alone(tmp_path, pushes=PUSHES, kills=KILLS, seed=seed)
    assert found.pushes >= PUSHES and found.kills >= KILLS // 2
    came_about = found.autumn.came_about
    if seed == SEED:
        assert all(came_about[what] for what in (GIVEN_BACK, LIMITED, SPLIT, PARTED, USED_UP))
        assert found.autumn.doubles and found.autumn.account.store.undone_charges


@pytest.mark.parametrize("planted", list(CHANGED_BY)[: share(3, whole=4)])
def test_planted_bug_in_autumn_credits_is_found(planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody compares balances; what was asked counts as what was charged; a part that was used up counts as lost,
    or one of a feature's own units does."""
    for module, name in CHANGED_BY[planted]:
        monkeypatch.setattr(module, name, getattr(module, name))  # so that it is put back
    PLANTED[planted]()
    with pytest.raises(AssertionError, match=r"silent [1-9]|unexplained [1-9]"):
        alone(tmp_path, pushes=PUSHES, kills=KILLS, seed=SEED)


@at_length("make autumn")
def test_killed_processes_at_autumn_do_not_differ_silently(tmp_path: Path) -> None:
    kills = 8
    found = in_credits(tmp_path, f"sqlite:///{tmp_path}/drawdown.db", pushes=ENOUGH, kills=kills, seed=3)
    assert short_of(found, ENOUGH, kills) is None
