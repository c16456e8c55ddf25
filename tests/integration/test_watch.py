"""The watch: halts between ticks, resumptions, providers that are down, and figures that were wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import Cost, CustomerState
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.tables import orgs as tables
from drawdown.schema.units import MINUTE_MS, SECOND_MS, WINDOW_MS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs import assignments
from drawdown.worker.orgs.lists import OrgFilter, list_orgs
from drawdown.worker.provider.actions import set_rate, set_when_down
from drawdown.worker.seal.seal import SealRequest, seal
from drawdown.worker.verdict.effective_balance import Used, read_used
from drawdown.worker.verdict.rules import UNREAD_STOP_MS
from drawdown.worker.verify.verify import verify
from drawdown.worker.watch import Watcher
from tests.fake_provider import FakeProvider, capabilities
from tests.prepaid import CREDIT, Moving, Prepaid, look, price
from tests.world import T0, Fleet


@pytest.fixture
def provider() -> Prepaid:
    return Prepaid(capabilities(in_flight=4, reads_a_call=10), credit={"acme": 100 * CREDIT})


@pytest.fixture
def fleet(engine: sa.Engine, provider: Prepaid) -> Fleet:
    """An organisation with credit for 100 seconds, read once, and a sandbox on a cell."""
    made = Fleet(engine, Moving(T0), extra={"fake": provider})
    made.assign("acme", provider="fake", from_ms=T0)
    made.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    made.write("INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('b', 'acme', 'cell-1', 'running')")
    price(made)
    made.tick(T0 + SECOND_MS)
    return made


def stands(fleet: Fleet, org: str = "acme") -> Any:
    return fleet.rows("SELECT is_halted, halt_reason FROM orgs WHERE org_id = :org", org=org)[0]


def history(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows("SELECT is_halted, reason FROM projections WHERE org_id = 'acme' ORDER BY projection_id")[1:]


def use(fleet: Fleet, seconds: int = 60) -> None:
    fleet.sample("acme", fleet.clock.at_ms, interval_s=seconds)


@dataclass
class Silent(FakeProvider):
    """It does not say what units cost before another provider was asked for its customers."""

    other: Prepaid | None = None
    waited: bool | None = None

    async def costs(self, known: Sequence[Cost]) -> Sequence[Cost]:
        for _ in range(200):
            if self.other is None or self.other.asked:
                self.waited = False
                return [Cost("compute_1gb", "credits", Decimal(1))]
            await asyncio.sleep(0.01)
        self.waited = True
        return []


def test_watch_with_provider_slow_to_report_costs_halts_at_other(fleet: Fleet, provider: Prepaid) -> None:
    silent = Silent(capabilities(costs=True))
    fleet.extra = {"fake": provider, "silent": silent}
    use(fleet, 200)
    provider.asked.clear()
    silent.other = provider
    done = look(fleet)
    assert (silent.waited, done.halted, done.failures) == (False, 1, [])


def test_unsealed_usage_above_balance_halts_at_once_and_is_billed_once(fleet: Fleet, provider: Prepaid) -> None:
    use(fleet)
    assert look(fleet).halted == 0
    use(fleet)
    done = look(fleet, 10 * SECOND_MS)
    assert (done.halted, done.halts_acknowledged, stands(fleet)) == (1, 1, (True, "estimate"))
    figures = fleet.rows(
        "SELECT balance_micro, unaccepted_micro, unsealed_micro FROM projections ORDER BY projection_id DESC LIMIT 1"
    )
    assert figures == [(100 * CREDIT, 0, 120 * CREDIT)]
    assert provider.charged == {}  # the watch bills nothing
    fleet.tick(T0 + 8 * MINUTE_MS)
    assert [one.quantity for one in provider.charged.values()] == [120]
    assert stands(fleet) == (True, "credits_exhausted")
    assert read(fleet.engine, verify).breaches == []


def test_balance_of_provider_replaced_during_read_is_ignored(
    fleet: Fleet, provider: Prepaid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked before a flip, it answers after it."""

    async def slowly(names: Any) -> Any:
        write(fleet.engine, lambda c: assignments.assign(c, ["acme"], "none", fleet.by))
        fleet.clock.at_ms = T0 + WINDOW_MS
        return {name: CustomerState(-1, None, 3) for name in names}

    use(fleet, 99)
    use(fleet, 99)
    monkeypatch.setattr(provider, "customers", slowly)
    look(fleet)
    assert (stands(fleet), history(fleet)) == ((False, None), [])


def test_watch_reads_unreported_topup_before_estimate_halts(fleet: Fleet, provider: Prepaid) -> None:
    use(fleet, 60)
    use(fleet, 60)
    provider.credit["acme"] = 1000 * CREDIT
    assert look(fleet).halted == 0
    assert provider.asked[-1] == "acme"
    assert history(fleet) == []


def test_watch_resumes_org_after_unreported_payment(fleet: Fleet, provider: Prepaid) -> None:
    use(fleet, 60)
    use(fleet, 60)
    look(fleet)
    provider.credit["acme"] += 10 * CREDIT
    assert look(fleet).resumed == 0  # 10 more, and 20 were used beyond: it is not enough
    provider.credit["acme"] += 1000 * CREDIT
    assert (look(fleet).resumed, stands(fleet)) == (1, (False, None))
    assert history(fleet) == [(True, "estimate"), (False, None)]
    assert look(fleet).halted == 0


def test_credit_for_less_than_a_minute_resumes_org_only_later(fleet: Fleet, provider: Prepaid) -> None:
    use(fleet, 60)
    use(fleet, 60)
    look(fleet)
    provider.credit["acme"] = 125 * CREDIT  # 5 left, and 24 were burnt a minute
    assert look(fleet).resumed == 0
    fleet.tick(T0 + 5 * MINUTE_MS)
    assert look(fleet, 5 * MINUTE_MS).resumed == 0  # late samples may be on their way
    assert look(fleet, 6 * MINUTE_MS).resumed == 1


def test_watch_does_not_resume_without_fresh_read(fleet: Fleet, provider: Prepaid) -> None:
    use(fleet, 60)
    use(fleet, 60)
    look(fleet)
    fleet.write("UPDATE orgs SET balance_micro = 1000000000000")
    provider.down = "503"
    for _ in range(3):
        assert look(fleet, MINUTE_MS).resumed == 0
    assert stands(fleet) == (True, "estimate")


@pytest.mark.parametrize("told", [None, "nothing", "text", "no_customer"])
def test_unreadable_balance_does_not_halt_and_keeps_last_balance(
    fleet: Fleet, provider: Prepaid, told: str | None
) -> None:
    use(fleet, 30)
    if told == "text":
        provider.states["acme"] = CustomerState("none", None, None)  # type: ignore[arg-type]
    elif told == "no_customer":
        provider.states["acme"] = "what?"  # type: ignore[assignment]
    else:
        provider.down = told or "503"
    fleet.write("UPDATE orgs SET projection_due_ms = 0")
    done = look(fleet)
    assert (done.failed, done.halted, stands(fleet)) == (1, 0, (False, None))
    assert fleet.one("SELECT balance_micro FROM orgs WHERE org_id = 'acme'") == 100 * CREDIT


@pytest.mark.parametrize(
    ("policy", "reason"), [(None, "estimate"), ("estimate", "estimate"), ("go_on", None), ("stop", None)]
)
def test_estimate_halts_while_provider_is_down_unless_policy_forbids(
    fleet: Fleet, provider: Prepaid, policy: str | None, reason: str | None
) -> None:
    if policy is not None:
        write(fleet.engine, lambda c: set_when_down(c, "fake", "prepaid", policy, fleet.by))
        write(fleet.engine, lambda c: set_when_down(c, "fake", "", "go_on", fleet.by))
    provider.down = "503"
    use(fleet, 60)
    use(fleet, 60)
    look(fleet)
    assert stands(fleet) == (reason is not None, reason)
    provider.down, provider.credit["acme"] = None, 1000 * CREDIT
    look(fleet, 2 * MINUTE_MS)
    assert stands(fleet) == (False, None)


def test_plan_with_stop_policy_halts_after_a_while_until_next_read(fleet: Fleet, provider: Prepaid) -> None:
    write(fleet.engine, lambda c: set_when_down(c, "fake", "prepaid", "stop", fleet.by))
    provider.down = "503"
    fleet.write("UPDATE orgs SET projection_due_ms = 0")
    look(fleet)
    for _ in range(UNREAD_STOP_MS // MINUTE_MS - 1):
        assert look(fleet, MINUTE_MS).halted == 0
    assert look(fleet, MINUTE_MS).halted == 1
    assert stands(fleet) == (True, "unreadable")
    provider.down = None
    look(fleet, MINUTE_MS)
    assert stands(fleet) == (False, None)


def test_wrong_estimate_is_reported_and_resumed_by_fresh_read(engine: sa.Engine, provider: Prepaid) -> None:
    fleet = Fleet(engine, Moving(T0), extra={"fake": provider})
    fleet.assign("acme", provider="fake", from_ms=T0)
    price(fleet, 2 * CREDIT)  # twice what it costs over there
    fleet.tick(T0 + SECOND_MS)
    use(fleet, 55)
    look(fleet)
    assert stands(fleet) == (True, "estimate")
    fleet.tick(T0 + 7 * MINUTE_MS)
    assert stands(fleet) == (True, "estimate")  # 45 are left: less than what seemed to go in a minute
    done = look(fleet, 10 * MINUTE_MS)
    assert (done.wrong_estimates, stands(fleet)) == (1, (False, None))
    assert history(fleet) == [(True, "estimate"), (False, "estimate_wrong")]
    assert [look(fleet).halted for _ in range(3)] == [0, 0, 0]


def test_balance_that_lags_accepted_pushes_does_not_resume_or_count_twice(engine: sa.Engine, provider: Prepaid) -> None:
    provider.capabilities = capabilities(in_flight=4, reads_a_call=10, balance_lag_ms=MINUTE_MS)
    fleet = Fleet(engine, Moving(T0), extra={"fake": provider})
    fleet.assign("acme", provider="fake", from_ms=T0)
    price(fleet)
    fleet.tick(T0 + SECOND_MS)
    look(fleet, 0)
    use(fleet, 110)
    look(fleet)
    assert stands(fleet) == (True, "estimate")
    provider.hides = True
    fleet.tick(T0 + 7 * MINUTE_MS)
    assert [look(fleet).resumed for _ in range(6)] == [0] * 6
    provider.hides = False
    assert [look(fleet, MINUTE_MS // 2).resumed for _ in range(6)] == [0] * 6
    provider.credit["acme"] = 130 * CREDIT
    assert look(fleet).resumed == 1
    assert history(fleet)[-1] == (False, None)


def test_push_shown_in_balance_is_not_deducted_twice(fleet: Fleet, provider: Prepaid) -> None:
    look(fleet, 0)
    use(fleet, 60)
    provider.fails = RuntimeError("cut")

    async def charged_and_cut(batch: Any) -> Any:
        for push in batch:
            provider.charged[push.key] = push
        raise provider.fails or RuntimeError

    provider.push = charged_and_cut  # type: ignore[method-assign]
    fleet.tick(T0 + 7 * MINUTE_MS)
    assert fleet.rows("SELECT state, first_attempt_ms IS NOT NULL FROM pushes") == [("due", True)]
    use(fleet, 30)
    assert look(fleet).halted == 0  # 100 - 60 - 30: taken off twice, it would be gone
    use(fleet, 30)
    assert look(fleet).halted == 1


@pytest.mark.parametrize("seals", [1, 10])
def test_usage_sealed_during_read_is_counted_once(postgres: sa.Engine, provider: Prepaid, seals: int) -> None:
    """100 are there, and 60 were used: taken off as unsealed and as a push, nothing would be left."""
    fleet = Fleet(postgres, Moving(T0), extra={"fake": provider})
    fleet.assign("acme", provider="fake", from_ms=T0)
    price(fleet)
    fleet.tick(T0 + SECOND_MS)
    use(fleet, 60)
    fleet.clock.at_ms = T0 + 7 * MINUTE_MS
    request = SealRequest(Shard(), T0 + WINDOW_MS, fleet.clock.at_ms, {"fake": provider.capabilities})
    left = list(range(seals))

    def seal_between(_connection: Any, _cursor: Any, text: str, *_more: Any) -> None:
        if "unsampled" in text and left:
            left.pop()
            write(postgres, lambda c: seal(c, request))

    sa.event.listen(postgres, "after_cursor_execute", seal_between)

    def used(connection: sa.Connection) -> Used:
        found = connection.execute(sa.select(tables.orgs)).all()
        return read_used(connection, "fake", found, now_ms=request.now_ms, read_ms=request.now_ms, lag_ms=0)["acme"]

    found = read(postgres, used)
    assert len(left) < seals
    assert found.unsealed + found.unsent == 60 * CREDIT


def test_org_override_wins_over_estimate_until_its_end(fleet: Fleet, provider: Prepaid) -> None:
    until = T0 + 3 * MINUTE_MS
    write(
        fleet.engine,
        lambda c: orgs.override(c, "acme", fleet.by, max_concurrent=None, halted=False, until_ms=until),
    )
    use(fleet, 120)
    assert look(fleet).halted == 0
    fleet.clock.at_ms = until
    assert look(fleet).halted == 1
    write(fleet.engine, lambda c: orgs.halt(c, ["acme"], fleet.by))
    provider.credit["acme"] = 10**6 * CREDIT
    look(fleet)
    assert stands(fleet)[0]
    asked = len(provider.asked)
    look(fleet)
    assert len(provider.asked) == asked  # a person's halt is no matter of credit
    write(fleet.engine, lambda c: orgs.halt(c, ["acme"], fleet.by, undo=True))
    assert look(fleet).resumed == 1


def test_watch_with_doubted_history_does_not_estimate(fleet: Fleet, provider: Prepaid) -> None:
    fleet.write("UPDATE incarnation SET doubted_ms = 1, doubted_reason = 'restored'")
    use(fleet, 120)
    assert look(fleet).halted == 0
    fleet.write("UPDATE orgs SET projection_due_ms = 0")
    assert (look(fleet).halted, stands(fleet)) == (0, (False, None))
    provider.credit["acme"] = 0
    fleet.write("UPDATE orgs SET projection_due_ms = 0")
    look(fleet)
    assert stands(fleet) == (True, "credits_exhausted")  # what the provider says itself holds


def test_watch_estimate_excludes_feature_without_rate(engine: sa.Engine, provider: Prepaid) -> None:
    fleet = Fleet(engine, Moving(T0), extra={"fake": provider})
    fleet.assign("acme", provider="fake", from_ms=T0)
    fleet.tick(T0 + SECOND_MS)
    use(fleet, 1000)
    assert look(fleet).halted == 0


def test_idle_org_is_watched_only_after_use(fleet: Fleet) -> None:
    watcher = Watcher()
    assert [look(fleet, watcher=watcher).estimates for _ in range(3)] == [0, 0, 0]
    use(fleet, 10)
    assert look(fleet, watcher=watcher).estimates == 1
    assert look(fleet, watcher=watcher).estimates == 0  # far from the end: later
    ends = int(str(fleet.one("SELECT runs_out_ms FROM orgs WHERE org_id = 'acme'")))
    assert 8 * MINUTE_MS < ends - fleet.clock.at_ms <= 9 * MINUTE_MS, "90 seconds are left, and 10 are used a minute"
    assert look(fleet, 10 * MINUTE_MS, watcher=watcher).estimates == 1
    assert fleet.rows("SELECT watch_due_ms, runs_out_ms FROM orgs WHERE org_id = 'acme'") == [(None, None)]


def test_org_list_runs_out_time_follows_from_shown_figures(fleet: Fleet) -> None:
    """Also in a list that the watch's last estimate chose."""
    use(fleet, 10)
    look(fleet)
    fleet.clock.at_ms += 30 * SECOND_MS
    use(fleet, 10)  # 80 seconds are left by now, and 20 are used a minute
    now = fleet.clock.at_ms
    (kept,) = fleet.rows("SELECT runs_out_ms FROM orgs WHERE org_id = 'acme'")
    for chosen in (OrgFilter(), OrgFilter(runs_out_by_ms=now + 60 * MINUTE_MS)):
        (line,) = read(fleet.engine, lambda c, chosen=chosen: list_orgs(c, chosen, now)).orgs  # type: ignore[misc]
        assert line.left_now_micro is not None and line.used_a_minute_micro
        assert line.runs_out_ms == now + line.left_now_micro * MINUTE_MS // line.used_a_minute_micro != kept[0]


def test_watch_halts_org_assigned_after_its_start(fleet: Fleet, provider: Prepaid) -> None:
    watcher = Watcher()
    look(fleet, watcher=watcher)
    provider.credit["globex"] = 50 * CREDIT
    fleet.assign("globex", provider="fake", from_ms=T0 + WINDOW_MS)
    fleet.clock.at_ms = T0 + WINDOW_MS + 90 * SECOND_MS
    fleet.sample("globex", fleet.clock.at_ms, interval_s=60)
    look(fleet, watcher=watcher)
    look(fleet, watcher=watcher)
    assert stands(fleet, "globex") == (True, "estimate")


def test_watch_extends_usage_of_running_sandbox_to_now(fleet: Fleet) -> None:
    fleet.write("UPDATE sandboxes SET sandbox_id = 'box'")
    fleet.clock.at_ms += MINUTE_MS
    use(fleet, 60)
    assert look(fleet, 20 * SECOND_MS).halted == 0  # 60 told and 20 more: 20 are left
    assert look(fleet, 25 * SECOND_MS).halted == 1


def test_watch_does_not_extend_usage_of_stopped_sandbox(fleet: Fleet) -> None:
    fleet.write("UPDATE sandboxes SET sandbox_id = 'box', state = 'stopped'")
    fleet.clock.at_ms += MINUTE_MS
    use(fleet, 60)
    assert look(fleet, 45 * SECOND_MS).halted == 0


def test_watch_counts_unbilled_usage_of_dirty_windows(fleet: Fleet) -> None:
    fleet.sample("acme", T0 + MINUTE_MS, interval_s=40)
    fleet.tick(T0 + 7 * MINUTE_MS)
    fleet.sample("acme", T0 + 2 * MINUTE_MS, interval_s=50)
    fleet.write(f"INSERT INTO dirty_windows (org_id, window_ms) VALUES ('acme', {T0})")
    use(fleet, 5)
    assert look(fleet).halted == 0  # 100 - 40 - 50 - 5
    use(fleet, 6)
    assert look(fleet, 15 * SECOND_MS).halted == 1


def test_reassignment_clears_balance_of_previous_provider(fleet: Fleet) -> None:
    look(fleet)
    fleet.assign("acme", provider="embedded", from_ms=T0 + WINDOW_MS)
    fleet.tick(T0 + WINDOW_MS)
    assert fleet.one("SELECT balance_micro FROM orgs WHERE org_id = 'acme'") == 0


def test_concurrent_watches_halt_once(fleet: Fleet) -> None:
    first, second = Watcher(), Watcher()
    use(fleet, 120)
    look(fleet, watcher=first)
    look(fleet, 0, watcher=second)
    look(fleet, watcher=first)
    assert history(fleet) == [(True, "estimate")]
    assert len(fleet.cells.received) == 1


def test_provider_rates_and_policies_are_validated_and_recorded(fleet: Fleet) -> None:
    by = fleet.by
    with pytest.raises(Refused, match="append-only"):
        write(fleet.engine, lambda c: set_rate(c, "fake", "compute_1gb", (1, 1), by, from_ms=0))
    with pytest.raises(Refused, match="ledger rate"):
        write(fleet.engine, lambda c: set_rate(c, "embedded", "compute_1gb", (1, 1), by, from_ms=None))
    with pytest.raises(UsageError):
        write(fleet.engine, lambda c: set_rate(c, "fake", "No", (1, 1), by, from_ms=None))
    with pytest.raises(UsageError, match="invalid policy"):
        write(fleet.engine, lambda c: set_when_down(c, "fake", "", "panic", by))
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        fleet.write("UPDATE provider_rates SET micro = 1")
    write(fleet.engine, lambda c: set_when_down(c, "fake", "", "stop", by))
    assert fleet.rows("SELECT action FROM operator_actions WHERE action LIKE 'provider_%' ORDER BY action") == [
        ("provider_rate",),
        ("provider_when_down",),
    ]
