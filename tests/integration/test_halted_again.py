"""Halted organisations by ticks alone: without a watch or a webhook, who has paid goes on at the next tick.

Guarantee: a tick reads each halted organisation again once its last read is old, the oldest first, and never so many
that those who run wait for them. A person's halt and override are left alone.
"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa

from drawdown.providers.embedded import EmbeddedProvider
from drawdown.schema.database import write
from drawdown.schema.units import MICRO, MINUTE_MS, SECOND_MS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.verdict.refresh_requests import HALTED_AGAIN_MS, HALTED_READS_MS, mark_halted
from drawdown.worker.verdict.rules import HOLD_MS
from tests.emulators.autumn_numbers import ONE_OFF
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.telling_events import event, told, withdrawn
from tests.integration.test_autumn_credits import House
from tests.integration.test_rejected import paid
from tests.prepaid import look
from tests.world import T0, Fleet


def test_halted_customer_granted_credit_is_resumed_at_next_tick(engine: sa.Engine) -> None:
    house = House(engine, {"acme": 3.2})
    house.wait(0)
    house.use("acme", 500, size=64)
    house.bill()
    assert house.fleet.rows("SELECT is_halted, halt_reason FROM orgs") == [(1, "credits_exhausted")]
    assert house.fleet.one("SELECT COUNT(*) FROM pushes WHERE state = 'rejected'") == 0, "no push waits for credit"
    house.autumn.account.grant("acme", "credits", 10, house.fleet.clock.at_ms, interval=ONE_OFF)
    house.wait(HALTED_AGAIN_MS)
    assert house.fleet.one("SELECT is_halted FROM orgs") == 0


def test_tick_refreshes_oldest_halted_orgs_up_to_read_limit(engine: sa.Engine) -> None:
    orgs = [f"org-{number}" for number in range(8)]
    fleet = Fleet(engine, extra={"fake": FakeProvider(capabilities())})
    fleet.assign(*orgs, provider="fake")
    now = T0 + HALTED_AGAIN_MS
    for number, org in enumerate(orgs):
        fleet.write(
            "UPDATE orgs SET is_halted = TRUE, halted_at = 1, halt_reason = 'credits_exhausted', "
            f"projection_due_ms = NULL, projection_read_ms = {T0 - number * MINUTE_MS} WHERE org_id = '{org}'"
        )
    fleet.write("UPDATE orgs SET operator_halt = TRUE WHERE org_id = 'org-7'")
    fleet.write("UPDATE orgs SET override_halted = TRUE WHERE org_id = 'org-6'")
    fleet.write(f"UPDATE orgs SET projection_read_ms = {T0 + 1} WHERE org_id = 'org-5'")
    three = capabilities(reads_per_s=3 / (HALTED_READS_MS / SECOND_MS))
    write(engine, lambda c: mark_halted(c, "fake", three, Shard(), now))
    assert due(fleet) == ["org-2", "org-3", "org-4"]
    write(engine, lambda c: mark_halted(c, "fake", three, Shard(), now))
    assert due(fleet) == ["org-0", "org-1", "org-2", "org-3", "org-4"]
    fleet.write("UPDATE orgs SET projection_due_ms = NULL")
    for wallets in (capabilities(balance_in_ledger=True), capabilities(same_database=True)):
        write(engine, partial(mark_halted, provider="fake", capabilities=wallets, shard=Shard(), now_ms=now))
    assert due(fleet) == []


def test_wallet_halted_on_estimate_is_read_once_after_hold_and_resumed(engine: sa.Engine) -> None:
    fleet = paid(engine, 10 * MICRO)
    told(fleet, event("meant", 3), event("slip", 10**6))
    assert look(fleet).halted == 1
    withdrawn(fleet, "slip")
    halted_at = fleet.one("SELECT halted_at FROM orgs")
    for minute in range(10, 15):
        fleet.tick(T0 + minute * MINUTE_MS)
    assert fleet.rows("SELECT state FROM pushes") == [("accepted",)]
    assert fleet.rows("SELECT halt_reason, projection_due_ms FROM orgs") == [("estimate", None)], "7 are less than 10^6"
    assert isinstance(halted_at, int)
    read_ms = halted_at + HOLD_MS
    spent = f"UPDATE orgs SET is_halted = TRUE, halted_at = {halted_at}, halt_reason = 'estimate'"
    fleet.tick(read_ms)
    assert fleet.one("SELECT is_halted FROM orgs") == 0
    fleet.write(f"{spent}, projection_due_ms = NULL, projection_read_ms = {read_ms}")
    wallets = EmbeddedProvider(engine, fleet.clock).capabilities
    for after_ms in (0, HALTED_AGAIN_MS, HOLD_MS):
        write(
            engine,
            partial(mark_halted, provider="embedded", capabilities=wallets, shard=Shard(), now_ms=read_ms + after_ms),
        )
    assert due(fleet) == [], "it is read once for each halt"


def due(fleet: Fleet) -> list[str]:
    return [str(row[0]) for row in fleet.rows("SELECT org_id FROM orgs WHERE projection_due_ms IS NOT NULL ORDER BY 1")]
