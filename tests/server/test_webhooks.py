"""Webhooks: proven, stored once, applied, and their customer read again at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import structlog

from drawdown.providers.http import NotSent
from drawdown.schema.database import read, write
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.server.api import webhooks
from drawdown.worker.push.webhooks import KEPT_MS, WebhookEvent, is_taken, store_failed, take_event
from drawdown.worker.verdict.refresh_requests import SECOND_READ_MS
from tests.server.house import FOREIGN, SVIX, Caller, House, served
from tests.server.program import refused
from tests.sqlite_databases import fresh
from tests.world import T0


def halt(house: House, org: str = "acme") -> None:
    """An organisation that used up its credit and was halted by a tick."""
    house.customer(org)
    house.fleet.tick(T0 + WINDOW_MS)
    assert house.halted(org)


def test_webhook_after_topup_resumes_org_also_with_previous_secret(house: House) -> None:
    halt(house)
    house.clock.at_ms += 7_000
    house.grant("acme", 100)

    async def work(caller: Caller) -> None:
        assert (await caller.get("/v1/gate/elsewhere")).status_code == 404
        answer = await caller.hook("autumn", *house.autumn_hook("acme", secret=SVIX[1]))
        assert (answer.status_code, answer.json()) == (200, {"status": "done"})
        await caller.settled()
        assert (await caller.get("/v1/gate/acme")).json()["allowed"] is True

    served(house, work)
    assert not house.halted("acme")
    assert house.fleet.rows("SELECT provider, event_id, state, attempts FROM webhooks") == [
        ("autumn", "msg_1", "done", 1)
    ]


def test_webhook_that_halts_org_notifies_cells_at_once(house: House) -> None:
    house.customer("acme", 100)
    house.fleet.tick(T0 + WINDOW_MS)
    house.fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://cell')")
    house.fleet.write(
        "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('box', 'acme', 'cell-1', 'running')"
    )
    for grant in house.autumn.account.customer("acme", house.clock.at_ms).grants["compute_1gb"]:  # type: ignore[union-attr]
        grant.balance = 0
    house.clock.at_ms += 5_000

    async def work(caller: Caller) -> None:
        await caller.hook("autumn", *house.autumn_hook("acme"))
        await caller.settled()

    served(house, work)
    assert house.halted("acme")
    assert [one.org_id for one in house.fleet.cells.received] == ["acme"]


def test_webhook_stale_first_read_is_corrected_by_second_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody watches, and no tick runs: this process makes the second read as well."""
    monkeypatch.setattr(webhooks, "SECOND_READ_MS", 50)
    house.customer("acme", 100)
    house.fleet.tick(T0 + WINDOW_MS)

    def reads() -> int:
        return sum("customers.get" in url for url in house.autumn_line.calls)

    before = reads()

    async def work(caller: Caller) -> None:
        await caller.hook("autumn", *house.autumn_hook("acme"))
        await caller.settled()
        assert (reads() - before, house.halted("acme")) == (1, False)
        for grant in house.autumn.account.customer("acme", house.clock.at_ms).grants["compute_1gb"]:  # type: ignore[union-attr]
            grant.balance = 0
        house.clock.at_ms += SECOND_READ_MS
        for _ in range(100):
            await asyncio.sleep(0.05)
            await caller.settled()
            if house.halted("acme"):
                break
        await asyncio.sleep(0.2)
        await caller.settled()

    served(house, work)
    assert (house.halted("acme"), reads() - before) == (True, 2)


def test_webhook_repeated_delivery_does_not_change_state(house: House) -> None:
    halt(house)

    async def work(caller: Caller) -> None:
        assert (await caller.hook("autumn", *house.autumn_hook("acme"))).json() == {"status": "done"}
        await caller.settled()
        before, calls = house.counts(), len(house.autumn_line.calls)
        for later in range(3):  # signed anew each time, as providers do
            answer = await caller.hook("autumn", *house.autumn_hook("acme", at_ms=house.clock.at_ms + later * 1000))
            assert (answer.status_code, answer.json()) == (200, {"status": "repeated"})
        await caller.settled()
        assert (house.counts(), len(house.autumn_line.calls)) == (before, calls)
        assert (await caller.hook("autumn", *house.autumn_hook("acme", "msg_2"))).json() == {"status": "done"}

    served(house, work)


def test_webhook_failed_and_retried_after_retention_counts_once() -> None:
    """It is kept from when it came last: taken, it was forgotten in the same moment, and counted again."""
    engine, event = fresh(), WebhookEvent("stripe", "evt_1", "0" * 64)
    write(engine, lambda c: store_failed(c, event, "not fetched", T0))
    later = T0 + KEPT_MS + 1
    took = [write(engine, lambda c, at=at: take_event(c, event, [], at)) for at in (later, later + 1)]  # type: ignore[misc]
    assert took == [[], None]
    assert read(engine, lambda c: is_taken(c, event))
    engine.dispose()


@pytest.mark.both_databases
def test_webhook_concurrent_deliveries_count_once(house: House) -> None:
    house.customer("acme")

    async def work(caller: Caller) -> None:
        asks = house.counts()["asks"]
        hooks = [caller.hook("autumn", *house.autumn_hook("acme")) for _ in range(12)]
        said = [one.json()["status"] for one in await asyncio.gather(*hooks)]
        assert sorted(said) == ["done"] + ["repeated"] * 11
        await caller.settled()
        assert house.counts()["asks"] == int(str(asks)) + 1

    served(house, work)


def test_webhook_of_unknown_event_or_customer_is_acknowledged(house: House) -> None:
    async def work(caller: Caller) -> None:
        body, headers = house.autumn_hook("acme", kind="vercel.resources.deleted")
        assert (await caller.hook("autumn", body, headers)).json() == {"status": "ignored"}
        stranger = house.autumn_hook("nobody-here", "msg_2")
        assert (await caller.hook("autumn", *stranger)).json() == {"status": "done"}
        headers, body = house.stripe.customer_webhook("customer.updated", "cus_elsewhere", house.clock.at_ms)
        assert (await caller.hook("stripe", body, headers)).json() == {"status": "done"}

    served(house, work)


def test_webhook_of_stripe_is_identified_by_id_in_body(house: House) -> None:
    async def work(caller: Caller) -> None:
        headers, body = house.stripe.customer_webhook("invoice.paid", "cus_1", house.clock.at_ms)
        assert (await caller.hook("stripe", body, headers)).json() == {"status": "done"}
        resent = {**json.loads(body), "pending_webhooks": 3}
        headers, body = house.stripe.signed(resent, house.clock.at_ms + 60_000)
        headers["svix-id"], headers["svix-signature"] = "somebody-added-this", "v1,x"
        assert (await caller.hook("stripe", body, headers)).json() == {"status": "repeated"}

    served(house, work)


UNSIGNED = [{"stripe-signature": "t=1,v1=x"}, {"webhook-id": "msg_2"}, {"svix-id": "msg_2"}]


def test_webhook_unsigned_header_does_not_make_new_event(lone: House) -> None:
    """Of neither provider: what its signature covers names the event."""
    lone.customer("acme", 100)
    headers, body = lone.stripe.customer_webhook("customer.updated", "cus_1", lone.clock.at_ms)
    deliveries = [("autumn", *lone.autumn_hook("acme")), ("stripe", body, headers)]

    async def work(caller: Caller) -> None:
        for name, body, headers in deliveries:
            assert (await caller.hook(name, body, headers)).json() != {"status": "repeated"}
            await caller.settled()
            for added in UNSIGNED:
                again = await caller.hook(name, body, {**added, **headers})
                assert again.json() == {"status": "repeated"}, (name, added, again.text)

    served(lone, work)


def thin(house: House) -> tuple[bytes, dict[str, str]]:
    """An error report that names a push nobody here knows, as Stripe would send it: by name alone."""
    house.stripe.v2_events["evt_thin"] = {
        "id": "evt_thin",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "data": {
            "reason": {
                "error_types": [
                    {"code": "x", "sample_errors": [{"error_message": "no", "request": {"identifier": "usage:a:0:b"}}]}
                ]
            }
        },
    }
    event: dict[str, object] = {
        "id": "evt_thin",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
    }
    headers, body = house.stripe.signed(event, house.clock.at_ms)
    return body, headers


def test_webhook_event_that_cannot_be_fetched_is_retried(house: House) -> None:
    async def work(caller: Caller) -> None:
        house.stripe_line.cut = NotSent("no connection")
        for attempts in (1, 2):
            answer = await caller.hook("stripe", *thin(house))
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_fetched")
            rows = house.fleet.rows("SELECT state, attempts FROM webhooks")
            assert rows == [("failed", attempts)]
        house.stripe_line.cut = None
        assert (await caller.hook("stripe", *thin(house))).json() == {"status": "done"}
        calls = len(house.stripe_line.calls)
        assert (await caller.hook("stripe", *thin(house))).json() == {"status": "repeated"}
        assert len(house.stripe_line.calls) == calls, "a repeat is not fetched again"

    served(house, work)
    assert house.fleet.rows("SELECT state, attempts FROM webhooks") == [("done", 3)]


@pytest.mark.both_databases
def test_webhook_during_database_outage_is_unavailable_and_retried(house: House) -> None:
    halt(house)

    async def work(caller: Caller) -> None:
        house.fleet.write("ALTER TABLE webhooks RENAME TO gone")
        answer = await caller.hook("autumn", *house.autumn_hook("acme"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database")
        house.fleet.write("ALTER TABLE gone RENAME TO webhooks")
        assert (await caller.hook("autumn", *house.autumn_hook("acme"))).json() == {"status": "done"}

    served(house, work)


REFUSED: Final[tuple[dict[str, Any], ...]] = (
    {"secret": FOREIGN}, {"at_ms": T0 - 5 * MINUTE_MS - 1000}, {"at_ms": T0 + 5 * MINUTE_MS + 1000},
    {"body": b"not json"}, {"body": b"[]"}, {"body": b'{"type": 1}'}, {"body": b'{"type": "billing.updated"}'},
    {"body": b'{"type": "billing.updated", "data": {"customer_id": 7}}'}, {"body": b"[" * 100_000}, {"body": b""},
)  # fmt: skip


def test_webhook_forged_stale_or_malformed_is_refused(lone: House) -> None:
    before = lone.counts()

    async def work(caller: Caller) -> None:
        for changes in REFUSED:
            answer = await caller.hook("autumn", *lone.autumn_hook("acme", **changes))
            assert refused(answer) == (400, "webhook_refused"), (str(changes)[:99], answer.text)

    served(lone, work)
    assert lone.counts() == before


def test_webhook_refusals_are_logged_once_per_minute_and_provider(lone: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(caller: Caller) -> None:
        body, headers = lone.autumn_hook("acme")
        for _ in range(5):
            assert (await caller.hook("autumn", body + b" ", headers)).status_code == 400
            assert (await caller.hook("autumn", b"\xff", headers)).status_code == 400
            assert (await caller.hook("stripe", body, {"stripe-signature": "t=1"})).status_code == 400
        lone.clock.at_ms += MINUTE_MS
        assert (await caller.hook("autumn", body + b" ", headers)).status_code == 400

    logs = structlog.testing.LogCapture()
    monkeypatch.setattr(webhooks, "log", structlog.wrap_logger(None, [logs], structlog.BoundLogger))
    served(lone, work)
    found = [(line["provider"], line["passed_over"]) for line in logs.entries]
    assert found == [("autumn", 0), ("autumn", 0), ("stripe", 0), ("autumn", 4)]


def test_webhook_altered_body_or_id_is_refused(lone: House) -> None:
    async def work(caller: Caller) -> None:
        body, headers = lone.autumn_hook("acme")
        assert (await caller.hook("autumn", body.replace(b"acme", b"evil"), headers)).status_code == 400
        assert (await caller.hook("autumn", body, {**headers, "svix-id": "msg_2"})).status_code == 400
        assert (await caller.hook("autumn", body[:-1], headers)).status_code == 400
        assert (await caller.hook("autumn", b"\xff" + body, headers)).status_code == 400
        assert (await caller.hook("autumn", body, {})).status_code == 400
        assert (await caller.hook("stripe", body, headers)).status_code == 400

    served(lone, work)
    assert lone.counts()["webhooks"] == 0


def test_webhook_of_provider_without_webhooks_is_not_found(lone: House) -> None:
    async def work(caller: Caller) -> None:
        body, headers = lone.autumn_hook("acme")
        for name, status in (("nobody", 404), ("legacy", 404), ("embedded", 400), ("broken", 503)):
            assert (await caller.hook(name, body, headers)).status_code == status, name

    served(lone, work)


def test_webhook_body_too_large_is_not_read(lone: House) -> None:
    read: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        for number in range(1_000):
            read.append(number)
            yield b"x" * 65_536

    async def work(caller: Caller) -> None:
        _, headers = lone.autumn_hook("acme")
        answer = await caller.send("POST", "/webhooks/autumn", endless(), headers)
        assert answer.status_code == 413
        assert len(read) < 20
        answer = await caller.send("POST", "/webhooks/autumn", b"x" * 1_000_001, headers)
        assert answer.status_code == 413
        answer = await caller.send("POST", "/webhooks/autumn", b"x", {**headers, "content-length": "-7"})
        assert answer.status_code == 400

    served(lone, work)
