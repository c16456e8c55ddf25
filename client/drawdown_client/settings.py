"""The settings of a client, and its bounds."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from drawdown_client.items import Item, Result

BATCH_ITEMS: Final = 1_000
"""Maximum number of items of one request."""
BATCH_BYTES: Final = 4 * 1024 * 1024
"""Maximum bytes of one request, before compression."""
BATCH_MS: Final = 200
"""Milliseconds for which an item waits for other items of its request."""
QUEUE_ITEMS: Final = 10_000
"""Maximum number of items that wait in the queue."""
BLOCK_S: Final = 5.0
"""Seconds for which `record` waits for space in a full queue."""
CLOSE_S: Final = 10.0
"""Seconds for which `close`, and the end of the program, wait for items, and then for reports of the guard."""
KEPT_CALLS: Final = 1_000
"""Maximum number of guard calls that wait to be sent. Above this limit, the client raises `Unreachable`."""
SPOOL_BYTES: Final = 64 * 1024 * 1024
"""Maximum bytes of a spool, and of its dead-letter file."""
CALL_TRIES: Final = 4
"""Maximum attempts of a call for which the program waits."""
CALL_WITHIN_S: Final = 15.0
"""Seconds from the start of a call in which a retry can begin, for a call for which the program waits."""
CONNECT_S: Final = 5.0
"""Connect timeout, in seconds."""
ANSWER_S: Final = 30.0
"""Seconds to wait for the next bytes of a response. `Client` rounds them up to a whole second."""
WHOLE_ANSWER_S: Final = 60.0
"""Seconds for an attempt in addition to `connect_s`: to send the request and to receive the whole response."""
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""Maximum bytes of a response, which is never compressed."""
MOST_ANSWER_SIGNS: Final = 100_000
"""Maximum number of `{`, `[`, `:` and `,` in a response, outside of its strings."""
MAX_SAID_CHARS: Final = 300
"""Maximum characters of a code, a message or a reason that an error shows."""
FIRST_PAUSE_S: Final = 0.2
"""Longest pause before the first retry, in seconds."""
LONGEST_PAUSE_S: Final = 60.0
"""Longest pause before a retry, in seconds, unless the server requests a longer pause."""
MOST_REFUSALS: Final = 30
"""Maximum refusals of an item, or of a report of the guard, by a proxy. Then the client logs and drops it.

A refusal counts if the server answered another call since the last one.
"""
LONGEST_RETRY_AFTER_S: Final = 300.0
"""Longest pause that a server can request, in seconds."""


@dataclass(frozen=True)
class Settings:
    """The settings of a client.

    `source`: the source of events without a source. `on_result`: a function that the sending thread calls once for each
    item. `spool`: the path of a file that stores items until they are acknowledged. `when_full`: "block" to wait up to
    `block_s` seconds for space before QueueFull, or "raise" for QueueFull at once. `close_s`: the longest wait in
    seconds for items, and then for reports of the guard, when the client is closed or the program ends. `fails_open`:
    the metrics with uses that the client allows if the server does not answer. Pass the metrics that have
    `guard set --fail open`. For the unit of another setting, see the constant of its default.

    Errors: ValueError for a number out of range.
    """

    source: str = "drawdown-client"
    on_result: Callable[[Item, Result], None] | None = None
    spool: Path | str | None = None
    spool_bytes: int = SPOOL_BYTES
    when_full: Literal["block", "raise"] = "block"
    block_s: float = BLOCK_S
    queue_items: int = QUEUE_ITEMS
    batch_items: int = BATCH_ITEMS
    batch_ms: int = BATCH_MS
    close_s: float = CLOSE_S
    call_tries: int = CALL_TRIES
    call_within_s: float = CALL_WITHIN_S
    connect_s: float = CONNECT_S
    answer_s: float = ANSWER_S
    fails_open: Collection[str] = ()
    kept_calls: int = KEPT_CALLS

    def __post_init__(self) -> None:
        if not 0 < self.batch_items <= BATCH_ITEMS:
            raise ValueError(f"invalid batch_items {self.batch_items!r}: expected 1 to {BATCH_ITEMS:,}")
        for name, least in (("queue_items", 1), ("call_tries", 1), ("spool_bytes", 1), ("batch_ms", 0), ("block_s", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"invalid {name} {value!r}: expected {least} or more")
