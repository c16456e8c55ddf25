"""Billing providers and cells in memory: small state machines that remember everything they were told.

Guarantee: what they charged is kept apart from our database, so "billed exactly once" is read where it counts.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.providers.protocol import (
    Absent,
    Accepted,
    Capabilities,
    CustomerRead,
    CustomerState,
    Drawn,
    Duplicate,
    FoundPush,
    LookupResult,
    Notice,
    Outcome,
    PushRequest,
    Rejected,
    ShownCredit,
    WebhookRefused,
)
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.engine.effects import HaltRequest
from drawdown.worker.halts.addresses import ANSWERED

MEMORY: Final = "memory"
WHOLE: Final = "whole"
AUTUMN: Final = "autumn"
STRIPE: Final = "stripe"
LOCAL: Final = (EMBEDDED, MEMORY, WHOLE)
REMOTE: Final = (AUTUMN, STRIPE)
DEPLOYED: Final = (
    (EMBEDDED, AUTUMN, STRIPE),
    (EMBEDDED, AUTUMN, STRIPE, WHOLE),
    (EMBEDDED, AUTUMN, STRIPE, MEMORY),
    (EMBEDDED, WHOLE, AUTUMN),
    (EMBEDDED, MEMORY, STRIPE),
    LOCAL,
    LOCAL,
)
"""Which providers a seed's world has."""
UNIT: Final = 60
OLDEST_READ: Final = 1_000
CAPABILITIES: Final = {
    MEMORY: Capabilities(
        batch_size=3, key_retention_ms=None, duplicate_proves_delivery=True, lookup_lag_ms=0, reads_a_call=3
    ),
    WHOLE: Capabilities(
        batch_size=2,
        key_retention_ms=None,
        duplicate_proves_delivery=True,
        negatives=False,
        unit=UNIT,
        reads_a_call=2,
    ),
}
CELL_TROUBLES: Final = ("down", "lying", "nonsense", "slow")
NONSENSE: Final = (f"{ANSWERED} 502", "the response is not HTTP", "the cell's response is too long")
Billed = dict[tuple[str, str, int], int]
"""(customer, feature, window) to the quantity charged."""


@dataclass
class MemoryProvider:
    """Charges each key once and says what is left, rejects what it has no price for, and answers a repeated key with a
    duplicate."""

    name: str
    charges: dict[str, PushRequest] = field(default_factory=dict)
    granted: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    refused_features: set[str] = field(default_factory=set)
    reads: int = 0
    dormant: str | None = None

    def __post_init__(self) -> None:
        self.capabilities: Capabilities = CAPABILITIES[self.name]

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        assert len(batch) <= self.capabilities.batch_size, "a batch longer than the provider takes"
        return [self._charge(request) for request in batch]

    def _charge(self, request: PushRequest) -> Outcome:
        if request.key in self.charges:
            return Duplicate()
        if request.feature in self.refused_features:
            return Rejected(f"no price for {request.feature}")
        if request.quantity % self.capabilities.unit or (request.quantity < 0 and not self.capabilities.negatives):
            return Rejected(f"{request.quantity} is no whole, positive amount")
        self.charges[request.key] = request
        return Accepted(ShownCredit(self.balance(request.customer_id), request.quantity))

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        self.reads += 1
        return {one: CustomerState(self.balance(one), "plan", self.limit) for one in customer_ids}

    @property
    def limit(self) -> int:
        """How many sandboxes at once. At one provider it grows with each read, so that an older read shows itself."""
        return OLDEST_READ + self.reads if self.name == MEMORY else 4

    def balance(self, customer_id: str) -> int:
        spent = sum(one.quantity for one in self.charges.values() if one.customer_id == customer_id)
        return self.granted[customer_id] - spent

    async def lookup(self, request: PushRequest) -> LookupResult:
        found = self.charges.get(request.key)
        return Absent() if found is None else FoundPush(found.quantity)

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn]:
        return {}

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice]:
        raise WebhookRefused("none are sent")

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Mapping[str, int]:
        sums: dict[str, int] = defaultdict(int)
        for one in self.charges.values():
            if one.customer_id == customer_id and from_ms <= one.ts < to_ms:
                sums[one.feature] += one.quantity
        return sums

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        return []


def billed_in_memory(provider: MemoryProvider) -> Billed:
    """What a memory provider charged."""
    sums: Billed = defaultdict(int)
    for one in provider.charges.values():
        sums[(one.customer_id, one.feature, one.ts - one.ts % WINDOW_MS)] += one.quantity
    return {key: quantity for key, quantity in sums.items() if quantity}


def billed_in_ledger(connection: sa.Connection) -> Billed:
    """What the embedded ledger charged."""
    sums: Billed = defaultdict(int)
    rows = connection.execute(
        sa.text(
            "SELECT from_account, feature, ts, quantity FROM ledger_entries WHERE kind = 'usage' "
            "AND key NOT LIKE 'mirror:%'"
        )
    )
    for account, feature, ts, quantity in rows:
        sums[(account.removeprefix("wallet:"), feature, ts - ts % WINDOW_MS)] += quantity
    return {key: quantity for key, quantity in sums.items() if quantity}


@dataclass
class Cells:
    """Cells that obey, lie (acknowledge and go on running), are down, answer nonsense, or answer too late."""

    names: Sequence[str] = ()
    troubles: dict[str, set[str]] = field(default_factory=lambda: {kind: set[str]() for kind in CELL_TROUBLES})
    told: list[HaltRequest] = field(default_factory=list)

    def has(self, kind: str, cell_id: str) -> bool:
        return cell_id in self.troubles[kind]

    def heal(self) -> None:
        for cells in self.troubles.values():
            cells.clear()

    def halt(self, connection: sa.Connection, halts: Sequence[HaltRequest], rng: random.Random) -> list[str | None]:
        """Obey; the hosts' own program keeps `sandboxes`."""
        answers: list[str | None] = []
        for one in halts:
            odd = self.has("nonsense", one.cell_id) or self.has("slow", one.cell_id)
            if self.has("down", one.cell_id) or (odd and rng.random() < 0.5):
                answers.append(self._excuse(one.cell_id, rng))
                continue
            self.told.append(one)
            answers.append(self._excuse(one.cell_id, rng) if odd else None)
            if not self.has("lying", one.cell_id):
                connection.execute(
                    sa.text(
                        "UPDATE sandboxes SET state = 'stopped' WHERE org_id = :org AND cell_id = :cell "
                        "AND state = 'running'"
                    ),
                    {"org": one.org_id, "cell": one.cell_id},
                )
        return answers

    def _excuse(self, cell_id: str, rng: random.Random) -> str:
        if self.has("down", cell_id):
            return "no connection"
        return rng.choice(NONSENSE) if self.has("nonsense", cell_id) else "no complete response within 10 s"

    def takes_ms(self, halts: Sequence[HaltRequest], rng: random.Random) -> int:
        """How long a slow cell keeps whoever tells it something waiting."""
        return rng.randrange(10_000, 40_000) if any(self.has("slow", one.cell_id) for one in halts) else 0

    def move(self, connection: sa.Connection, halt: HaltRequest, rng: random.Random) -> None:
        """A sandbox leaves for another cell, as the halt is on its way to the one that it was on."""
        connection.execute(
            sa.text(
                "UPDATE sandboxes SET cell_id = :to WHERE sandbox_id IN (SELECT sandbox_id FROM sandboxes "
                "WHERE org_id = :org AND cell_id = :cell AND state = 'running' ORDER BY sandbox_id LIMIT 1)"
            ),
            {"org": halt.org_id, "cell": halt.cell_id, "to": rng.choice(self.names)},
        )
