"""The interleavings that lose or double usage, on real PostgreSQL, one statement at a time (rules S1 and S2).

Each test first shows a plausible naive order going wrong (the control), then the same interleaving with the real seal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.schema.database import connect, read, write
from drawdown.schema.units import DAY_MS, WINDOW_MS, horizon
from drawdown.worker.engine.shard import Shard
from drawdown.worker.seal import seal as sealing
from drawdown.worker.seal.seal import SQL, Sealed, SealRequest, Statements, seal
from drawdown.worker.usage.prune import prune
from drawdown.worker.verify.verify import verify
from tests.world import T0, Fleet

LATE = (
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
    "VALUES (:id, 'acme', 'box', 'cell-1', 1024, :seconds, :ts, :ts)"
)


@pytest.fixture
def fleet(postgres: sa.Engine) -> Fleet:
    """One organisation, whose first window is sealed with 60 s."""
    made = Fleet(postgres)
    made.assign("acme")
    made.sample("acme", T0 + 1, 60)
    made.tick_windows(2)
    assert sealed(made) == 60
    return made


def sealed(fleet: Fleet) -> int:
    return int(str(fleet.one("SELECT COALESCE(SUM(sealed_qty), 0) FROM pushes WHERE state <> 'voided'")))


def seal_now(fleet: Fleet) -> Sealed:
    now = fleet.clock.at_ms
    return write(fleet.engine, lambda c: seal(c, SealRequest(Shard(), horizon(now), now)))


@contextmanager
def open_sample(engine: sa.Engine, name: str, seconds: int) -> Iterator[sa.Connection]:
    """A late sample in a transaction that is still open."""
    with engine.connect() as connection:
        connection.begin()
        connection.execute(sa.text(LATE), {"id": name, "seconds": seconds, "ts": T0 + 2})
        yield connection


def after_scan(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Have `action` happen right after the seal's scan of arrivals, and before its next statement."""
    run = Statements.run

    def stepped(self: Statements, name: str, *slots: str, **chosen: Any) -> object:
        answer = run(self, name, *slots, **chosen)
        if name == "scan":
            action()
        return answer

    monkeypatch.setattr(Statements, "run", stepped)


def naive_scan(connection: sa.Connection, cursor: int) -> list[str]:
    found = connection.execute(sa.text("SELECT id FROM usage_samples WHERE arrival >= :cursor"), {"cursor": cursor})
    return [str(name) for name in found.scalars()]


def naive_cursor(connection: sa.Connection, text: str) -> int:
    return int(connection.execute(sa.text(text)).scalar_one())


XMIN = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


def naive_lock(connection: sa.Connection) -> None:
    connection.execute(sa.text("SELECT id FROM buckets ORDER BY id FOR UPDATE")).all()


def test_control_cursor_read_after_scan_loses_sample(fleet: Fleet) -> None:
    with open_sample(fleet.engine, "late", 7) as inserter, fleet.engine.connect() as sealer:
        sealer.begin()
        naive_lock(sealer)
        assert "late" not in naive_scan(sealer, 0)
        inserter.commit()
        cursor = naive_cursor(sealer, XMIN)  # in another statement: it has moved past what the scan could not see
        sealer.commit()
    with fleet.engine.connect() as sealer:
        assert "late" in naive_scan(sealer, 0)  # it is there, and no scan from that cursor ever finds it
        assert "late" not in naive_scan(sealer, cursor)


def test_sample_committed_after_seal_scan_is_found_by_next_seal(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_sample(fleet.engine, "late", 7) as inserter:
        after_scan(monkeypatch, inserter.commit)
        assert seal_now(fleet).pushes == 0
    monkeypatch.undo()
    assert seal_now(fleet).pushes == 1
    assert sealed(fleet) == 67


def test_control_cursor_at_newest_arrival_loses_older_sample(fleet: Fleet) -> None:
    with open_sample(fleet.engine, "slow", 7) as slow:
        with open_sample(fleet.engine, "quick", 5) as quick:
            quick.commit()
        with fleet.engine.connect() as sealer:
            assert "quick" in naive_scan(sealer, 0)
            cursor = naive_cursor(sealer, "SELECT MAX(arrival) + 1 FROM usage_samples")
        slow.commit()
    with fleet.engine.connect() as sealer:
        assert "slow" in naive_scan(sealer, 0)
        assert naive_scan(sealer, cursor) == []


def test_sample_committed_after_newer_samples_is_found_by_next_seal(fleet: Fleet) -> None:
    with open_sample(fleet.engine, "slow", 7) as slow:
        with open_sample(fleet.engine, "quick", 5) as quick:
            quick.commit()
        assert seal_now(fleet).pushes == 1
        assert sealed(fleet) == 65
        assert seal_now(fleet).pushes == 0  # the same arrivals again: nothing is owed
        slow.commit()
    assert seal_now(fleet).pushes == 1
    assert sealed(fleet) == 72
    assert seal_now(fleet).pushes == 0


def test_late_sample_during_open_seal_is_found_by_next_seal(fleet: Fleet) -> None:
    """The sample's transaction begins and ends while a seal is open, after its scan."""
    with fleet.engine.connect() as sealer:
        sealer.begin()
        now = fleet.clock.at_ms
        assert seal(sealer, SealRequest(Shard(), horizon(now), now)).pushes == 0
        with open_sample(fleet.engine, "late", 7) as inserter:
            inserter.commit()
        sealer.commit()
    assert seal_now(fleet).pushes == 1
    assert sealed(fleet) == 67


NAIVE_TABLE = "CREATE TABLE naive (qty bigint)"
NAIVE_SEAL = """
{lock} INSERT INTO naive (qty)
SELECT used - sealed FROM (SELECT (SELECT SUM(interval_s) FROM usage_samples) AS used,
    (SELECT COALESCE(SUM(qty), 0) FROM naive) AS sealed) owed {locked} WHERE used <> sealed
"""
LOCK_INSIDE = NAIVE_SEAL.format(
    lock="WITH locked AS MATERIALIZED (SELECT id FROM buckets ORDER BY id FOR UPDATE)",
    locked="CROSS JOIN (SELECT COUNT(*) FROM locked) l",
)
LOCK_BEFORE = NAIVE_SEAL.format(lock="", locked="")


def two_at_once(engine: sa.Engine, isolation: str, work: Callable[[sa.Connection], object]) -> int:
    """Run `work` in two transactions, the second of which waits for the first's lock; returns what was sealed."""
    failed: list[BaseException] = []

    def second() -> None:
        try:
            with engine.connect().execution_options(isolation_level=isolation) as other, other.begin():
                work(other)
        except BaseException as error:
            failed.append(error)

    with engine.connect().execution_options(isolation_level=isolation) as first:
        with first.begin():
            work(first)
            thread = threading.Thread(target=second)
            thread.start()
            wait_until_blocked(engine)
        thread.join(300)
    assert not failed, failed
    with engine.connect() as connection:
        return int(connection.execute(sa.text("SELECT SUM(qty) FROM naive")).scalar_one())


def wait_until_blocked(engine: sa.Engine) -> None:
    """Until some backend of this database waits for a lock."""
    waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    for _ in range(500):
        with engine.connect() as connection:
            if connection.execute(sa.text(waiting)).scalar_one():
                return
        time.sleep(0.01)
    raise AssertionError("the second transaction never waited: the test would prove nothing")


@pytest.mark.parametrize(
    ("isolation", "lock_first", "total"),
    [
        ("READ COMMITTED", False, 120),  # control: the waiting statement's snapshot is from before the lock
        ("REPEATABLE READ", True, 120),  # control: so is the whole transaction's
        ("READ COMMITTED", True, 60),
    ],
)
def test_lock_before_reading_statement_prevents_double_seal(
    fleet: Fleet, isolation: str, lock_first: bool, total: int
) -> None:
    fleet.write(NAIVE_TABLE)

    def naive(connection: sa.Connection) -> None:
        if lock_first:
            naive_lock(connection)
        connection.execute(sa.text(LOCK_BEFORE if lock_first else LOCK_INSIDE))

    assert two_at_once(fleet.engine, isolation, naive) == total


def test_two_concurrent_seals_bill_once(fleet: Fleet) -> None:
    """The second waits for the first's lock, and then finds that nothing is owed any more."""
    fleet.sample("acme", T0 + 3, 7)
    fleet.sample("acme", fleet.clock.at_ms, 5)
    fleet.clock.at_ms += 2 * WINDOW_MS
    second: list[Sealed] = []
    with fleet.engine.connect() as connection:
        with connection.begin():
            now = fleet.clock.at_ms
            first = seal(connection, SealRequest(Shard(), horizon(now), now))
            thread = threading.Thread(target=lambda: second.append(seal_now(fleet)))
            thread.start()
            wait_until_blocked(fleet.engine)
        thread.join(300)
    assert first.pushes == 2
    assert [one.pushes for one in second] == [0]
    assert sealed(fleet) == 72


def test_two_seals_of_overlapping_shards_bill_once(fleet: Fleet) -> None:
    """Locks are taken in one order, so the two wait for each other in a line and never crosswise."""
    fleet.sample("acme", T0 + 3, 7)
    now = fleet.clock.at_ms
    done: list[int] = []

    def narrow() -> None:
        request = SealRequest(Shard(0, 200), horizon(now), now)
        done.append(write(fleet.engine, lambda c: sealing.seal(c, request)).pushes)

    with fleet.engine.connect() as connection:
        with connection.begin():
            done.append(seal(connection, SealRequest(Shard(), horizon(now), now)).pushes)
            thread = threading.Thread(target=narrow)
            thread.start()
            wait_until_blocked(fleet.engine)
        thread.join(300)
    assert sum(done) == 1
    assert sealed(fleet) == 67


@contextmanager
def held_elsewhere(engine: sa.Engine) -> Iterator[None]:
    """A transaction with a number stays open in another database of the same server."""
    other = connect(engine.url.set(database="postgres").render_as_string(hide_password=False))
    with other.connect() as holder, holder.begin() as transaction:
        holder.execute(sa.text("SELECT pg_current_xact_id()"))
        yield
        transaction.rollback()
    other.dispose()


def made_dirty(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many windows each seal from now on computes again."""
    run, counts = Statements.run, list[int]()

    def counted(self: Statements, name: str, *slots: str, **chosen: Any) -> object:
        if name == "forget_dirty":
            counts.append(int(self.connection.execute(sa.text("SELECT COUNT(*) FROM dirty_windows")).scalar_one()))
        return run(self, name, *slots, **chosen)

    monkeypatch.setattr(Statements, "run", counted)
    return counts


def test_open_transaction_in_other_database_does_not_repeat_seal(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    again = made_dirty(monkeypatch)
    with held_elsewhere(fleet.engine):
        for _ in range(4):
            fleet.sample("acme", fleet.clock.at_ms, 30)
            fleet.tick_windows(2)
    assert again == [0, 0, 0, 0]
    assert sealed(fleet) == 60 + 4 * 30


def test_sample_of_long_transaction_is_billed_after_commit(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number lies before the cursor by then. Nothing else is sealed again for its sake, and the proof knows it."""
    again = made_dirty(monkeypatch)
    with open_sample(fleet.engine, "slow", 7) as slow:
        for _ in range(3):
            fleet.sample("acme", fleet.clock.at_ms, 30)
            fleet.tick_windows(2)
        slow.commit()
    arrival = int(str(fleet.one("SELECT arrival FROM usage_samples WHERE id = 'slow'")))
    assert arrival < int(str(fleet.one("SELECT MIN(cursor) FROM buckets")))
    waiting = read(fleet.engine, verify)
    assert (waiting.breaches, waiting.open["samples_after_cursor"]) == ([], 1)
    fleet.tick_windows(1)
    assert again == [0, 0, 0, 1]
    assert sealed(fleet) == 60 + 3 * 30 + 7
    settled = read(fleet.engine, verify)
    assert (settled.breaches, settled.open["samples_after_cursor"]) == ([], 0)


def test_uncommitted_sample_is_not_pruned_before_seal(fleet: Fleet) -> None:
    with open_sample(fleet.engine, "slow", 7) as slow:
        fleet.tick(T0 + 40 * DAY_MS, accept_clock=True)
        slow.commit()
    done = prune(partial(write, fleet.engine), T0 + DAY_MS, fleet.by)
    assert (done.samples, done.held_back) == (0, 1)
    fleet.tick_windows(1)
    assert sealed(fleet) == 67


def test_seal_cursor_stays_below_reusable_transaction_ids(fleet: Fleet) -> None:
    """One that wrote nothing, and ended while a seal was open, is forgotten with the server's memory."""
    with fleet.engine.connect() as sealer:
        sealer.begin()
        SQL.run(sealer, "lock_shard", {"lo": 0, "hi": 255}).all()
        with fleet.engine.connect() as other:
            burnt = int(
                other.execute(sa.text("SELECT pg_current_xact_id()::text::bigint".replace("::", "\\:\\:"))).scalar_one()
            )
        now = fleet.clock.at_ms
        seal(sealer, SealRequest(Shard(), horizon(now), now))
        cursor = int(sealer.execute(sa.text("SELECT MIN(cursor) FROM buckets")).scalar_one())
        sealer.commit()
    assert cursor < burnt
