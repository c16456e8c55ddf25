"""Real requests of 4,247 tenants, end to end, as an operator would bill them."""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.worker.engine.shard import NewOrgs
from drawdown.worker.sources.samples.importer import import_samples
from drawdown.worker.sources.samples.rows import ImportOptions
from tests.acceptance import gentd26
from tests.acceptance.commands import must
from tests.acceptance.gentd26 import AT, FROM, ORGS, PUSHES, SAMPLES, SECONDS
from tests.acceptance.tables import billed_exactly, number, rows
from tests.sqlite_databases import migrated
from tests.whole import share
from tests.world import Fleet

pytestmark = gentd26.needed()

PARTS = share(2, whole=20)
EVERY = share(30, whole=1)
"""Of so many tenants one is billed, and the busiest."""
BUSY = "G0264"


@dataclass(frozen=True)
class Billed:
    """The file, or what it says of some tenants, and what is to be billed for it."""

    file: Path
    samples: int
    orgs: int
    sums: gentd26.Sums

    @property
    def seconds(self) -> int:
        return sum(self.sums.values())


@pytest.fixture
def billed(tmp_path: Path) -> Billed:
    whole = Billed(gentd26.FILE, SAMPLES, ORGS, gentd26.sums())
    if EVERY == 1:
        return whole
    with gentd26.FILE.open(newline="") as file:
        header, *lines = csv.reader(file)
    at = header.index("groupId")
    chosen = {*sorted({line[at] for line in lines})[::EVERY], BUSY}
    some = [line for line in lines if line[at] in chosen]
    with (tmp_path / "requests.csv").open("w", newline="") as out:
        csv.writer(out).writerows([header, *some])
    sums = {place: seconds for place, seconds in whole.sums.items() if place[0] in chosen}
    return Billed(tmp_path / "requests.csv", len(some), len(chosen), sums)


def _import(url: str, file: Path) -> dict[str, object]:
    found = must(url, "import", str(file), "--id-from-line", *gentd26.MAPPED, at=AT)["import"]
    return {name: found[name] for name in ("inserted", "already_there", "rejected", "conflicts")}


def _figures(url: str) -> tuple[int, ...]:
    """Everything that may not change when nothing new was used."""
    tables = ("usage_samples", "pushes", "attempts", "ledger_entries", "orgs", "sample_conflicts", "dirty_windows")
    balance = number(url, "SELECT SUM(balance_micro) FROM ledger_accounts")
    return (balance, *(number(url, f"SELECT COUNT(*) FROM {table}") for table in tables))


def test_gentd26_trace_has_expected_pushes_and_seconds() -> None:
    found = gentd26.sums()
    assert (len(found), sum(found.values())) == (PUSHES, SECONDS)
    assert sum(seconds for (org, _), seconds in found.items() if org == BUSY) == 25_383


@pytest.mark.parametrize("database_url", share(["sqlite"], whole=["sqlite", "postgresql"]), indirect=True)
def test_gentd26_trace_repeated_import_and_replay_bills_once(database_url: str, billed: Billed) -> None:
    url = database_url
    must(migrated(url), "init", at=FROM)
    assert _import(url, billed.file) == {"inserted": billed.samples, "already_there": 0, "rejected": 0, "conflicts": 0}
    assigned = must(url, "org", "assign", "--unassigned", "--from", FROM, "--reason", "the trace", at=AT)["assigned"]
    assert len(assigned) == billed.orgs
    tick = must(url, "tick", at=AT)["tick"]
    assert (tick["sealed"], tick["accepted"], tick["failures"]) == (len(billed.sums), len(billed.sums), [])
    billed_exactly(url, billed.sums)
    assert rows(url, "SELECT COUNT(*), SUM(sealed_qty), MAX(revision) FROM pushes") == [
        (len(billed.sums), billed.seconds, 0)
    ]
    assert number(url, f"SELECT SUM(sealed_qty) FROM pushes WHERE org_id = '{BUSY}'") == 25_383
    before = _figures(url)

    assert _import(url, billed.file) == {"inserted": 0, "already_there": billed.samples, "rejected": 0, "conflicts": 0}
    assert must(url, "tick", at=AT)["tick"]["sealed"] == 0
    for dry_run in ("--dry-run",), ():
        replayed = must(url, "replay", "--all", "--from", FROM, "--to", AT, *dry_run, at=AT)["replay"]
        assert (replayed["pushes"], replayed["quantity"]) == (0, 0)
    assert must(url, "verify", at=AT)["breaches"] == []
    assert _figures(url) == before


def _parts(whole: Path, folder: Path) -> list[Path]:
    """The file's rows in random order, each with its line number as its id, in as many files as there are parts."""
    with whole.open(newline="") as file:
        header, *lines = csv.reader(file)
    numbered = [(str(number), *line) for number, line in enumerate(lines, start=2)]
    random.Random(26_823).shuffle(numbered)
    made = []
    for part in range(PARTS):
        made.append(folder / f"part{part}.csv")
        with made[-1].open("w", newline="") as out:
            csv.writer(out).writerows([("id", *header), *numbered[part::PARTS]])
    return made


@pytest.mark.parametrize("database_url", share(["postgresql"], whole=["sqlite", "postgresql"]), indirect=True)
def test_gentd26_trace_in_random_parts_with_ticks_bills_same_totals(
    engine: sa.Engine, database_url: str, billed: Billed, tmp_path: Path
) -> None:
    fleet = Fleet(engine)
    fleet.clock.at_ms = gentd26.AT_MS
    pairs = [text.partition("=") for text in gentd26.MAPPED]
    columns = {name: to for (name, _, to), flag in zip(pairs, ("", *gentd26.MAPPED), strict=False) if flag == "--map"}
    how = ImportOptions(columns=columns, constants={"cell_id": "cell-1", "memory_mb": "1024"})
    from_ms = 1_731_628_800_000  # 2024-11-15
    sealed = []
    for part in _parts(billed.file, tmp_path):
        assert import_samples(engine, [str(part)], how, gentd26.AT_MS).rejected == 0
        report = fleet.tick(fleet.clock.at_ms + 1000, new_orgs=NewOrgs("embedded", from_ms))
        assert report.sealed == report.accepted
        sealed.append(report.sealed)
    assert all(sealed), "each part brought something"
    assert sum(sealed) > len(billed.sums)
    billed_exactly(database_url, billed.sums)
    assert number(database_url, "SELECT SUM(sealed_qty) FROM pushes WHERE revision > 0") > billed.seconds // 4
    assert number(database_url, "SELECT COUNT(*) FROM usage_samples") == billed.samples
    assert fleet.tick(fleet.clock.at_ms + 1000).exit_status == 0
    must(database_url, "verify", at=AT)
