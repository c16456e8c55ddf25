"""When a message is sent again. Pure. Source: the schedule that Svix publishes, which receivers know.

Guarantee: a message that an endpoint did not take is sent eight times in 27 hours and 35 minutes, then it has failed,
and waits for a person's replay.
"""

from __future__ import annotations

from typing import Final

from drawdown.schema.units import MINUTE_MS, SECOND_MS

WAITS: Final = (5 * SECOND_MS, *(minutes * MINUTE_MS for minutes in (5, 30, 120, 300, 600, 600)))
"""Milliseconds after each failure in a row; the first call is made at once."""
CALL_MS: Final = 4 * SECOND_MS
"""For one call: name, connection, TLS and answer together. Less than a round of the watch, which makes these calls
beside the halts."""


def next_wait_ms(failures: int) -> int | None:
    """How long to wait after so many failures in a row (1 is the first); None: it has failed."""
    return WAITS[failures - 1] if failures <= len(WAITS) else None
