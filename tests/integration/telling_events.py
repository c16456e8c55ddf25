"""Products that tell of their usage: events for tests, and a fleet that takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import read, write
from drawdown.worker.features.actions import Mapped, map_event
from drawdown.worker.sources.events.store import EventResult, take
from drawdown.worker.usage.withdrawals import withdraw_events
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets.actions import grant
from tests.world import T0, Fleet

RENDER = "page.render"


def event(event_id: str, quantity: int = 1, **more: Any) -> UsageEvent:
    """One of acme's at the beginning of the world, but for what is said otherwise."""
    said = {"source": "app", "event_type": RENDER, "org_id": "acme", "occurred_ms": T0 + 1, **more}
    return UsageEvent(event_id=event_id, quantity=quantity, **said)


def told(fleet: Fleet, *events: UsageEvent) -> list[EventResult]:
    return write(fleet.engine, lambda c: take(c, events, fleet.clock.at_ms))


def statuses(answers: Sequence[EventResult]) -> list[tuple[str, str | None]]:
    return [(one.status, one.code) for one in answers]


def mapped(fleet: Fleet, event_type: str = RENDER, feature: str = "render", from_ms: int | None = T0) -> Mapped:
    return write(fleet.engine, lambda c: map_event(c, event_type, feature, fleet.by, from_ms=from_ms, confirmed=True))


def withdrawn(fleet: Fleet, *event_ids: str) -> None:
    write(fleet.engine, lambda c: withdraw_events(c, "app", event_ids, fleet.by))


def billed_by_units(fleet: Fleet, *orgs: str) -> None:
    """Credit, the mapping, and a rate of two micro-credits a unit."""
    fleet.assign(*orgs, from_ms=T0)
    mapped(fleet)
    fleet.rate("render", 2, T0)
    for org in orgs:
        write(fleet.engine, lambda c, org=org: grant(c, org, 10**14, fleet.by, key=f"of-{org}", plan=None))  # type: ignore[misc]


def clean(fleet: Fleet) -> None:
    assert read(fleet.engine, verify).breaches == []
