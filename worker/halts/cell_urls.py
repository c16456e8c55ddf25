"""URLs of cells: only the plain form is one.

Guarantee: the URL called is put together from the parts that were checked, never from the text that was given, so that
no second reader can take it for another host. User and password, other schemes, queries, escapes, spaces, names that
are not ASCII, trailing dots, and addresses in any but their usual form (decimal, octal, hexadecimal, short) are no
URLs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

MAX_URL_CHARS: Final = 1000
MAX_HOST_CHARS: Final = 253
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
    """Where a cell listens."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """scheme://host:port, the port always written."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def address(self) -> Address | None:
        """The host where it is an address and not a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None


def parse(url: str) -> CellUrl | None:
    """The parts of a URL; None where it is not in the plain form."""
    found = _URL.fullmatch(url) if len(url) <= MAX_URL_CHARS else None
    if found is None:
        return None
    scheme = found["scheme"].lower()
    port = int(found["port"] or _PORTS[scheme])
    host = _address6(found["v6"]) if found["v6"] is not None else _name(found["host"].lower())
    return CellUrl(scheme, host, port, found["path"]) if host is not None and port < 65_536 else None


def origin(url: str) -> str | None:
    """The origin of a URL, with its port; None where the URL is not in the plain form."""
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
        return str(IPv4Address(host))  # four decimals without leading zeros: all else that ends in a number is refused
    except ValueError:
        return None
