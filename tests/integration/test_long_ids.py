"""A host that writes ids of megabytes: what is quarantined is listed, and set aside, without holding any of them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import sqlalchemy as sa

from drawdown.schema.database import read, write
from drawdown.worker.sources.samples.quarantine import MAX_ROWS, QuarantineFilter, SamplePage, list_quarantined
from drawdown.worker.status.backlog import quarantined
from drawdown.worker.usage import quarantined as samples
from tests.acceptance.commands import environment
from tests.whole import share
from tests.world import T0, Fleet

MOST_RSS_KB = share(200, whole=300) * 1024
SIZE = share(2_000_000, whole=10_000_000)
SMALL = 100_000
"""Where no memory is measured."""
SAMPLES = 30
LISTS = """
import sys
from drawdown.cli.main import run
status = run(sys.argv[1:])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak, file=sys.stderr)
sys.exit(status)
"""


def filled(engine: sa.Engine, size: int) -> Fleet:
    """Thirty samples, of so many characters each in an id of theirs; PostgreSQL has no index for such a sample's own
    id."""
    fleet = Fleet(engine)
    fleet.assign("acme")
    own = size if engine.dialect.name == "sqlite" else SMALL
    for number in range(SAMPLES):
        values = {"id": "x" * own + f"{number:03}", "sandbox": "y" * size, "ts": T0}
        fleet.write(
            "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts) "
            "VALUES (:id, 'acme', :sandbox, 'c', 1024, 60, :ts)",
            values,
        )
    fleet.sample("acme", 1, sample_id="short")
    return fleet


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    return filled(engine, SMALL)


def page(fleet: Fleet, chosen: QuarantineFilter, after: str = "", most: int = MAX_ROWS) -> SamplePage:
    return read(fleet.engine, lambda c: list_quarantined(c, chosen, T0, after=after, most=most))


def test_samples_with_long_id_are_listed_truncated_with_size(fleet: Fleet) -> None:
    first = page(fleet, QuarantineFilter(org="acme"), most=1)
    (short,) = first.samples
    assert (short.sample_id, short.id_bytes, first.next_after) == ("short", None, "short")
    (long,) = page(fleet, QuarantineFilter(org="acme"), after="short").samples
    assert (long.sample_id, long.reason, long.samples) == ("x" * 200 + "…", "bad_id", SAMPLES)
    assert long.sandbox_id == "y" * 200 + "…"
    assert long.id_bytes == SMALL + 3


def test_listing_of_long_ids_uses_limited_memory(engine: sa.Engine) -> None:
    """Here they are of megabytes."""
    url = filled(engine, SIZE).engine.url.set(drivername=engine.dialect.name).render_as_string(hide_password=False)
    for how in ([], ["--json"]):
        command = [sys.executable, "-c", LISTS, *how, "sample", "quarantined"]
        done = subprocess.run(command, env=environment(url), capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert len(done.stdout) < 5_000
        assert int(done.stderr.split()[-1]) < MOST_RSS_KB
        if how:
            assert [one["samples"] for one in json.loads(done.stdout)["samples"]] == [1, SAMPLES]
        else:
            assert "00,003 bytes; 30 ids begin like this)" in done.stdout


@pytest.mark.both_databases
def test_samples_with_long_ids_are_dismissed_together_and_restored(fleet: Fleet) -> None:
    (long,) = page(fleet, QuarantineFilter(reason="bad_id")).samples
    assert not any(one.new_id for one in write(fleet.engine, lambda c: samples.fix(c, QuarantineFilter(), fleet.by)))
    named = QuarantineFilter(ids=(long.sample_id,))
    done = write(fleet.engine, lambda c: samples.dismiss(c, named, fleet.by))
    assert done == [long.sample_id] * SAMPLES
    assert read(fleet.engine, quarantined) == {"ts_before_2000": 1}
    details = fleet.one("SELECT details FROM operator_actions WHERE action = 'sample_dismiss'")
    assert details == json.dumps({"samples": SAMPLES})
    write(fleet.engine, lambda c: samples.undo_dismiss(c, [long.sample_id], fleet.by))
    assert read(fleet.engine, quarantined) == {"bad_id": SAMPLES, "ts_before_2000": 1}
    write(fleet.engine, lambda c: samples.dismiss(c, QuarantineFilter(org="acme"), fleet.by))
    assert read(fleet.engine, quarantined) == {}
