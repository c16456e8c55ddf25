"""The settings of a client, and its bounds."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from drawdown_client.items import Item, Result

BATCH_ITEMS: Final = 1_000
"""Items of one body: as at the server."""
BATCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one body, before it is packed."""
BATCH_MS: Final = 200
"""For how long an item waits for others to go with it."""
QUEUE_ITEMS: Final = 10_000
BLOCK_S: Final = 5.0
CLOSE_S: Final = 10.0
KEPT_CALLS: Final = 1_000
"""Uses of the guard to keep that were let through without an answer and are not sent yet."""
SPOOL_BYTES: Final = 64 * 1024 * 1024
CALL_TRIES: Final = 4
"""Tries of a call that a caller waits for: the guard, usage, a balance."""
CALL_WITHIN_S: Final = 15.0
"""After which no such call is tried again."""
CONNECT_S: Final = 5.0
ANSWER_S: Final = 30.0
WHOLE_ANSWER_S: Final = 60.0
"""For a whole try, once it is connected: the request, and all of the answer."""
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""Bytes of an answer: several times what 1,000 rows or results have."""
MOST_ANSWER_SIGNS: Final = 100_000
"""Signs `{`, `[`, `:` and `,` of an answer, which count its values: several times what 1,000 rows or results have."""
MAX_SAID_CHARS: Final = 300
"""Characters of a code or a message of the server."""
FIRST_PAUSE_S: Final = 0.2
"""After the first failure, at most; twice as long after each further one."""
LONGEST_PAUSE_S: Final = 60.0
LONGEST_RETRY_AFTER_S: Final = 300.0
"""The longest wait that a server can ask for; a longer one is cut to this."""


@dataclass(frozen=True)
class Settings:
    """The settings of a client.

    `source`: for events that name none. `on_result`: called once for each item, from the thread that sends. `spool`: a
    file that keeps items until they are acknowledged. `when_full`: "block" waits up to `block_s` seconds for room and
    then raises QueueFull; "raise" raises it at once. `close_s`: the longest wait when the client is closed or the
    program ends. `fails_open`: metrics that the guard lets through if no server answers, as set with `guard set --fail
    open`.
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
            raise ValueError(f"batch_items is from 1 to {BATCH_ITEMS:,}")
        if min(self.queue_items, self.call_tries, self.spool_bytes) < 1 or min(self.batch_ms, self.block_s) < 0:
            raise ValueError("a bound of the client is negative, or nothing")
