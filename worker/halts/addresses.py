"""The addresses that a cell may have.

Guarantee: pure. An address that is not on the public internet is refused unless an operator allowed its network, or
wrote this very address as a cell's origin. An IPv6 form that holds an IPv4 address is judged by both. A cloud's
metadata service is refused unless it is named all by itself: no wider network brings it in.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, TypeAlias

from drawdown.worker.halts.cell_urls import Address

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
"""Where cells do live: allowed by a network, or by an origin that is the address itself."""
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
    """Why nothing is sent to this address, such as `10.1.2.3 is a private address`; None where it may be.

    `named`: the operator wrote this very address as an origin.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:  # the system connects by IPv4
            return refusal(address.ipv4_mapped, allowed, named=named)
        address = IPv6Address(int(address))  # without a zone
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
    """The IPv4 address that an IPv6 one stands for."""
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
