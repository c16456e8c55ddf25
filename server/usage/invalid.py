"""What of a server's usage was invalid: noted beside each answer, written down once in EVERY_S.

Guarantee: no request waits for it, and what cannot be written is only logged. Between two writes MOST_NOTED rows are
held at most, whatever is sent. What a process noted last goes with it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Literal, Protocol

import structlog

from drawdown.events.envelope import Named
from drawdown.events.example import example_of
from drawdown.schema.clock import Clock
from drawdown.server.http import limits
from drawdown.server.http.threads import Threads
from drawdown.worker.usage import invalid
from drawdown.worker.usage.invalid import InvalidItems

log = structlog.get_logger()

EVERY_S: Final = 1.0
MOST_NOTED: Final = 1_000
"""Keys by codes."""


class Answered(Protocol):
    """An item's answer."""

    @property
    def status(self) -> str: ...
    @property
    def code(self) -> str | None: ...
    @property
    def named(self) -> Named: ...


class Invalid:
    """Of one server."""

    def __init__(self, clock: Clock, threads: Threads) -> None:
        self._clock = clock
        self._threads = threads
        self._noted: dict[tuple[str, str, str], InvalidItems] = {}
        self._keeping: asyncio.Task[None] | None = None

    def note(self, key: str, kind: Literal["events", "samples"], results: Sequence[Answered]) -> None:
        """Count what was invalid of a key's batch."""
        wrong = [one for one in results if one.status == "invalid"]
        now_ms = self._clock.now_ms()
        for code, items in Counter(one.code or "" for one in wrong).items():
            self._add(InvalidItems(key, kind, code, items, now_ms, now_ms), (one for one in wrong if one.code == code))
        if self._noted and self._keeping is None:
            self._keeping = asyncio.create_task(self._keep())

    def _add(self, one: InvalidItems, wrong: Iterator[Answered]) -> None:
        slot = (one.key_name, one.kind, one.code)
        before = self._noted.get(slot)
        if before is not None:
            self._noted[slot] = replace(before, items=before.items + one.items, last_ms=one.last_ms)
        elif len(self._noted) < MOST_NOTED:
            named = next((found.named for found in wrong if any(found.named)), (None, None))
            source, item_id = example_of(named)
            self._noted[slot] = replace(one, source=source, item_id=item_id)

    async def _keep(self) -> None:
        try:
            while self._noted:
                await asyncio.sleep(EVERY_S)
                found, self._noted = list(self._noted.values()), {}
                now_ms = self._clock.now_ms()
                await self._threads.write(partial(invalid.keep, found=found, now_ms=now_ms))
        except Exception as error:  # what comes next is written again
            log.warning("invalid_not_kept", **limits.told(error))
        finally:
            self._keeping = None
