"""Whatever dies, is refused or is lost beside ticks and flips: of the past that is put in, what was shown is billed."""

from __future__ import annotations

from collections import Counter
from typing import Final

import pytest

from tests.simulation.backfilling.life import lived
from tests.simulation.backfilling.planted import KIND, TICKS
from tests.simulation.lives import lives, missing
from tests.simulation.planting import hunt
from tests.whole import share

SEEDS: Final = share(1, whole=200)
"""Lives in which all of it happens, taken together."""
HAPPENED: Final = frozenset((
    "backfill_opened", "backfill_open_refused", "backfill_shown", "backfill_closed", "backfill_closed_again",
    "backfill_close_refused", "backfill_close_of_reverted", "backfill_reverted", "backfill_revert_left",
    "backfill_mapped", "backfill_in_conflict", "backfill_died_before_commit", "staged_accepted", "staged_duplicate",
    "staged_conflict", "staged_invalid", "sent_new", "sent_duplicate", "sent_conflict", "sent_withdrawn", "new",
    "duplicate", "flip", "late_sample",
))  # fmt: skip


def test_backfilled_usage_is_billed_once_as_shown() -> None:
    there = Counter[str]()
    for seed in lives(range(SEEDS), lambda: missing(HAPPENED, +there)):
        life, wrong = lived(seed, TICKS)
        assert wrong == [], f"seed {seed}"
        there.update(life.world.faults.counts)
        there.update(life.clerk.books.statuses)
        there["flip"] += sum(len(found) > 1 for found in life.world.oracle.assignments.values())
        life.world.close()
    assert missing(HAPPENED, +there) == set()


@pytest.mark.parametrize("name", share(list(KIND.planted)[:1], whole=list(KIND.planted)))
def test_planted_bug_is_found(name: str) -> None:
    seen = hunt(KIND, name)
    assert seen.seed is not None, f"{name!r} was not seen"
    assert seen.unclean == [], "a seed breaches without any bug"


def test_known_bug_seeds_refer_to_existing_bugs() -> None:
    assert KIND.seen_at.keys() <= KIND.planted.keys()
