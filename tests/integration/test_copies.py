"""A copy of a database that is used on the same host does not stop the original, and a loss still shows (R1)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect
from drawdown.worker.engine import runner
from drawdown.worker.history.recover import recover
from drawdown.worker.history.witness import WitnessFile
from drawdown.worker.status.ticks import Report
from drawdown.worker.tick import tick
from tests.world import T0, Copied, Fleet

Put = Callable[[Fleet, str], Fleet]
"""Put a database, as it is now, in a place of that name, over whatever lies there."""


@pytest.fixture
def put(tmp_path: Path) -> Iterator[Put]:
    made: list[Fleet] = []

    def work(fleet: Fleet, name: str) -> Fleet:
        fleet.engine.dispose()
        url = fleet.engine.url
        if url.get_backend_name() == "sqlite":
            to = url.set(database=f"{tmp_path}/{name}.db")
            for one in made:
                one.engine.dispose()
            shutil.copy(str(url.database), str(to.database))
        else:
            to = url.set(database=f"{tmp_path.name}_{name}")
            admin = sa.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
            with admin.connect() as connection:
                connection.execute(sa.text(f'DROP DATABASE IF EXISTS "{to.database}" WITH (FORCE)'))
                connection.execute(sa.text(f'CREATE DATABASE "{to.database}" TEMPLATE "{url.database}"'))
        copied = Copied(connect(to.render_as_string(hide_password=False)), FixedClock(fleet.clock.at_ms))
        made.append(copied)
        return copied

    yield work
    for one in made:
        one.engine.dispose()


@pytest.fixture
def state(tmp_path: Path) -> WitnessFile:
    return WitnessFile(tmp_path / "state")


@pytest.fixture
def original(engine: sa.Engine, state: WitnessFile, put: Put) -> Fleet:
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=T0)
    here = put(fleet, "here")
    use(here, state, 1)
    return here


def world(fleet: Fleet, state: WitnessFile) -> runner.World:
    return runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock, witness=state)


def use(fleet: Fleet, state: WitnessFile, windows: int) -> Report:
    """Let windows go by, each with usage that is sent; the last tick's report."""
    for _ in range(windows):
        fleet.sample("acme", fleet.clock.at_ms + 1, sample_id=f"s{fleet.clock.at_ms}")
        fleet.clock.at_ms += 600_000
        report: Report = runner.run(
            tick(fleet.context(f"w{fleet.engine.url.database}{fleet.clock.at_ms}")), world(fleet, state)
        )
    return report


def test_copied_database_in_use_does_not_stop_original(original: Fleet, state: WitnessFile, put: Put) -> None:
    copied = put(original, "copy")
    assert use(copied, state, 3).doubted is None
    assert use(original, state, 1).doubted is None
    assert use(copied, state, 1).doubted is None
    assert original.one("SELECT COUNT(*) FROM pushes WHERE state = 'accepted'") == 2


def test_old_copy_of_database_is_reported_at_first_use(original: Fleet, state: WitnessFile, put: Put) -> None:
    copied = put(original, "copy")
    use(original, state, 1)
    assert "this machine saw 2" in str(use(copied, state, 1).doubted)
    assert use(original, state, 1).doubted is None


def test_backup_restored_in_place_is_reported(original: Fleet, state: WitnessFile, put: Put) -> None:
    backup = put(original, "backup")
    use(original, state, 2)
    assert use(put(backup, "here"), state, 1).doubted is not None


def test_backup_of_moved_database_restored_in_place_is_reported(original: Fleet, state: WitnessFile, put: Put) -> None:
    """The database moved, was used there, and a backup made there is put where it had been."""
    moved = put(original, "there")
    use(moved, state, 1)
    backup = put(moved, "backup")
    use(moved, state, 2)
    assert use(put(backup, "here"), state, 1).doubted is not None


def test_recovered_copy_is_used_and_original_is_reported(original: Fleet, state: WitnessFile, put: Put) -> None:
    copied = put(original, "copy")
    use(original, state, 1)
    assert use(copied, state, 1).doubted is not None
    runner.run(recover(copied.context(), copied.by), world(copied, state))
    assert use(copied, state, 1).doubted is None
    assert "before a recovery" in str(use(original, state, 1).doubted)


@pytest.mark.both_databases
def test_local_checkpoint_of_older_format_still_detects_restore(
    original: Fleet, state: WitnessFile, put: Put, tmp_path: Path
) -> None:
    backup = put(original, "backup")
    use(original, state, 1)
    last = state.load(original.engine)
    assert last is not None
    (file,) = (tmp_path / "state").glob("*.json")
    file.write_text(json.dumps(asdict(last)))
    assert use(put(backup, "here"), state, 1).doubted is not None
