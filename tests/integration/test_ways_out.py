"""Calls out of a company's network: a private authority, client certificates, and a proxy that connects."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import re
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from drawdown.cli import settings as all_settings
from drawdown.cli.app import App, client_of
from drawdown.cli.nouns import doctor
from drawdown.cli.settings import Settings
from drawdown.providers.autumn import build
from drawdown.providers.http import Answer, Call, NotSent
from drawdown.providers.http.client import MAX_PROXY_HEAD_BYTES, NO_ADDRESS, NOT_TRUSTED, Dialer, HttpClient
from drawdown.providers.http.egress import Outgoing, exceptions, proxy_url
from drawdown.providers.protocol import Setup
from drawdown.schema.clock import FixedClock, SystemClock
from drawdown.schema.errors import UsageError
from drawdown.server.console.jwks import DocumentCache, Trouble
from drawdown.server.services import Services
from drawdown.worker.engine.effects import HaltRequest, HookRequest
from drawdown.worker.halts.cell_client import CellClient
from drawdown.worker.hooks.client import HookClient
from tests.contract import sockets
from tests.emulators.autumn import SECRET_KEY, AutumnEmulator
from tests.emulators.serve import serving
from tests.world import T0

NAMES: Final = ("autumn.corp.test", "login.corp.test", "app.corp.test")
"""Of services that the proxy alone reaches."""
CANARY: Final = "proxy-password-canary"
OK: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"


class Company:
    """A private authority, and files in PEM that it signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Company CA")])
        own = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None), None)
        self.ca = self._kept("ca.pem", own)
        self.server = self._leaf("server", *NAMES)
        self.client = self._leaf("client", "drawdown")

    def tls(self, *, asks: bool = False) -> ssl.SSLContext:
        """A server's side; `asks`: for a client certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.server)
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context

    def _leaf(self, name: str, *hosts: str) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        names.append(x509.IPAddress(ip_address("127.0.0.1")))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._signed(subject, key, x509.BasicConstraints(ca=False, path_length=None), names)
        pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
        bare = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none)
        return self._kept(f"{name}.pem", made), self._kept(f"{name}-key.pem", bare)

    def _signed(self, subject: x509.Name, key: Any, kind: x509.BasicConstraints, names: Any) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(kind, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if kind.ca:
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            made = made.add_extension(usage, critical=True)
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _kept(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        return str(path)


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Company:
    return Company(tmp_path_factory.mktemp("company"))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """The settings of an environment."""
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)

    def load(**said: str) -> Settings:
        for name, text in said.items():
            monkeypatch.setenv(name, text)
        return all_settings.load("sqlite://")

    return load


class Proxy:
    """Connects to what it knows by name; what it was asked for, and with which proof."""

    def __init__(self) -> None:
        self.url, self.ports = "", dict[str, int]()
        self.asked: list[str] = []
        self.proofs: set[str] = set()
        self.answer = b"HTTP/1.1 200 Connection established\r\n\r\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, where, _ = head.split("\r\n")[0].split(" ")
            assert method == "CONNECT"
            self.asked.append(where)
            self.proofs |= {line for line in head.split("\r\n") if line.startswith("proxy-authorization")}
            writer.write(self.answer)
            if b" 200 " in self.answer:
                port = self.ports.get(where.partition(":")[0]) or int(where.rpartition(":")[2])
                await piped(reader, writer, *await asyncio.open_connection("127.0.0.1", port))
        writer.close()


async def piped(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamReader, forth: asyncio.StreamWriter
) -> None:
    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
        target.close()

    await asyncio.gather(copy(reader, forth), copy(back, writer))


@contextlib.asynccontextmanager
async def network(company: Company) -> AsyncIterator[tuple[Proxy, sockets.Seen]]:
    """Autumn, an issuer and a product behind TLS and the proxy; and a cell, behind TLS alone, that asks for proof."""
    proxy, servers = Proxy(), list[asyncio.Server]()
    autumn = AutumnEmulator(lists_per_s=1_000_000)
    autumn.account.add_feature("compute")
    autumn.account.add_plan("starter", {"compute": (100, None)})
    autumn.account.add_customer("c-1", T0)
    autumn.account.attach("c-1", "starter", T0)

    async def issuer(peer: sockets.Peer) -> None:
        await peer.request()
        body = b'{"issuer": "https://login.corp.test"}'
        await peer.say(OK % (len(body), body))

    async with (
        serving(autumn, FixedClock(T0)) as plain,
        sockets.serving(issuer, company.tls()) as login,
        sockets.serving(sockets.answering(OK % (2, b"{}")), company.tls()) as app,
        sockets.serving(sockets.answering(OK % (2, b"{}")), company.tls(asks=True)) as cell,
    ):
        behind = int(plain.rpartition(":")[2])

        async def front(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await piped(reader, writer, *await asyncio.open_connection("127.0.0.1", behind))

        servers.append(await asyncio.start_server(front, "127.0.0.1", 0, ssl=company.tls()))
        servers.append(await asyncio.start_server(proxy.serve, "127.0.0.1", 0))
        proxy.url = f"http://drawdown:{CANARY}@127.0.0.1:{servers[1].sockets[0].getsockname()[1]}"
        ports = (
            servers[0].sockets[0].getsockname()[1],
            *(int(one.url.split(":")[2].split("/")[0]) for one in (login, app)),
        )
        proxy.ports = dict(zip(NAMES, ports, strict=True))
        try:
            yield proxy, cell
        finally:
            for server in servers:
                server.close()


async def autumn_of(settings: Settings) -> object:
    """What reading a customer's balance comes to."""
    http = client_of(settings.outgoing())
    said = {"secret_key": SECRET_KEY, "url": "https://autumn.corp.test"}
    provider = build(Setup("autumn", said, FixedClock(T0), http, sa.create_engine("sqlite://")))
    try:
        return (await provider.customers(["c-1"]))["c-1"]
    finally:
        await http.close()


async def issuer_of(settings: Settings) -> str:
    http = client_of(settings.outgoing())
    services = cast(Services, SimpleNamespace(http=http, clock=FixedClock(T0)))
    try:
        return str(
            (await DocumentCache(services).get_cached("https://login.corp.test/.well-known/x", "the issuer"))["issuer"]
        )
    except Trouble as error:
        return str(error)
    finally:
        await http.close()


async def hook_of(settings: Settings) -> str | int | None:
    url = "https://app.corp.test/hooks"
    (answer,) = await HookClient(settings.hooks(), FixedClock(T0)).send([HookRequest("m", "app", url, (1,), "{}")])
    return answer.error or answer.status


async def cell_of(settings: Settings, cell: sockets.Seen) -> str | None:
    url = cell.url.partition("/v1")[0]
    (answer,) = await CellClient(settings.cells(), FixedClock(T0)).send([HaltRequest("acme", "cell-1", url, T0)])
    return answer


def run(company: Company, work: Callable[[Proxy, sockets.Seen], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with network(company) as (proxy, cell):
            await asyncio.wait_for(work(proxy, cell), 60)

    asyncio.run(whole())


def set_up(cell: sockets.Seen) -> dict[str, str]:
    secret = "a-secret-of-32-characters-or-more"
    return {
        "DRAWDOWN_HOOK_ORIGINS": "https://app.corp.test", "DRAWDOWN_HOOK_SECRET": secret,
        "DRAWDOWN_CELL_ORIGINS": cell.url.partition("/v1")[0], "DRAWDOWN_CELL_SECRET": secret,
    }  # fmt: skip


def test_outgoing_calls_use_private_authority_and_proxy(
    company: Company, given: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(proxy: Proxy, cell: sockets.Seen) -> None:
        certificate = {"DRAWDOWN_CELL_CERT_FILE": company.client[0], "DRAWDOWN_CELL_KEY_FILE": company.client[1]}
        ways = {"DRAWDOWN_CA_FILE": company.ca, "HTTPS_PROXY": proxy.url, **certificate}
        settings = given(**set_up(cell), **ways)
        assert "100" in str(await autumn_of(settings))
        assert await issuer_of(settings) == "https://login.corp.test"
        assert await hook_of(settings) == 200
        assert sorted(set(proxy.asked)) == [f"{name}:443" for name in sorted(NAMES)]
        assert len(proxy.proofs) == 1
        assert await cell_of(settings, cell) is None
        assert not any("127.0.0.1" in where for where in proxy.asked), "no cell is called through a proxy"
        told = given(DRAWDOWN_CELL_PROXY="1")
        assert await cell_of(told, cell) is None
        assert any("127.0.0.1" in where for where in proxy.asked), "unless that is said"
        apart = given(NO_PROXY="127.0.0.0/8")
        proxy.asked.clear()
        assert await cell_of(apart, cell) is None and proxy.asked == []
        assert CANARY not in f"{settings.outgoing()}{settings.cells()}" and CANARY in "".join(settings.secrets())

    run(company, work)


def test_outgoing_call_without_ca_or_proxy_names_setting_and_is_not_sent(
    company: Company, given: Callable[..., Settings]
) -> None:
    async def work(proxy: Proxy, cell: sockets.Seen) -> None:
        bare = given(**set_up(cell))
        assert NO_ADDRESS in str(await autumn_of(bare)) and "HTTPS_PROXY" in NO_ADDRESS
        assert "HTTPS_PROXY" in await issuer_of(bare) and "HTTPS_PROXY" in str(await hook_of(bare))
        assert "DRAWDOWN_CA_FILE" in str(await cell_of(bare, cell))
        no_ca = given(HTTPS_PROXY=proxy.url)
        assert NOT_TRUSTED in str(await autumn_of(no_ca)) and "DRAWDOWN_CA_FILE" in NOT_TRUSTED
        assert "DRAWDOWN_CA_FILE" in await issuer_of(no_ca) and "DRAWDOWN_CA_FILE" in str(await hook_of(no_ca))
        no_proof = given(DRAWDOWN_CA_FILE=company.ca)
        assert "DRAWDOWN_CELL_CERT_FILE" in str(await cell_of(no_proof, cell))
        assert cell.requests == [], "nothing was sent"

    run(company, work)


def test_proxy_that_refuses_connection_is_named_and_call_is_not_sent(
    company: Company, given: Callable[..., Settings]
) -> None:
    async def work(proxy: Proxy, cell: sockets.Seen) -> None:
        settings = given(**set_up(cell), DRAWDOWN_CA_FILE=company.ca, HTTPS_PROXY=proxy.url)
        for answer, said in (
            (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "refused to connect, with status 407"),
            (b"nonsense\r\n\r\n", "is not HTTP"),
            (b"x" * (MAX_PROXY_HEAD_BYTES + 1), "response has more than"),
            (b"", "closed the connection before"),
        ):
            proxy.answer = answer
            assert "HTTPS_PROXY: the proxy" in (found := str(await autumn_of(settings))) and said in found, found
            assert CANARY not in found
        settings = given(HTTPS_PROXY=f"http://127.0.0.1:{sockets.free_port()}")
        assert "HTTPS_PROXY: no connection (ECONNREFUSED)" in str(await autumn_of(settings))
        assert "HTTPS_PROXY" in str(await hook_of(settings))

    run(company, work)


BROKEN: Final[dict[str, tuple[str, str]]] = {
    "no such file": ("DRAWDOWN_CA_FILE", "cannot be read"),
    "no certificate": ("DRAWDOWN_CA_FILE", "does not contain a certificate"),
    "a certificate without its key": ("DRAWDOWN_CELL_CERT_FILE and DRAWDOWN_CELL_KEY_FILE", "and its key"),
    "a key without its certificate": ("DRAWDOWN_PROVIDER_KEY_FILE", "DRAWDOWN_PROVIDER_CERT_FILE"),
    "another's key": ("DRAWDOWN_PROVIDER_CERT_FILE and DRAWDOWN_PROVIDER_KEY_FILE", "and its key"),
    "no proxy": ("HTTPS_PROXY", "HOST:PORT"),
    "a proxy by TLS": ("HTTPS_PROXY", "HOST:PORT"),
    "no store": ("SSL_CERT_FILE", "cannot be read"),
}


@pytest.mark.parametrize(("setting", "why"), BROKEN.values(), ids=BROKEN)
def test_outgoing_invalid_setting_is_refused_with_its_name(
    setting: str, why: str, company: Company, given: Callable[..., Settings], request: pytest.FixtureRequest
) -> None:
    nothing = company.folder / "nothing.pem"
    nothing.write_text("no certificate")
    said: dict[str, dict[str, str]] = {
        "no such file": {"DRAWDOWN_CA_FILE": "/no/such.pem"},
        "no certificate": {"DRAWDOWN_CA_FILE": str(nothing)},
        "a certificate without its key": {"DRAWDOWN_CELL_CERT_FILE": company.client[0]},
        "a key without its certificate": {"DRAWDOWN_PROVIDER_KEY_FILE": company.client[1]},
        "another's key": {
            "DRAWDOWN_PROVIDER_CERT_FILE": company.client[0], "DRAWDOWN_PROVIDER_KEY_FILE": company.server[1]
        },
        "no proxy": {"HTTPS_PROXY": f"http://user:{CANARY}@proxy:port"},
        "a proxy by TLS": {"HTTPS_PROXY": f"https://user:{CANARY}@proxy:3128"},
        "no store": {"SSL_CERT_FILE": "/no/such.pem"},
    }  # fmt: skip
    with pytest.raises(UsageError) as error:
        given(**said[request.node.callspec.id])
    text = str(error.value)
    assert (
        re.match(rf"{setting}( or {setting.lower()})?: ", text)
        and why in text
        and "\n" not in text
        and CANARY not in text
    )


def test_doctor_shows_authorities_proxy_and_certificates(company: Company, given: Callable[..., Settings]) -> None:
    def said() -> list[tuple[bool, str]]:
        app = App(settings=all_settings.load("sqlite://"), clock=SystemClock())
        return [(one.ok, one.what) for one in doctor._ways_out(app)]

    given()
    assert said() == [(True, "calls trust the system's authorities")]
    with answering(b"HTTP/1.1 502 Bad Gateway\r\n\r\n") as port:
        url = f"http://user:{CANARY}@127.0.0.1:{port}"
        proof = {"DRAWDOWN_PROVIDER_CERT_FILE": company.client[0], "DRAWDOWN_PROVIDER_KEY_FILE": company.client[1]}
        given(DRAWDOWN_CA_FILE=company.ca, HTTPS_PROXY=url, NO_PROXY="corp.test", **proof)
        text = str(said())
        assert (
            all(ok for ok, what in said() if "every user of this machine can read" not in what) and CANARY not in text
        )
        for name in ("DRAWDOWN_CA_FILE", "HTTPS_PROXY", "NO_PROXY", "DRAWDOWN_PROVIDER_CERT_FILE"):
            assert name in text
    (wrong,) = [what for ok, what in said() if not ok and "HTTPS_PROXY" in what]
    assert "refused" in wrong and CANARY not in wrong


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A proxy with one answer, on a port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        assert connection.recv(1_000).startswith(b"CONNECT drawdown.invalid:443 HTTP/1.1\r\n")
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("answer", "why"),
    [(b"HTTP/1.1 407 No\r\n\r\n", "refuses this user (407)"), (b"SSH-2.0\r\n", "not HTTP"), (b"", "not HTTP")],
)
def test_doctor_reports_proxy_that_refuses(answer: bytes, why: str, given: Callable[..., Settings]) -> None:
    with answering(answer) as port:
        given(HTTPS_PROXY=f"http://user:{CANARY}@127.0.0.1:{port}")
        found = list(doctor._ways_out(App(settings=all_settings.load("sqlite://"), clock=SystemClock())))
    (wrong,) = [one for one in found if not one.ok]
    assert "HTTPS_PROXY" in wrong.what and why in wrong.what and CANARY not in wrong.what


def test_doctor_reports_system_store_without_certificates(company: Company, given: Callable[..., Settings]) -> None:
    """The first call would refuse it, and nothing is read of it before."""
    nothing = company.folder / "no-store.pem"
    nothing.write_text("no certificate")
    given(SSL_CERT_FILE=str(nothing))
    (wrong,) = doctor._ways_out(App(settings=all_settings.load("sqlite://"), clock=SystemClock()))
    assert not wrong.ok and wrong.what.startswith(f"SSL_CERT_FILE: {nothing} does not contain a certificate")


def test_proxy_exceptions_match_names_addresses_and_networks() -> None:
    out = Outgoing(
        proxy=proxy_url("proxy:3128"), exceptions=exceptions("corp.test, .inner.test,10.0.0.0/8,::1,a.test:8443")
    )

    def through(host: str, port: int = 443) -> bool:
        return out.proxy_for(host, port) is not None

    direct = ("corp.test", "a.corp.test", "x.inner.test", "10.1.2.3", "::1")
    assert not any(through(host) for host in direct) and not through("a.test", 8443)
    assert all(through(host) for host in ("xcorp.test", "corp.test.org", "11.0.0.1", "a.test", "::2"))
    assert Outgoing(proxy=proxy_url("proxy:3128"), exceptions=exceptions("*")).proxy_for("a", 1) is None


def test_idle_connections_are_limited() -> None:
    """30 origins had 30 of them open, with a limit of 4."""

    async def kept(peer: sockets.Peer) -> None:
        while True:
            await peer.request()
            await peer.say(sockets.OK)

    async def whole() -> None:
        client, closed = HttpClient(connections=4), 0
        async with contextlib.AsyncExitStack() as stack:
            opened: list[asyncio.Event] = []

            async def counted(peer: sockets.Peer) -> None:
                gone = asyncio.Event()
                opened.append(gone)
                try:
                    await kept(peer)
                finally:
                    gone.set()

            seen = [await stack.enter_async_context(sockets.serving(counted)) for _ in range(30)]
            for one in seen:
                assert isinstance(await client.send(Call("GET", one.url)), Answer)
            async with asyncio.timeout(10):
                while (closed := sum(gone.is_set() for gone in opened)) < 26:
                    await asyncio.sleep(0.01)
            assert closed == 26, "the four that were used last are kept"
            for one in seen[-4:]:
                assert isinstance(await client.send(Call("GET", one.url)), Answer)
            assert len(opened) == 30, "and used again"
            await client.close()

    asyncio.run(whole())


def test_dialer_without_settings_trusts_system_authorities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By SSL_CERT_FILE, as other programs do."""

    async def whole() -> tuple[object, object]:
        tls, ca = sockets.own_tls(tmp_path)
        async with sockets.serving(sockets.answering(sockets.OK), tls) as seen:
            monkeypatch.delenv("SSL_CERT_FILE", raising=False)
            before = await HttpClient(dialer=Dialer(outgoing=Outgoing())).send(Call("GET", seen.url))
            monkeypatch.setenv("SSL_CERT_FILE", ca)
            return before, await HttpClient(dialer=Dialer(outgoing=Outgoing())).send(Call("GET", seen.url))

    before, after = asyncio.run(whole())
    assert before == NotSent(NOT_TRUSTED) and isinstance(after, Answer), (before, after)
