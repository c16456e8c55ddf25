"""Clocks, restores, sweeps, stops, projections and new organisations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import CustomerState, ReadFailed
from drawdown.schema.database import read, write
from drawdown.schema.errors import ClockDoubted, Refused, UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker import tick
from drawdown.worker.engine.shard import NewOrgs, Shard
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs import assignments
from drawdown.worker.provider.actions import set_when_down
from drawdown.worker.provider.lists import provider_lines
from drawdown.worker.seal import stops
from drawdown.worker.verdict.rules import UNREAD_STOP_MS
from drawdown.worker.wallets import actions as credit
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(capabilities())


@pytest.fixture
def fleet(engine: sa.Engine, provider: FakeProvider) -> Fleet:
    made = Fleet(engine, extra={"fake": provider})
    made.assign("acme", provider="fake")
    return made


def test_clock_jump_beyond_limit_is_refused(engine: sa.Engine) -> None:
    if engine.dialect.name == "postgresql":
        pytest.skip("there the server's clock is asked first")
    fleet = Fleet(engine)
    fleet.clock.trusted = False
    fleet.tick()
    for jump in (DAY_MS + 1, -DAY_MS - 1):
        with pytest.raises(ClockDoubted, match="--accept-clock"):
            fleet.tick(T0 + jump)
    assert fleet.tick(T0 + DAY_MS).exit_status == 0
    assert fleet.tick(T0 + 5 * DAY_MS, accept_clock=True).exit_status == 0


def test_clock_different_from_database_server_is_refused(postgres: sa.Engine) -> None:
    fleet = Fleet(postgres)
    fleet.clock.trusted = False
    with pytest.raises(ClockDoubted, match="differ"):
        fleet.tick()


def test_clock_set_back_bills_all_samples(fleet: Fleet, provider: FakeProvider) -> None:
    fleet.sample("acme", T0 + 1)
    fleet.tick(T0 + 6 * WINDOW_MS)
    fleet.sample("acme", T0 + 3 * WINDOW_MS)  # late for the watermark, early for the clock
    assert fleet.tick(T0 + 2 * WINDOW_MS).left.dirty_windows == 1
    fleet.sample("acme", T0 + 2)
    fleet.tick(T0 + 7 * WINDOW_MS)
    assert sum(push.quantity for push in provider.charged.values()) == 180


def test_cursor_beyond_newest_arrival_is_reset_and_samples_billed(fleet: Fleet, provider: FakeProvider) -> None:
    fleet.sample("acme", T0 + 1)
    fleet.tick_windows(2)
    fleet.write("UPDATE buckets SET cursor = 900000000000")  # what another server's counter had reached
    fleet.sample("acme", T0 + 2)
    assert fleet.tick_windows(1).sealed == 1
    assert sum(push.quantity for push in provider.charged.values()) == 120
    assert fleet.rows("SELECT action FROM operator_actions WHERE action = 'cursor_restart'") != []


def test_sweep_bills_sample_missed_by_cursor(fleet: Fleet, provider: FakeProvider) -> None:
    fleet.tick_windows(3)
    fleet.sample("acme", T0 + 1)
    newest = "(SELECT MAX(arrival) + 1 FROM usage_samples)"
    fleet.write(f"UPDATE buckets SET cursor = {newest}")  # as if a bug had passed it over
    fleet.clock.at_ms = T0 + DAY_MS + WINDOW_MS
    found = 0
    for _ in range(40):
        fleet.clock.at_ms += 1000
        found += fleet.tick().swept
    assert found == 1
    assert len(provider.charged) == 1


def test_stopped_org_usage_is_billed_after_resume(fleet: Fleet, provider: FakeProvider) -> None:
    fleet.tick_windows(3)
    now = fleet.clock.at_ms
    write(fleet.engine, lambda c: stops.stop_org(c, org_id="acme", reason="a breach", now_ms=now, actor="test"))
    fleet.sample("acme", T0 + 1, 1)
    fleet.sample("acme", fleet.clock.at_ms, 2)
    report = fleet.tick_windows(2)
    assert (report.sealed, report.left.stopped_orgs, report.exit_status) == (0, 1, 1)
    fleet.tick_windows(3)
    write(fleet.engine, lambda c: stops.resume_org(c, org_id="acme", reason="fixed", now_ms=now, actor="test"))
    assert fleet.tick_windows(1).sealed == 2
    assert sum(push.quantity for push in provider.charged.values()) == 3
    assert fleet.one("SELECT held_watermark_ms FROM orgs WHERE org_id = 'acme'") is None
    with pytest.raises(Refused, match="not stopped"):
        write(fleet.engine, lambda c: stops.resume_org(c, org_id="acme", reason="again", now_ms=now, actor="test"))


def test_new_org_is_assigned_without_earlier_usage(fleet: Fleet) -> None:
    fleet.tick_windows(2)
    fleet.sample("new", T0 + 1)  # before it was known: not billed, and not forgotten
    fleet.sample("new", fleet.clock.at_ms, 7)
    report = fleet.tick(fleet.clock.at_ms + 2 * WINDOW_MS, new_orgs=NewOrgs("fake"))
    assert report.left.pending_s == {"no_assignment": 60}
    assert [(row[0], row[4]) for row in fleet.pushes()] == [("new", 7)]
    assert fleet.one("SELECT billing_provider FROM orgs WHERE org_id = 'new'") == "fake"


def test_first_tick_does_not_bill_history_unless_requested(fleet: Fleet) -> None:
    fleet.sample("old", T0 - DAY_MS)
    assert fleet.tick_windows(2).left.pending_s == {"unknown_org": 60}
    fleet.tick(fleet.clock.at_ms + WINDOW_MS, new_orgs=NewOrgs("fake", T0 - 2 * DAY_MS))
    assert fleet.tick_windows(1).left.pending_s == {}
    assert [row[0] for row in fleet.pushes()] == ["old"]


def test_assignment_of_sealed_window_or_taken_customer_is_refused(fleet: Fleet) -> None:
    fleet.sample("acme", T0 + 1)
    fleet.tick_windows(3)
    with pytest.raises(Refused, match="sealed"):
        fleet.assign("acme", from_ms=T0 + WINDOW_MS)
    with pytest.raises(Refused, match="already has an assignment that starts at 20"):
        fleet.assign("acme", from_ms=T0)
    with pytest.raises(Refused, match="belongs to"):
        write(
            fleet.engine,
            lambda c: assignments.assign(c, ["globex"], "fake", fleet.by, customer_id="acme", from_ms=None),
        )
    with pytest.raises(UsageError, match="boundary"):
        fleet.assign("globex", from_ms=T0 + 1)


def test_assignment_change_bills_each_window_at_single_provider(fleet: Fleet, provider: FakeProvider) -> None:
    flip = T0 + 2 * WINDOW_MS
    fleet.assign("acme", provider="embedded", from_ms=flip)
    assert fleet.one("SELECT billing_provider FROM orgs WHERE org_id = 'acme'") == "fake"
    for window in range(4):
        fleet.sample("acme", T0 + window * WINDOW_MS)
    fleet.tick_windows(6)
    assert fleet.one("SELECT billing_provider FROM orgs WHERE org_id = 'acme'") == "embedded"
    fleet.sample("acme", T0 + 1)
    fleet.tick_windows(1)
    found = fleet.rows("SELECT window_ms, revision, provider FROM pushes ORDER BY 1, 2")
    assert [(int(str(w)) < flip, r, p) for w, r, p in found] == [
        (True, 0, "fake"),
        (True, 1, "fake"),
        (True, 0, "fake"),
        (False, 0, "embedded"),
        (False, 0, "embedded"),
    ]


@pytest.mark.parametrize("exempt", ["legacy", "none"])
def test_exempt_org_is_not_billed_and_not_pending(fleet: Fleet, exempt: str) -> None:
    fleet.assign("else", provider=exempt, from_ms=T0)
    fleet.sample("else", T0 + 1)
    report = fleet.tick_windows(2)
    assert (report.sealed, report.left.pending_s, report.exit_status) == (0, {}, 0)


def test_unreadable_balance_does_not_halt_org(fleet: Fleet, provider: FakeProvider) -> None:
    provider.states["acme"] = ReadFailed("503")
    fleet.sample("acme", T0 + 1)
    report = fleet.tick_windows(2)
    assert (report.halted, report.exit_status) == (0, 75)
    provider.states["acme"] = CustomerState(0, "free", 2)
    assert fleet.tick(fleet.clock.at_ms + MINUTE_MS).halted == 1


def test_tick_without_watch_halts_unreadable_org_by_stop_policy(fleet: Fleet, provider: FakeProvider) -> None:
    write(fleet.engine, lambda c: set_when_down(c, "fake", "", "stop", fleet.by))
    provider.states["acme"] = ReadFailed("503")
    fleet.sample("acme", T0 + 1)
    first = fleet.tick_windows(2)
    last_ms = fleet.clock.at_ms + UNREAD_STOP_MS
    halted = [fleet.tick(at_ms).halted for at_ms in range(fleet.clock.at_ms + WINDOW_MS, last_ms + 1, WINDOW_MS)]
    assert (first.halted, halted) == (0, [0, 0, 1])
    assert fleet.one("SELECT halt_reason FROM orgs WHERE org_id = 'acme'") == "unreadable"
    provider.states["acme"] = CustomerState(10, None, 5)
    assert fleet.tick(last_ms + WINDOW_MS).resumed == 1


def test_halted_at_is_unchanged_while_verdict_is_unchanged(fleet: Fleet, provider: FakeProvider) -> None:
    provider.states["acme"] = CustomerState(-1, None, 5)
    moments = []
    for window in range(3):
        fleet.sample("acme", T0 + window * WINDOW_MS)
        fleet.tick(T0 + (window + 2) * WINDOW_MS)
        moments.append(fleet.one("SELECT halted_at FROM orgs WHERE org_id = 'acme'"))
    assert len(set(moments)) == 1
    provider.states["acme"] = CustomerState(10, None, 5)
    fleet.sample("acme", T0 + 3 * WINDOW_MS)
    assert fleet.tick(T0 + 5 * WINDOW_MS).resumed == 1
    assert fleet.rows("SELECT is_halted, halted_at, max_concurrent_sandboxes FROM orgs WHERE org_id = 'acme'") == [
        (False, None, 5)
    ]


@pytest.mark.both_databases
def test_operator_halt_and_override_apply_until_end(fleet: Fleet, provider: FakeProvider) -> None:
    provider.states["acme"] = CustomerState(-1, None, 5)
    until = T0 + 3 * WINDOW_MS
    write(
        fleet.engine,
        lambda c: orgs.override(c, "acme", fleet.by, max_concurrent=9, halted=False, until_ms=until),
    )
    fleet.tick_windows(1)
    state = "SELECT is_halted, max_concurrent_sandboxes, halt_reason FROM orgs WHERE org_id = 'acme'"
    assert fleet.rows(state) == [(False, 9, None)]
    fleet.tick(until)
    assert fleet.rows(state) == [(True, 5, "credits_exhausted")]
    provider.states["acme"] = CustomerState(100, None, 5)
    write(fleet.engine, lambda c: orgs.halt(c, ["acme"], replace(fleet.by, now_ms=fleet.clock.at_ms)))
    fleet.tick_windows(1)
    assert fleet.rows(state) == [(True, 5, "operator")]
    write(fleet.engine, lambda c: orgs.halt(c, ["acme"], fleet.by, undo=True))
    fleet.tick_windows(1)
    assert fleet.rows(state) == [(False, 5, None)]


def test_halted_org_with_granted_credit_is_resumed_at_next_tick(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    fleet.assign("acme")
    fleet.sample("acme", T0 + 1)
    assert fleet.tick_windows(2).halted == 1
    write(engine, lambda c: credit.grant(c, "acme", 10**9, fleet.by, key="paid", plan="free"))
    assert fleet.tick_windows(1).resumed == 1
    assert fleet.one("SELECT max_concurrent_sandboxes FROM orgs WHERE org_id = 'acme'") == 2


def test_ticks_of_two_shards_bill_all_orgs(fleet: Fleet, provider: FakeProvider) -> None:
    names = [f"org-{n}" for n in range(40)]
    fleet.assign(*names, provider="fake", from_ms=T0)
    for name in names:
        fleet.sample(name, T0 + 1)
    fleet.clock.at_ms = T0 + 2 * WINDOW_MS
    halves = [fleet.tick(shard=Shard(0, 127)).sealed, fleet.tick(shard=Shard(128, 255)).sealed]
    assert sum(halves) == 40
    assert min(halves) > 0
    assert len(provider.charged) == 40


def test_failing_provider_does_not_delay_second_provider(engine: sa.Engine, provider: FakeProvider) -> None:
    provider.fails = RuntimeError("a broken plug-in")
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.assign("globex")
    fleet.sample("acme", T0 + 1)
    fleet.sample("globex", T0 + 1)
    fleet.tick_windows(2)
    assert {row[0]: row[5] for row in fleet.pushes()} == {"acme": "due", "globex": "accepted"}


@pytest.mark.both_databases
def test_provider_with_sends_under_way_is_not_failing(fleet: Fleet) -> None:
    fleet.sample("acme", T0 + 1)
    fleet.tick_windows(2)
    same = "window_ms, org_id, feature, revision, started_ms, owner, sent_qty"
    twice = "attempts, (SELECT 1 AS n UNION SELECT 2) x"
    fleet.write(f"INSERT INTO attempts (attempt, {same}) SELECT attempt + n, {same} FROM {twice}")
    lines = read(fleet.engine, lambda c: provider_lines(c, fleet.clock.at_ms))
    (line,) = [one for one in lines if one.calls]
    assert (line.calls, line.failed, line.is_failing) == (1, 0, False)


@pytest.mark.both_databases
def test_provider_that_has_each_push_already_is_not_failing(fleet: Fleet) -> None:
    """After a restore, a provider answers each repeated send as a duplicate."""
    fleet.sample("acme", T0 + 1)
    fleet.tick_windows(2)
    same = "window_ms, org_id, feature, revision, started_ms, finished_ms, owner, sent_qty"
    twice = "attempts, (SELECT 1 AS n UNION SELECT 2) x"
    fleet.write(f"INSERT INTO attempts (attempt, outcome, {same}) SELECT attempt + n, 'duplicate', {same} FROM {twice}")
    lines = read(fleet.engine, lambda c: provider_lines(c, fleet.clock.at_ms))
    (line,) = [one for one in lines if one.calls]
    assert (line.calls, line.failed, line.is_failing) == (3, 0, False)


def test_customer_released_in_future_is_refused_until_then(fleet: Fleet) -> None:
    later = T0 + 10 * WINDOW_MS

    def take(org: str, customer: str, start: int) -> None:
        write(
            fleet.engine,
            lambda c: assignments.assign(c, [org], "fake", fleet.by, customer_id=customer, from_ms=start),
        )

    take("acme", "another", later)
    with pytest.raises(Refused, match="belongs to"):
        take("idle", "acme", T0)
    take("idle", "acme", later)


def test_outdated_halt_is_not_sent_after_payment(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    fleet.assign("acme")
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    fleet.write("INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('b', 'acme', 'cell-1', 'running')")
    fleet.sample("acme", T0 + 1)
    fleet.cells.failing = {"cell-1"}
    assert fleet.tick_windows(2).halts_failed == 1
    write(engine, lambda c: credit.grant(c, "acme", 10**9, fleet.by, key="paid", plan=None))
    fleet.cells.failing.clear()
    report = fleet.tick_windows(1)
    assert (report.resumed, report.halts_acknowledged, len(fleet.cells.received)) == (1, 0, 1)


@pytest.mark.parametrize("asked", [True, False])
def test_new_provider_is_read_when_assignment_begins(
    fleet: Fleet, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """A halted organisation uses nothing, so nothing else would ever ask; without the asking it stays halted."""
    provider.states["acme"] = CustomerState(-1, None, None)
    fleet.tick_windows(1)
    assert fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'")
    write(fleet.engine, lambda c: credit.grant(c, "acme", 10**9, fleet.by, key="paid", plan=None))
    fleet.assign("acme", provider="embedded", from_ms=T0 + 4 * WINDOW_MS)
    fleet.tick_windows(1)
    assert fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'")
    if not asked:
        monkeypatch.setattr(tick, "_bring_providers_up_to_date", lambda connection, since, now: None)
    assert fleet.tick_windows(3).resumed == int(asked)


def test_assignment_takes_effect_after_tick_with_clock_days_ahead(fleet: Fleet) -> None:
    """By that tick's word all that began before it had taken effect, and this one had not been made."""
    fleet.sample("globex", T0 + 1)
    fleet.tick(T0 + 3 * DAY_MS)
    fleet.clock.at_ms = T0 + WINDOW_MS
    fleet.assign("globex", provider="embedded", from_ms=T0 + 2 * WINDOW_MS)
    assert fleet.one("SELECT billing_provider FROM orgs WHERE org_id = 'globex'") is None
    fleet.tick(T0 + 4 * DAY_MS + WINDOW_MS)
    assert fleet.one("SELECT billing_provider FROM orgs WHERE org_id = 'globex'") == "embedded"
