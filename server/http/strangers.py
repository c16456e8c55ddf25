"""What callers may ask who prove nothing: so much each, and beyond it so much for all of them together.

Guarantee: within its own rate a caller waits for nobody. Beyond it, requests have turns, so many a second of them all
together, however many connections they hold and however many keys they make up. If its turn would be later than
LONGEST_TURN_S, a request is refused after that time. No clock is read here.
"""

from __future__ import annotations

from typing import Final

from drawdown.server.http.token_buckets import TokenBuckets

HEALTH_PATHS: Final = frozenset({"/healthz", "/readyz"})
_PROVEN: Final = ("/v1/", "/api/v1/", "/admin/", "/cron/", "/webhooks/", "/console", "/my")
"""How paths begin that ask for a proof, or have limits of their own."""
OPEN_PER_S: Final = 20
"""Of one caller, of what anybody may read: health, metrics, descriptions."""
FAILED_PER_S: Final = 10
"""Proofs of one caller that are none, after which it has to wait."""
ALL_FAILED_PER_S: Final = 50
"""The same of all callers together."""
TURNS_PER_S: Final = 100
LONGEST_TURN_S: Final = 5.0
_ALL: Final = ""


def is_open(path: str) -> bool:
    """Whether anybody may read it."""
    return not path.startswith(_PROVEN)


class Strangers:
    """Of one process."""

    def __init__(self) -> None:
        self._open = TokenBuckets(OPEN_PER_S)
        self._failed = TokenBuckets(FAILED_PER_S)
        self._all_failed = TokenBuckets(ALL_FAILED_PER_S, 1)
        self._next_s = 0.0

    def may_ask(self, caller: str, now_ms: int) -> bool:
        """Whether it may read at once what anybody may read."""
        return self._open.take(caller, now_ms)

    def failed(self, caller: str, now_ms: int) -> None:
        """Note that it proved nothing."""
        self._failed.take(caller, now_ms)
        self._all_failed.take(_ALL, now_ms)

    def is_suspect(self, caller: str, now_ms: int) -> bool:
        """Whether so many of its proofs, or of all callers', were none lately that a further one waits."""
        return not (self._failed.has(caller, now_ms) and self._all_failed.has(_ALL, now_ms))

    def turn(self, now_s: float) -> float | None:
        """How long the next request waits for its turn; None: longer than any does, and it has none."""
        at = max(self._next_s, now_s)
        if at - now_s > LONGEST_TURN_S:
            return None
        self._next_s = at + 1 / TURNS_PER_S
        return at - now_s
