"""The base of an emulator.

An emulator is a state machine that takes a call and returns its result.

Guarantee: an emulator does not do I/O or read a clock. Its results depend only on the call, the state, the time that
you pass and the seeded fault plan. If you serve it over HTTP, cut the connection for `NoAnswer`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from drawdown.providers.http import Call, HttpResult
from drawdown.schema.clock import Clock


class Emulator(Protocol):
    """The emulator of one service."""

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        """Process a call, change the state, and return the result.

        `now_ms`: the moment of the call.
        """
        ...


@dataclass
class FaultPlan:
    """A plan that draws faults from a seed, by kind, and counts them.

    `rates`: the probability of each kind for a call.
    """

    seed: int = 0
    rates: Mapping[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)  # noqa: S311 - a fault that strikes again from its seed

    def draw(self, *kinds: str) -> str | None:
        """Draw at most one of these kinds, each with its own probability; None: no fault."""
        roll = self.rng.random()
        for kind in kinds:
            roll -= self.rates.get(kind, 0.0)
            if roll < 0:
                self.counts[kind] += 1
                return kind
        return None


@dataclass
class Direct:
    """An `Http` that passes calls directly to an emulator.

    It never waits. Use it for the simulation and quick tests.
    """

    emulator: Emulator
    clock: Clock

    async def send(self, call: Call) -> HttpResult:
        return self.emulator.handle(call, self.clock.now_ms())

    async def close(self) -> None:
        """Do nothing, because an emulator does not open connections."""
