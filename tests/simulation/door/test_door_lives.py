"""Whatever dies or is lost at the door: each item is answered for itself, taken once, and billed as it was told."""

from __future__ import annotations

from collections import Counter
from typing import Final

import pytest

from tests.simulation.door.life import lived
from tests.simulation.door.planted import KIND
from tests.simulation.lives import lives, missing
from tests.simulation.planting import hunt
from tests.whole import share

SEEDS: Final = share(1, whole=100)
"""Lives in which all of it happens, taken together."""
SEEN: Final = frozenset(
    {
        "", "in conflict", "answer lost", "503 dies", "503 commit answer lost", "too much", "rotated", "ended",
        "(401, 'unauthorized')", "(403, 'no_scope')", "started anew",
    }
)  # fmt: skip
SAID: Final = frozenset(
    f"{kind} {said}"
    for kind in ("events", "samples")
    for said in ("accepted None", "pending unmapped", "pending unassigned", "duplicate None", "conflict other_content")
)


def test_http_items_are_each_answered_and_billed_once() -> None:
    said, seen = Counter[str](), set[str]()
    for seed in lives(range(SEEDS), lambda: missing(SEEN | SAID, seen | {*+said})):
        life, wrong = lived(seed)
        assert wrong == [], f"seed {seed}"
        said.update(life.door.books.said)
        seen.update(life.door.seen)
    assert missing(SEEN | SAID, seen | {*+said}) == set()


@pytest.mark.parametrize("name", share(list(KIND.planted)[:1], whole=list(KIND.planted)))
def test_planted_bug_is_found(name: str) -> None:
    seen = hunt(KIND, name)
    assert seen.seed is not None, f"{name!r} was not seen"
    assert seen.unclean == [], "a seed breaches without any bug"


def test_known_bug_seeds_refer_to_existing_bugs() -> None:
    assert KIND.seen_at.keys() <= KIND.planted.keys()
