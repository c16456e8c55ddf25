"""Waits: the time between two attempts, and the allowance for the difference of two clocks. Pure."""

from __future__ import annotations

from typing import Final

from drawdown.providers.protocol import Capabilities
from drawdown.schema.units import MINUTE_MS, SECOND_MS

FIRST_BACKOFF_MS: Final = 5 * SECOND_MS


MAX_BACKOFF_MS: Final = 15 * MINUTE_MS


CLOCKS_APART_MS: Final = 10 * MINUTE_MS
"""Two hosts' clocks are never further apart than this, or else one was set meanwhile (S9 allows half a minute)."""


def backoff_ms(attempt: int) -> int:
    """Waiting time after the given attempt (1 is the first): doubles up to a quarter of an hour."""
    return min(FIRST_BACKOFF_MS << min(max(attempt, 1) - 1, 16), MAX_BACKOFF_MS)


def visible_by(now_ms: int, capabilities: Capabilities) -> int:
    """What was settled by then is shown by its provider now, though the machine that settled it had a slow clock."""
    return now_ms - (capabilities.totals_lag_ms or 0) - CLOCKS_APART_MS
