"""A provider for tests: a keyed state machine that answers as it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drawdown.providers.protocol import (
    Absent,
    Accepted,
    Cancelled,
    Capabilities,
    Cost,
    CustomerRead,
    CustomerState,
    Drawn,
    Duplicate,
    FoundPush,
    LookupResult,
    Notice,
    Outcome,
    PushRequest,
    ReadFailed,
    WebhookRefused,
)


@dataclass
class FakeProvider:
    """Charges each key once; `answers` says otherwise for a key, `fails` raises instead of answering."""

    capabilities: Capabilities
    name: str = "fake"
    dormant: str | None = None
    charged: dict[str, PushRequest] = field(default_factory=dict)
    seen: list[PushRequest] = field(default_factory=list)
    answers: dict[str, Outcome] = field(default_factory=dict)
    states: dict[str, CustomerRead] = field(default_factory=dict)
    fails: Exception | None = None
    lookups: dict[str, LookupResult] = field(default_factory=dict)
    over: dict[tuple[str, str, int], int] = field(default_factory=dict)
    """What is charged beyond the keys, by (customer, feature, ts)."""
    drawn_says: dict[str, dict[str, Drawn]] = field(default_factory=dict)
    totals_fail: bool = False
    costs_say: Sequence[Cost] | ReadFailed = ()
    costs_known: list[Sequence[Cost]] = field(default_factory=list)
    """What it was told to be known, each time it was asked for costs."""

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

    async def lookup(self, request: PushRequest) -> LookupResult:
        if request.key in self.lookups:
            return self.lookups[request.key]
        found = self.charged.get(request.key)
        return Absent() if found is None else FoundPush(found.quantity)

    async def cancel(self, request: PushRequest) -> Cancelled | ReadFailed:
        """Once or again."""
        self.charged.pop(request.key, None)
        return Cancelled("it said so")

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Mapping[str, int] | ReadFailed:
        if self.totals_fail:
            return ReadFailed("503")
        found: dict[str, int] = {}
        for push in self.charged.values():
            if push.customer_id == customer_id and from_ms <= push.ts < to_ms:
                found[push.feature] = found.get(push.feature, 0) + push.quantity
        for (customer, feature, ts), quantity in self.over.items():
            if customer == customer_id and from_ms <= ts < to_ms:
                found[feature] = found.get(feature, 0) + quantity
        return found

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn]:
        return self.drawn_says.get(customer_id, {})

    async def costs(self, known: Sequence[Cost]) -> Sequence[Cost] | ReadFailed:
        self.costs_known.append(known)
        return self.costs_say

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice]:
        raise WebhookRefused("the fake provider sends none")

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        return []


def capabilities(**changes: object) -> Capabilities:
    """Those of a simple provider, but for some."""
    simple: dict[str, object] = {
        "batch_size": 10,
        "key_retention_ms": None,
        "duplicate_proves_delivery": True,
    }
    return Capabilities(**{**simple, **changes})  # type: ignore[arg-type]
