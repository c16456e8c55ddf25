"""A drain whose worker is killed again and again in the middle of its claims goes on all the same, and ends exact."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from drawdown.schema.database import connect
from drawdown.worker.engine.calls import MOST_UNSETTLED
from tests.acceptance.commands import must
from tests.acceptance.drain import LEASE_MS, Process, SharedClock, insert_samples
from tests.acceptance.gentd26 import AT_MS
from tests.acceptance.tables import number, rows
from tests.crash.billers import OPEN, WINDOW_MS, _biller, _charged, _served, _set_up, _settle
from tests.crash.data import FROM_MS
from tests.crash.nursery import Nursery
from tests.whole import at_length

ORGS, WINDOWS = 160, 12
PUSHES = ORGS * WINDOWS
CALLS_A_LIFE = 600
"""More than are under way at once, and fewer than the two claims that a worker sends side by side."""
LIFE_S = 120.0
"""No life takes longer, however busy the machine: it is a bound and no measure."""
ACCEPTED = "SELECT COUNT(*) FROM pushes WHERE state = 'accepted'"


def under_fire(folder: Path, planted: str = "") -> list[int]:
    """How many pushes were accepted after each kill; then the drain is left in peace and has to end exact."""
    url = f"sqlite:///{folder}/drawdown.db"
    orgs = [f"org-{n}" for n in range(ORGS)]
    clock, biller = SharedClock(folder / "clock", AT_MS), _biller("autumn", orgs)
    (folder / "provider").write_text("autumn")
    _set_up(url, {"autumn": orgs}, clock.now_ms())
    used = {(org, FROM_MS + w * WINDOW_MS): 60 for org in orgs for w in range(WINDOWS)}
    engine = connect(url)
    insert_samples(engine, [(n, org, ts + 1, 60) for n, (org, ts) in enumerate(used)])
    engine.dispose()
    found = []
    with _served([biller], clock) as env:
        with closing(Nursery(folder, url, {**env, "CRASH_PLANTED": planted})) as nursery:
            while biller.calls["track"] + CALLS_A_LIFE <= PUSHES:
                before, until = biller.calls["track"], time.monotonic() + LIFE_S
                child = nursery.start("drainer-a")
                while biller.calls["track"] < before + CALLS_A_LIFE:
                    assert child.poll() is None and time.monotonic() < until, nursery.said("drainer-a")
                    time.sleep(0.01)
                child.kill()
                found.append(number(url, ACCEPTED))
                clock.jump(LEASE_MS)
        operator = Process(url, folder, env).ready()
        try:
            _settle(operator, clock)
        finally:
            operator.end()
    assert _charged([biller]) == used and biller.doubles == []
    assert rows(url, OPEN) == []
    assert must(url, "verify", at=str(clock.now_ms()))["breaches"] == []
    return found


@at_length("make crash")
def test_drain_killed_in_each_claim_continues(tmp_path: Path) -> None:
    found = under_fire(tmp_path)
    assert found[0] > 0, "what was answered before the kill was written down"
    assert len(found) > 1 and found == sorted(found) and found[-1] >= len(found) * (CALLS_A_LIFE - MOST_UNSETTLED), (
        found
    )


@at_length("make mutants")
def test_planted_bug_settled_at_end_is_found(tmp_path: Path) -> None:
    assert under_fire(tmp_path, planted="settled at the end")[0] == 0
