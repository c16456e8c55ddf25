"""The first rate of an organisation: from sandboxes that began, before any sample of them."""

from __future__ import annotations

from typing import Any, Final

import pytest
import sqlalchemy as sa

from drawdown.schema.database import read
from drawdown.schema.tables import orgs as tables
from drawdown.schema.units import MAX_MEMORY_MB, MINUTE_MS, SECOND_MS
from drawdown.worker.verdict.effective_balance import BEGUN_MS, UNSAMPLED_S, Used, read_used
from drawdown.worker.watch import Watcher
from tests.fake_provider import capabilities
from tests.prepaid import CREDIT, Moving, Prepaid, look, tell_cost
from tests.world import T0, Fleet

BIG: Final = 64 * 1024
PRICE: Final = 6_400
"""Micro-credits a second of 64 GB."""


@pytest.fixture
def provider() -> Prepaid:
    return Prepaid(capabilities(in_flight=4, reads_a_call=10), credit={"acme": CREDIT, "globex": 10**6 * CREDIT})


@pytest.fixture
def fleet(engine: sa.Engine, provider: Prepaid) -> Fleet:
    """Two organisations, of which one has a single credit; the provider told what 64 GB cost in its credits."""
    made = Fleet(engine, Moving(T0), extra={"fake": provider})
    made.assign("acme", "globex", provider="fake", from_ms=T0)
    made.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    told(made, "compute_64gb", PRICE)
    made.tick(T0 + SECOND_MS)
    look(made)
    return made


def told(fleet: Fleet, feature: str, micro: int, balance: str = "credits", start_ms: int = 0) -> None:
    tell_cost(fleet, "fake", feature, micro, balance=balance, start_ms=start_ms)


def start(
    fleet: Fleet, org: str = "acme", count: int = 10, *, since_ms: int | None = None, mb: int | None = BIG
) -> None:
    """Sandboxes that begin now."""
    since = fleet.clock.at_ms if since_ms is None else since_ms
    for number in range(count):
        fleet.write(
            "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state, memory_mb, since_ms) "
            "VALUES (:box, :org, 'cell-1', 'running', :mb, :since)",
            {"box": f"{org}-{since}-{number}", "org": org, "mb": mb, "since": since},
        )


def used(fleet: Fleet, org: str = "acme") -> Used:
    now = fleet.clock.at_ms

    def work(connection: sa.Connection) -> Used:
        found = connection.execute(sa.select(tables.orgs)).all()
        return read_used(connection, "fake", found, now_ms=now, read_ms=now, lag_ms=0)[org]

    return read(fleet.engine, work)


def stands(fleet: Fleet, org: str = "acme") -> Any:
    return fleet.rows("SELECT is_halted, halt_reason FROM orgs WHERE org_id = :org", org=org)[0]


def rounds_to_halt(fleet: Fleet, watcher: Watcher, most: int = 40) -> int:
    """Seconds until it is halted; rounds are five seconds apart."""
    for count in range(1, most + 1):
        if look(fleet, watcher=watcher).halted:
            return count * 5
    raise AssertionError("it was never halted")


@pytest.mark.parametrize("mb", [MAX_MEMORY_MB + 1, -1, 10**18])
def test_sandbox_with_invalid_memory_size_is_not_counted(fleet: Fleet, mb: int) -> None:
    """The smallest of them is the number of an event type, whose cost it would be estimated at."""
    fleet.write(
        "INSERT INTO mappings (start_ms, kind, memory_mb, feature, unit, at_ms, actor, reason) "
        "VALUES (0, 'exact', :meter, 'tokens', 'units', 1, 'a', 'b')",
        {"meter": MAX_MEMORY_MB + 1},
    )
    told(fleet, "tokens", 10**9)
    start(fleet, mb=mb)
    assert (used(fleet).unsampled, used(fleet).running) == (0, 0)


def test_org_is_halted_by_estimate_before_first_sample(fleet: Fleet) -> None:
    """It lasts for 15.6 s; no sample comes before a minute is over."""
    watcher = Watcher()
    look(fleet, watcher=watcher)
    start(fleet)
    assert 15 <= rounds_to_halt(fleet, watcher) <= 25
    assert stands(fleet) == (True, "estimate")


def test_sandbox_start_makes_watch_check_org_before_due(fleet: Fleet) -> None:
    watcher = Watcher()
    fleet.write("UPDATE orgs SET watch_due_ms = :later", {"later": fleet.clock.at_ms + MINUTE_MS})
    assert look(fleet, watcher=watcher).estimates == 0
    start(fleet, count=1)
    assert look(fleet, watcher=watcher).estimates == 1
    assert used(fleet).burn_a_minute == 60 * PRICE


def test_sandbox_start_wakes_watched_org_once(fleet: Fleet) -> None:
    watcher = Watcher()
    start(fleet, "globex", 3)
    assert look(fleet, watcher=watcher).estimates == 1
    assert [look(fleet, watcher=watcher).estimates for _ in range(4)] == [0] * 4
    start(fleet, "globex", 1)
    assert look(fleet, watcher=watcher).estimates == 1
    assert look(fleet, watcher=Watcher()).estimates == 1, "another watch knows of neither"


@pytest.mark.parametrize("off_ms", [-25 * SECOND_MS, 25 * SECOND_MS])
def test_sandbox_start_within_clock_skew_is_counted(fleet: Fleet, off_ms: int) -> None:
    watcher = Watcher()
    look(fleet, watcher=watcher)
    start(fleet, count=1, since_ms=fleet.clock.at_ms + off_ms)
    assert look(fleet, watcher=watcher).estimates == 1
    assert used(fleet).burn_a_minute == 60 * PRICE


def test_sandbox_start_beyond_clock_skew_is_ignored(fleet: Fleet) -> None:
    start(fleet, since_ms=fleet.clock.at_ms + MINUTE_MS)
    assert (look(fleet).estimates, used(fleet).burn_a_minute) == (0, 0)


def test_unsampled_usage_is_capped_and_expires(fleet: Fleet) -> None:
    start(fleet, "globex", 1)
    began = fleet.clock.at_ms

    def after(ms: int) -> tuple[int, int]:
        fleet.clock.at_ms = began + ms
        found = used(fleet, "globex")
        return found.unsampled // PRICE, found.burn_a_minute // PRICE

    assert after(30 * SECOND_MS) == (30, 60)
    assert after(UNSAMPLED_S * SECOND_MS + 20 * SECOND_MS) == (UNSAMPLED_S, 60)
    assert after(BEGUN_MS) == (0, 0), "silent for three intervals"


@pytest.mark.both_databases
def test_sample_replaces_unsampled_estimate(fleet: Fleet) -> None:
    start(fleet, "globex", 1)
    box = str(fleet.one("SELECT sandbox_id FROM sandboxes"))
    fleet.clock.at_ms += MINUTE_MS
    now = fleet.clock.at_ms
    fleet.sample("globex", now, interval_s=60, memory_mb=BIG, sandbox=box)
    fleet.clock.at_ms += 10 * SECOND_MS
    found = used(fleet, "globex")
    assert found.unsealed + found.unsampled == 70 * PRICE
    assert found.burn_a_minute == 60 * PRICE
    fleet.write("UPDATE sandboxes SET since_ms = :now", {"now": now + 9 * SECOND_MS})
    found = used(fleet, "globex")  # it was started again, and has told nothing since
    assert found.unsealed + found.unsampled == 61 * PRICE


def test_burn_rate_with_late_samples_counts_running_sandboxes(fleet: Fleet) -> None:
    """Two sandboxes run; the sample of one is a minute and a half old: the last minute alone would show one."""
    start(fleet, "globex", 2)
    boxes = [str(row[0]) for row in fleet.rows("SELECT sandbox_id FROM sandboxes ORDER BY sandbox_id")]
    began = fleet.clock.at_ms
    fleet.clock.at_ms = began + 60 * SECOND_MS
    fleet.sample("globex", fleet.clock.at_ms, interval_s=60, memory_mb=BIG, sandbox=boxes[0])
    fleet.clock.at_ms = began + 150 * SECOND_MS
    fleet.sample("globex", fleet.clock.at_ms, interval_s=60, memory_mb=BIG, sandbox=boxes[1])
    assert used(fleet, "globex").burn_a_minute == 2 * 60 * PRICE


def test_sandbox_without_size_or_start_has_zero_burn_rate(fleet: Fleet) -> None:
    start(fleet, mb=None)
    start(fleet, "globex", 1, since_ms=None)
    fleet.write("UPDATE sandboxes SET since_ms = NULL WHERE org_id = 'globex'")
    assert look(fleet).estimates == 0
    assert (used(fleet).burn_a_minute, used(fleet, "globex").burn_a_minute) == (0, 0)


def test_burn_rate_of_mb_seconds_feature_multiplies_by_memory(fleet: Fleet) -> None:
    fleet.write(
        "INSERT INTO mappings (kind, memory_mb, feature, unit, start_ms, at_ms, actor, reason) "
        "VALUES ('exact', 100, 'small', 'mb_s', 0, 1, 't', 't')"
    )
    told(fleet, "small", 3)
    start(fleet, "globex", 1, mb=100)
    assert used(fleet, "globex").burn_a_minute == 60 * 100 * 3


def test_sandbox_started_before_halt_is_not_counted_after_resume(fleet: Fleet, provider: Prepaid) -> None:
    watcher = Watcher()
    start(fleet)
    rounds_to_halt(fleet, watcher)
    provider.credit["acme"] += 100 * CREDIT
    assert look(fleet, watcher=watcher).resumed == 1
    assert used(fleet).unsampled == 0
    start(fleet, count=1)
    assert used(fleet).burn_a_minute == 60 * PRICE


def test_stopped_sandbox_has_zero_burn_rate(fleet: Fleet) -> None:
    start(fleet)
    fleet.write("UPDATE sandboxes SET state = 'stopped'")
    assert (look(fleet).estimates, used(fleet).burn_a_minute) == (0, 0)


def test_sandbox_start_does_not_wake_halted_org(fleet: Fleet) -> None:
    watcher = Watcher()
    start(fleet)
    rounds_to_halt(fleet, watcher)
    start(fleet, count=1)
    assert look(fleet, watcher=watcher).estimates == 0
