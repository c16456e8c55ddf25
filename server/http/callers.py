"""Name the callers for limits, and limit the rate of each caller.

Guarantee: each caller has one name. For IPv6 the name is the /64, because a network gives a /64 with its 2^64 addresses
to one customer. This module remembers a bounded number of callers, and does not read a clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from drawdown.schema.errors import UsageError
from drawdown.schema.units import SECOND_MS

PREFIX_V6: Final = 64
EVERYBODY: Final = "*"
CALLERS_KEPT: Final = 1_000
"""Addresses with a cached caller's name. The cache keeps the latest addresses."""


@lru_cache(CALLERS_KEPT)
def caller_of(address: str | None) -> str:
    """Return the name of the caller at this address.

    The name is "-" without an address, as on a Unix socket.
    """
    if not address:
        return "-"
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address  # not an address, so return it unchanged
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Network((int(found), PREFIX_V6), strict=False))
    return str(found)


def proxies(text: str) -> Callable[[str | None], bool]:
    """Return a test for addresses of trusted proxies.

    `text`: entries such as `10.0.0.7, 10.1.0.0/16`, or `*` for all. Errors: UsageError for an entry that is not an
    address or network.
    """
    entries = [entry for entry in (part.strip() for part in text.split(",")) if entry]
    if EVERYBODY in entries:
        return lambda _address: True
    networks: Sequence[IPv4Network | IPv6Network] = [_network(entry) for entry in entries]

    def trusted(address: str | None) -> bool:
        try:
            found = ip_address((address or "").partition("%")[0])
        except ValueError:
            return False
        plain = (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found
        return any(plain in network for network in networks)

    return trusted


def _network(entry: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(entry)
    except ValueError:
        raise UsageError(
            f"invalid DRAWDOWN_TRUSTED_PROXIES entry {entry!r}: expected an address or network such as 10.0.0.7 or "
            "10.1.0.0/16, or *"
        ) from None


MOST_CALLERS: Final = 10_000
"""Callers with a remembered rate.

Above the limit, Drawdown forgets the least recent caller.
"""


class TokenBuckets:
    """A token bucket for each caller.

    A bucket holds the tokens of two seconds. Above MOST_CALLERS, Drawdown forgets the least recent caller.
    """

    def __init__(self, per_s: int, most_callers: int = MOST_CALLERS) -> None:
        self._per_ms = per_s  # thousandths of a token a millisecond
        self._full = 2 * per_s * SECOND_MS
        self._most = most_callers
        self._left: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def has(self, caller: str, now_ms: int, amount: int = 1) -> bool:
        """Return True if this caller has this many tokens now, without taking tokens."""
        return self._now(caller, now_ms) >= amount * SECOND_MS

    def take(self, caller: str, now_ms: int, amount: int = 1) -> bool:
        """Take this many tokens from a caller, and return True.

        If the caller has fewer tokens, take none, and return False.
        """
        left = self._now(caller, now_ms)
        allowed = left >= amount * SECOND_MS
        self._left.pop(caller, None)
        self._left[caller] = (left - amount * SECOND_MS if allowed else left, now_ms)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return allowed

    def _now(self, caller: str, now_ms: int) -> int:
        left, at_ms = self._left.get(caller, (self._full, now_ms))
        return min(self._full, left + max(now_ms - at_ms, 0) * self._per_ms)
