"""Where halts may go: no URL, name or address but those the operator allowed is ever connected to."""

# ruff: noqa: RUF001 (look-alikes are the point)

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from drawdown.cli import settings
from drawdown.schema.clock import FixedClock
from drawdown.schema.errors import UsageError
from drawdown.worker.engine.effects import HaltRequest
from drawdown.worker.halts.addresses import origin, parse, refusal
from drawdown.worker.halts.cell_client import CellClient
from drawdown.worker.halts.cell_settings import CellSettings
from tests.world import T0

SECRET = "canary-secret-of-the-cells"


@dataclass
class Site:
    """A server on loopback that counts every connection, and a name server that says what it is told to."""

    port: int
    connections: list[Any] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    names: dict[str, list[list[str]]] = field(default_factory=dict)
    """Answers by name, one after the other; the last one stays."""
    asked: list[str] = field(default_factory=list)

    def lookup(self, host: str, port: int) -> Sequence[tuple[Any, ...]]:
        self.asked.append(host)
        answers = self.names.get(host, [["127.0.0.1"]])  # whoever believes any name comes here
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        kinds = [socket.AF_INET6 if ":" in one else socket.AF_INET for one in found]
        return [(kind, socket.SOCK_STREAM, 0, "", (one, port)) for kind, one in zip(kinds, found, strict=True)]

    def send(self, *urls: str, allowed: Sequence[str], networks: Sequence[str] = ()) -> list[str | None]:
        nets = tuple(ip_network(one) for one in networks)
        client = CellClient(
            CellSettings(frozenset(allowed), (SECRET,), networks=nets), FixedClock(T0), lookup=self.lookup
        )
        return asyncio.run(client.send([HaltRequest("acme", "cell-1", url, T0) for url in urls]))


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.hosts.append(self.headers["Host"])
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    class Counting(ThreadingHTTPServer):
        request_queue_size = 128

        def get_request(self) -> tuple[socket.socket, Any]:
            found = super().get_request()
            made.connections.append(found[1])
            return found

    server = Counting(("127.0.0.1", 0), Handler)
    made = Site(server.server_address[1])
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


LOOPBACK = (
    "127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.254", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[::7f00:1]", "[2002:7f00:1::]",
    "[2002:7f00:1::1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]",
    "[2001:0:7f00:1::80ff:fffe]", "[fe80::5efe:127.0.0.1]", "[2606:4700::5efe:127.0.0.1]", "0.0.0.0", "0.1.2.3",
    "[::]", "localhost", "LOCALHOST", "localhost.localdomain", "ip6-localhost", "foo.localhost",
)  # fmt: skip
OTHERS = (
    "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.254", "192.168.0.1", "192.168.255.255", "100.64.0.1",
    "100.127.255.254", "169.254.0.1", "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16",
    "192.0.0.192", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
    "192.88.99.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "[fc00::1]", "[fd00::1]",
    "[fd12:3456::1]", "[fd00:ec2::254]", "[fd20:ce::254]", "[fe80::1]", "[fe80::a9fe:a9fe]", "[febf::1]", "[fec0::1]",
    "[ff02::1]", "[ff05::2]", "[100::1]", "[2001:db8::1]", "[2001:10::1]", "[3fff::1]", "[4000::1]", "[5f00::1]",
    "[::ffff:10.0.0.1]", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[::ffff:192.168.1.1]",
    "[::ffff:0:127.0.0.1]", "[::169.254.169.254]", "[2002:a9fe:a9fe::1]", "[2002:a00:1::1]", "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b::10.0.0.1]", "[64:ff9b:1::a9fe:a9fe]", "metadata", "metadata.google.internal",
)  # fmt: skip
NUMBERS = (
    "2130706433", "0x7f000001", "0x7F.0.0.1", "017700000001", "0177.0.0.1", "0177.0.0.01", "127.1", "127.0.1",
    "127.0.0.01", "127.000.000.001", "127.0.0.0x1", "0x7f.1", "0x7f.0x0.0x0.0x1", "00000000177.0.0.1", "4278190080.",
    "127.0.0.1.", "127.0.0.1..", "1.2.3.4.5", "256.0.0.1", "3232235521", "0xc0a80001", "2852039166", "0xa9fea9fe",
    "0251.0376.0251.0376", "169.254.43518", "169.16689662", "0", "1", "0x", "1e3.0.0.1.0x7f", "127.0.0.1%00",
    "①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.0.0.1", "𝟏𝟐𝟕.0.0.1", "127．0．0．1", "127.0.0.٠",
)  # fmt: skip
NAMES = (
    "ⓛocalhost", "lοcalhost", "loc\u00adalhost", "ſocalhost", "cell。example", "cell.example.", "cell..example",
    ".cell.example", "cell.example..", "-cell.example", "cell-.example", "ce ll.example", "cell\t.example",
    "cell\n.example", "cell\x00.example", "cell%2eexample", "cell%00.example", "%6c%6f%63alhost", "cell!.example",
    "cell'example", "cell<.example", "cell^example", "cell|example", "cell`.example", "cell*.example", "[cell.example]",
    "[127.0.0.1]", "[::1", "::1]", "::1", "[::1%25lo]", "[::1%lo]", "[fe80::1%25eth0]", "[::g]", "[1::2::3]", "[]", "",
    "x" * 64 + ".example", "a." * 130 + "example", "münchen.example", "例え.jp", "cell.exämple", "\u202ecell.example",
    "\udcffcell", "cell\\.example", "user@127.0.0.1", "user:pw@127.0.0.1", "@127.0.0.1", ":@127.0.0.1",
    "127.0.0.1:80@cell.example", "cell.example@127.0.0.1", "cell.example%40127.0.0.1", "cell.example#@127.0.0.1",
    "cell.example?@127.0.0.1", "cell.example\\@127.0.0.1", "cell.example;127.0.0.1", "cell.example,127.0.0.1",
    "cell.example 127.0.0.1", "cell.example&@127.0.0.1",
)  # fmt: skip


def hostile(port: int) -> list[str]:
    """URLs, none of which may lead anywhere though each host with the server's port and its bare form is tried."""
    hosts = [f"http://{host}:{port}/" for host in (*LOOPBACK, *OTHERS, *NUMBERS, *NAMES)]
    me = f"127.0.0.1:{port}"
    forms = [
        f"//{me}", me, f"/{me}", f"http:{me}", f"http:/{me}", f"http:///{me}", f"http:\\\\{me}", f"http://\\{me}",
        f" http://{me}", f"http://{me} ", f"http://{me}\n", f"\thttp://{me}", f"ht\ntp://{me}", f"http ://{me}",
        f"ftp://{me}", f"file://{me}/etc/passwd", "file:///etc/passwd", f"gopher://{me}", f"ws://{me}", f"unix://{me}",
        f"http+unix://{me}", f"dict://{me}", f"data:{me}", f"javascript://{me}", f"HTTPX://{me}", f"://{me}",
        f"http://{me}?x=1", f"http://{me}#x", f"http://{me}/a?b", f"http://{me}/../x", f"http://{me}/./x",
        f"http://{me}/a/%2e%2e/x", f"http://{me}/%0d%0aX:y", f"http://{me}//evil", f"http://{me}/\r\nHost: x",
        f"http://{me}/a b", f"http://{me}/\\..\\x", f"http://{me}/ü", f"http://{me}:80", "http://127.0.0.1:",
        "http://127.0.0.1:0", "http://127.0.0.1:65536", "http://127.0.0.1:99999", "http://127.0.0.1:-1",
        f"http://127.0.0.1:+{port}", f"http://127.0.0.1:0{port}", f"http://127.0.0.1: {port}", "http://127.0.0.1:0x50",
        "http://127.0.0.1:８０", "http://127.0.0.1:80a", f"http://127.0.0.1:{port}{port}", f"http://{me}/" + "a" * 1000,
    ]  # fmt: skip
    return [*hosts, *forms]


def test_cell_hostile_urls_are_not_reached(site: Site) -> None:
    """Each is on the allow-list as far as it is a URL at all; every name is answered with loopback."""
    urls = hostile(site.port)
    assert len(set(urls)) >= 200
    # An address that is an origin is allowed by that alone; so that it is judged, a name stands for it.
    allowed = []
    for number, url in enumerate(urls):
        found = parse(url)
        if found is not None and found.address is not None:
            name = f"cell-{number}.example"
            site.names[name] = [[found.host]]
            urls[number] = f"http://{name}:{site.port}"
        allowed.append(origin(urls[number]) or urls[number])
    answers = site.send(*urls, allowed=allowed)
    assert [url for url, answer in zip(urls, answers, strict=True) if answer is None] == []
    assert site.connections == []
    known = ("is not on the allow-list", "unless DRAWDOWN_CELL_NETWORKS allows it")
    assert [answer for answer in answers if not any(text in (answer or "") for text in known)] == []


def test_cell_url_off_allow_list_is_not_reached(site: Site) -> None:
    urls = [f"http://127.0.0.1:{site.port}", f"http://cell.example:{site.port}"]
    answers = site.send(*urls, allowed=[f"https://127.0.0.1:{site.port}", "http://127.0.0.1:80"], networks=["::/0"])
    assert all("allow-list" in (one or "") for one in answers)
    assert site.connections == [] and site.asked == []


def test_cell_url_on_allow_list_is_reached(site: Site) -> None:
    port = site.port
    networks = ("127.0.0.0/8",)
    for url in (
        f"http://127.0.0.1:{port}",
        f"http://127.0.0.1:{port}/",
        f"HTTP://127.0.0.1:{port}/some/path",
        f"http://[::ffff:127.0.0.1]:{port}",
        f"http://cell.example:{port}",
        f"http://CELL.example:{port}/x_1/",
        f"http://xn--mnchen-3ya.example:{port}",
        f"http://cell_1:{port}",
    ):
        allowed = [origin(url) or ""]
        assert site.send(url, allowed=allowed, networks=networks) == [None], url
    assert len(site.connections) == 8
    assert site.hosts[4] == f"cell.example:{port}", "the name stays in the request"


def test_cell_address_as_origin_is_called_without_network(site: Site) -> None:
    url = f"http://127.0.0.1:{site.port}"
    assert site.send(url, allowed=[url]) == [None]
    # ... and allows nothing else: not a name for it, nor a port beside it.
    (answer,) = site.send(f"http://cell.example:{site.port}", allowed=[url, f"http://cell.example:{site.port}"])
    assert answer == "127.0.0.1 is a loopback address: not called unless DRAWDOWN_CELL_NETWORKS allows it"
    assert len(site.connections) == 1


def test_cell_dns_rebinding_is_refused(site: Site) -> None:
    """Rebinding: good when first asked, loopback when it is connected to; or the other way round in one answer."""
    url = f"http://cell.example:{site.port}"
    site.names["cell.example"] = [["203.0.114.9"], ["127.0.0.1"]]
    assert site.lookup("cell.example", site.port)[0][4][0] == "203.0.114.9", "whoever checks it beforehand sees this"
    (answer,) = site.send(url, allowed=[url])
    assert answer is not None and "loopback" in answer
    assert site.connections == []


def test_cell_name_with_several_addresses_uses_allowed_address(site: Site) -> None:
    url = f"http://cell.example:{site.port}"
    site.names["cell.example"] = [["127.0.0.3", "10.0.0.1", "127.0.0.1"]]
    assert site.send(url, allowed=[url], networks=["127.0.0.1/32"]) == [None]
    assert [peer[0] for peer in site.connections] == ["127.0.0.1"]


def test_cell_client_environment_proxies_are_ignored(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{site.port}")
    (answer,) = site.send("http://cell.example:81", allowed=["http://cell.example:81"])
    assert answer is not None and site.connections == []


@pytest.mark.parametrize(
    ("address", "networks", "named", "why"),
    [
        ("93.184.215.14", (), False, None),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", (), False, None),
        ("64:ff9b::5db8:d70e", (), False, "not a public address"),
        ("64:ff9b::5db8:d70e", ("64:ff9b::/96",), False, None),
        ("64:ff9b::a00:1", ("64:ff9b::/96",), False, "10.0.0.1 is a private"),
        ("64:ff9b::a00:1", ("64:ff9b::/96", "10.0.0.0/8"), False, None),
        ("10.1.2.3", ("10.0.0.0/8",), False, None),
        ("11.1.2.3", ("10.0.0.0/8",), False, None),
        ("10.1.2.3", (), True, None),
        ("::ffff:10.1.2.3", ("10.0.0.0/8",), False, None),
        ("::ffff:10.1.2.3", ("::ffff:0:0/96",), False, "private"),
        ("169.254.169.254", ("0.0.0.0/0",), False, "metadata"),
        ("169.254.169.254", (), True, "metadata"),
        ("169.254.169.254", ("169.254.169.254/32",), False, None),
        ("100.100.100.200", ("100.64.0.0/10",), True, "metadata"),
        ("fd00:ec2::254", ("fc00::/7",), True, "metadata"),
        ("168.63.129.16", (), False, "metadata"),
        ("169.254.1.1", (), True, "link-local"),
        ("224.0.0.1", (), True, "multicast"),
        ("0.0.0.0", (), True, "unspecified"),
        ("fe80::1%eth0", (), False, "link-local"),
        ("2001:0:7f00:1::80ff:fffe", ("2001::/23",), False, "127.0.0.1 is a loopback"),
        ("2002:7f00:1::", ("2002::/16",), False, "127.0.0.1 is a loopback"),
    ],
)
def test_cell_address_outside_networks_is_refused(
    address: str, networks: tuple[str, ...], named: bool, why: str | None
) -> None:
    found = refusal(ip_address(address), [ip_network(one) for one in networks], named=named)
    assert found is None if why is None else why in (found or ""), found


def test_cell_settings_why_not_names_missing_setting(site: Site) -> None:
    url = "http://cell.example:81"
    open_ = CellSettings(frozenset({url}), (SECRET,), networks=(ip_network("127.0.0.0/8"),))
    assert open_.why_not(url, site.lookup) is None
    assert open_.why_not(url, lambda host, port: []) == "the host name cell.example does not have an address"
    assert open_.why_not("http://cell.example:82", site.lookup) == "add its origin to DRAWDOWN_CELL_ORIGINS"
    said = CellSettings(frozenset({url}), (SECRET,)).why_not(url, site.lookup)
    assert said == "127.0.0.1 is a loopback address. Add it to DRAWDOWN_CELL_NETWORKS"


@pytest.mark.parametrize("entry", ["https://cell-1:8443/fleet", "http://10.0.0.7/a/b/"])
def test_cell_origin_with_path_is_refused(entry: str) -> None:
    with pytest.raises(UsageError, match="has a path"):
        settings.origins(f"https://good:8443/, {entry}")
    assert settings.origins("https://good:8443/, http://10.0.0.7") == {"https://good:8443", "http://10.0.0.7:80"}
