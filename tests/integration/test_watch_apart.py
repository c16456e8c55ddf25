"""What is wrong with one customer, one override or one shard is no matter of the others."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import ReadFailed
from drawdown.schema.database import write
from drawdown.schema.units import MINUTE_MS, SECOND_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.breaker import OPEN_AFTER, Breaker
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.watch import Watched, Watcher, watch
from tests.fake_provider import capabilities
from tests.prepaid import CREDIT, Moving, Prepaid, look, price
from tests.world import T0, Fleet

NAMES = ("acme", "broken")


@pytest.fixture
def provider() -> Prepaid:
    return Prepaid(capabilities(in_flight=4, reads_a_call=10), credit=dict.fromkeys(NAMES, 100 * CREDIT))


@pytest.fixture
def fleet(engine: sa.Engine, provider: Prepaid) -> Fleet:
    made = Fleet(engine, Moving(T0), extra={"fake": provider})
    made.assign(*NAMES, provider="fake", from_ms=T0)
    price(made)
    made.tick(T0 + SECOND_MS)
    return made


def test_unreadable_customer_does_not_stop_reads_of_other_customers(fleet: Fleet, provider: Prepaid) -> None:
    breakers: dict[str, Breaker] = {}

    def round_of_it() -> Watched:
        world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
        return runner.run(watch(fleet.context("watch", breakers=breakers), Watcher()), world)

    provider.states["broken"] = ReadFailed("500")
    for _ in range(OPEN_AFTER + 1):
        fleet.clock.at_ms += MINUTE_MS
        fleet.write("UPDATE orgs SET projection_due_ms = 0 WHERE org_id = 'broken'")
        assert round_of_it().failed == 1
    provider.credit["acme"] = 1000 * CREDIT
    fleet.sample("acme", fleet.clock.at_ms, interval_s=120)  # gone, as far as is known
    provider.asked.clear()
    round_of_it()
    assert "acme" in provider.asked
    assert fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'") in (False, 0)


def test_breaker_opens_after_failures_of_different_customers() -> None:
    breaker = Breaker()
    for number in range(OPEN_AFTER):
        assert breaker.allows(T0)
        breaker.note(failed=True, now_ms=T0, about=[f"customer-{number}"])
    assert not breaker.allows(T0)
    later = breaker.open_until_ms
    assert breaker.allows(later)
    breaker.note(failed=True, now_ms=later, about=["customer-0"])
    assert not breaker.allows(later), "still down: one call decides, whoever it is about"
    breaker.note(failed=False, now_ms=later)
    assert breaker.allows(later)


def test_breaker_opens_after_repeated_failed_calls() -> None:
    breaker = Breaker()
    for _ in range(OPEN_AFTER):
        breaker.note(failed=True, now_ms=T0)
    assert not breaker.allows(T0)


def test_org_that_is_never_halted_is_read_once_a_minute(fleet: Fleet, provider: Prepaid) -> None:
    write(
        fleet.engine,
        lambda c: orgs.override(c, "acme", fleet.by, max_concurrent=None, halted=False, until_ms=None),
    )
    fleet.sample("acme", fleet.clock.at_ms, interval_s=120)
    watcher = Watcher()
    look(fleet, watcher=watcher)
    provider.asked.clear()
    for _ in range(6):
        look(fleet, watcher=watcher)
    assert provider.asked == []
    look(fleet, MINUTE_MS, watcher=watcher)
    assert provider.asked == ["acme"]


def test_watch_marks_refreshes_before_update_of_shared_state(fleet: Fleet) -> None:
    texts: list[str] = []

    def note(_connection: object, _cursor: object, text: str, *_more: object) -> None:
        texts.append(text)

    sa.event.listen(fleet.engine, "after_cursor_execute", note)
    fleet.sample("acme", fleet.clock.at_ms, interval_s=120)
    look(fleet)
    (noted,) = [number for number, text in enumerate(texts) if "UPDATE watch_state" in text]
    marked = [number for number, text in enumerate(texts) if "refresh_requests = refresh_requests + 1" in text]
    assert min(marked) < noted
