"""The features of one Autumn account as they were last read, and every cost that was ever known.

Guarantee: calls that need the list at the same time share one call for it, and charges ask for it seldom. Nothing is
judged by a cost that was read before a mismatch where a newer one can be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from drawdown.providers.autumn.credits import KnownCosts, Schema, read_features
from drawdown.providers.autumn.errors import Unreadable
from drawdown.providers.careful import MAX_FEATURES
from drawdown.providers.protocol import Cost
from drawdown.schema.clock import Clock
from drawdown.schema.units import MINUTE_MS, SECOND_MS

LIST_AGAIN_MS: Final = 5 * SECOND_MS
"""How long charges wait until they ask for the list of features again: an account may ask 25 times a second."""
SCHEMA_AGE_MS: Final = 10 * MINUTE_MS
"""How old a schema may be by which customers are read."""

Ask = Callable[[str, Mapping[str, object]], Awaitable[Mapping[str, object]]]


class AutumnAccount:
    """Reads the list of features when it is needed."""

    def __init__(self, ask: Ask, clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self.schema = Schema({})
        self.costs = KnownCosts()
        self.is_read = False
        self.has_history = False
        """Whether the costs that were learned before were handed in: only then is a cost known to be the only one."""
        self._unlisted: set[str] = set()
        self._again_ms = self._read_ms = 0
        self._waiting: list[asyncio.Future[Unreadable | None]] | None = None
        """Of the reading under way; None: there is none."""

    async def remember(self, known: Sequence[Cost]) -> Schema:
        """Take in the costs that were learned before, and read the present ones. Errors: Unreadable."""
        self.costs.add(known)
        self.has_history = True
        return await self.read()

    async def read(self) -> Schema:
        """Read the list of features. Errors: Unreadable."""
        asked_ms = self._clock.now_ms()
        schema = read_features(await self._ask("features.list", {}))
        self.schema, self.is_read, self._read_ms = schema, True, asked_ms
        self.costs.learn(schema)
        return schema

    async def read_if_needed(self, names: set[str]) -> Schema:
        """The schema; read if it never was, or if one of these balances is not in it. Errors: Unreadable."""
        if not self.is_read or not self._knows(names):
            await self._shared()
            self._note_unlisted(names)
        elif self._clock.now_ms() - self._read_ms > SCHEMA_AGE_MS:
            await self.read_again()
        return self.schema

    async def read_for_charge(self, name: str) -> Schema:
        """The schema, for the balance that a charge names; as it is where it cannot be read just now."""
        if not self._knows({name}) and await self.read_again():
            self._note_unlisted({name})
        return self.schema

    def _note_unlisted(self, names: set[str]) -> None:
        if len(self._unlisted) > MAX_FEATURES:
            self._unlisted = set()  # each is looked for once more
        self._unlisted |= names - self.schema.features.keys()

    def _knows(self, names: set[str]) -> bool:
        return all(name in self.schema.features or name in self._unlisted for name in names)

    async def read_again(self) -> bool:
        """Read the list again where that can wait. Whether it was read: not where it was asked for a moment ago."""
        now = self._clock.now_ms()
        if self._waiting is None and now < self._again_ms:
            return False
        self._again_ms = now + LIST_AGAIN_MS
        try:
            await self._shared()
        except Unreadable:
            return False  # what was read before stands
        return True

    async def _shared(self) -> Schema:
        """Read the list, or wait for the reading that is under way. Only who waits needs an event loop."""
        if self._waiting is not None:
            woken: asyncio.Future[Unreadable | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(woken)
            trouble = await woken
            if trouble is not None:
                raise trouble
            return self.schema
        self._waiting, trouble = [], Unreadable("features.list: the reading was given up")
        try:
            schema = await self.read()
            trouble = None
        except Unreadable as failure:
            trouble = failure
            raise
        finally:
            woken_all, self._waiting = self._waiting, None
            for one in woken_all:
                if not one.done():
                    one.set_result(trouble)
        return schema
