"""The acceptance fixture against the store: each key once, and a summary that may be published."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import read
from drawdown.schema.units import DAY_MS
from drawdown.worker.usage.privacy import summarise
from tests.integration.telling_events import told
from tests.unit.core_fixture import FIXTURE
from tests.world import Fleet


def ms_of(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000


def event_of(sent: dict[str, Any]) -> UsageEvent:
    said = {name: value for name, value in sent.items() if name != "occurred_at"}
    return UsageEvent(**said, occurred_ms=ms_of(sent["occurred_at"]))


@pytest.mark.both_databases
def test_core_fixture_redelivered_events_count_once_in_summary(engine: sa.Engine) -> None:
    fleet, replay, wanted = Fleet(engine), FIXTURE["replay"], FIXTURE["ops_summary"]
    fleet.clock.at_ms = ms_of("2026-02-02T00:00:00Z")
    events = [event_of(one) for one in replay["deliveries"]]
    fleet.assign(*{event.org_id for event in events}, from_ms=ms_of("2026-01-01T00:00:00Z"))
    assert {one.status for one in told(fleet, *events)} <= {replay["expect"]["first"], "pending"}
    assert {one.status for one in told(fleet, *reversed(events))} == {replay["expect"]["again"]}
    assert [one.status for one in told(fleet, event_of(replay["changed"]))] == [replay["expect"]["changed"]]
    stored = fleet.rows("SELECT event_type, SUM(quantity) FROM usage_events GROUP BY event_type")
    assert {str(kind): int(str(quantity)) for kind, quantity in stored} == replay["expect"]["quantities"]
    start = ms_of(f"{wanted['from']}T00:00:00Z")
    report = read(engine, lambda c: summarise(c, start, start + DAY_MS, fleet.clock.at_ms))
    assert {name: report[name] for name in wanted} == wanted
