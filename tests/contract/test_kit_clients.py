"""httpx and httpx2 as plug-in authors use them: what is proven "not sent", and that nothing is sent twice."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
import sqlalchemy as sa

from drawdown.providers import registry
from drawdown.providers.conformance import Bench, ProviderConformance
from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.http.client import HttpClient
from drawdown.providers.kit.clients import NOT_INSTALLED, EngineTransport, OwnClient, ask, client_on, trouble
from drawdown.providers.protocol import Provider, Setup
from drawdown.schema.clock import FixedClock
from drawdown.schema.errors import UsageError
from tests.contract import sockets
from tests.contract.sockets import Manner, free_port, serving
from tests.contract.third_party.drawdown_tally import Tally
from tests.contract.third_party.tally_bench import KEY, NOW_MS, SECRETS, Service, TallyBench

ROOT = Path(__file__).resolve().parents[2]
BOTH = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
MOVED = sockets.answering(b"HTTP/1.1 307 Moved\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n")

UNANSWERED: Mapping[str, Manner] = {
    "closes at once": sockets.close_at_once,
    "resets at once": sockets.reset_at_once,
    "resets after reading": sockets.reset_after_reading,
    "is silent": sockets.silent,
    "drips": sockets.drip,
    "is cut short": sockets.answering(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"),
    "is not HTTP": sockets.answering(b"SSH-2.0-OpenSSH_9.6\r\n"),
}


@BOTH
@pytest.mark.parametrize("manner", UNANSWERED)
def test_httpx_request_that_may_have_arrived_is_not_reported_unsent(manner: str, library: ModuleType) -> None:
    async def asked() -> HttpResult:
        async with serving(UNANSWERED[manner]) as seen, library.AsyncClient() as client:
            return await ask(client, "POST", seen.url, timeout_s=0.5, json={"key": "1"})

    assert isinstance(asyncio.run(asked()), NoAnswer)


@BOTH
@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/", "http://nosuch.invalid/", "ftp://127.0.0.1/", "http:// /"])
def test_httpx_request_without_connection_is_not_sent(url: str, library: ModuleType) -> None:
    async def asked() -> HttpResult:
        async with library.AsyncClient() as client:
            return await ask(client, "POST", url.format(port=free_port()), timeout_s=5, content=b"x")

    assert isinstance(asyncio.run(asked()), NotSent)


@BOTH
def test_httpx_answer_is_whole_with_lower_case_header_names(library: ModuleType) -> None:
    async def asked() -> list[HttpResult]:
        manner = sockets.answering(sockets.body_of(b'{"charged": 1}', b"Retry-After: 7\r\n"))
        async with serving(manner) as seen, library.AsyncClient() as client:
            return [
                await ask(client, "GET", seen.url),
                await ask(client, "GET", seen.url, most_bytes=5),
            ]

    whole, cut = asyncio.run(asked())
    assert isinstance(whole, Answer) and whole.body == b'{"charged": 1}' and whole.headers["retry-after"] == "7"
    assert cut == NoAnswer("the response has more than 5 bytes")


@BOTH
@pytest.mark.parametrize(
    ("error", "kind"), [("ReadTimeout", NoAnswer), ("ReadError", NoAnswer), ("ConnectError", NotSent)]
)
def test_httpx_mocked_transport_error_is_unsent_only_if_connect_fails(
    error: str, kind: type, library: ModuleType
) -> None:
    """It emits no trace: by the trace alone, a mocked read timeout would be taken for unsent."""

    def handler(request: Any) -> Any:
        raise getattr(library, error)("mocked", request=request)

    async def asked() -> HttpResult:
        async with library.AsyncClient(transport=library.MockTransport(handler)) as client:
            return await ask(client, "POST", "https://penny.invalid/", json={})

    assert isinstance(asyncio.run(asked()), kind)


class RetryTransport:
    """Sends once more after any failure, as such transports do."""

    def __init__(self, library: ModuleType) -> None:
        self._library, self._inner = library, library.AsyncHTTPTransport()

    async def handle_async_request(self, request: Any) -> Any:
        try:
            return await self._inner.handle_async_request(request)
        except self._library.TransportError:
            return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> RetryTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@BOTH
def test_httpx_retrying_transport_is_stopped_before_second_request(library: ModuleType) -> None:
    async def asked() -> tuple[HttpResult, int]:
        transport = RetryTransport(library)
        async with serving(sockets.reset_after_reading) as seen, library.AsyncClient(transport=transport) as client:
            return await ask(client, "POST", seen.url, json={"key": "1"}), len(seen.requests)

    result, requests = asyncio.run(asked())
    assert isinstance(result, NoAnswer) and "sends a request again" in result.reason
    assert requests == 1


@BOTH
def test_httpx_redirect_is_not_followed(library: ModuleType) -> None:
    async def asked() -> tuple[HttpResult, int]:
        async with serving(MOVED) as seen, library.AsyncClient(follow_redirects=True) as client:
            return await ask(client, "POST", seen.url, json={"key": "1"}), len(seen.requests)

    result, requests = asyncio.run(asked())
    assert isinstance(result, Answer) and result.status == 307 and requests == 1


@BOTH
def test_httpx_client_that_redirects_or_retries_is_reported(library: ModuleType) -> None:
    careless = {
        "follow_redirects=False": library.AsyncClient(follow_redirects=True),
        "RetryTransport": library.AsyncClient(transport=RetryTransport(library)),
        "retries=2": library.AsyncClient(transport=library.AsyncHTTPTransport(retries=2)),
        "(RetryTransport)": library.AsyncClient(mounts={"https://": RetryTransport(library)}),
    }
    for told, client in careless.items():
        line = trouble(client)
        assert line is not None and told in line and "\n" not in line
    assert trouble(library.AsyncClient()) is None
    with pytest.raises(UsageError, match="follow_redirects=False"):
        OwnClient(lambda: library.AsyncClient(follow_redirects=True))


def test_provider_with_redirecting_httpx_client_is_listed_as_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(Tally):
        def __init__(self, setup: Setup) -> None:
            super().__init__(setup)
            self.client = httpx.AsyncClient(follow_redirects=True)

    class Entry:
        name, dist = "tally", None

        def load(self) -> type[Careless]:
            return Careless

    found = registry.load({"tally_key": KEY}, FixedClock(NOW_MS), Service(), sa.create_engine("sqlite://"), [Entry()])  # type: ignore[list-item]
    assert found.broken["tally"].startswith("ValueError: its httpx client follows redirects") and not found.providers


@BOTH
def test_client_on_engine_does_not_store_cookies_and_reports_unsent(library: ModuleType) -> None:
    async def asked() -> tuple[list[HttpResult], list[bytes]]:
        cookie = sockets.answering(sockets.body_of(b"{}", b"set-cookie: a=1\r\nconnection: close\r\n"))
        engine = HttpClient()
        client = client_on(engine, library, headers={"authorization": "Bearer x"})
        try:
            async with serving(cookie) as seen:
                told = [await ask(client, "POST", seen.url, json={"n": 1}) for _ in range(2)]
                told.append(await ask(client, "GET", f"http://127.0.0.1:{free_port()}/"))
            async with serving(sockets.reset_after_reading) as cut:
                told.append(await ask(client, "POST", cut.url, content=b"x"))
            return told, list(seen.requests)
        finally:
            await engine.close()

    (first, second, refused, cut), requests = asyncio.run(asked())
    assert isinstance(first, Answer) and isinstance(second, Answer) and first.status == 200
    assert isinstance(refused, NotSent) and isinstance(cut, NoAnswer)
    assert all(
        b"POST /v1/track?who=query-canary HTTP/1.1" in one and b"authorization: Bearer x" in one for one in requests
    )
    assert not any(b"cookie" in one for one in requests), "a cookie was kept"


def test_setup_client_without_httpx2_or_with_redirects_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup("tally", {}, FixedClock(NOW_MS), Service(), sa.create_engine("sqlite://"))
    assert isinstance(setup.client(base_url="https://tally.invalid"), httpx2.AsyncClient)
    with pytest.raises(UsageError, match="follow_redirects=False"):
        setup.client(follow_redirects=True)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(UsageError, match=re.escape(NOT_INSTALLED)):
        setup.client()


@BOTH
def test_own_client_works_in_each_event_loop(library: ModuleType) -> None:
    """A tick ends its loop: a client that is kept beyond would write into connections that are closed."""
    http = OwnClient(library.AsyncClient)

    async def asked() -> HttpResult:
        async with serving(sockets.polite) as seen:
            return await http.send(Call("POST", seen.url, body=b"x"))

    assert all(isinstance(asyncio.run(asked()), Answer) for _ in range(3))


# The suite, on providers that bring a client of httpx or httpx2.


class OverHttpx(Tally):
    """Tally, as an author who knows httpx writes it."""

    def __init__(self, setup: Setup, client: Any) -> None:
        super().__init__(setup)
        self.client = client

    async def _send(self, method: str, path: str, body: bytes = b"") -> HttpResult:
        return await ask(self.client, method, self._url + path, headers=self._headers, content=body or None)


class HttpxBench(TallyBench):
    """`build` makes the provider; its own client is led to the suite's wire."""

    def __init__(self, build: Callable[[Setup, EngineTransport], Provider]) -> None:
        self._build = build
        super().__init__()

    def _with_key(self, key: str) -> Provider:
        hooks = f"{SECRETS['current']},{SECRETS['previous']}"
        settings = {"webhook_secrets": hooks} | ({"key": key} if key else {})
        setup = Setup("tally", settings, self.clock, self._wire, sa.create_engine("sqlite://"))
        return self._build(setup, EngineTransport(self._wire, httpx, varied=True))


class TestOnTheEngine(ProviderConformance):
    def make_bench(self) -> Bench:
        return HttpxBench(lambda setup, _: OverHttpx(setup, setup.client()))


class TestOwnHttpx(ProviderConformance):
    def make_bench(self) -> Bench:
        return HttpxBench(lambda setup, wire: OverHttpx(setup, httpx.AsyncClient(transport=wire)))  # type: ignore[arg-type]


class ByName(OverHttpx):
    """Takes the name of an exception for proof."""

    async def _send(self, method: str, path: str, body: bytes = b"") -> HttpResult:
        try:
            answer = await self.client.request(method, self._url + path, headers=self._headers, content=body or None)
        except httpx.ConnectError as error:
            return NotSent(str(error))
        except httpx.HTTPError as error:
            return NoAnswer(str(error))
        return Answer(answer.status_code, dict(answer.headers), answer.content)


def test_conformance_suite_finds_provider_that_trusts_exception_names() -> None:
    class Suite(ProviderConformance):
        def make_bench(self) -> Bench:
            return HttpxBench(lambda setup, wire: ByName(setup, httpx.AsyncClient(transport=wire)))  # type: ignore[arg-type]

    suite = Suite()
    suite.setup_method()
    try:
        with pytest.raises(AssertionError, match="reported as not applied, but it was"):
            suite.test_push_under_any_fault_is_charged_once()
    finally:
        suite.teardown_method()


# The kit by itself.


def test_provider_kit_is_imported_without_optional_packages() -> None:
    """Without the worker, the server, a database driver, pytest, httpx or httpx2."""
    absent = ("sqlalchemy", "psycopg", "fastapi", "uvicorn", "typer", "pytest", "httpx", "httpx2", "structlog")
    rooms = ("worker", "server", "cli", "ledger", "guard")
    lines = [
        "import sys",
        f"sys.modules |= dict.fromkeys({[*absent, *(f'drawdown.{room}' for room in rooms)]!r})",
        "import drawdown.providers.protocol, drawdown.providers.conformance",
        "import drawdown.providers.kit.answers, drawdown.providers.kit.clients, drawdown.providers.kit.emulator",
        "import drawdown.providers.kit.rest, drawdown.providers.kit.settings, drawdown.providers.kit.webhooks",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def test_provider_page_examples_pass_as_tests(tmp_path: Path) -> None:
    """The blocks of docs/write-a-provider.md about httpx, as one file."""
    page = (ROOT / "docs" / "write-a-provider.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shown = [block for block in blocks if "class TestPenny" not in block]
    assert len(shown) == 3 and "respx" in shown[2] and "MockTransport" in shown[1]
    (tmp_path / "test_penny_httpx.py").write_text("\n".join(shown), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=env)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout[-3000:] + done.stderr[-2000:]
