"""The operator's product for tests, in this process: it keeps what it was told, and fails by rate or by script.

Guarantee: `taken` says what truly arrived, whatever was answered.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from drawdown.worker.engine.effects import HookAnswer, HookRequest

KINDS = ("unreached", "broken", "answer_lost", "rude", "raised")
"""Not reached; reached, and not taken; taken, and nobody knows; taken, and said to be not; the network went away."""


@dataclass
class FakeProduct:
    """Endpoints that take everything, but for `answer` (what an endpoint always does), `script` (what is done with the
    next ones, in turn) and `rate`."""

    rng: random.Random = field(default_factory=lambda: random.Random(0))
    rate: float = 0.0
    answer: dict[str, str] = field(default_factory=dict)
    script: deque[str | None] = field(default_factory=deque)
    taken: dict[str, list[HookRequest]] = field(default_factory=lambda: defaultdict(list))
    """By endpoint, in the order in which they arrived."""
    batches: list[tuple[str, int]] = field(default_factory=list)
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    during: Callable[[], None] | None = None
    """What happens while the next call is under way."""
    struck: Counter[str] = field(default_factory=Counter)

    async def send(self, messages: Sequence[HookRequest]) -> list[HookAnswer]:
        (endpoint,) = {message.endpoint for message in messages}
        self.batches.append((endpoint, len(messages)))
        if endpoint in self.held:
            await asyncio.wait_for(self.held[endpoint].wait(), 30)
        return self.told(messages)

    def told(self, messages: Sequence[HookRequest]) -> list[HookAnswer]:
        """One batch."""
        if self.during is not None:
            happens, self.during = self.during, None
            happens()
        return [self._one(message) for message in messages]

    def ids(self, endpoint: str = "app") -> list[str]:
        return [message.message_id for message in self.taken[endpoint]]

    def sizes(self, endpoint: str) -> list[int]:
        return [size for name, size in self.batches if name == endpoint]

    def _one(self, message: HookRequest) -> HookAnswer:
        fault = self._fault(message.endpoint)
        if fault is not None:
            self.struck[fault] += 1
        if fault == "raised":
            raise OSError("the network went away")
        if fault not in ("unreached", "broken"):
            self.taken[message.endpoint].append(message)
        match fault:
            case "unreached" | "answer_lost":
                return HookAnswer(error="no connection")
            case "broken" | "rude":
                return HookAnswer(500, "the endpoint answered 500")
        return HookAnswer(204)

    def _fault(self, endpoint: str) -> str | None:
        if endpoint in self.answer:
            return self.answer[endpoint]
        if self.script:
            return self.script.popleft()
        return self.rng.choice(KINDS) if self.rng.random() < self.rate else None
