"""Whoever comes to the door is killed, and what was used, charged and billed is exact. At length: `make crash`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from tests.crash.programs.siege import Size, besieged
from tests.postgres_server import Server
from tests.whole import at_length

SMALL: Final = Size(limit=10, uses=20, batches=8, fills=3)
LIVES: Final = 4
PLANTED: Final = [
    ("counted apart", ("asker inside consume", "asker inside reserve"), "are not the sums|uses are not|guard_counters"),
    ("charged apart", ("asker inside consume",), "balance, held|uses are not"),
    ("closed in parts", ("filler inside close",), "windows with"),
    ("reverted first", ("filler inside revert",), "windows with"),
    ("fresh ids", ("sender end intake",), "windows with"),
]
"""Each with the steps at which to kill, and a part of what is said of it."""


@at_length("make crash")
def test_usage_with_all_programs_killed_is_billed_exactly(tmp_path: Path) -> None:
    with closing(Server(durable=True)) as server:
        found = besieged(tmp_path, server.url, seed=1, size=SMALL, kills=8, every_s=0.05, strikes=1, server=server)
    assert found.toll.inside, "no kill landed inside a step"
    assert {"allow", "block"} <= found.decisions.keys() and found.events and found.reverted


@at_length("make mutants")
@pytest.mark.parametrize(("planted", "at", "text"), PLANTED)
def test_planted_bug_is_found(planted: str, at: tuple[str, ...], text: str, tmp_path: Path) -> None:
    def live(seed: int) -> None:
        folder = tmp_path / str(seed)
        folder.mkdir()
        url = f"sqlite:///{folder}/drawdown.db"
        besieged(folder, url, seed=seed, size=SMALL, kills=8, every_s=0.05, planted=planted, at=at)

    with pytest.raises(AssertionError, match=text):
        for seed in range(2, 2 + LIVES):  # between which of its steps a process is killed, the machine decides
            live(seed)
