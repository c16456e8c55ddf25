"""Keys that nobody here has met, and ids that are mistyped: both cost a reading, and have a budget.

Guarantee: a bounded number of keys is remembered, and no key itself: by its hash alone. What is remembered is believed
by nobody: it says on which thread a key is looked up.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.clock import Clock
from drawdown.schema.units import MINUTE_MS
from drawdown.server.api.together import Way
from drawdown.server.http.token_buckets import TokenBuckets
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import ApiKey

STRANGERS_AT_ONCE: Final = 1
"""Readings of keys that were never found here."""
MOST_KNOWN: Final = 10_000
KNOWN_MS: Final = 60 * MINUTE_MS
NAMES_PER_S: Final = 5
"""Searches for the nearest of a mistyped id, of all programs together; twice as many at once."""
_ALL: Final = ""


class KnownKeys:
    """Hashes of keys that were found lately. Of one event loop."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, int] = OrderedDict()

    def has(self, proof: str, now_ms: int) -> bool:
        at_ms = self._found.get(proof)
        return at_ms is not None and 0 <= now_ms - at_ms <= KNOWN_MS

    def note(self, proof: str, at_ms: int | None) -> None:
        """It was found then; None: it is no key, or over."""
        if at_ms is None:
            self._found.pop(proof, None)
            return
        self._found[proof] = at_ms
        self._found.move_to_end(proof)
        if len(self._found) > MOST_KNOWN:
            self._found.popitem(last=False)


class NamesBudget:
    """Whether a mistyped id may be searched for now. For any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._bucket = TokenBuckets(NAMES_PER_S, 1)

    def __call__(self) -> bool:
        with self._lock:
            return self._bucket.take(_ALL, self._clock.now_ms())


def _find_all(connection: sa.Connection, proofs: Sequence[str], now_ms: int) -> Sequence[ApiKey | None]:
    found = api_keys.find_all(connection, proofs, now_ms)
    return [found.get(proof) for proof in proofs]


def _find(connection: sa.Connection, proof: str, now_ms: int) -> ApiKey | None:
    return api_keys.find_all(connection, [proof], now_ms).get(proof)


FINDING: Final = Way[str, ApiKey | None](lambda _proof: None, _find_all, _find, lambda _proof: False, reads=True)
"""Whoever asks while others are looked up is looked up with the next: one statement for all."""
