"""A share of GenTD26 as runs on credit, by clients that are killed, metered meanwhile. The whole: `make trace`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.credit.trace import trace
from tests.whole import at_length


@at_length("make trace")
def test_executions_of_killed_clients_are_charged_once_beside_metering(database_url: str, tmp_path: Path) -> None:
    found = trace(tmp_path, database_url, seed=2, every_s=0.2, most=300, most_s=240, strikes=12)
    assert found.toll.inside, "no kill landed inside a step"
    assert set(found.books.ends) == {"settled", "left", "given up", "given up at a cost", "refused"}
    assert found.books.charged_micro and found.books.metered_micro and found.pushes


LIVES = 4


@at_length("make mutants")
@pytest.mark.parametrize(
    ("planted", "at", "text"),
    [
        ("committed in two parts", ("inside draw",), "to be|ledger_accounts_sane"),
        ("draws without numbers", ("end draw",), "to be|draws"),
    ],
)
def test_planted_bug_is_found(planted: str, at: tuple[str, ...], text: str, tmp_path: Path) -> None:
    def live(seed: int) -> None:
        folder = tmp_path / str(seed)
        folder.mkdir()
        url = f"sqlite:///{folder}/drawdown.db"
        trace(folder, url, seed=seed, every_s=0.05, most=60, most_s=240, strikes=8, planted=planted, at=at)

    with pytest.raises(AssertionError, match=text):
        for seed in range(2, 2 + LIVES):  # between which of its steps a process is killed, the machine decides
            live(seed)
