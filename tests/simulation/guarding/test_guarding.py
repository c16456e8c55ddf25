"""Whatever dies, is refused or is lost, and however hours, days and months turn: the guard decides as people said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import pytest

from tests.simulation.guarding.life import lived
from tests.simulation.guarding.planted import KIND, TICKS
from tests.simulation.lives import lives, missing
from tests.simulation.planting import hunt
from tests.whole import share

SEEDS: Final[Sequence[int]] = share((0,), whole=range(100))
"""Lives in which all of it happens, taken together."""
HAPPENED: Final = (
    "consume_allow", "consume_warn", "consume_block", "consume_warn_block", "consume_allow_block", "reserve_allow",
    "reserve_block", "checked_block", "because_limit", "because_no_credit", "because_no_entitlement", "because_low",
    "because_needs_quantities", "because_payer_not_allowed", "called_again", "called_again_later",
    "died_before_commit", "in_conflict", "other_content", "extended", "settled", "settled_late", "released",
    "limit_set", "limit_ended", "override_asked", "override_in_force", "override_approve", "override_end", "said_again",
    "terms_phase", "given", "forgone_by_metric", "emitted",
)  # fmt: skip
STRUCK: Final = ("image", "crash_before_commit", "commit_answer_lost", "transaction_failed")
EXPECTED: Final = frozenset((*STRUCK, "restored", "topped up", *(f"guard_{kind}" for kind in HAPPENED)))


def test_guard_lives_match_answers_given_to_users() -> None:
    there = Counter[str]()
    for seed in lives(SEEDS, lambda: missing(EXPECTED, +there)):
        life, wrong = lived(seed, TICKS)
        assert wrong == [], f"seed {seed}"
        there.update(life.world.faults.counts)
        there["topped up"] += len(life.world.payments.taken)
        there["restored"] += sum(count for kind, count in life.world.faults.counts.items() if "restored" in kind)
        life.world.close()
    assert missing(EXPECTED, +there) == set()


@pytest.mark.parametrize("name", share(list(KIND.planted)[:1], whole=list(KIND.planted)))
def test_planted_bug_is_found(name: str) -> None:
    seen = hunt(KIND, name)
    assert seen.seed is not None, f"{name!r} was not seen"
    assert seen.unclean == [], "a seed breaches without any bug"


def test_known_bug_seeds_refer_to_existing_bugs() -> None:
    assert KIND.seen_at.keys() <= KIND.planted.keys()
