"""Fixed short seeds of the simulation, and the simulation itself put to the test.

What seeds once found is planted again in `mutants`: a seed's number means nothing once the world's actions change.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.simulation import world
from tests.simulation.faults import CHANCE, EMULATED
from tests.simulation.oracle import Assignment, Oracle, Rule, Sample
from tests.simulation.run import failure
from tests.simulation.scheduler import simulate

TICKS = 15
BATCHES = 6
SEEDS_A_BATCH = 10
ALSO_COUNTED = (
    "provider_down",
    "cell_down",
    "cell_lying",
    "late_sample",
    "very_late_sample",
    "withdrawal",
    "mapping_forward",
    "mapping_fills_hole",
    "flip",
    "stop_or_release",
    "void",
    "sandbox_moved",
    "grant",
    "bad_sample",
    "same_id_other_content",
    "clock_skew",
    "clock_hour",
    "replay",
    "customer_filled",
    "flip_cancelled",
    "paused",
    "reconcile",
    "webhook",
    *(f"{provider} {kind}" for provider, kinds in EMULATED.items() for kind in kinds),
)
pytestmark = pytest.mark.xdist_group("simulation")  # one process, so that no seed is run twice


@cache
def faults_of(seed: int) -> Counter[str]:
    """Run a seed, which must break nothing; the faults that happened in it."""
    outcome = simulate(seed, TICKS)
    assert not outcome.breaches, failure(outcome, TICKS)
    return Counter(outcome.faults)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_everything_is_billed_once_whatever_fails(batch: int) -> None:
    for seed in range(batch * SEEDS_A_BATCH, (batch + 1) * SEEDS_A_BATCH):
        assert faults_of(seed)


def test_every_kind_of_fault_happened() -> None:
    counted: Counter[str] = Counter()
    for seed in range(BATCHES * SEEDS_A_BATCH):
        counted.update(faults_of(seed))
    assert [kind for kind in (*CHANCE, *ALSO_COUNTED) if not counted[kind]] == []


def _trace(seed: int, hash_seed: str) -> str:
    code = f"from tests.simulation.scheduler import simulate; print(simulate({seed}, 8).digest)"
    root = Path(__file__).parents[2]
    quiet = "import structlog; structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50)); "
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", quiet + code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_same_seed_gives_the_same_trace_in_any_process() -> None:
    assert _trace(3, "1") == _trace(3, "2") == simulate(3, 8).digest
    assert simulate(4, 8).digest != simulate(3, 8).digest


def test_the_short_cut_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    short = [simulate(seed, 6).digest for seed in (6, 7)]
    monkeypatch.setattr(world, "shorten", lambda engine: None)
    assert [simulate(seed, 6).digest for seed in (6, 7)] == short


def test_a_failing_seed_prints_the_line_that_repeats_it() -> None:
    outcome = simulate(5, 3)
    outcome.breaches.append("1: something is wrong")
    text = failure(outcome, 3).splitlines()
    assert text[-1] == "repeat: python -m tests.simulation.run --seeds 1 --ticks 3 --start 5 --show"
    assert "  1: something is wrong" in text


def _oracle() -> Oracle:
    oracle = Oracle()
    oracle.rules += [Rule("exact", 1024, "a", "s", 0), Rule("up_to", 2048, "b", "mb_s", 300_000)]
    oracle.assignments["acme"] += [Assignment(0, "embedded", "acme"), Assignment(600_000, "memory", "acme")]
    return oracle


def test_the_oracle_by_hand() -> None:
    oracle = _oracle()
    for name, ts, size in (("1", 0, 1024), ("2", 299_999, 1024), ("3", 300_000, 2000), ("4", 299_999, 2000)):
        oracle.took(Sample(name, "acme", ts, size, 10, good=True))
    oracle.took(Sample("1", "acme", 0, 1024, 99, good=True))  # the same id again
    oracle.took(Sample("5", "other", 0, 1024, 10, good=True))
    oracle.withdraw("2")
    expected = oracle.expected()
    assert expected.owed == {("acme", 0, "a"): 10, ("acme", 300_000, "b"): 20_000}
    assert expected.pending == {(0, "acme", 2000): ("no_mapping", 10, 1), (0, "other", 1024): ("no_biller", 10, 1)}


def test_the_oracle_knows_who_bills_when() -> None:
    oracle = _oracle()
    billers = [oracle.assigned("acme", window) for window in (0, 300_000, 600_000)]
    assert [one.provider for one in billers if one is not None] == ["embedded", "embedded", "memory"]
    assert oracle.assigned("other", 0) is None
