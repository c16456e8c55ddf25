"""Webhooks over real sockets: signed as their receivers check, bounded, allow-listed, and no redirect followed."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from standardwebhooks import Webhook

from drawdown.providers.http.client import NOT_TRUSTED
from drawdown.providers.http.egress import system_lookup
from drawdown.schema.clock import FixedClock
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import HookAnswer, HookRequest
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.hooks import client as calling
from drawdown.worker.hooks.client import AT_ONCE, MAX_ANSWER_BYTES, HookClient
from drawdown.worker.hooks.deliver import Deliveries, deliver
from drawdown.worker.hooks.hook_settings import HookSettings, endpoint_secret
from tests.contract import sockets
from tests.contract.sockets import Manner, Peer, Seen
from tests.emulators.product import ProductEmulator
from tests.emulators.serve import serving_in_thread
from tests.integration.hooking import Shop
from tests.world import T0

ROOT = "canary-root-of-the-hooks"
BODY = '{"type":"endpoint.test","timestamp":"2026-01-01T00:00:00.000Z","data":{"org_id":null}}'


def where(seen: Seen) -> str:
    """Origin and path of a server: its own URL has a query, which no endpoint's has."""
    found = urlsplit(seen.url)
    return f"{found.scheme}://{found.netloc}/hooks/in"


def origin_of(url: str) -> str:
    found = urlsplit(url)
    return f"{found.scheme}://{found.netloc}"


def request(url: str, name: str = "msg_1", generations: Sequence[int] = (1,)) -> HookRequest:
    return HookRequest(name, "app", url, generations, BODY)


async def send(url: str, *messages: HookRequest, allowed: str | None = None, roots: tuple[str, ...] = (ROOT,),
               networks: Sequence[str] = (), lookup: Any = None, now_ms: int = T0) -> list[HookAnswer]:  # fmt: skip
    nets = tuple(ip_network(one) for one in networks)
    settings = HookSettings(frozenset({allowed or origin_of(url)}), roots, nets)
    client = HookClient(settings, FixedClock(now_ms), lookup=lookup or system_lookup)
    return await client.send(messages or [request(url)])


def against(manner: Manner) -> tuple[HookAnswer, Seen, float]:
    """What one call comes to at a server of this kind, and how long it took."""

    async def run() -> tuple[HookAnswer, Seen, float]:
        async with sockets.serving(manner) as seen:
            began = time.monotonic()
            (answer,) = await send(where(seen))
            return answer, seen, time.monotonic() - began

    return asyncio.run(run())


def test_webhook_signature_is_verified_by_receiver() -> None:
    """By the library that receivers use, and by the emulator's own reading of the specification."""
    now_ms = int(time.time() * 1000)

    async def run() -> Seen:
        async with sockets.serving(sockets.polite) as seen:
            assert await send(where(seen), now_ms=now_ms) == [HookAnswer(200)]
            return seen

    (raw,) = asyncio.run(run()).requests
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    assert first == "POST /hooks/in HTTP/1.1" and headers["content-type"] == "application/json"
    assert body.decode() == BODY
    assert Webhook(endpoint_secret(ROOT, "app", 1)).verify(body, headers) == json.loads(BODY)
    assert ROOT not in raw.decode() and endpoint_secret(ROOT, "app", 1) not in raw.decode()


@pytest.mark.parametrize("secret", ["new root", "old root", "old generation"])
def test_webhook_during_rotation_verifies_with_either_secret(secret: str) -> None:
    made = {
        "new root": endpoint_secret("canary-new-root-of-hooks", "app", 2),
        "old root": endpoint_secret(ROOT, "app", 2),
        "old generation": endpoint_secret(ROOT, "app", 1),
    }
    product, clock = ProductEmulator([made[secret]]), FixedClock(T0)
    with serving_in_thread(product, clock) as url:
        roots = ("canary-new-root-of-hooks", ROOT)
        (answer,) = asyncio.run(send(url, request(url, generations=(2, 1)), roots=roots))
    assert answer == HookAnswer(204) and product.taken == {"msg_1": BODY.encode()}


REDIRECT = b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
HUGE = b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000


@pytest.mark.parametrize(
    ("manner", "answer"),
    [
        (sockets.polite, HookAnswer(200)),
        (sockets.answering(REDIRECT), HookAnswer(302, "the endpoint answered 302")),
        (
            sockets.answering(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"),
            HookAnswer(410, "the endpoint answered 410"),
        ),
        (sockets.answering(HUGE), HookAnswer(error="the response is too long")),
        (sockets.endless, HookAnswer(error="the response is too long")),
        (sockets.answering(b"\x00\x01 not HTTP\r\n\r\n"), None),
        (sockets.reset_after_reading, None),
        (sockets.close_at_once, None),
    ],
    ids=["polite", "redirect", "gone", "huge", "endless", "nonsense", "reset", "closed"],
)
def test_webhook_is_delivered_only_by_complete_2xx_answer(manner: Manner, answer: HookAnswer | None) -> None:
    found, seen, _ = against(manner)
    if answer is None:
        assert found.error in ("the response is not HTTP", "the connection broke", "the response was cut short")
    else:
        assert found == answer
    assert len(seen.requests) <= 1, "no redirect was followed, and nothing was sent twice"


async def _head_then_nothing(peer: Peer) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    "manner", [sockets.silent, sockets.drip, sockets.never_shakes_hands, _head_then_nothing],
    ids=["silent", "drip", "no answer at all", "half an answer"],
)  # fmt: skip
def test_webhook_call_without_complete_answer_times_out(manner: Manner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "CALL_MS", 400)
    found, _, took_s = against(manner)
    assert found == HookAnswer(error="no complete response within 0.4 s")
    assert took_s < 5


def test_webhook_calls_in_parallel_time_out_like_single_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "CALL_MS", 500)

    async def run() -> float:
        async with sockets.serving(sockets.silent) as seen:
            url, began = where(seen), time.monotonic()
            answers = await send(url, *(request(url, f"msg_{n}") for n in range(AT_ONCE)))
            assert [answer.error for answer in answers] == ["no complete response within 0.5 s"] * AT_ONCE
            assert seen.connections == AT_ONCE
            return time.monotonic() - began

    assert asyncio.run(run()) < 2.5


def test_webhook_answer_with_endless_headers_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "CALL_MS", 5_000)
    found, _, _ = against(sockets.over_and_over(b"x-more: %s\r\n" % (b"a" * 1000), b"HTTP/1.1 200 OK\r\n"))
    assert found.error is not None and found.status is None


def test_webhook_answer_of_maximum_size_is_accepted() -> None:
    found, _, _ = against(sockets.answering(sockets.body_of(b"x" * MAX_ANSWER_BYTES)))
    assert found == HookAnswer(200)


def test_webhook_to_closed_port_reports_connection_refused() -> None:
    url = f"http://127.0.0.1:{sockets.free_port()}/in"
    assert asyncio.run(send(url)) == [HookAnswer(error="no connection (ECONNREFUSED)")]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://169.254.169.254/latest", "file:///etc/passwd", ""])
def test_webhook_url_outside_allow_list_is_not_called(url: str) -> None:
    async def run() -> None:
        async with sockets.serving(sockets.polite) as seen:
            (answer,) = await send(url, request(url), allowed=origin_of(seen.url))
            assert "Add its origin to DRAWDOWN_HOOK_ORIGINS" in (answer.error or "")
            assert seen.connections == 0

    asyncio.run(run())


def test_webhook_host_is_checked_by_resolved_address() -> None:
    """Good when first asked, loopback when it is connected to."""

    async def run() -> None:
        async with sockets.serving(sockets.polite) as seen:
            port = urlsplit(seen.url).port
            url = f"http://app.example:{port}/in"
            found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]
            (answer,) = await send(url, lookup=lambda _host, _port: found)
            assert answer.error == (
                "127.0.0.1 is a loopback address: not called unless DRAWDOWN_HOOK_NETWORKS allows it"
            )
            assert seen.connections == 0
            assert await send(url, lookup=lambda _host, _port: found, networks=["127.0.0.0/8"]) == [HookAnswer(200)]

    asyncio.run(run())


def test_webhook_without_secret_is_not_sent() -> None:
    async def run() -> None:
        async with sockets.serving(sockets.polite) as seen:
            (answer,) = await send(where(seen), roots=())
            assert "DRAWDOWN_HOOK_SECRET" in (answer.error or "")
            assert seen.connections == 0

    asyncio.run(run())


def test_webhook_untrusted_certificate_is_refused(tmp_path: Path) -> None:
    async def run() -> HookAnswer:
        tls, _ = sockets.own_tls(tmp_path)
        async with sockets.serving(sockets.polite, tls) as seen:
            (answer,) = await send(where(seen))
            assert seen.requests == []
            return answer

    assert asyncio.run(run()) == HookAnswer(error=NOT_TRUSTED)


@pytest.mark.both_databases
def test_halt_webhook_is_delivered_after_endpoint_outage(engine: sa.Engine) -> None:
    """The whole way: a halt, an outage of the product, the schedule, a delivery that the product verifies."""
    shop = Shop(engine)
    product = ProductEmulator([endpoint_secret(ROOT, "app", 1)], status=503)
    with serving_in_thread(product, shop.clock) as url:
        settings = HookSettings(frozenset({url}), (ROOT,))
        shop.write(lambda c: hooks.set_endpoint(c, "app", f"{url}/in", (), shop.fleet.by, new=True))
        shop.fleet.assign("acme", provider="none")
        shop.halt()
        world = runner.World(engine, {}, shop.fleet.cells, shop.clock, hooks=HookClient(settings, shop.clock))
        context = shop.context(hooks=settings.origins)
        assert runner.run(deliver(context), world) == Deliveries(failed=1)
        product.status = 200
        shop.clock.at_ms += 5_000
        assert runner.run(deliver(context), world) == Deliveries(delivered=1)
    ((name, body),) = shop.rows("SELECT message_id, body FROM hook_messages")
    assert product.taken == {name: body.encode()} and product.calls[name] == 2
    assert shop.deliveries("state, attempts, failures, last_status") == [("delivered", 2, 1, 200)]
    everything = repr([shop.rows(f"SELECT * FROM {table}") for table in sa.inspect(engine).get_table_names()])
    assert "canary" not in everything and "whsec_" not in everything, "no secret is stored"
