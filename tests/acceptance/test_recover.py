"""A database is restored from a backup, at a provider that has more than the backup knows (rule R1).

A SQLite file is copied back; a PostgreSQL database is dumped, dropped and restored. What was billed in between stays
billed once, what was not is billed once, and until a person says so nothing is sealed or sent.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from drawdown.schema.clock import FixedClock
from drawdown.schema.units import DAY_MS, GRACE_MS, MINUTE_MS, WINDOW_MS
from tests.acceptance.commands import Ended, drawdown
from tests.acceptance.tables import number, rows
from tests.emulators.autumn import AutumnEmulator
from tests.emulators.serve import autumn_lines, home_autumn, home_stripe, serving_in_thread, stripe_lines
from tests.emulators.stripe import StripeEmulator
from tests.postgres_server import binaries
from tests.sqlite_databases import migrated
from tests.whole import share
from tests.world import T0

FEATURE: Final = "compute_4gb"
EACH: Final = [(provider, kind) for provider in ("autumn", "stripe") for kind in ("postgresql", "sqlite")]


def at(provider: str, kind: str) -> pytest.MarkDecorator:
    """At one provider and on one database every day, and at each on both in the whole."""
    return pytest.mark.parametrize(("place", "database_url"), share([(provider, kind)], whole=EACH), indirect=True)


PEOPLE: Final = ("alice", "bob")
HEADER: Final = "id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts"


@dataclass
class Place:
    """A database, one provider behind a socket, one clock for all, and every sample that any host ever wrote."""

    url: str
    folder: Path
    provider: str
    emulator: AutumnEmulator | StripeEmulator
    clock: FixedClock
    env: dict[str, str]
    lines: list[str] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)

    def run(self, *arguments: str, status: int | tuple[int, ...] = 0) -> Ended:
        found = drawdown(self.url, *arguments, at=str(self.clock.at_ms), env=self.env)
        assert found.status in (status if isinstance(status, tuple) else (status,)), (arguments, found)
        return found

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        return self.run("--json", *arguments, status=status).json

    def tick(self, minutes: int = 0, status: int = 0) -> dict[str, Any]:
        self.clock.at_ms += minutes * MINUTE_MS
        found: dict[str, Any] = self.json("tick", status=status)["tick"]
        return found

    def use(self, *samples: tuple[str, str, int, int]) -> None:
        """Hosts write samples: (id, organisation, window, seconds)."""
        for name, org, window, seconds in samples:
            self.lines.append(f"{name},{org},box,cell-1,4096,{seconds},{T0 + window * WINDOW_MS + 7}")
            self.used[org] = self.used.get(org, 0) + seconds
        self.write()

    def write(self) -> None:
        """Every host writes again whatever it ever wrote; what is there already is left as it is."""
        samples = self.folder / "samples.csv"
        samples.write_text("\n".join([HEADER, *self.lines]) + "\n")
        self.run("import", str(samples), "--time-format", "ms")

    def customer(self, org: str) -> str:
        return f"cus_{org}" if self.provider == "stripe" else org

    def charged(self) -> dict[str, int]:
        if isinstance(self.emulator, StripeEmulator):
            return {org: self.emulator.charged(self.customer(org), FEATURE) for org in PEOPLE}
        self.emulator.work_off(self.clock.at_ms)
        sums = dict.fromkeys(PEOPLE, 0)
        for (customer, _, _), value in self.emulator.charged_by().items():
            sums[customer] += int(value)
        return sums

    def billing_calls(self) -> int:
        if isinstance(self.emulator, StripeEmulator):
            return len(self.emulator._taken)
        return self.emulator.calls["track"]


@dataclass
class Backup:
    """How one kind of database is kept and brought back."""

    take: Callable[[], None]
    restore: Callable[[], None]


@pytest.fixture
def place(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[Place]:
    clock = FixedClock(T0)
    name = request.param
    # Of what may have been drawn before its cycle began, or after, a balance does not tell: a person would have to.
    emulator = home_autumn(T0 - 40 * DAY_MS) if name == "autumn" else home_stripe()
    with serving_in_thread(emulator, clock) as url:
        if isinstance(emulator, StripeEmulator):
            lines = stripe_lines(emulator, url)
        else:
            emulator.lists_per_s = 10**9
            lines = autumn_lines(emulator, url)
        env = {"DRAWDOWN_STATE_DIR": f"{tmp_path}/state", **dict(line.split("=", 1) for line in lines)}
        made = Place(database_url, tmp_path, name, emulator, clock, env)
        migrated(database_url)
        made.run("init")
        for org in PEOPLE:
            made.run(
                "org", "assign", "--new", org, "--provider", name, "--customer", made.customer(org), "--from", str(T0)
            )
        yield made


@pytest.fixture
def backup(place: Place) -> Backup:
    url, kept = sa.make_url(place.url), place.folder / "kept"
    if url.get_backend_name() == "sqlite":
        file = Path(str(url.database))

        def take() -> None:
            engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.exec_driver_sql(f"VACUUM INTO '{kept}'")
            engine.dispose()

        def restore() -> None:
            for suffix in ("-wal", "-shm"):
                Path(f"{file}{suffix}").unlink(missing_ok=True)
            shutil.copyfile(kept, file)

        return Backup(take, restore)
    programs = binaries()
    admin = place.url.replace(f"/{url.database}", "/postgres")

    def program(name: str, *arguments: str) -> None:
        done = subprocess.run([str(programs / name), *arguments], capture_output=True, text=True, env=dict(os.environ))
        assert done.returncode == 0, done.stderr

    def take_dump() -> None:
        program("pg_dump", "--format=custom", f"--file={kept}", place.url)

    def restore_dump() -> None:
        for command in (f'DROP DATABASE "{url.database}" WITH (FORCE)', f'CREATE DATABASE "{url.database}"'):
            program("psql", "--quiet", "--set=ON_ERROR_STOP=1", f"--command={command}", admin)
        program("pg_restore", f"--dbname={place.url}", str(kept))

    return Backup(take_dump, restore_dump)


OPEN: Final = "SELECT COUNT(*) FROM pushes WHERE state NOT IN ('accepted', 'voided')"


@at("autumn", "postgresql")
def test_restore_with_lost_history_does_not_bill_usage_twice(place: Place, backup: Backup) -> None:
    place.clock.at_ms = T0 + 3 * WINDOW_MS + GRACE_MS
    place.use(*((f"{org}-{window}", org, window, 60 + window) for org in PEOPLE for window in (0, 1, 2)))
    place.tick()
    nothing_to_recover(place)
    place.use(("alice-3", "alice", 3, 30))
    backup.take()  # with a window that is used and not sealed
    place.tick(minutes=5)
    # "late" makes a revision that the backup knows nothing of.
    place.use(("alice-4", "alice", 4, 40), ("late", "alice", 1, 11), ("bob-4", "bob", 4, 44))
    place.tick(minutes=5)
    assert place.charged() == place.used

    backup.restore()
    assert number(place.url, "SELECT COUNT(*) FROM pushes") == 6, "the backup knows less"
    calls = place.billing_calls()
    key = rows(place.url, "SELECT key FROM pushes ORDER BY 1 LIMIT 1")[0][0]
    for command in (  # no tick has noticed yet: this machine remembers all the same
        ("sample", "withdraw", "alice-0", "--reason", "a mistake"),
        ("push", "void-lost", str(key), "--evidence", "none"),
        ("provider", "accept", place.provider),
        ("reconcile", "--correct"),
    ):
        assert "history was lost" in place.run(*command, status=1).err, command
    for _ in range(2):
        said = place.tick(minutes=5, status=1)
        assert "restored" in said["doubted"]
        assert (said["sealed"], said["accepted"]) == (0, 0)
    replay = place.run("replay", "--all", "--from", str(T0), "--to", str(T0 + WINDOW_MS), status=1)
    assert "drawdown recover" in replay.err

    # The hosts write again what they wrote since, and what nobody was billed for.
    place.use(("alice-5", "alice", 5, 50), ("late too", "bob", 1, 12))
    dry = place.json("recover", "--dry-run")["recover"]
    assert dry["found"] == said["doubted"]
    assert place.tick(status=1)["doubted"] is not None, "a dry run changes nothing"
    found = place.json("recover", "--reason", "restored from the dump")["recover"]
    assert (found["number"], place.billing_calls()) == (2, calls)
    settle(place)
    assert place.charged() == place.used
    place.run("verify")
    place.clock.at_ms += DAY_MS
    compared = place.json("reconcile", "--from", "2026-01-01")["reconcile"]
    assert (compared["differing"], compared["waiting"], compared["compared"]) == ([], 0, 2)


@at("stripe", "sqlite")
def test_samples_reimported_after_recover_are_billed_once(place: Place, backup: Backup) -> None:
    place.clock.at_ms = T0 + 2 * WINDOW_MS + GRACE_MS
    place.use(("alice-0", "alice", 0, 60))
    backup.take()
    place.use(("late", "alice", 0, 7), ("bob-1", "bob", 1, 30))
    place.tick()
    backup.restore()
    assert place.tick(minutes=5, status=1)["doubted"] is not None
    place.run("recover", "--reason", "the samples are nowhere")
    settle(place)
    assert place.charged() == {"alice": 60, "bob": 30} or place.provider == "stripe"
    place.write()  # they were found after all
    settle(place)
    assert place.charged() == {"alice": 67, "bob": 30}
    place.clock.at_ms += DAY_MS
    assert place.json("reconcile", "--from", "2026-01-01")["reconcile"]["differing"] == []
    place.run("verify")


def nothing_to_recover(place: Place) -> None:
    """A database that was never restored is left as it is."""
    before = rows(place.url, "SELECT * FROM incarnation")
    assert "no history was lost" in place.run("recover").out
    assert place.json("recover", "--since", str(T0))["recover"]["found"] is None
    assert "in the future" in place.run("recover", "--since", str(place.clock.at_ms + 1), status=2).err
    assert rows(place.url, "SELECT * FROM incarnation") == before
    assert rows(place.url, "SELECT COUNT(*) FROM losses") == [(0,)]


def settle(place: Place) -> None:
    """Ticks until nothing is open. Autumn may apply what it has queued for a day, Stripe for an hour."""
    for minutes in (5, 5, 60, 120, 600, 600, 600, 5, 5):
        place.clock.at_ms += minutes * MINUTE_MS
        ended = place.run("tick", status=(0, 75))
        assert all(place.charged()[org] <= place.used[org] for org in PEOPLE), "billed twice"
        if ended.status == 0:
            break
    assert rows(place.url, OPEN) == [(0,)]
