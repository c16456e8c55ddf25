"""A usage limit of the provider: it refuses a feature although the balance lasts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import CustomerState
from drawdown.schema.database import read, write
from drawdown.schema.units import MINUTE_MS, SECOND_MS, WINDOW_MS
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs import assignments
from drawdown.worker.verdict.rules import turn_ms
from drawdown.worker.verify.verify import verify
from tests.fake_provider import capabilities
from tests.integration.test_autumn_credits import House
from tests.prepaid import CREDIT, Moving, Prepaid, look
from tests.world import T0, Fleet

STANDS = "SELECT is_halted, halt_reason, balance_micro FROM orgs WHERE org_id = :org"
BALANCES = pytest.mark.parametrize("balance", [100 * CREDIT, None], ids=["credit", "unlimited"])


@pytest.fixture
def provider() -> Prepaid:
    return Prepaid(capabilities(in_flight=4, reads_a_call=10), credit={"acme": 100 * CREDIT})


@pytest.fixture
def fleet(engine: sa.Engine, provider: Prepaid) -> Fleet:
    made = Fleet(engine, Moving(T0), extra={"fake": provider})
    made.assign("acme", provider="fake", from_ms=T0)
    made.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    made.tick(T0 + SECOND_MS)
    return made


def says(provider: Prepaid, fleet: Fleet, *refused: str, balance: int | None = 100 * CREDIT) -> object:
    """What is copied of a fresh read by which features are refused."""
    provider.states["acme"] = CustomerState(balance, "prepaid", 3, frozenset(refused))
    fleet.write("UPDATE orgs SET projection_due_ms = 0, refresh_requests = refresh_requests + 1")
    look(fleet)
    return fleet.rows("SELECT is_halted, halt_reason FROM orgs WHERE org_id = 'acme'")[0]


def runs(fleet: Fleet, memory_mb: int | None, state: str = "running", org: str = "acme") -> None:
    fleet.write(
        "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state, memory_mb) "
        "VALUES ('b', :org, 'cell-1', :state, :mb)",
        {"mb": memory_mb, "state": state, "org": org},
    )


@BALANCES
def test_usage_limit_on_running_feature_halts(fleet: Fleet, provider: Prepaid, balance: int | None) -> None:
    runs(fleet, 4096)
    assert says(provider, fleet, "compute_1gb", balance=balance) == (False, None), "another feature is refused"
    assert says(provider, fleet, "compute_4gb", balance=balance) == (True, "usage_limit")
    assert [halt.org_id for halt in fleet.cells.received] == ["acme"], "its cells are told"


@pytest.mark.parametrize(("ago_ms", "halted"), [(MINUTE_MS, True), (11 * MINUTE_MS, False)])
def test_usage_limit_counts_recent_samples_as_use(fleet: Fleet, provider: Prepaid, ago_ms: int, halted: bool) -> None:
    fleet.clock.at_ms += 20 * MINUTE_MS
    fleet.sample("acme", fleet.clock.at_ms - ago_ms, interval_s=1)
    assert says(provider, fleet, "compute_1gb") == (halted, "usage_limit" if halted else None)


@pytest.mark.parametrize(("memory_mb", "state"), [(4096, "stopped"), (None, "running")])
def test_usage_limit_ignores_stopped_or_unsized_sandboxes(
    fleet: Fleet, provider: Prepaid, memory_mb: int | None, state: str
) -> None:
    runs(fleet, memory_mb, state)
    assert says(provider, fleet, "compute_4gb") == (False, None)


def test_usage_limit_halt_lasts_until_refusal_ends(fleet: Fleet, provider: Prepaid) -> None:
    runs(fleet, 4096)
    says(provider, fleet, "compute_4gb")
    fleet.write("UPDATE sandboxes SET state = 'stopped'")
    assert says(provider, fleet, "compute_4gb", "compute_1gb") == (True, "usage_limit"), "its use has ended"
    assert says(provider, fleet) == (False, None)
    assert says(provider, fleet, "compute_4gb") == (False, None), "nothing of it runs by now"
    assert read(fleet.engine, verify).breaches == []


@pytest.mark.both_databases
def test_usage_limit_halt_and_resume_webhooks_show_reason(fleet: Fleet, provider: Prepaid) -> None:
    events = ("organisation.halted", "organisation.resumed")
    endpoint = {"name": "app", "url": "https://app.example/in", "events": events, "new": True}
    write(fleet.engine, lambda c: hooks.set_endpoint(c, by=fleet.by, **endpoint))  # type: ignore[arg-type]
    runs(fleet, 4096)
    says(provider, fleet, "compute_4gb")
    says(provider, fleet)
    rows = fleet.rows("SELECT event, body FROM hook_messages WHERE org_id = 'acme' ORDER BY message_id")
    told = sorted((str(event), json.loads(str(body))["data"]["reason"]) for event, body in rows)
    assert told == [("organisation.halted", "usage_limit"), ("organisation.resumed", None)]


def test_usage_limit_with_zero_balance_shows_credits_exhausted(fleet: Fleet, provider: Prepaid) -> None:
    runs(fleet, 4096)
    assert says(provider, fleet, "compute_4gb", balance=0) == (True, "credits_exhausted")


def test_usage_limit_halt_remains_during_failed_read(fleet: Fleet, provider: Prepaid) -> None:
    runs(fleet, 4096)
    says(provider, fleet, "compute_4gb")
    provider.down = "503"
    assert says(provider, fleet) == (True, "usage_limit")


def test_usage_limit_does_not_halt_org_with_override(fleet: Fleet, provider: Prepaid) -> None:
    runs(fleet, 4096)
    word = {"max_concurrent": None, "until_ms": T0 + 60 * MINUTE_MS}
    write(fleet.engine, lambda c: orgs.override(c, "acme", fleet.by, halted=False, **word))
    assert says(provider, fleet, "compute_4gb") == (False, None)


def test_usage_limit_halt_ends_after_org_becomes_exempt(fleet: Fleet, provider: Prepaid) -> None:
    runs(fleet, 4096)
    says(provider, fleet, "compute_4gb")
    write(fleet.engine, lambda c: assignments.assign(c, ["acme"], "none", fleet.by))
    fleet.tick(T0 + 11 * MINUTE_MS)
    assert fleet.rows("SELECT is_halted, halt_reason FROM orgs WHERE org_id = 'acme'") == [(False, None)]


def late_orgs() -> list[str]:
    """Two organisations whose turns come long after the first windows of a test."""
    return sorted((f"org{number}" for number in range(100)), key=lambda org: turn_ms(org, T0 + 4 * WINDOW_MS))[-2:]


def test_usage_limit_on_credits_reached_between_turns_halts(engine: sa.Engine) -> None:
    org, plain = late_orgs()
    house = House(engine, {org: 1_000, plain: 1_000})
    limit = {"feature_id": "credits", "enabled": True, "limit": 4, "interval": "month"}
    house.autumn.account.control(org, {"usage_limits": [limit]}, T0)
    stands = []
    for _ in range(2):
        house.use(org, 25 * 300)
        house.use(plain, 25 * 300)
        house.bill()
        stands.append([house.fleet.rows(STANDS, org=one)[0] for one in (org, plain)])
    assert stands[0] == [(False, None, CREDIT), (False, None, 997 * CREDIT)]
    assert stands[1] == [(True, "credits_exhausted", 0), (False, None, 997 * CREDIT)], "one without a limit is not read"


def test_usage_limit_on_feature_reached_between_turns_halts(engine: sa.Engine) -> None:
    org, plain = late_orgs()
    house = House(engine, {org: 1_000, plain: 1_000})
    for one, units in ((org, 2_500), (plain, 10**6)):
        limit = {"feature_id": "compute_4gb", "enabled": True, "limit": units, "interval": "day"}
        house.autumn.account.control(one, {"usage_limits": [limit]}, T0)
    house.fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    runs(house.fleet, 4096, org=org)
    stands = []
    for _ in range(2):
        house.use(org, 1_500)
        house.use(plain, 1_500)
        house.bill()
        stands.append([house.fleet.rows(STANDS, org=one)[0] for one in (org, plain)])
    assert stands[0] == [(False, None, 999_400_000)] * 2
    assert stands[1] == [(True, "usage_limit", 998_800_000), (False, None, 999_400_000)], "far from its limit: not read"
    left = house.fleet.rows("SELECT feature_limits FROM orgs WHERE org_id = :org", org=plain)
    assert left == [('{"compute_4gb": 997000}',)]


@pytest.mark.both_databases
def test_usage_limit_reached_by_many_small_pushes_is_read_once(fleet: Fleet, provider: Prepaid) -> None:
    """Each takes less than its share of a turn, as after an import: the sum decides."""
    runs(fleet, 1024)
    provider.tells, provider.credit["acme"] = True, 100_000 * CREDIT
    far = CustomerState(100_000 * CREDIT, "prepaid", 3, feature_limits={"compute_1gb": 1_000})
    provider.states["acme"] = far
    fleet.write("UPDATE orgs SET projection_due_ms = 0, refresh_requests = refresh_requests + 1")
    fleet.tick(T0 + 3 * WINDOW_MS)
    provider.asked.clear()
    provider.states["acme"] = replace(far, refused=frozenset({"compute_1gb"}))
    for number in range(5):
        fleet.sample("acme", T0 + 2 * WINDOW_MS + number, interval_s=60)
        fleet.tick(T0 + 3 * WINDOW_MS + (number + 3) * MINUTE_MS)
    assert provider.asked == ["acme"]
    assert fleet.rows(STANDS, org="acme")[0][:2] == (True, "usage_limit")
