"""The client that sends money's calls, against sockets that misbehave. A wrong `NotSent` here is a double bill."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import create_autospec

import pytest
import uvloop

from drawdown.providers.http import MAX_ANSWER_BYTES, Answer, Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.http.client import (
    CUT_OFF,
    MAX_HEAD_BYTES,
    NAMES_AT_ONCE,
    NO_ADDRESS,
    NOT_TRUSTED,
    Connection,
    Dialer,
    HttpClient,
    Origin,
)
from drawdown.providers.http.egress import Outgoing
from drawdown.schema.errors import UsageError
from tests.contract import sockets
from tests.contract.sockets import CHUNKED, Manner, Peer, answering, body_of, over_and_over, serving

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

CANARY = "Bearer am_sk_canary"
GZIP = b"content-encoding: gzip\r\n"


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Both kinds of loop: their sockets do not fail in the same words."""
    make = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runs(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=make) as runner:
            return runner.run(work)

    return runs


def call(url: str, method: str = "POST", timeout_s: float = 5.0, headers: Mapping[str, str] | None = None) -> Call:
    body = b'{"who": "body-canary"}' if method == "POST" else b""
    return Call(method, url, {"authorization": CANARY, **(headers or {})}, body, timeout_s)


async def once(client: HttpClient, one: Call) -> HttpResult:
    """Send, close, and see that no secret came back."""
    try:
        result = await client.send(one)
    finally:
        await client.close()
    if not isinstance(result, Answer):
        assert not any(word in result.reason for word in ("canary", "/v1", "track", "127.0.0.1")), result
        assert 0 < len(result.reason) <= 80
    assert "canary" not in repr((result, client)) and "am_sk" not in repr(one) and "body-canary" not in repr(one)
    return result


async def against(manner: Manner, timeout_s: float = 5.0, method: str = "POST") -> tuple[HttpResult, int]:
    """What a call to such a server gives, and how many requests reached it."""
    async with serving(manner) as seen:
        result = await once(HttpClient(), call(seen.url, method, timeout_s))
        return result, len(seen.requests)


# What cannot have reached the service.


def test_call_to_refusing_port_is_not_sent(run: Run[HttpResult]) -> None:
    result = run(once(HttpClient(), call(f"http://127.0.0.1:{sockets.free_port()}/v1/track")))
    assert result == NotSent("no connection (ECONNREFUSED)")


def test_call_to_host_without_address_is_not_sent(run: Run[HttpResult]) -> None:
    assert run(once(HttpClient(), call("http://nosuch.invalid/v1/track"))) == NotSent(NO_ADDRESS)


def test_call_without_thread_for_name_lookup_is_not_sent(run: Run[HttpResult], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert run(once(HttpClient(), call("http://nosuch.invalid/v1/track"))) == NotSent("no connection")


def test_call_with_queued_name_lookup_is_not_sent_if_client_closes(run: Run[list[Any]]) -> None:
    """It ended as if its own task were cancelled, although a caller awaits each result."""
    free, asked = threading.Event(), list[str]()

    def held(host: str, _port: int) -> list[tuple[Any, ...]]:
        asked.append(host)
        free.wait(5)
        raise OSError

    async def work() -> list[Any]:
        client = HttpClient(dialer=Dialer(lookup=held))
        urls = [f"http://host-{number}.invalid/v1/track" for number in range(NAMES_AT_ONCE + 1)]
        sends = [asyncio.create_task(client.send(call(url))) for url in urls]
        while len(asked) < NAMES_AT_ONCE:
            await asyncio.sleep(0.01)
        await client.close()
        free.set()
        return await asyncio.gather(*sends, return_exceptions=True)

    results = run(work())
    assert results == [*[NotSent(NO_ADDRESS)] * NAMES_AT_ONCE, NotSent("no connection")]


def test_call_to_untrusted_certificate_is_not_sent(run: Run[Any], tmp_path: Path) -> None:
    async def work() -> tuple[HttpResult, int]:
        async with serving(sockets.polite, sockets.own_tls(tmp_path)[0]) as seen:
            return await once(HttpClient(), call(seen.url)), len(seen.requests)

    assert run(work()) == (NotSent(NOT_TRUSTED), 0)


def test_call_to_certificate_of_another_host_is_not_sent(run: Run[Any], tmp_path: Path) -> None:
    async def work() -> HttpResult:
        tls, ca_file = sockets.own_tls(tmp_path)
        async with serving(sockets.polite, tls) as seen:
            return await once(
                HttpClient(dialer=Dialer(outgoing=Outgoing(ca_file))), call(seen.url.replace("127.0.0.1", "127.0.0.2"))
            )

    # Whether or not that address leads here, nothing is sent to it.
    assert isinstance(run(work()), NotSent)


def test_call_to_certificate_of_configured_ca_file_is_answered(run: Run[Any], tmp_path: Path) -> None:
    async def work() -> HttpResult:
        tls, ca_file = sockets.own_tls(tmp_path)
        async with serving(sockets.polite, tls) as seen:
            return await once(HttpClient(dialer=Dialer(outgoing=Outgoing(ca_file))), call(seen.url))

    result = run(work())
    assert isinstance(result, Answer) and result.body == b"ok"


def test_missing_ca_file_is_refused_with_setting_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="DRAWDOWN_CA_FILE"):
        Outgoing(str(tmp_path / "none.pem")).tls()


@pytest.mark.parametrize("manner", [sockets.plaintext, sockets.close_at_once, sockets.reset_at_once])
def test_https_call_to_server_without_tls_is_not_sent(run: Run[Any], manner: Manner) -> None:
    async def work() -> tuple[HttpResult, int]:
        async with serving(manner, scheme="https") as seen:
            return await once(HttpClient(), call(seen.url)), len(seen.requests)

    result, received = run(work())
    assert isinstance(result, NotSent) and received == 0


def test_call_with_endless_tls_handshake_is_not_sent(run: Run[Any]) -> None:
    async def work(client: HttpClient, timeout_s: float) -> HttpResult:
        async with serving(sockets.never_shakes_hands, scheme="https") as seen:
            return await once(client, call(seen.url, timeout_s=timeout_s))

    assert run(work(HttpClient(connect_timeout_s=0.2), 5)) == NotSent("no connection in time")
    assert run(work(HttpClient(), 0.2)) == NotSent("no connection in time")


def test_call_waiting_for_connection_too_long_is_not_sent(run: Run[Any]) -> None:
    async def work() -> tuple[HttpResult, int]:
        client = HttpClient(connections=1, connect_timeout_s=0.3)
        async with serving(sockets.silent) as seen:
            first = asyncio.create_task(client.send(call(seen.url, timeout_s=1)))
            await asyncio.sleep(0.2)
            second = await client.send(call(seen.url))
            assert await first == NoAnswer("no complete response within 1 s")
            await client.close()
            return second, len(seen.requests)

    assert run(work()) == (NotSent("no connection in time"), 1)


def test_call_on_connection_closed_while_made_is_not_sent(run: Run[Any]) -> None:
    class Closing(Dialer):
        async def connect(self, loop: asyncio.AbstractEventLoop, origin: Origin, protocol: asyncio.Protocol) -> None:
            await super().connect(loop, origin, protocol)
            protocol.connection_lost(None)

    async def work() -> tuple[HttpResult, int]:
        client = HttpClient(dialer=Closing(), connections=1)
        async with serving(sockets.polite) as seen:
            await client.send(call(seen.url))
            return await once(client, call(seen.url)), len(seen.requests)

    assert run(work()) == (NotSent("no connection"), 0)


@pytest.mark.parametrize(
    ("url", "method", "headers"),
    [
        ("", "POST", {}),
        ("/v1/track", "POST", {}),
        ("ftp://127.0.0.1/x", "POST", {}),
        ("http://[::1/x", "POST", {}),
        ("http://127.0.0.1:99999999/x", "POST", {}),
        ("http:///x", "POST", {}),
        ("http://127.0.0.1/x", "PO ST", {}),
        ("http://127.0.0.1/x", "POST", {"x-a": "canary\r\nx-b: 1"}),
        ("http://127.0.0.1/x", "POST", {"x-a\r\n": "1"}),
        ("http://127.0.0.1/x", "POST", {"Content-Length": "1"}),
        ("http://127.0.0.1/x", "POST", {"transfer-encoding": "chunked"}),
    ],
)
def test_request_invalid_in_http_is_not_sent(
    run: Run[HttpResult], url: str, method: str, headers: dict[str, str]
) -> None:
    result = run(once(HttpClient(), call(url, method, headers=headers)))
    assert result == NotSent("invalid request: it cannot be sent")


# What may have reached it.


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize(
    ("manner", "reason", "received"),
    [
        (sockets.close_at_once, None, 0),
        (sockets.reset_at_once, None, 0),
        (answering(b""), "the connection closed before a response", 1),
        (sockets.reset_after_reading, "the connection broke", 1),
        (answering(b"HTTP/1.1 200 OK\r\ncontent-le"), "the connection closed before a response", 1),
        (answering(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"), "the response was cut short", 1),
        (answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf"), "the response was cut short", 1),
        (answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"), None, 1),
        (answering(b"220 mail.example ESMTP\r\n\r\n"), "the response is not HTTP", 1),
        (answering(b"\x16\x03\x01\x00\xff\xfe\x00\r\n\r\n"), "the response is not HTTP", 1),
        (answering(b"HTTP/1.1 abc OK\r\n\r\n"), "the response is not HTTP", 1),
        (answering(b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n"), "the response is not HTTP", 1),
        (answering(b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n"), "the response is not HTTP", 1),
        (answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nokk"), None, 1),
        (
            answering(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n"),
            "the response is too large, so Drawdown cut it off",
            1,
        ),
        (answering(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), None, 1),
        (answering(b"HTTP/1.1 100 Continue\r\n\r\n"), "the connection closed before a response", 1),
        (
            over_and_over(b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000),
            "the response is too large, so Drawdown cut it off",
            1,
        ),
        (
            over_and_over(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"),
            "the response is too large, so Drawdown cut it off",
            1,
        ),
        (over_and_over(b"x: y\r\n" * 20, b"HTTP/1.1 200 OK\r\n"), None, 1),
        (over_and_over(b"1;" + b"x" * 9_000 + b"\r\nx\r\n", CHUNKED), None, 1),
        (sockets.crumbs, "the response is too large, so Drawdown cut it off", 1),
        (answering(body_of(b"not gzip", GZIP)), "cannot decode the response: invalid gzip", 1),
        (answering(body_of(gzip.compress(b"x" * 999)[:-9], GZIP)), "cannot decode the response: invalid gzip", 1),
        (
            answering(body_of(b"x", b"content-encoding: br\r\n")),
            "the response has the encoding 'br': expected gzip or identity",
            1,
        ),
        (answering(sockets.BOMB), f"the response has more than {MAX_ANSWER_BYTES} bytes", 1),
        (sockets.endless, f"the response has more than {MAX_ANSWER_BYTES} bytes", 1),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_call_cut_after_first_byte_is_not_reported_unsent(
    run: Run[Any], manner: Manner, reason: str | None, received: int, method: str
) -> None:
    result, requests = run(against(manner, method=method))
    assert isinstance(result, NoAnswer), result
    assert reason is None or result.reason == reason
    assert requests == received


def test_endless_trailer_is_cut_off_at_size_limit(run: Run[None]) -> None:
    """The parser keeps a name until it is whole: what a server says beside a body is bounded by the body."""

    async def work() -> None:
        connection = Connection(asyncio.get_running_loop(), Counter(), "origin")
        connection.connection_made(create_autospec(asyncio.Transport, instance=True))
        answer, said = connection.ask(b"", MAX_ANSWER_BYTES), 0
        connection.data_received(CHUNKED + b"2\r\n{}\r\n0\r\n")
        while not answer.done():
            connection.data_received(b"t" * 1024)
            said += 1024
        assert str(answer.exception()) == CUT_OFF and said <= 3 * MAX_HEAD_BYTES

    run(work())


@pytest.mark.parametrize("manner", [sockets.silent, sockets.drip])
def test_call_with_slow_server_ends_at_total_time_limit(run: Run[Any], manner: Manner) -> None:
    assert run(against(manner, timeout_s=0.3)) == (NoAnswer("no complete response within 0.3 s"), 1)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_call_with_unread_large_body_ends_at_time_limit(run: Run[Any]) -> None:
    async def work() -> HttpResult:
        async with serving(sockets.never_shakes_hands) as seen:
            return await once(HttpClient(), Call("POST", seen.url, {}, bytes(20_000_000), 0.3))

    assert run(work()) == NoAnswer("no complete response within 0.3 s")


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_call_on_reused_connection_that_closes_is_not_retried(run: Run[Any], method: str) -> None:
    async def work() -> tuple[HttpResult, HttpResult, int]:
        client = HttpClient()
        async with serving(sockets.close_after_one) as seen:
            first = await client.send(call(seen.url, method))
            return first, await once(client, call(seen.url, method)), len(seen.requests)

    first, second, requests = run(work())
    assert isinstance(first, Answer)
    assert isinstance(second, NoAnswer) and requests == 2


def test_idle_connection_closed_by_server_is_replaced(run: Run[Any]) -> None:
    async def work() -> tuple[HttpResult, HttpResult, int]:
        client = HttpClient()
        async with serving(answering(sockets.OK)) as seen:
            first = await client.send(call(seen.url))
            await asyncio.sleep(0.3)
            return first, await once(client, call(seen.url)), seen.connections

    first, second, connections = run(work())
    assert isinstance(first, Answer) and isinstance(second, Answer) and connections == 2


def test_unrequested_late_answer_is_not_used_for_next_call(run: Run[Any]) -> None:
    async def work() -> tuple[HttpResult, int]:
        client = HttpClient()
        async with serving(sockets.two_answers) as seen:
            await client.send(call(seen.url))
            await asyncio.sleep(0.4)
            return await once(client, call(seen.url)), len(seen.requests)

    second, received = run(work())
    assert isinstance(second, Answer) and second.body == b"ok" and received == 2, "by a connection of its own"


def test_extra_answer_after_first_is_not_used_for_next_call(run: Run[Any]) -> None:
    async def work() -> tuple[HttpResult, HttpResult]:
        client = HttpClient()
        async with serving(answering(sockets.OK + body_of(b"not yours"))) as seen:
            return await client.send(call(seen.url)), await once(client, call(seen.url))

    first, second = run(work())
    assert isinstance(first, Answer) and first.body == b"ok"
    assert second == NotSent("the kept connection was not clean") or getattr(second, "body", b"") == b"ok"


# What is an answer.


def test_gzip_answer_is_decoded_with_lower_case_header_names(run: Run[Any]) -> None:
    zipped = gzip.compress(b'{"a": 1}')
    data = body_of(zipped, GZIP + b"Retry-After: 7\r\nX-Two: a\r\nx-two: b\r\n").replace(b"200 OK", b"429 Slow Down")
    result, _ = run(against(answering(data)))
    assert isinstance(result, Answer)
    assert (result.status, result.body) == (429, b'{"a": 1}')
    assert result.headers["retry-after"] == "7" and result.headers["x-two"] == "a, b"


def test_informational_1xx_answer_is_skipped(run: Run[Any]) -> None:
    result, _ = run(against(answering(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + sockets.OK)))
    assert isinstance(result, Answer) and (result.status, result.body) == (200, b"ok")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_returned_and_not_followed(run: Run[Any], status: int) -> None:
    data = b"HTTP/1.1 %d Elsewhere\r\nlocation: /v2\r\ncontent-length: 0\r\n\r\n" % status
    result, requests = run(against(answering(data)))
    assert isinstance(result, Answer) and result.status == status and requests == 1


def test_answer_of_maximum_size_is_accepted(run: Run[Any]) -> None:
    result, _ = run(against(answering(body_of(b"x" * MAX_ANSWER_BYTES))))
    assert isinstance(result, Answer) and len(result.body) == MAX_ANSWER_BYTES


def test_request_is_sent_unchanged_and_without_cookies(run: Run[Any]) -> None:
    async def cookies(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.say(body_of(b"", b"set-cookie: session=1; path=/\r\n"))

    async def work() -> list[bytes]:
        client = HttpClient()
        async with serving(cookies) as seen:
            url = seen.url.replace("127.0.0.1", "localhost")  # an address has no cookies
            await client.send(call(url, headers={"content-type": "text/x"}))
            await once(client, call(url + "&a=%2Fb%20c", "GET"))
            assert seen.connections == 1
            return seen.requests

    post, get = run(work())
    assert post.endswith(b'\r\n\r\n{"who": "body-canary"}')
    for said in (b"POST /v1/track?who=query-canary HTTP/1.1\r\n", b"authorization: " + CANARY.encode(), b": text/x"):
        assert said in post
    assert get.startswith(b"GET /v1/track?who=query-canary&a=%2Fb%20c HTTP/1.1\r\n")
    assert b"cookie" not in get.lower()


def test_caller_header_replaces_default_in_any_case(run: Run[Any]) -> None:
    async def work() -> bytes:
        async with serving(sockets.polite) as seen:
            await once(HttpClient(), call(seen.url, headers={"User-Agent": "mine", "Accept-Encoding": "identity"}))
            return seen.requests[0].lower()

    request = run(work())
    assert request.count(b"user-agent: mine\r\n") == request.count(b"user-agent") == 1
    assert request.count(b"accept-encoding: identity\r\n") == request.count(b"accept-encoding") == 1


def test_proxy_environment_variables_are_ignored(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{sockets.free_port()}")
    result, _ = run(against(sockets.polite))
    assert isinstance(result, Answer)


# Loops, and being called off.


def test_client_works_in_consecutive_event_loops(run: Run[Any]) -> None:
    client = HttpClient()

    async def work(close: bool) -> HttpResult:
        async with serving(sockets.polite) as seen:
            results = await asyncio.gather(*(client.send(call(seen.url)) for _ in range(20)))
            if close:
                await client.close()
                results.append(await client.send(call(seen.url)))
            assert all(isinstance(one, Answer) for one in results)
            return results[-1]

    for close in (False, False, True, True):
        assert isinstance(run(work(close)), Answer)
    asyncio.run(client.close())
    asyncio.run(client.close())


def test_cancelled_call_does_not_affect_next_call(run: Run[Any]) -> None:
    async def slow_first(peer: Peer) -> None:
        if len(peer.seen.requests) == 0:
            await peer.request()
            await asyncio.sleep(0.3)
            await peer.say(body_of(b"the first one's"))
        await sockets.polite(peer)

    async def work() -> HttpResult:
        client = HttpClient(connections=1)
        async with serving(slow_first) as seen:
            first = asyncio.create_task(client.send(call(seen.url)))
            while not seen.requests:
                await asyncio.sleep(0.01)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            return await once(client, call(seen.url))

    result = run(work())
    assert isinstance(result, Answer) and result.body == b"ok"


def test_concurrent_calls_are_each_sent_once(run: Run[Any]) -> None:
    async def work() -> tuple[set[str], int, int]:
        client = HttpClient(connections=16)
        async with serving(sockets.polite) as seen:
            results = await asyncio.gather(*(client.send(call(seen.url)) for _ in range(400)))
            await client.close()
            return {type(one).__name__ for one in results}, len(seen.requests), seen.connections

    kinds, requests, connections = run(work())
    assert kinds == {"Answer"} and requests == 400 and connections <= 16
