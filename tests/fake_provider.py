"""A provider for tests: a keyed state machine that answers as it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drawdown.providers.protocol import (
    Accepted,
    Capabilities,
    CustomerRead,
    CustomerState,
    Duplicate,
    Outcome,
    PushRequest,
)


@dataclass
class FakeProvider:
    """Charges each key once; `answers` says otherwise for a key, `fails` raises instead of answering."""

    capabilities: Capabilities
    name: str = "fake"
    charged: dict[str, PushRequest] = field(default_factory=dict)
    seen: list[PushRequest] = field(default_factory=list)
    answers: dict[str, Outcome] = field(default_factory=dict)
    states: dict[str, CustomerRead] = field(default_factory=dict)
    fails: Exception | None = None

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        self.seen += batch
        if self.fails is not None:
            raise self.fails
        return [self._one(push) for push in batch]

    def _one(self, push: PushRequest) -> Outcome:
        if push.key in self.answers:
            return self.answers[push.key]
        if push.key in self.charged:
            return Duplicate()
        self.charged[push.key] = push
        return Accepted()

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        return {name: self.states.get(name, CustomerState(None, None, None)) for name in customer_ids}

    async def lookup(self, request: PushRequest) -> int | None:
        found = self.charged.get(request.key)
        return None if found is None else found.quantity

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for push in self.charged.values():
            if push.customer_id == customer_id and from_ms <= push.ts < to_ms:
                found[push.feature] = found.get(push.feature, 0) + push.quantity
        return found

    async def check(self) -> Sequence[str]:
        return []


def capabilities(**changes: object) -> Capabilities:
    """Those of a simple provider, but for some."""
    simple: dict[str, object] = {
        "batch_size": 10,
        "key_retention_ms": None,
        "duplicate_proves_delivery": True,
        "lookup": True,
    }
    return Capabilities(**{**simple, **changes})  # type: ignore[arg-type]
