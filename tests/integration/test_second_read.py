"""A webhook is followed by two reads: the first answer may still be of before what the webhook tells of."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import CustomerChanged
from drawdown.schema.database import read, write
from drawdown.schema.units import MINUTE_MS, SECOND_MS, WINDOW_MS
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.status.status import org_status
from drawdown.worker.verdict.refresh_requests import SECOND_READ_MS
from tests.fake_provider import capabilities
from tests.prepaid import CREDIT, Moving, Prepaid, look
from tests.world import T0, Fleet


@pytest.fixture
def provider() -> Prepaid:
    return Prepaid(capabilities(in_flight=4, reads_a_call=10), credit={"acme": 100 * CREDIT})


@pytest.fixture
def fleet(engine: sa.Engine, provider: Prepaid) -> Fleet:
    made = Fleet(engine, Moving(T0), extra={"fake": provider})
    made.assign("acme", provider="fake", from_ms=T0)
    made.tick(T0 + SECOND_MS)
    provider.asked.clear()
    return made


def hook(fleet: Fleet, provider: str = "fake") -> None:
    """A webhook that names the customer."""
    now = fleet.clock.now_ms()
    write(fleet.engine, lambda c: apply_notices(c, provider, [CustomerChanged("acme")], now))


def is_halted(fleet: Fleet) -> bool:
    return bool(fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'"))


def test_second_read_after_stale_first_read_halts(fleet: Fleet, provider: Prepaid) -> None:
    hook(fleet)  # it is out of credit, and the first answer does not show that yet
    look(fleet, 0)
    assert (provider.asked, is_halted(fleet)) == (["acme"], False)
    provider.credit["acme"] = 0
    look(fleet, SECOND_READ_MS // 2)
    assert provider.asked == ["acme"], "not before its time"
    look(fleet, SECOND_READ_MS // 2)
    assert (provider.asked, is_halted(fleet)) == (["acme"] * 2, True)


def test_slow_first_read_does_not_delay_second_read(fleet: Fleet, provider: Prepaid) -> None:
    def slow() -> None:
        fleet.clock.at_ms += 2 * SECOND_READ_MS

    hook(fleet)
    provider.meanwhile = slow
    look(fleet, 0)
    provider.credit["acme"] = 0
    look(fleet, 0)
    assert (provider.asked, is_halted(fleet)) == (["acme"] * 2, True)


def test_third_read_after_webhook_is_not_made(fleet: Fleet, provider: Prepaid) -> None:
    hook(fleet)
    for _ in range(20):
        look(fleet)
    assert provider.asked == ["acme"] * 2
    assert fleet.rows("SELECT projection_due_ms, refresh_deadline_ms FROM orgs WHERE org_id = 'acme'") == [(None, None)]


def test_second_read_without_watch_is_made_by_tick(fleet: Fleet, provider: Prepaid) -> None:
    hook(fleet)
    fleet.tick(T0 + 2 * SECOND_MS)
    provider.credit["acme"] = 0
    fleet.tick(T0 + WINDOW_MS)
    assert (provider.asked, is_halted(fleet)) == (["acme"] * 2, True)


def test_failed_first_read_is_followed_by_two_reads(fleet: Fleet, provider: Prepaid) -> None:
    hook(fleet)
    provider.down = "503"
    look(fleet, 0)
    provider.down = None
    look(fleet, 2 * MINUTE_MS)
    look(fleet)
    look(fleet)
    assert provider.asked == ["acme"] * 3


def test_webhook_during_first_read_is_followed_by_two_reads(fleet: Fleet, provider: Prepaid) -> None:
    hook(fleet)
    provider.meanwhile = lambda: hook(fleet)
    look(fleet, 0)
    look(fleet)
    look(fleet)
    look(fleet)
    assert provider.asked == ["acme"] * 3


def test_webhook_of_provider_that_does_not_bill_org_is_ignored(fleet: Fleet, provider: Prepaid) -> None:
    hook(fleet, "embedded")
    for _ in range(4):
        look(fleet)
    assert provider.asked == []


def test_older_read_does_not_replace_second_read(fleet: Fleet, provider: Prepaid) -> None:
    """The first read is slow: while its answer is on its way, another one is written."""
    hook(fleet)

    def newer() -> None:
        provider.credit["acme"] = 0
        fleet.write("UPDATE orgs SET refresh_requests = refresh_requests + 1")
        look(fleet, 0)

    def elsewhere() -> None:
        other = threading.Thread(target=newer)
        other.start()
        other.join()

    provider.meanwhile = elsewhere
    look(fleet, 0)
    assert (provider.asked, is_halted(fleet)) == (["acme"] * 2, True)
    look(fleet, SECOND_READ_MS)
    assert is_halted(fleet)


def test_org_status_before_first_read_has_empty_refresh_deadline(fleet: Fleet) -> None:
    hook(fleet)
    assert read(fleet.engine, lambda c: org_status(c, "acme", T0)).refresh_deadline_ms is None
