"""Time that jumps, repeats itself or runs twice at once: the totals stay the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.cli.nouns.tick import parse_shard
from drawdown.schema.units import MINUTE_MS, SECOND_MS, WINDOW_MS
from tests import fork_server
from tests.acceptance.commands import PROJECT, drawdown, environment, must, one_clear_line
from tests.acceptance.gentd26 import Sums
from tests.acceptance.tables import billed_exactly, number
from tests.whole import share
from tests.world import T0, Fleet

HOUR_MS = 60 * MINUTE_MS
ORGS = tuple(f"org-{number}" for number in range(12))
END = T0 + 24 * HOUR_MS

INSERT = (
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
    "VALUES (:id, :org, 'box', 'cell-1', 1024, :seconds, :ts, :now)"
)


class Usage:
    """Random samples of some organisations, and what they add up to."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet, self.dice = fleet, random.Random(seed)
        self.sums: Sums = {}
        self.count = 0
        fleet.assign(*ORGS, from_ms=T0)

    def add(self, count: int, from_ms: int, to_ms: int) -> None:
        made = []
        for _ in range(count):
            org, ts = self.dice.choice(ORGS), self.dice.randrange(from_ms, to_ms)
            seconds, now = self.dice.randrange(1, 300), max(ts, self.fleet.clock.at_ms)
            self.count += 1
            made.append({"id": f"s{self.count}", "org": org, "seconds": seconds, "ts": ts, "now": now})
            window = ts - ts % WINDOW_MS
            self.sums[org, window] = self.sums.get((org, window), 0) + seconds
        if made:
            self.fleet.write(INSERT, made)


@pytest.fixture
def usage(engine: sa.Engine) -> Usage:
    return Usage(Fleet(engine), seed=5)


@pytest.mark.parametrize("database_url", share(["postgresql"], whole=["sqlite", "postgresql"]), indirect=True)
def test_three_concurrent_ticks_bill_once(usage: Usage, database_url: str, tmp_path: Path) -> None:
    usage.add(100, T0, T0 + HOUR_MS)
    at = str(T0 + 2 * HOUR_MS)
    usage.fleet.engine.dispose()
    with (tmp_path / "err").open("w+b") as err:
        command = ["tick", "--at", at]
        all_three = [
            fork_server.Started(command, env=environment(database_url), cwd=PROJECT, err=err) for _ in range(3)
        ]
        for process in all_three:
            said = process.stdout.read()
            assert process.wait(120) in (0, 75), said + (tmp_path / "err").read_text()
    must(database_url, "tick", at=at)
    billed_exactly(database_url, usage.sums)
    assert number(database_url, "SELECT MAX(revision) FROM pushes") == 0
    must(database_url, "verify", at=at)


def test_second_tick_in_same_second_seals_late_usage_only(usage: Usage, database_url: str) -> None:
    usage.add(100, T0, T0 + HOUR_MS)
    first = usage.fleet.tick(T0 + 2 * HOUR_MS)
    usage.add(5, T0, T0 + HOUR_MS)
    second = usage.fleet.tick(T0 + 2 * HOUR_MS)
    third = usage.fleet.tick(T0 + 2 * HOUR_MS + 1)
    assert first.sealed > second.sealed > third.sealed == 0
    billed_exactly(database_url, usage.sums)


def test_clock_set_back_by_hour_does_not_lower_watermark(usage: Usage, database_url: str) -> None:
    fleet = usage.fleet
    fleet.clock.trusted = fleet.engine.dialect.name == "postgresql"  # its server's own clock stands elsewhere
    now = T0 + 3 * HOUR_MS
    for minutes in (0, 5, 10, -60, -55, -5, 0, 15):
        usage.add(20, T0, now + minutes * MINUTE_MS)
        fleet.tick(now + minutes * MINUTE_MS)
        assert number(database_url, "SELECT MIN(watermark_ms) FROM buckets") >= now - 10 * MINUTE_MS, "never back"
    fleet.tick(now + HOUR_MS)
    billed_exactly(database_url, usage.sums)
    must(database_url, "verify", at=str(now + HOUR_MS))


def test_clock_jump_over_day_is_refused_without_accept_clock(usage: Usage, database_url: str) -> None:
    usage.fleet.tick(END)
    usage.fleet.write("UPDATE ticks SET clock_trusted = :no, started_ms = :then", {"no": False, "then": T0})
    assert "--accept-clock" in one_clear_line(drawdown(database_url, "tick"), 1)
    ticks = number(database_url, "SELECT COUNT(*) FROM ticks")
    usage.add(5, T0, T0 + HOUR_MS)
    must(database_url, "tick", "--accept-clock")
    assert number(database_url, "SELECT COUNT(*) FROM ticks") == ticks + 1
    billed_exactly(database_url, usage.sums)


def test_ticks_of_both_shards_bill_all_usage(usage: Usage, database_url: str) -> None:
    usage.add(50, T0, T0 + HOUR_MS)
    at = str(T0 + 2 * HOUR_MS)
    parts = [must(database_url, "tick", "--shard", f"{part}/2", at=at)["tick"]["sealed"] for part in range(2)]
    assert all(parts) and sum(parts) == len(usage.sums)
    billed_exactly(database_url, usage.sums)
    assert must(database_url, "tick", at=at)["tick"]["sealed"] == 0
    must(database_url, "verify", at=at)


def test_tick_at_earlier_time_does_not_lose_usage(usage: Usage, database_url: str) -> None:
    usage.add(100, T0, T0 + 2 * HOUR_MS)
    usage.fleet.tick(T0 + 3 * HOUR_MS)
    usage.add(30, T0, T0 + 4 * HOUR_MS)
    sealed = usage.fleet.tick(T0 + HOUR_MS)
    assert 0 < sealed.sealed < 30
    usage.add(10, T0, T0 + 4 * HOUR_MS)
    assert usage.fleet.tick(T0 - HOUR_MS).sealed == 0
    assert usage.fleet.tick(T0 + 5 * HOUR_MS).exit_status == 0
    billed_exactly(database_url, usage.sums)
    must(database_url, "verify", at=str(T0 + 5 * HOUR_MS))


@pytest.mark.parametrize("seed", share([1], whole=[1, 2]))
def test_ticks_at_random_times_and_shards_bill_exactly(engine: sa.Engine, database_url: str, seed: int) -> None:
    usage = Usage(Fleet(engine), seed)
    dice = usage.dice
    for _ in range(share(15, whole=40)):
        usage.add(dice.randrange(4), T0, END)
        at = dice.randrange(T0, END) // SECOND_MS * SECOND_MS
        parts = dice.choice((1, 2, 3, 5))
        usage.fleet.tick(at, shard=parse_shard(f"{dice.randrange(parts)}/{parts}"))
    usage.fleet.tick(END + HOUR_MS)
    billed_exactly(database_url, usage.sums)
    must(database_url, "verify", at=str(END + HOUR_MS))
