"""A small siege of Autumn in the setting of a credit system. At length: `make autumn`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.autumn.run import LEAST_STRUCK, struck_share
from tests.crash.autumn.siege import in_credits
from tests.whole import WHOLE, share

pytestmark = pytest.mark.skipif(
    not WHOLE, reason="kills fall elsewhere each time: `make autumn` is not green at length"
)

PUSHES, KILLS = share((100, 1), whole=(2_000, 8))


def test_each_balance_is_samples_times_cost_or_a_person_was_told_the_amount(tmp_path: Path) -> None:
    found = in_credits(tmp_path, f"sqlite:///{tmp_path}/drawdown.db", pushes=PUSHES, kills=KILLS, seed=3)
    assert found.toll.short_of(KILLS, 0) is None
    assert found.pushes >= PUSHES and struck_share(found) > share(0.2, whole=LEAST_STRUCK)


@pytest.mark.parametrize("planted", ["blind to balances", "asked is charged", "used up is lost"])
def test_a_planted_bug_is_silent_and_found(planted: str, tmp_path: Path) -> None:
    """Nobody compares balances; what was asked counts as what was charged; a part that was used up counts as lost."""
    url = f"sqlite:///{tmp_path}/drawdown.db"
    with pytest.raises(AssertionError, match=r"silent [1-9]|unexplained [1-9]"):
        in_credits(tmp_path, url, pushes=300, kills=1, seed=3, planted=planted)
