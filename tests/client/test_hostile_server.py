"""Whatever a server answers, a program gets an answer or a ClientError, within bounds, and logs no line but its own."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import httpx
import pytest
import respx

from drawdown_client import (
    AsyncClient,
    Blocked,
    Client,
    ClientError,
    Refused,
    Settings,
    Unreachable,
    Unsent,
    Wish,
    calls,
)
from tests.cases import cases
from tests.client.book import KEY, URL, hasty

ONCE: Final = Settings(call_tries=1, batch_ms=0)
WISH: Final = Wish("acme", "idea.create")
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ALLOWED: Final = {"decision": "allow"}


def ask(answer: httpx.Response, call: Callable[[Client], Any]) -> Any:
    """What becomes of a call that is answered so."""
    with respx.mock(base_url=URL, using="httpx") as router:
        router.route().mock(return_value=answer)
        with Client(URL, KEY, ONCE, world=hasty()) as made:
            return call(made)


def check(client: Client) -> Any:
    return client.guard.check(WISH)


def used(client: Client) -> Any:
    return client.usage("acme", 0)


def within(client: Client) -> None:
    with client.guard.budget("k", "m", 5, org_id="acme"):
        pass


NONSENSE: Final[dict[str, tuple[Callable[[Client], Any], httpx.Response, type[ClientError]]]] = {
    "deep": (check, httpx.Response(200, content=b"[" * 100_000), Unreachable),
    "deep_error": (check, httpx.Response(400, content=b'{"a":' * 100_000), Refused),
    "many_digits": (check, httpx.Response(200, content=b"9" * 5_000), Unreachable),
    "no_text": (check, httpx.Response(400, content=b"\xff", headers={"content-type": "a; charset=zip"}), Refused),
    "details_of_a_number": (check, httpx.Response(400, json={"error": {"code": "x", "details": 5}}), Refused),
    "details_of_texts": (check, httpx.Response(400, json={"error": {"code": "x", "details": ["ab", "c"]}}), Refused),
    "a_decision_of_a_list": (check, httpx.Response(200, json={"decision": ["allow"]}), Unreachable),
    "blocked_with_numbers": (within, httpx.Response(200, json={"decision": "block", "options": [1]}), Blocked),
    "blocked_with_one_option": (within, httpx.Response(200, json={"decision": "block", "options": 5}), Blocked),
    "held_as_nothing_known": (within, httpx.Response(200, json={**ALLOWED, "state": {"a": []}}), Refused),
    "a_page_without_rows": (used, httpx.Response(200, json={"next": None}), Unreachable),
    "a_page_of_a_number": (used, httpx.Response(200, json={"rows": 5, "next": None}), Unreachable),
    "a_next_that_is_none": (used, httpx.Response(200, json={"rows": [], "next": ["a"]}), Unreachable),
    "the_same_page_without_end": (used, httpx.Response(200, json={"rows": [{}], "next": "a"}), Unreachable),
    "a_row_that_is_none": (used, httpx.Response(200, json={"rows": [1], "next": None}), Unreachable),
    "more_rows_than_a_page_has": (used, httpx.Response(200, json={"rows": [{}] * 1_001, "next": None}), Unreachable),
    "a_wait_beyond_all_numbers": (
        check, httpx.Response(503, headers={"retry-after": f"Mon, 01 Jan 2020 00:00:00 +{10**14}"}), Unreachable,
    ),
}  # fmt: skip


@cases(("call", "answer", "error"), NONSENSE.values())
def test_client_nonsense_answer_raises_client_error(
    call: Any, answer: httpx.Response, error: type[ClientError]
) -> None:
    with pytest.raises(error):
        ask(answer, call)


@pytest.mark.parametrize("value", [b"[]", b'{"a":0}', b"0", b'"\\"":0'], ids=str)
@pytest.mark.parametrize("status", [200, 400, 503])
def test_client_answer_with_too_many_values_is_not_parsed(
    value: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b'{"rows":[' + b",".join([value] * 100_000) + b'],"next":null}'
    monkeypatch.setattr("drawdown_client.calls.json", None)
    with pytest.raises(Refused if status == 400 else Unreachable):
        calls.read(httpx.Response(status), body, hasty())


@cases("body", [b'"' * 4_000_000, b'"' + b'\\"' * 2_000_000, b"x" * 4_000_000])
def test_client_answer_value_count_takes_linear_time(body: bytes) -> None:
    began = time.process_time()
    assert calls._object(body) is None and time.process_time() - began < 5


def test_client_answer_value_count_ignores_text_content() -> None:
    rows = [{"group": ',:[{"' * 40, "feature": "f" * 200, "unit": "units", "used": 1, "sealed": 1}] * 1_000
    assert ask(httpx.Response(200, json={"rows": rows, "next": None}), used)["rows"] == rows


@cases("said", ["\x1b[31mno\nERROR all is lost" + "x" * 60_000, "\u202e" * 60_000])
def test_client_protocol_error_message_is_printable_and_bounded(said: str) -> None:
    told = str(calls.failed(httpx.RemoteProtocolError(f"illegal status line: {said}")))
    assert "illegal status line" in told and told.isprintable() and len(told) < 2_500


def test_guard_client_invalid_optional_fields_are_ignored() -> None:
    odd = {**ALLOWED, "limit": "x", "used": True, "remaining": 1.5, "payer": 3, "options": [1, "top_up"], "reason": {}}
    found = ask(httpx.Response(200, json=odd), check)
    assert (found.limit, found.used, found.remaining, found.payer, found.options) == (
        None,
        None,
        None,
        None,
        ("top_up",),
    )
    assert found.is_allowed and found.reason == "?" and found.whole == odd


@cases("status", [[], {}, 3, None])
def test_client_item_without_result_is_resent(status: object) -> None:
    with respx.mock(base_url=URL, using="httpx") as router:
        route = router.post("/v1/events")
        route.side_effect = [
            httpx.Response(200, json={"results": [{"status": status}]}),
            httpx.Response(200, json={"results": [{"status": "accepted"}]}),
        ]
        with Client(URL, KEY, ONCE, world=hasty()) as made:
            made.record("page.render", 3, org_id="acme")
            made.flush(20)
        assert route.call_count == 2


def test_client_log_of_hostile_server_text_is_single_printable_line(caplog: pytest.LogCaptureFixture) -> None:
    evil = "no\nERROR root: all is lost\x1b[2J\u202e" + "x" * 10_000
    caplog.set_level(logging.WARNING)

    def call(client: Client) -> None:
        client.record("page.render", 3, org_id="acme")
        with suppress(Unsent):
            client.flush(20)

    ask(httpx.Response(400, json={"error": {"code": evil, "message": evil}}), call)
    ask(httpx.Response(200, json={"results": [{"status": "invalid", "code": evil, "message": evil}]}), call)
    ask(httpx.Response(200, json={"results": [{"status": "pending", "code": evil, "message": evil}]}), call)
    assert len(caplog.messages) == 3
    assert all(one.isprintable() and len(one) < 2_000 and "all is lost" in one for one in caplog.messages)


def test_client_log_of_hostile_item_id_is_single_printable_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    evil = "no\nERROR root: all is lost\x1b[2J\u202e"

    def call(client: Client) -> None:
        client.record("page.render", 3, org_id="acme", event_id=evil)
        with suppress(Unsent):
            client.flush(20)

    ask(httpx.Response(200, json={"results": [{"status": "invalid", "code": "bad_id"}]}), call)
    ask(httpx.Response(500), lambda client: client.guard.budget(evil, "m", 5, org_id="acme")._give_up(1, "x"))
    assert len(caplog.messages) == 2 and all(one.isprintable() and "all is lost" in one for one in caplog.messages)


def test_client_cookies_are_not_stored() -> None:
    def call(client: Client) -> None:
        check(client)
        check(client)

    with respx.mock(base_url=URL, using="httpx") as router:
        route = router.route().mock(return_value=httpx.Response(200, json=ALLOWED, headers={"set-cookie": "a=b"}))
        with Client(URL, KEY, ONCE, world=hasty()) as made:
            call(made)
        assert route.call_count == 2 and not any("cookie" in one.request.headers for one in route.calls)


# On a socket: what a server sends without end, or hardly at all.


@contextmanager
def answering(parts: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """Each request is answered by these parts, one after the other, until whoever asked has gone."""

    def answer(line: socket.socket) -> None:
        with suppress(OSError), line:
            while line.recv(65_536):
                for part in parts():
                    line.sendall(part)

    def serve(door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(door.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=serve, args=(door,), daemon=True).start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
        door.shutdown(socket.SHUT_RDWR)


def endless() -> Iterator[bytes]:
    yield HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"10000\r\n" + b" " * 65_536 + b"\r\n"


def packed() -> Iterator[bytes]:
    body = gzip.compress(json.dumps(ALLOWED).encode() + b" " * 10_000_000)
    yield HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def slow() -> Iterator[bytes]:
    yield HEAD + b"Content-Length: 1000\r\n\r\n"
    for _ in range(100):
        time.sleep(0.02)
        yield b" "


def slow_head() -> Iterator[bytes]:
    yield HEAD
    for _ in range(100):
        time.sleep(0.02)
        yield b"x"


def no_head() -> Iterator[bytes]:
    for _ in range(100):
        time.sleep(0.02)
        yield b"HTTP/1.1 100 Continue\r\n\r\n"


def asked(url: str) -> None:
    with Client(url, KEY, Settings(call_tries=1, connect_s=0.1)) as made:
        check(made)


def asked_by_a_loop(url: str) -> None:
    async def whole() -> None:
        async with AsyncClient(url, KEY, Settings(call_tries=1, connect_s=0.1)) as made:
            await made.guard.check(WISH)

    asyncio.run(whole())


BOTH: Final = [asked, asked_by_a_loop]


@cases("ask", BOTH)
@cases(("parts", "why"), [(endless, "more than 8,388,608 bytes"), (packed, "it is compressed")])
def test_client_endless_answer_is_aborted(
    ask: Callable[[str], None], parts: Callable[[], Iterator[bytes]], why: str
) -> None:
    with answering(parts) as url, pytest.raises(Unreachable, match=why):
        ask(url)


@pytest.mark.parametrize("ask", BOTH)
@pytest.mark.parametrize("parts", [slow, slow_head, no_head])
def test_client_slow_answer_times_out(
    ask: Callable[[str], None], parts: Callable[[], Iterator[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drawdown_client.calls.WHOLE_ANSWER_S", 0.2)
    began = time.monotonic()
    with answering(parts) as url, pytest.raises(Unreachable, match="did not complete its response within"):
        ask(url)
    assert time.monotonic() - began < 1.5


def test_client_attempt_with_own_limit_times_out() -> None:
    limited = pytest.raises(Unreachable, match=r"did not complete its response within 0\.2 s")
    with answering(slow) as url, Client(url, KEY) as made, limited:
        made._line.once(calls.get("v1", "orgs"), 0.2)


def test_client_requests_uncompressed_answers() -> None:
    assert calls.headers(KEY)["Accept-Encoding"] == "identity"
