"""Halted organisations by ticks alone: without a watch or a webhook, who has paid goes on at the next tick.

Guarantee: a tick reads each halted organisation again once its last read is old, the oldest first, and never so many
that those who run wait for them. A person's halt and override are left alone.
"""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.units import MINUTE_MS, SECOND_MS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.verdict.refresh_requests import HALTED_AGAIN_MS, HALTED_READS_MS, mark_halted
from tests.emulators.autumn_numbers import ONE_OFF
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.test_autumn_credits import House
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


def due(fleet: Fleet) -> list[str]:
    return [str(row[0]) for row in fleet.rows("SELECT org_id FROM orgs WHERE projection_due_ms IS NOT NULL ORDER BY 1")]
