"""What is asked for by an order: kept as it was understood, and told in words and as a command.

Guarantee: times are moments by then, and not words such as `today`, whose meaning would change while the order waits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Final

from drawdown.schema.errors import UsageError
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import WINDOW_MS, window_of
from drawdown.worker.replay.plan import ReplayScope

MAX_ORDER_ORGS: Final = 100
"""Organisations that one order names; more by their provider, all of them, or a replay by hand."""


@dataclass(frozen=True)
class AskedReplay:
    """A replay of the windows of `scope` in [from_ms, to_ms)."""

    scope: ReplayScope
    from_ms: int
    to_ms: int

    def __post_init__(self) -> None:
        if len(self.scope.orgs) > MAX_ORDER_ORGS:
            raise UsageError(
                f"an order names {MAX_ORDER_ORGS:,} organisations at most, and these are {len(self.scope.orgs):,}: "
                "order it by provider, or for all of them"
            )

    def __str__(self) -> str:
        return f"replay of {self.scope}, {show_time(self.from_ms)} to {show_time(self.to_ms)}"

    @property
    def windows(self) -> int:
        return (self.to_ms - self.from_ms) // WINDOW_MS

    def aligned(self) -> AskedReplay:
        """The same in whole windows."""
        return replace(self, from_ms=window_of(self.from_ms), to_ms=window_of(self.to_ms + WINDOW_MS - 1))

    def text(self) -> str:
        """As it is kept: the same is asked for by the same text."""
        return json.dumps({"scope": self.scope.text(), "from_ms": self.from_ms, "to_ms": self.to_ms}, sort_keys=True)

    @classmethod
    def of(cls, text: str) -> AskedReplay:
        kept = json.loads(text)
        return cls(ReplayScope.of(kept["scope"]), kept["from_ms"], kept["to_ms"])

    def command(self) -> list[str]:
        """What does the same by hand, without `drawdown`."""
        whose = ["--provider", self.scope.provider] if self.scope.provider is not None else list(self.scope.orgs)
        return ["replay", *(whose or ["--all"]), "--from", show_time(self.from_ms), "--to", show_time(self.to_ms)]
