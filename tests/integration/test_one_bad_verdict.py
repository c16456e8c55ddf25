"""A verdict that cannot be written keeps that organisation alone as it was (S8), and nothing of anybody's is told."""

from __future__ import annotations

import json
from dataclasses import asdict
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from drawdown.providers.protocol import CustomerState, Part
from drawdown.schema.database import write
from drawdown.worker.catalog.balance_parts import MOST_KEPT
from drawdown.worker.engine import runner
from drawdown.worker.status.ticks import Report
from drawdown.worker.tick import tick
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet

ORGS = tuple(f"org-{number:02}" for number in range(20))
BAD = "org-07"


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(
        capabilities(reads_a_call=100), states={org: CustomerState(0, "secret-plan", 3) for org in ORGS}
    )


@pytest.fixture
def fleet(engine: sa.Engine, provider: FakeProvider) -> Fleet:
    made = Fleet(engine, extra={"fake": provider})
    made.assign(*ORGS, provider="fake", from_ms=T0)
    return made


def halted(fleet: Fleet) -> set[object]:
    return {row[0] for row in fleet.rows("SELECT org_id FROM orgs WHERE is_halted")}


@pytest.mark.parametrize("plan", ["\x00", "\ud800", "x" * 3_000_000], ids=["NUL", "half", "3 MB"])
def test_plan_with_invalid_text_is_stored_printable_and_org_halted(
    fleet: Fleet, provider: FakeProvider, plan: str
) -> None:
    provider.states[BAD] = CustomerState(0, plan, 3)
    report = fleet.tick(T0 + 1)
    assert halted(fleet) == set(ORGS) and report.failures == []
    stored = fleet.one("SELECT plan FROM orgs WHERE org_id = :org", org=BAD)
    assert isinstance(stored, str) and stored.isprintable() and len(stored) <= 200


def test_balance_parts_per_customer_are_limited(fleet: Fleet, provider: FakeProvider) -> None:
    provider.capabilities = capabilities(reads_a_call=100, costs=True)
    text = sa.text(
        "INSERT INTO balance_parts (provider, customer_id, balance, part, granted, seen_ms) "
        "VALUES ('fake', :org, 'credits', :part, '1', 1)"
    )
    old = [{"org": BAD, "part": f"old-{number}"} for number in range(MOST_KEPT)]
    write(fleet.engine, lambda c: c.execute(text, old))
    parts = tuple(Part("credits", end * 300 + end, Decimal(1)) for end in "aab")
    for org in (BAD, ORGS[0]):
        provider.states[org] = CustomerState(0, None, None, parts=parts)
    assert fleet.tick(T0 + 1).failures == []
    assert halted(fleet) == set(ORGS)
    counts = fleet.rows("SELECT customer_id, COUNT(*) FROM balance_parts GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in counts] == [(ORGS[0], 2), (BAD, MOST_KEPT)]


def raw_tick(fleet: Fleet, provider: Any) -> Report:
    """A tick on a provider whose answers nobody looked at."""
    providers = {**fleet.providers, "fake": provider}
    cells: Any = fleet.cells
    return runner.run(tick(fleet.context()), runner.World(fleet.engine, providers, cells, fleet.clock))


@pytest.mark.parametrize(
    "state", [CustomerState(0, "secret \ud800", 3), CustomerState(-(10**30), "secret", 3)], ids=["text", "figure"]
)
def test_unwritable_verdict_is_reported_and_remaining_orgs_are_halted(
    fleet: Fleet, provider: FakeProvider, state: CustomerState
) -> None:
    provider.states[BAD] = state
    fleet.clock.at_ms = T0 + 1
    with capture_logs() as logs:
        report = raw_tick(fleet, provider)
    assert halted(fleet) == set(ORGS) - {BAD}, "the others' halts do not wait for it"
    assert (report.halted, report.projected) == (len(ORGS) - 1, len(ORGS) - 1)
    (failure,) = report.failures
    assert failure.startswith(f"{BAD}: its verdict was not written: ") and report.exit_status == 75
    again = fleet.one("SELECT projection_due_ms FROM orgs WHERE org_id = :org", org=BAD)
    assert again == T0 + 1 + 60_000, "it is asked again, and not in a circle"
    told = json.dumps([asdict(report), logs], default=str)
    assert "secret" not in told and "UPDATE" not in told and "org-08" not in failure


@pytest.mark.parametrize("bucket", [999, 1], ids=["a check", "a key"])
def test_database_error_omits_statement_and_values(fleet: Fleet, bucket: int) -> None:
    text = "INSERT INTO orgs (org_id, bucket) VALUES (:secret, :bucket)"
    fleet.write("INSERT INTO orgs (org_id, bucket) VALUES ('a-secret', 1)")
    with pytest.raises(sa.exc.DBAPIError) as caught:
        write(fleet.engine, lambda c: c.execute(sa.text(text), {"secret": "a-secret", "bucket": bucket}))
    told = f"{caught.value} {caught.value!r} {caught.value.orig} {caught.value.args}"
    assert "secret" not in told and "INSERT" not in told
    assert "IntegrityError" in str(caught.value) or "Violation" in str(caught.value), "what went wrong is still said"


def test_database_error_omits_value_quoted_by_postgresql(fleet: Fleet) -> None:
    if fleet.engine.dialect.name != "postgresql":
        pytest.skip("SQLite quotes no values")
    with pytest.raises(sa.exc.DBAPIError) as caught:
        write(fleet.engine, lambda c: c.execute(sa.text("SELECT CAST(CAST(:a AS text) AS bigint)"), {"a": "a-secret"}))
    assert "secret" not in f"{caught.value} {caught.value!r} {caught.value.orig}" and "22P02" in str(caught.value)
