"""Whatever a seal reads changes under its lock (rule S1): on real PostgreSQL, between two of its
statements."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.schema import database, locks
from drawdown.schema.database import LOCK_TIMEOUT_S, connect, read, write
from drawdown.schema.migrate import bucket_of
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.catalog.terms import take_new_terms
from drawdown.worker.engine import runner
from drawdown.worker.halts import dispatch
from drawdown.worker.orgs import flips
from drawdown.worker.orgs.actions import halt
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.orgs.flips import Flip, FlipOptions, Wish
from drawdown.worker.push import wallet_mirror
from drawdown.worker.seal.seal import Statements
from drawdown.worker.seal.stops import resume_org, stop_org
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets.actions import grant, set_rate
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.locked import writers
from tests.world import T0, Fleet, total

WRITERS = {
    # Who takes the lock of all buckets, or of the one organisation's.
    "schema.words.insert_dirty_windows": {"dirty_windows"},
    "batches.take.withdraw": {"withdrawals"},
    "orgs.assignments.delete_assignment": {"assignments"},
    "orgs.assignments.go_on": {"assignments"},
    "features.actions.insert_mapping": {"mappings"},
    "usage.queries.forget_nothing": {"pending_usage"},
    "usage.queries.move_floors": {"orgs"},
    "seal.queries.resume_org": {"orgs"},
    "seal.queries.stop_org": {"orgs"},
    # Called by those, or by another that does: assign, flip, withdraw, void, retry, accept, take_new_terms,
    # look up, reconcile.
    "push.adopt._insert": {"pushes"},
    "push.adopt._insert_absent": {"pushes", "voids"},
    "orgs.assignments.fill_customer": {"assignments"},
    "orgs.assignments.end_the_one_before": {"assignments"},
    "orgs.assignments.insert_assignment": {"assignments"},
    "push.queries.add_to_carries": {"carries"},
    "usage.queries.insert_withdrawal": {"withdrawals"},
    "push.queries.void": {"voids"},
    "orgs.actions.register": {"pending_usage"},
    "catalog.queries.keep_terms": {"provider_states"},
    "ledger.pools.make": {"pools"},
    # The seal.
    "seal.queries.assign": {"assignments"},
    "seal.queries.carry": {"carries"},
    "seal.queries.catch_up": {"orgs"},
    "seal.queries.forget_dirty": {"dirty_windows"},
    "seal.queries.forget_pending": {"pending_usage"},
    "seal.queries.laggards_are_dirty": {"dirty_windows"},
    "seal.queries.late_is_dirty": {"dirty_windows"},
    "seal.queries.pend": {"pending_usage"},
    "seal.queries.seal": {"pushes"},
    "seal.queries.stopped_is_dirty": {"dirty_windows"},
}


def test_writers_of_seal_inputs_match_known_list() -> None:
    """A new one belongs under the lock, into this list, and into the test below."""
    assert writers() == WRITERS


@contextmanager
def meanwhile(
    monkeypatch: pytest.MonkeyPatch, engine: sa.Engine, after: str, work: Callable[[sa.Connection], object]
) -> Iterator[None]:
    """Have `work` begin, in a transaction of its own, right after a statement of the next seal. It is over before the
    seal's next statement, unless it waits for the seal's lock."""
    run, threads, failed = Statements.run, list[threading.Thread](), list[BaseException]()

    def other() -> None:
        try:
            write(engine, work)
        except BaseException as error:
            failed.append(error)

    def stepped(self: Statements, name: str, *slots: str, **chosen: Any) -> object:
        answer = run(self, name, *slots, **chosen)
        if name == after and not threads:
            threads.append(threading.Thread(target=other))
            threads[0].start()
            over_or_blocked(engine, threads[0])
        return answer

    monkeypatch.setattr(Statements, "run", stepped)
    yield
    monkeypatch.undo()
    threads[0].join(300)
    assert not failed, failed


def over_or_blocked(engine: sa.Engine, thread: threading.Thread) -> None:
    for _ in range(500):
        if not thread.is_alive():
            return
        if is_blocked(engine):
            return
        time.sleep(0.01)
    raise AssertionError("it is neither over nor waiting")


def is_blocked(engine: sa.Engine) -> bool:
    text = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with engine.connect() as connection:
        return bool(connection.execute(sa.text(text)).scalar_one())


def stopped_fleet(engine: sa.Engine) -> Fleet:
    """One organisation with 100 s sealed, then stopped."""
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=T0)
    fleet.sample("acme", T0 + 1000, 100)
    fleet.tick(T0 + 2 * WINDOW_MS)
    write(engine, lambda c: stop_org(c, org_id="acme", reason="x", now_ms=fleet.clock.at_ms, actor="t"))
    return fleet


def resume(fleet: Fleet) -> Callable[[sa.Connection], object]:
    return lambda c: resume_org(c, org_id="acme", reason="fixed", now_ms=fleet.clock.at_ms, actor="t")


def is_whole(fleet: Fleet, used: int) -> None:
    """Everything used is sealed by the next tick, and nothing was given back in between."""
    fleet.tick_windows(1)
    assert total(fleet.pushes()) == used
    assert all(int(str(row[4])) > 0 for row in fleet.pushes())
    assert not read(fleet.engine, verify).breaches


def test_org_resume_during_seal_keeps_sealed_usage(postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = stopped_fleet(postgres)
    fleet.sample("acme", T0 + 2000, 7)
    fleet.tick_windows(1)
    with meanwhile(monkeypatch, postgres, "scan_dirty", resume(fleet)):
        fleet.tick_windows(1)
    is_whole(fleet, 107)


def test_org_resume_during_seal_seals_fresh_windows(postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = stopped_fleet(postgres)
    for number in range(12):
        fleet.sample("acme", T0 + (2 + number) * WINDOW_MS + 1000, 60)
    with meanwhile(monkeypatch, postgres, "scan", resume(fleet)):
        fleet.tick(T0 + 15 * WINDOW_MS)
    is_whole(fleet, 100 + 12 * 60)


def test_org_stop_during_seal_keeps_sealed_usage(postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(postgres)
    fleet.assign("acme", from_ms=T0)
    fleet.sample("acme", T0 + 1000, 100)

    def stop(c: sa.Connection) -> object:
        return stop_org(c, org_id="acme", reason="x", now_ms=T0, actor="t")

    with meanwhile(monkeypatch, postgres, "scan", stop):
        fleet.tick(T0 + 2 * WINDOW_MS)
    write(postgres, resume(fleet))
    is_whole(fleet, 100)


def test_provider_added_during_seal_has_usage_sealed(postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers: one seals, and the other is the first to know the provider."""
    fleet = Fleet(postgres)
    fleet.assign("acme", provider="fake", from_ms=T0)
    fleet.sample("acme", T0 + 1000, 100)
    fleet.tick(T0 + 2 * WINDOW_MS)
    assert fleet.one("SELECT reason FROM pending_usage") == "no_provider"
    fake = FakeProvider(capabilities())
    with meanwhile(monkeypatch, postgres, "scan_dirty", lambda c: take_new_terms(c, {"fake": fake.capabilities})):
        fleet.tick_windows(1)
    fleet.extra = {"fake": fake}
    is_whole(fleet, 100)


def test_change_without_seal_lock_is_detected(postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As each test's PostgreSQL is watched."""
    fleet = stopped_fleet(postgres)
    monkeypatch.setattr(locks, "lock_orgs", lambda *_: None)
    with pytest.raises(AssertionError, match="without the lock"):
        write(postgres, resume(fleet))


def test_lock_of_many_orgs_uses_two_statements(postgres: sa.Engine) -> None:
    fleet, seen = Fleet(postgres), list[str]()
    fleet.write("INSERT INTO orgs (org_id, bucket) VALUES ('one', 7), ('two', NULL)")
    with postgres.begin() as connection, postgres.begin() as other:
        sa.event.listen(connection, "before_cursor_execute", lambda *given: seen.append(given[2]))
        locks.lock_orgs(connection, ["one", "two", "unknown", "two"])
        free = other.exec_driver_sql("SELECT id FROM buckets FOR UPDATE SKIP LOCKED").scalars()
        assert set(range(256)) - set(free) == {7, bucket_of("two"), bucket_of("unknown")}
    assert len(seen) == 2 and "ORDER BY id FOR UPDATE" in " ".join(seen[1].split())


@pytest.mark.parametrize("act", ["halt", "assign", "flip"])
def test_action_on_many_orgs_locks_them_in_order_of_ids(postgres: sa.Engine, act: str) -> None:
    """Another program holds the first, which is stored last and named last. The second is not locked meanwhile."""
    fleet = Fleet(postgres)
    fleet.write("INSERT INTO orgs (org_id, bucket, registered) VALUES ('b', 1, true), ('a', 2, true)")
    planned, options = [Flip("b", "b"), Flip("a", "a")], FlipOptions("embedded")
    wishes = [Wish("b"), Wish("a")]
    acts: dict[str, Callable[[sa.Connection], object]] = {
        "halt": lambda c: halt(c, ["b", "a"], fleet.by),
        "assign": lambda c: assign(c, ["b", "a"], "embedded", fleet.by),
        "flip": lambda c: flips._assign(
            c, in_ledger=(), wishes=wishes, planned=planned, options=options, by=fleet.by, shown={}
        ),
    }
    thread = threading.Thread(target=lambda: write(postgres, acts[act]))
    with postgres.begin() as other:
        other.exec_driver_sql("SELECT 1 FROM orgs WHERE org_id = 'a' FOR UPDATE").all()
        thread.start()
        over_or_blocked(postgres, thread)
        free = other.exec_driver_sql("SELECT org_id FROM orgs FOR UPDATE SKIP LOCKED").scalars().all()
    thread.join(300)
    assert sorted(free) == ["a", "b"]


@pytest.fixture
def wakeful(postgres: sa.Engine) -> Fleet:
    """One organisation with a cell, and one sandbox there that does not run."""
    fleet = Fleet(postgres)
    fleet.assign("acme", from_ms=T0)
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    fleet.write(
        "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('box', 'acme', 'cell-1', 'stopped')"
    )
    return fleet


@contextmanager
def waking(fleet: Fleet) -> Iterator[None]:
    """A host starts the sandbox, in a transaction that ends with the block."""
    with fleet.engine.connect() as host, host.begin():
        host.execute(sa.text("UPDATE sandboxes SET state = 'running'"))
        yield


def told(fleet: Fleet) -> list[str]:
    """The cells that a dispatch tells, without anything projected before."""
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    runner.run(dispatch.dispatch(fleet.context()), world)
    return [one.cell_id for one in fleet.cells.received]


def test_cell_of_sandbox_started_during_halt_receives_halt(wakeful: Fleet) -> None:
    with waking(wakeful):
        write(wakeful.engine, lambda c: halt(c, ["acme"], wakeful.by))
    assert wakeful.rows("SELECT * FROM halts") == []
    assert told(wakeful) == ["cell-1"]


def test_cell_of_sandbox_started_during_halt_cleanup_receives_halt(wakeful: Fleet) -> None:
    wakeful.write("UPDATE sandboxes SET state = 'hibernated'")
    write(wakeful.engine, lambda c: halt(c, ["acme"], wakeful.by))
    wakeful.write("UPDATE sandboxes SET state = 'stopped'")
    with waking(wakeful):
        long_since = {"empty_since_ms": T0 + DAY_MS}
        write(wakeful.engine, lambda c: dispatch.SQL.run(c, "forget_obsolete", long_since))
    assert wakeful.rows("SELECT * FROM halts") == []
    assert told(wakeful) == ["cell-1"]


def test_uncommitted_sandbox_start_does_not_delay_halt_of_second_cell(wakeful: Fleet) -> None:
    """It has started a sandbox of an organisation that is halted, beside one that runs: the trigger's halt of its cell
    is not committed, and no other may be made of it."""
    wakeful.write("INSERT INTO cells (cell_id, url) VALUES ('cell-2', 'http://127.0.0.1:2')")
    wakeful.write("UPDATE sandboxes SET state = 'running'")
    wakeful.write(
        "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('two', 'acme', 'cell-2', 'running')"
    )
    write(wakeful.engine, lambda c: halt(c, ["acme"], wakeful.by))
    wakeful.write("DELETE FROM halts")  # as where neither transaction saw the other
    began = time.monotonic()
    with wakeful.engine.connect() as host, host.begin():
        host.execute(
            sa.text(
                "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) "
                "VALUES ('late', 'acme', 'cell-1', 'running')"
            )
        )
        assert told(wakeful) == ["cell-2"]
        assert time.monotonic() - began < LOCK_TIMEOUT_S / 2
    assert told(wakeful) == ["cell-2", "cell-1"]


@pytest.mark.parametrize(
    "held",
    ["SELECT id FROM buckets FOR UPDATE", "LOCK TABLE dirty_windows IN SHARE MODE"],
    ids=["its rows", "a table it writes"],
)
def test_seal_lock_timeout_does_not_stop_halts(wakeful: Fleet, held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wakeful.tick_windows(1)  # which meets the providers
    short = [*database.PG_SETTINGS, "lock_timeout=300ms"]
    monkeypatch.setattr(database, "PG_SETTINGS", short)
    engine = connect(wakeful.engine.url.render_as_string(hide_password=False))
    wakeful.write("UPDATE sandboxes SET state = 'running'")
    write(wakeful.engine, lambda c: halt(c, ["acme"], wakeful.by))
    wakeful.engine = engine
    with engine.connect() as other, other.begin():
        other.execute(sa.text(held))
        report = wakeful.tick_windows(1)
    assert wakeful.cells.received and report.exit_status == 75
    assert any("another program locks these rows" in one for one in report.failures)
    assert wakeful.tick_windows(1).failures == []
    engine.dispose()


def test_mirrored_draw_waits_for_rate_for_past(postgres: sa.Engine) -> None:
    """Else two revisions of one window could be drawn at two rates (S11)."""
    fleet = Fleet(postgres)
    fleet.assign("acme")
    fleet.tick(T0 + MINUTE_MS)
    write(postgres, lambda c: grant(c, "acme", 10, fleet.by, key="first", plan=None))
    use = wallet_mirror.usage_of(SimpleNamespace(
        key="k", org_id="acme", provider="fake", customer_id="acme", feature="compute_1gb", sent_qty=1, window_ms=T0
    ))  # fmt: skip
    with postgres.begin() as person:
        set_rate(person, "compute_1gb", 7, 1, fleet.by, from_ms=T0)
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"), postgres.begin() as tick:
            tick.execute(sa.text("SET LOCAL lock_timeout = '100ms'"))
            wallet_mirror.draw(tick, [use], T0)
    with postgres.begin() as tick:
        wallet_mirror.draw(tick, [use], T0)
    assert fleet.rows("SELECT amount_micro FROM ledger_entries WHERE key = 'mirror:k'") == [(7,)]
