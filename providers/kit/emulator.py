"""The base of an emulator: a state machine that takes a call and returns its result.

Guarantee: an emulator does no I/O and reads no clock. The call, the state, the time it is given and the seeded fault
plan decide what happens. If you serve it over HTTP, cut the connection for `NoAnswer`.
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
    """One service."""

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        """Take a call at a moment; change state; answer, or not."""
        ...


@dataclass
class FaultPlan:
    """Draws faults from a seed, by kind, and counts those that struck. `rates` are chances a call."""

    seed: int = 0
    rates: Mapping[str, float] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)  # noqa: S311 - a fault that strikes again from its seed

    def draw(self, *kinds: str) -> str | None:
        """At most one of these kinds, each by its own chance."""
        roll = self.rng.random()
        for kind in kinds:
            roll -= self.rates.get(kind, 0.0)
            if roll < 0:
                self.counts[kind] += 1
                return kind
        return None


@dataclass
class Direct:
    """An `Http` that hands calls straight to an emulator: for the simulation and quick tests. Never waits."""

    emulator: Emulator
    clock: Clock

    async def send(self, call: Call) -> HttpResult:
        return self.emulator.handle(call, self.clock.now_ms())

    async def close(self) -> None:
        """There is nothing to close."""
