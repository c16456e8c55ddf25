"""`drawdown worker` dies, and others go on: what was used is billed once. At length: `make cluster`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tests.crash.billers import BOTH, blockade
from tests.crash.workers import Workers
from tests.postgres_server import Server
from tests.whole import at_length

KILLS = 2


@at_length("make cluster")
def test_killed_workers_are_replaced_by_remaining_workers(tmp_path: Path) -> None:
    """Each ends with 0 once told to; before that, the workers alone have come to the end of all there was."""
    with closing(Server(durable=True)) as server:
        found = blockade(tmp_path, server.url, BOTH, kills=KILLS, seed=3, how=Workers, faulty=True)
    assert found.toll.short_of(KILLS, 0) is None and found.toll.starts == 2 + KILLS
