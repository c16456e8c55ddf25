"""Transactions that a deadlock ends are run again: what a tick and a round of the watch report is counted once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from drawdown.providers.protocol import HOUR_MS, Absent, FoundPush, LookupResult, Unknown
from drawdown.schema.database import connect, write
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.engine import runner
from drawdown.worker.watch import Watcher, watch
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet

T = TypeVar("T")
ORGS = ("found", "other", "absent", "plain")


class Deadlock(Exception):
    sqlstate = "40P01"


def once_more(engine: sa.Engine, work: Callable[[sa.Connection], T], *, rollback: bool = False) -> T:
    """The first run does all of its work, and is the one of two that the database ends."""
    runs: list[T] = []

    def conflicting(connection: sa.Connection) -> T:
        runs.append(work(connection))
        if len(runs) == 1:
            raise OperationalError("work", {}, Deadlock())
        return runs[-1]

    return write(engine, conflicting, rollback=rollback)


def story(engine: sa.Engine) -> list[dict[str, Any]]:
    """Pushes accepted, found, found as something else, absent; a halt that nobody heeds; rounds of the watch."""
    provider = FakeProvider(capabilities(lookup_lag_ms=MINUTE_MS, duplicate_proves_delivery=False))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign(*ORGS, provider="fake")
    fleet.assign("spent")
    fleet.write(
        "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('box', 'spent', 'cell-1', 'running')"
    )
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://a.example')")
    for org in (*ORGS, "spent"):
        fleet.sample(org, T0 + 1)
    answers: dict[str, LookupResult] = {"found": FoundPush(60), "other": FoundPush(50), "absent": Absent()}
    for org, answer in answers.items():
        key = f"usage:{org}:{T0}:compute_1gb"
        provider.answers[key], provider.lookups[key] = Unknown("cut"), answer
    found: list[Any] = [fleet.tick_windows(2)]
    found += [fleet.tick(fleet.clock.at_ms + HOUR_MS) for _ in range(4)]
    fleet.sample("plain", fleet.clock.at_ms)
    world = runner.World(engine, fleet.providers, fleet.cells, fleet.clock)
    watcher = Watcher()
    found += [runner.run(watch(fleet.context(), watcher), world) for _ in range(2)]
    told = [asdict(one) for one in found]
    for one in told:
        one.pop("tick_id", None)  # a number that was given out in vain is not given out again
    return told


def test_transaction_rerun_after_deadlock_is_counted_once(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = connect(f"sqlite:///{tmp_path}/undisturbed.db")
    upgrade(undisturbed)
    wanted = story(undisturbed)
    assert sum(one.get("looked_up", 0) for one in wanted) > 2
    assert wanted[-2]["estimates"] and wanted[-2]["refresh_requests"]
    assert any(one.get("adopted") for one in wanted) and any(one.get("voided") for one in wanted)
    assert any(one.get("problems") for one in wanted)
    monkeypatch.setattr(runner, "write", once_more)
    assert story(engine) == wanted
    undisturbed.dispose()
