"""`verify` on many samples, and on mappings of every shape that the seal may have used."""

from __future__ import annotations

import random
import time
import tracemalloc
from functools import partial

import pytest
import sqlalchemy as sa

from drawdown.schema.audit import By, record
from drawdown.schema.database import write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.verify import verify as proving
from tests.integration.verifying import ONE, tamper, verified
from tests.whole import share
from tests.world import T0, Fleet

SAMPLES = share(20_000, whole=200_000)
ORGS = share(50, whole=500)
WINDOWS = 20

NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count}) SELECT i FROM n",
    "postgresql": "SELECT i FROM generate_series(0, {count} - 1) AS g(i)",
}


def fill(fleet: Fleet, count: int) -> None:
    """Many samples of three sizes, one of which makes no feature; every fifth organisation is assigned to nobody."""
    numbers = NUMBERS[fleet.engine.dialect.name].format(count=count)
    fleet.assign(*(f"org{n}" for n in range(ORGS) if n % 5), from_ms=T0)
    fleet.write(
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        f"SELECT 'n' || i, 'org' || (i % {ORGS}), 'box', 'cell-1', CASE i % 3 WHEN 0 THEN 1024 WHEN 1 THEN 4096 "
        f"ELSE 3000 END, i % 100, {T0} + (i / {ORGS}) % {WINDOWS} * {WINDOW_MS} + i % 1000, "
        f"{T0 + WINDOWS * WINDOW_MS} + i "
        f"FROM ({numbers}) n"
    )


@pytest.mark.both_databases
def test_verify_of_many_samples_uses_bounded_time_and_memory(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    fill(fleet, SAMPLES)
    fleet.tick_windows(WINDOWS + 2)
    tracemalloc.start()
    began = time.monotonic()
    found = verified(fleet)
    took_s, (_, peak) = time.monotonic() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.breaches == []
    assert found.checked["samples"] == SAMPLES
    assert found.checked["windows"] == ORGS * WINDOWS
    assert fleet.one("SELECT SUM(samples) FROM pending_usage") != 0
    assert took_s < 60
    assert peak < 100 * SAMPLES  # a sample in Python takes hundreds of bytes; the questions take some, too


def test_verify_counts_all_breaches_and_lists_first_thousand(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert proving.LISTED == 1_000
    monkeypatch.setattr(proving, "LISTED", 30)
    fleet = Fleet(engine)
    fill(fleet, 2 * ORGS)
    fleet.tick_windows(3)
    tamper(fleet, "UPDATE pushes SET sealed_qty = sealed_qty + 1, sent_qty = sent_qty + 1, state = 'due', attempts = 0")
    found = verified(fleet)
    pushes = fleet.one("SELECT COUNT(*) FROM pushes")
    assert found.by_invariant[1] == pushes
    assert found.count > len(found.breaches) == 30
    assert len(found.first) == fleet.one("SELECT COUNT(DISTINCT org_id) FROM pushes")


@pytest.mark.parametrize("seed", range(share(3, whole=8)))
def test_verify_of_random_mapping_agrees_with_seal(engine: sa.Engine, seed: int) -> None:
    rng = random.Random(seed)
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=T0)
    sizes = [0, 1, 512, 1000, 1024, 2048, 3000, 4096, 70_000]
    for _ in range(rng.randrange(1, 25)):
        kind = rng.choice(["exact", "up_to"])
        said = {
            "kind": kind,
            "memory_mb": rng.choice([*sizes, None]) if kind == "up_to" else rng.choice(sizes),
        }
        feature = rng.choice([None, "one", "two", ONE])
        said |= {
            "unit": rng.choice(["s", "mb_s"]),
            "start_ms": rng.choice([0, *(T0 + n * WINDOW_MS for n in range(4))]),
        }
        fleet.write(
            "INSERT INTO mappings (kind, memory_mb, feature, unit, start_ms, at_ms, actor, reason) "
            "VALUES (:kind, :memory_mb, :feature, :unit, :start_ms, 0, 'test', 'a test')",
            {**said, "feature": feature},
        )
        action = partial(record, action="feature_map" if feature else "feature_end", target=feature or "", details=said)
        write(engine, lambda c, on_record=action: on_record(c, by=By(0, "test", "a test")))  # type: ignore[misc]
    for window in range(4):
        for size in sizes:
            fleet.sample("acme", T0 + window * WINDOW_MS + rng.randrange(WINDOW_MS), rng.randrange(100), size)
    fleet.tick_windows(5)
    assert verified(fleet).breaches == []
    for window in range(4):  # late ones, of sizes pending and sealed
        fleet.sample("acme", T0 + window * WINDOW_MS, 5, rng.choice(sizes))
    fleet.tick_windows(1)
    assert verified(fleet).breaches == []


def test_verify_with_overflow_in_org_does_not_hide_other_orgs(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    fleet.assign("acme", "bad", from_ms=T0)
    fleet.sample("acme", T0)
    fleet.sample("bad", T0)
    fleet.tick_windows(2)
    for revision in (1, 2):
        fleet.write(
            "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, "
            "key, sealed_at_ms, seal_id, state, due_at_ms) VALUES (:w, 'bad', :f, :r, 'embedded', 'bad', "
            "9000000000000000000, 9000000000000000000, :k, 0, 0, 'due', 0)",
            {"w": T0, "f": ONE, "r": revision, "k": f"usage:bad:{T0}:{ONE}:r{revision}"},
        )
    found = verified(fleet)
    assert {(breach.invariant, breach.org_id) for breach in found.breaches} == {(1, "bad")}
