"""Fetch JSON objects and public keys from other services.

Guarantee: calls use https, or stay on this machine, and do not follow redirects. Drawdown rejects a response that takes
longer than WITHIN_S or has more than MOST_BYTES. At most MOST_AT_ONCE callers wait. Drawdown caches a response for
KEPT_MS. If a key is unknown, Drawdown reads the keys again, at most every AGAIN_MS. Every error is a `Trouble`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from drawdown.providers.http import Answer, Call, NotSent
from drawdown.schema.units import MINUTE_MS, SECOND_MS
from drawdown.server.console.session_auth import LOOPBACK
from drawdown.server.jwts import Key, Unproven, key_of
from drawdown.server.services import Services

WITHIN_S: Final = 5.0
"""Timeout of a request to an identity provider, or for a product's public keys, in seconds."""
MOST_BYTES: Final = 64 * 1024
"""Largest response of an identity provider, in bytes.

Drawdown rejects a larger response.
"""
MOST_AT_ONCE: Final = 8
"""Concurrent calls to identity providers. Callers that wait for a read of an uncached response have the same limit."""
TOO_MANY: Final = "too many people sign in at this moment. Try again"
MOST_KEYS: Final = 50
"""Public keys at one address that Drawdown uses. Drawdown ignores further keys."""
KEPT_MS: Final = 10 * MINUTE_MS
"""Time for which Drawdown caches a response of an identity provider."""
AGAIN_MS: Final = 30 * SECOND_MS
"""Shortest time between two reads of the public keys that unknown keys cause."""
MOST_KEPT: Final = 8
"""Cached addresses.

The addresses come from settings, or from the response of a configured address.
"""


class Trouble(Exception):
    """Raised if another service fails, with a message for the person who waits."""


def is_safe(url: str) -> bool:
    """Return True if other hosts on the way cannot read or change a call to this URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    is_plain = parts.username is None and not parts.fragment and bool(parts.hostname) and url.isprintable()
    return is_plain and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK))


@dataclass
class _CachedDocument:
    """A cached response, and the time of its read."""

    at_ms: int
    body: Mapping[str, Any]


@dataclass
class DocumentCache:
    """The calls of one server to other services, and their cached responses."""

    services: Services
    _documents: dict[str, _CachedDocument] = field(default_factory=dict)
    _under_way: int = 0
    _waiting: int = 0
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def ask(self, call: Call, what: str) -> tuple[int, Mapping[str, Any]]:
        """Send a call, and return the status and the JSON object. Errors: Trouble."""
        if not is_safe(call.url):
            raise Trouble(
                f"{what} has an unsafe address: expected https://, or http:// on this machine, without a user "
                "name, password or fragment. Ask an admin to fix the address"
            )
        if self._under_way >= MOST_AT_ONCE:
            raise Trouble(TOO_MANY)
        self._under_way += 1
        try:
            found = await self.services.http.send(replace(call, timeout_s=WITHIN_S, most_bytes=MOST_BYTES))
        finally:
            self._under_way -= 1
        if not isinstance(found, Answer):
            how = "cannot be reached" if isinstance(found, NotSent) else "does not answer"
            raise Trouble(f"{what} {how}: {found.reason}. Try again")
        if 300 <= found.status < 400:
            raise Trouble(
                f"{what} redirects, but Drawdown does not follow redirects. Ask an admin to set the final address"
            )
        try:
            said = json.loads(found.body)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise Trouble(
                f"{what} answers {found.status} without a JSON object. Try again, or ask an admin to check its address"
            )
        return found.status, said

    async def get_cached(self, url: str, what: str, *, at_most_ms: int = KEPT_MS) -> Mapping[str, Any]:
        """Return an address's JSON object from the cache, or read it.

        Drawdown reads the address again if the cached object is older than `at_most_ms`. Concurrent callers wait for
        the same read. Errors: Trouble.
        """
        found = self._fresh(url, at_most_ms)
        if found is not None:
            return found
        if self._waiting >= MOST_AT_ONCE:
            raise Trouble(TOO_MANY)
        self._waiting += 1
        try:
            async with self._reading:
                return self._fresh(url, at_most_ms) or await self._read(url, what)
        finally:
            self._waiting -= 1

    def _fresh(self, url: str, at_most_ms: int) -> Mapping[str, Any] | None:
        before, now = self._documents.get(url), self.services.clock.now_ms()
        return before.body if before is not None and 0 <= now - before.at_ms < at_most_ms else None

    async def _read(self, url: str, what: str) -> Mapping[str, Any]:
        status, said = await self.ask(Call("GET", url, {"accept": "application/json"}), what)
        if status != 200:
            raise Trouble(f"{what} answers {status}, not 200. Try again, or ask an admin to check its address")
        self._documents.pop(url, None)
        if len(self._documents) >= MOST_KEPT:
            del self._documents[next(iter(self._documents))]
        self._documents[url] = _CachedDocument(self.services.clock.now_ms(), said)
        return said

    async def keys(self, url: str, kid: str | None, what: str) -> list[Key]:
        """Return the public keys of an address with the id `kid`; None: all keys.

        Errors: Trouble.
        """
        for at_most_ms in (KEPT_MS, AGAIN_MS):
            said = await self.get_cached(url, what, at_most_ms=at_most_ms)
            listed = said.get("keys")
            found = []
            for one in listed[:MOST_KEYS] if isinstance(listed, list) else []:
                try:
                    found.append(key_of(one))
                except Unproven:
                    continue
            fitting = [key for key in found if kid is None or key.kid == kid]
            if fitting:
                return fitting
        raise Trouble(f"{what} does not publish the key of this signature. Try again in a minute")
