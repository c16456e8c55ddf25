"""Parse the URLs of cells and endpoints, and decide which URLs may be called.

Guarantee: pure, except that `why_not` resolves a name by the function that its caller passes. This module does not
import code that calls cells, so that a check of settings does not need that code. Drawdown calls a URL that is built
from the checked parts, not from the input, so that another parser cannot read a different host. A URL is
invalid if it has a user, password, query, escape, space or trailing dot, a scheme other than http and https, or a name
that is not ASCII. An address in an unusual form is also invalid: as one number, octal, hexadecimal or shortened.

An address that is not public is refused, unless an operator allowed its network. If the operator named a loopback,
private, unique-local or carrier's shared address as an origin, it is also allowed. If an IPv6 address contains an IPv4
address that is not mapped, both are checked. The address of a cloud's metadata service is refused, unless an operator
allowed exactly this address. A wider allowed network does not include it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Protocol, TypeAlias

from drawdown.providers.http.egress import Lookup, Outgoing

Address: TypeAlias = IPv4Address | IPv6Address

MAX_URL_CHARS: Final = 1000
"""Most characters of the URL of a cell or an endpoint."""
MAX_HOST_CHARS: Final = 253
"""Most characters of the host in the URL of a cell or an endpoint."""
_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<host>[a-z0-9._-]+))(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<path>(?:/(?!\.{1,2}(?:/|\Z))[a-z0-9._~-]+)*)/?",
    re.ASCII | re.IGNORECASE,
)
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_LIKE_A_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True)
class CellUrl:
    """The parts of a URL to call."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """Return scheme://host:port, always with the port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def address(self) -> Address | None:
        """Return the host if it is an address; None if it is a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None


def parse(url: str) -> CellUrl | None:
    """Return the parts of a URL; None if the URL is invalid."""
    found = _URL.fullmatch(url) if len(url) <= MAX_URL_CHARS else None
    if found is None:
        return None
    scheme = found["scheme"].lower()
    port = int(found["port"] or _PORTS[scheme])
    host = _address6(found["v6"]) if found["v6"] is not None else _name(found["host"].lower())
    return CellUrl(scheme, host, port, found["path"]) if host is not None and port < 65_536 else None


def origin(url: str) -> str | None:
    """Return the origin of a URL, with its port; None if the URL is invalid."""
    found = parse(url)
    return None if found is None else found.origin


def _address6(text: str) -> str | None:
    try:
        return str(IPv6Address(text))
    except ValueError:
        return None


def _name(host: str) -> str | None:
    labels = host.split(".")
    if len(host) > MAX_HOST_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    if not _LIKE_A_NUMBER.fullmatch(labels[-1]):
        return host
    try:
        return str(IPv4Address(host))  # four decimals without leading zeros
    except ValueError:
        return None


Network: TypeAlias = IPv4Network | IPv6Network


def _networks(*given: tuple[str, str]) -> tuple[tuple[Network, str], ...]:
    return tuple((ip_network(text), what) for text, what in given)


METADATA: Final = "a cloud's metadata service"
_METADATA: Final = frozenset(
    ip_network(text)
    for text in (
        "169.254.169.254", "169.254.169.253", "169.254.169.123", "169.254.170.2", "169.254.170.23", "169.254.0.23",
        "169.254.10.10", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::253",
        "fd00:ec2::123", "fd00:ec2::23", "fd20:ce::254", "fe80::a9fe:a9fe",
    )
)  # fmt: skip
_OWNABLE: Final = _networks(
    ("127.0.0.0/8", "a loopback address"),
    ("::1/128", "a loopback address"),
    ("10.0.0.0/8", "a private address"),
    ("172.16.0.0/12", "a private address"),
    ("192.168.0.0/16", "a private address"),
    ("fc00::/7", "a unique-local address"),
    ("100.64.0.0/10", "a carrier's shared address"),
)
"""Networks that can contain cells.

An address in these networks is allowed if its network is allowed, or if an allowed origin is the address itself.
"""
_OTHER: Final = _networks(
    ("0.0.0.0/8", "an unspecified address"),
    ("::/128", "an unspecified address"),
    ("169.254.0.0/16", "a link-local address"),
    ("fe80::/10", "a link-local address"),
    ("224.0.0.0/4", "a multicast address"),
    ("ff00::/8", "a multicast address"),
    ("192.0.0.0/24", "a reserved address"),
    ("192.0.2.0/24", "a reserved address"),
    ("192.88.99.0/24", "a reserved address"),
    ("198.18.0.0/15", "a reserved address"),
    ("198.51.100.0/24", "a reserved address"),
    ("203.0.113.0/24", "a reserved address"),
    ("240.0.0.0/4", "a reserved address"),
    ("2001::/23", "a reserved address"),
    ("2001:db8::/32", "a reserved address"),
    ("2002::/16", "a 6to4 address"),
    ("3fff::/20", "a reserved address"),
)
_PUBLIC6: Final = IPv6Network("2000::/3")
_NAT64: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)


def refusal(address: Address, allowed: Sequence[Network], *, named: bool = False) -> str | None:
    """Return the reason against a call to this address; None if it is allowed.

    A reason is a text such as `10.1.2.3 is a private address`. `named`: the operator named this address as an origin,
    which allows only loopback, private, unique-local and carrier's shared addresses.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:  # the operating system connects by IPv4
            return refusal(address.ipv4_mapped, allowed, named=named)
        address = IPv6Address(int(address))  # drop the zone
    what = _special(address)
    if what is not None and not (named and _within(address, _OWNABLE)) and not _allows(allowed, address, what):
        return f"{address} is {what}"
    inner = _inner(address)
    return None if inner is None else refusal(inner, allowed)


def _special(address: Address) -> str | None:
    if ip_network(address) in _METADATA:
        return METADATA
    for network, what in (*_OWNABLE, *_OTHER):
        if address in network:
            return what
    if isinstance(address, IPv6Address) and address not in _PUBLIC6:
        return "not a public address"
    return None


def _allows(allowed: Sequence[Network], address: Address, what: str) -> bool:
    if what == METADATA:
        return ip_network(address) in allowed
    return any(address in network for network in allowed)


def _within(address: Address, networks: Sequence[tuple[Network, str]]) -> bool:
    return ip_network(address) not in _METADATA and any(address in network for network, _ in networks)


def _inner(address: Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address contains; None without one."""
    if isinstance(address, IPv4Address):
        return None
    number = int(address)
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    low = IPv4Address(number & 0xFFFF_FFFF)
    compatible = number >> 32 == 0 and number > 1
    tunnelled = (number >> 32) & 0xFFFF_FFFF in _ISATAP
    return low if compatible or tunnelled or any(address in network for network in _NAT64) else None


class Judge(Protocol):
    """The policy that decides which URLs may be called.

    `allowed`: the allowed origins (scheme://host:port). `networks`: the networks that are allowed in addition to public
    addresses.
    """

    @property
    def allowed(self) -> frozenset[str]: ...
    @property
    def networks(self) -> tuple[Network, ...]: ...
    @property
    def outgoing(self) -> Outgoing: ...

    def address_refused(self, url: CellUrl, host: str) -> str | None:
        """Return the reason that prevents a connection to this address, or None."""


def address_refused(judge: Judge, url: CellUrl, host: str) -> str | None:
    """Return the reason that prevents a connection to this address, or None."""
    address = ip_address(host.partition("%")[0])
    return refusal(address, judge.networks, named=address == url.address and url.origin in judge.allowed)


def why_not(url: str, judge: Judge, lookup: Lookup, settings: str) -> str | None:
    """Return the reason that prevents a call to this URL, or None.

    The function resolves the host name now, unless a proxy resolves it. `settings`: the prefix of the settings that can
    allow the URL, such as DRAWDOWN_CELL.
    """
    found = parse(url)
    if found is None or found.origin not in judge.allowed:
        return f"add its origin to {settings}_ORIGINS"
    if found.origin.startswith("https:") and judge.outgoing.proxy_for(found.host, found.port) is not None:
        return None  # the proxy resolves the name
    try:
        hosts = [where[0] for *_, where in lookup(found.host, found.port)]
    except OSError:
        return f"the host name {found.host} does not have an address"
    refused = [judge.address_refused(found, host) for host in hosts]
    if None in refused:
        return None
    if not refused:
        return f"the host name {found.host} does not have an address"
    return f"{refused[0]}. Add it to {settings}_NETWORKS"


NOT_ALLOWED: Final = "is not on the allow-list. Add its origin to DRAWDOWN_CELL_ORIGINS"
UNSIGNED: Final = "missing signing secret. Set DRAWDOWN_CELL_SECRET"
NOT_CALLED: Final = "not called unless"
"""Part of an error about an address outside the allowed networks."""
ANSWERED: Final = "the cell answered"
"""Start of an error after a response of the cell that refuses a request."""
