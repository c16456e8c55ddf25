"""Wallets are filled by workers that are killed, while the payment service fails. At length: `make crash`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.crash.credit.topups import till
from tests.postgres_server import Server
from tests.whole import at_length

KILLS = 6
SEEDS = (3, 5, 7, 11)
"""Where the kills of one land is by chance: that all of them miss is not to be expected."""


@at_length("make crash")
def test_topups_with_killed_workers_and_server_are_charged_once(tmp_path: Path) -> None:
    with closing(Server(durable=True)) as server:
        found = till(tmp_path, server.url, kills=KILLS, seed=3, server=server, strikes=2)
        assert server.recoveries() == found.toll.strikes.total() == 2, "by its own log"
    assert found.toll.kills >= KILLS and found.payments and found.struck.total()


@at_length("make crash")
def test_topups_with_killed_workers_on_sqlite_are_charged_once(tmp_path: Path) -> None:
    found = till(tmp_path, f"sqlite:///{tmp_path}/drawdown.db", kills=KILLS, seed=4)
    assert found.toll.short_of(KILLS, 0) is None
    assert found.states["credited"] == found.payments


@at_length("make mutants")
@pytest.mark.parametrize(
    ("planted", "text"), [("fresh charge", "is no top-up"), ("paid by doubt", "credited and not paid")]
)
def test_planted_bug_is_found(planted: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=text):
        for seed in SEEDS:
            folder = tmp_path / str(seed)
            folder.mkdir()
            till(folder, f"sqlite:///{folder}/drawdown.db", kills=6, seed=seed, share=0.9, planted=planted)
