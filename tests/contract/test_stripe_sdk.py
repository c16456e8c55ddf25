"""Stripe's own Python client against the emulator: whether the emulator speaks as Stripe does.

The client is the measure: it knows the shapes, the errors and the signatures. What it takes from the emulator and what
the provider takes from it are the same bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import stripe

from drawdown.providers.http.client import HttpClient
from drawdown.providers.kit.emulator import Direct, FaultPlan
from drawdown.providers.protocol import Accepted, CustomerChanged, Duplicate, RetryAt, Unknown
from drawdown.providers.stripe import StripeProvider, build
from drawdown.schema.clock import SystemClock
from tests.cases import cases
from tests.contract.stripe_setup import World as ProviderWorld
from tests.contract.stripe_setup import push, setup
from tests.emulators.serve import serving, serving_in_thread
from tests.emulators.stripe import BILLING_FAULTS, StripeEmulator

SECRET = "whsec_emulator"
MINUTE_S = 60


@dataclass
class World:
    """The emulator, served, and the official client on it."""

    emulator: StripeEmulator
    client: stripe.StripeClient
    minute_s: int


@pytest.fixture
def world() -> Iterator[World]:
    emulator = StripeEmulator()
    emulator.add_customer("cus_1", "cus_2")
    emulator.add_meter("gb_seconds")
    with serving_in_thread(emulator) as url:
        client = stripe.StripeClient(emulator.secret_key, base_addresses={"api": url}, max_network_retries=0)
        yield World(emulator, client, int(time.time()) // 3600 * 3600 - 7200)


def send(world: World, identifier: str, value: int = 2, at_s: int = 0, idempotency: str | None = None) -> object:
    return world.client.v1.billing.meter_events.create(
        {
            "event_name": "gb_seconds",
            "payload": {"stripe_customer_id": "cus_1", "value": str(value)},
            "identifier": identifier,
            "timestamp": world.minute_s + at_s,
        },
        {"idempotency_key": idempotency} if idempotency else {},
    )


def test_stripe_client_reads_emulated_meter_event(world: World) -> None:
    found = send(world, "k1")
    assert isinstance(found, stripe.billing.MeterEvent)
    assert (found.object, found.identifier, found.event_name) == ("billing.meter_event", "k1", "gb_seconds")
    assert found.payload["value"] == "2"
    assert found.timestamp == world.minute_s
    assert world.emulator.charged_by() == {("cus_1", "gb_seconds", world.minute_s): 2}


def test_stripe_client_raises_invalid_request_for_duplicate_identifier(world: World) -> None:
    send(world, "k1")
    with pytest.raises(stripe.InvalidRequestError) as refused:
        send(world, "k1")
    assert refused.value.http_status == 400
    assert str(refused.value.user_message) == "An event already exists with identifier k1."
    assert refused.value.headers is not None and refused.value.headers["stripe-should-retry"] == "false"
    assert world.emulator.charged("cus_1", "gb_seconds") == 2


def test_stripe_client_key_repeats_answer_and_refuses_other_request(world: World) -> None:
    send(world, "k1", idempotency="i1")
    send(world, "k1", idempotency="i1")
    with pytest.raises(stripe.IdempotencyError):
        send(world, "k2", idempotency="i1")
    assert world.emulator.charged("cus_1", "gb_seconds") == 2


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("throttled", stripe.RateLimitError),
        ("lock_timeout", stripe.RateLimitError),
        ("error_500_after", stripe.APIError),
        ("request_lost", stripe.APIConnectionError),
        ("answer_lost", stripe.APIConnectionError),
        ("connection_refused", stripe.APIConnectionError),
    ],
)
def test_stripe_client_raises_documented_error_for_each_fault(world: World, kind: str, error: type[Exception]) -> None:
    world.emulator.faults.rates = {kind: 1.0}
    with pytest.raises(error):
        send(world, "k1")
    assert world.emulator.charged("cus_1", "gb_seconds") == (2 if kind in ("error_500_after", "answer_lost") else 0)


def test_stripe_client_raises_for_bad_key_and_permission(world: World) -> None:
    world.emulator.secret_key = "sk_test_changed"
    with pytest.raises(stripe.AuthenticationError):
        send(world, "k1")
    world.emulator.secret_key = "sk_test_emulator"
    world.emulator.forbidden = True
    with pytest.raises(stripe.PermissionError):
        send(world, "k1")


def test_stripe_client_pages_through_event_summaries(world: World) -> None:
    for hour in range(2):
        send(world, f"k{hour}", value=hour + 1, at_s=hour * 3600)
    meter_id = next(iter(world.emulator.meters))
    grouped = world.client.v1.billing.meters.event_summaries.list(
        meter_id,
        {
            "customer": "cus_1",
            "start_time": world.minute_s,
            "end_time": world.minute_s + 7200,
            "value_grouping_window": "hour",
            "limit": 1,
        },
    )
    assert grouped.has_more
    found = list(grouped.auto_paging_iter())
    assert [one.object for one in found] == ["billing.meter_event_summary"] * 2
    assert sorted((one.start_time - world.minute_s, one.aggregated_value) for one in found) == [(0, 1.0), (3600, 2.0)]
    assert {one.meter for one in found} == {meter_id}


@pytest.mark.parametrize(("start_s", "window"), [(1, None), (MINUTE_S, "hour"), (3600, "day"), (0, "week")])
def test_event_summary_of_unaligned_range_is_refused(world: World, start_s: int, window: str | None) -> None:
    params = {"customer": "cus_1", "start_time": world.minute_s + start_s, "end_time": world.minute_s + 7200}
    if window:
        params["value_grouping_window"] = window
    path = f"/v1/billing/meters/{next(iter(world.emulator.meters))}/event_summaries"
    with pytest.raises(stripe.InvalidRequestError):
        world.client.raw_request("get", path, **params)


def test_stripe_client_lists_creates_and_archives_meters(world: World) -> None:
    made = world.client.v1.billing.meters.create(
        {
            "display_name": "GB seconds by four",
            "event_name": "gb_seconds_4",
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
            "value_settings": {"event_payload_key": "value"},
        }
    )
    assert made.status == "active" and made.default_aggregation.formula == "sum"
    world.client.v1.billing.meters.deactivate(made.id)
    listed = {
        one.event_name: one.status for one in world.client.v1.billing.meters.list({"limit": 1}).auto_paging_iter()
    }
    assert listed == {"gb_seconds": "active", "gb_seconds_4": "inactive"}
    active = world.client.v1.billing.meters.list({"status": "active"}).data
    assert [one.event_name for one in active] == ["gb_seconds"]


def test_stripe_client_reads_deleted_and_missing_customers(world: World) -> None:
    world.emulator.customers["cus_2"] = True
    assert world.client.v1.customers.retrieve("cus_1").id == "cus_1"
    assert world.client.v1.customers.retrieve("cus_2").deleted is True
    with pytest.raises(stripe.InvalidRequestError) as missing:
        world.client.v1.customers.retrieve("cus_3")
    assert missing.value.http_status == 404 and missing.value.code == "resource_missing"


def test_stripe_client_fetches_error_report_of_thin_event(world: World) -> None:
    world.emulator.faults.rates = {"late_rejection": 1.0}
    send(world, "k1", idempotency="k1.1")
    now_ms = SystemClock().now_ms() + world.emulator.report_after_ms
    ((headers, body),) = world.emulator.webhooks(now_ms)
    header = headers["stripe-signature"]
    thin = world.client.parse_event_notification(body, header, SECRET)
    assert isinstance(thin, stripe.events.V1BillingMeterErrorReportTriggeredEventNotification)
    (kind,) = thin.fetch_event().data.reason.error_types
    assert (kind.code, kind.error_count) == ("archived_meter", 1)
    assert kind.sample_errors[0]["request"]["identifier"] == "k1.1"
    assert thin.fetch_related_object().event_name == "gb_seconds"


def test_emulator_webhook_passes_signature_check_of_stripe_client(world: World) -> None:
    headers, body = world.emulator.customer_webhook("invoice.paid", "cus_1", SystemClock().now_ms())
    found = world.client.construct_event(body, headers["stripe-signature"], SECRET)
    assert (found.type, found.data.object["customer"]) == ("invoice.paid", "cus_1")
    with pytest.raises(stripe.SignatureVerificationError):
        world.client.construct_event(body, headers["stripe-signature"], "whsec_other")


def test_webhook_signed_by_stripe_client_is_accepted_by_provider() -> None:
    body = '{"object": "event", "type": "customer.updated", "data": {"object": {"object": "customer", "id": "cus_1"}}}'
    header = stripe.WebhookSignature.generate_signature_header(body, SECRET)

    async def told() -> object:
        now_ms = SystemClock().now_ms()
        return await ProviderWorld().provider.notices({"stripe-signature": header}, body.encode(), now_ms)

    assert asyncio.run(told()) == [CustomerChanged("cus_1")]


def test_event_sent_by_client_and_provider_is_duplicate(world: World) -> None:
    clock = SystemClock()
    provider = build(setup(Direct(world.emulator, clock), clock))

    async def pushed(at_s: int) -> object:
        return await provider.push([push(2048, ts=at_s * 1000, key=f"k{at_s}")])

    send(world, f"k{world.minute_s}", value=2)
    assert asyncio.run(pushed(world.minute_s)) == [Duplicate()]
    assert asyncio.run(pushed(world.minute_s + 60)) == [Accepted()]
    charged = world.emulator.charged_by()
    assert charged == {("cus_1", "gb_seconds", world.minute_s + later): 2 for later in (0, 60)}


@cases("seed", range(3))
def test_pushes_over_sockets_under_faults_are_charged_once(seed: int) -> None:
    emulator = StripeEmulator(faults=FaultPlan(seed, dict.fromkeys(BILLING_FAULTS[:10], 0.05)))
    emulator.add_customer("cus_1")
    emulator.add_meter("gb_seconds")
    now_s = int(time.time()) // 3600 * 3600

    async def run() -> None:
        async with serving(emulator) as url:
            http = HttpClient()
            provider = build(setup(http, SystemClock(), url=url))
            await asyncio.gather(*(see_through(provider, number) for number in range(60)))
            await http.close()

    async def see_through(provider: StripeProvider, number: int) -> None:
        """Until it is settled; waits are cut short."""
        for attempt in range(1, 60):
            request = push((number + 1) * 1024, key=f"k{number}", attempt=attempt, ts=(now_s - number) * 1000)
            (outcome,) = await provider.push([request])
            if isinstance(outcome, Accepted | Duplicate):
                return
            assert isinstance(outcome, RetryAt | Unknown), outcome
        raise AssertionError(f"k{number} comes to no end")

    asyncio.run(run())
    assert sorted(emulator.charged_by().values()) == list(range(1, 61))
