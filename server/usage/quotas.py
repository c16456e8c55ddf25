"""How many items a key, and an organisation, may send a second.

Guarantee: a batch is taken whole or not at all: where one of its organisations has sent enough, nothing of it counts.
"""

from __future__ import annotations

from collections import Counter
from threading import Lock
from typing import Final

from drawdown.server.http.errors import SOON, ApiError
from drawdown.server.http.token_buckets import TokenBuckets

KEY_ITEMS_PER_S: Final = 50_000
"""Of one key, by one process, on the average; twice as many at once."""
ORG_ITEMS_PER_S: Final = 40_000
"""Of one organisation, whoever sends them, likewise."""


class Quotas:
    """Of one process; for any of its threads."""

    def __init__(self, refused: Counter[str]) -> None:
        self._refused = refused
        self._keys = TokenBuckets(KEY_ITEMS_PER_S)
        self._orgs = TokenBuckets(ORG_ITEMS_PER_S)
        self._lock = Lock()

    def take(self, key: str, items: int, by_org: Counter[str], now_ms: int) -> None:
        """Errors: ApiError 429, and nothing was taken."""
        with self._lock:
            if not self._keys.has(key, now_ms, items):
                raise self._too_many("with this key")
            if not all(self._orgs.has(org, now_ms, count) for org, count in by_org.items()):
                raise self._too_many("of one organisation")
            self._keys.take(key, now_ms, items)
            for org, count in by_org.items():
                self._orgs.take(org, now_ms, count)

    def _too_many(self, what: str) -> ApiError:
        self._refused["items"] += 1
        message = f"too many items {what} a second; nothing was taken: send it again"
        return ApiError(429, "too_many_requests", message, headers=SOON)
