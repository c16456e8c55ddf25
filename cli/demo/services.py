"""What stands for Autumn, Stripe and a card in the demo: in this process, each charge once by its key, with outages.

Guarantee: nothing leaves the machine. What an outage hid is told by a look-up afterwards, as at the services.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from drawdown.providers.payments.protocol import (
    Charge,
    ChargeResult,
    Declined,
    InDoubt,
    Link,
    NoLink,
    NotFound,
    Paid,
    PaymentCapabilities,
)
from drawdown.providers.protocol import (
    Absent,
    Accepted,
    CannotTell,
    CustomerRead,
    CustomerState,
    Drawn,
    Duplicate,
    Found,
    LookupResult,
    Notice,
    Outcome,
    Provider,
    PushRequest,
    ReadFailed,
    Rejected,
    RetryAt,
    Totals,
    Unknown,
    WebhookRefused,
)
from drawdown.schema.clock import Clock
from drawdown.schema.units import WINDOW_MS

DECLINED_CARD: Final = "cus_declined"
TANGLED: Final = "the minute's sum holds more than this push: somebody else writes to this meter"
PRICES_MICRO: Final[Mapping[int, int]] = {4096: 400, 8192: 800}
"""Of a second, by memory: at Autumn as in the ledger's rates."""


def feature_of(memory_mb: int) -> str:
    """As the default mapping calls it."""
    return f"compute_{memory_mb // 1024}gb"


@dataclass(frozen=True)
class Outage:
    """In [from_ms, to_ms) calls for a customer ("": for anybody) end badly: `refused`, so that nothing was done;
    `silent`, so that nobody can say; `tangled`, so that a look-up cannot tell, either; `unknown_customer`. An end of
    None has not come."""

    from_ms: int
    to_ms: int | None
    kind: Literal["refused", "silent", "tangled", "unknown_customer"]
    customer_id: str = ""

    def hits(self, customer_id: str, now_ms: int) -> bool:
        before = self.to_ms is None or now_ms < self.to_ms
        return self.from_ms <= now_ms and before and self.customer_id in ("", customer_id)


@dataclass
class DemoBilling:
    """A provider whose books are `charged`. It declares what the `real` one does, but for how much of it may be called
    at once, and what stands in balances apart from events."""

    real: Provider
    clock: Clock
    outages: tuple[Outage, ...] = ()
    paid_micro: Mapping[str, int] = field(default_factory=dict)
    """Credit by customer, of whoever has some; others are asked of the real one, which reads the ledger."""
    prices_micro: Mapping[str, int] = field(default_factory=dict)
    """Of a base unit, by feature."""
    charged: dict[str, PushRequest] = field(default_factory=dict)
    dormant: str | None = None

    def __post_init__(self) -> None:
        self.name = self.real.name
        self.capabilities = replace(
            self.real.capabilities,
            calls_per_s=None,
            reads_per_s=None,
            lookups_per_s=None,
            batch_size=100,
            one_at_a_time=False,
            lookup_span_ms=0,
            cancel_within_ms=None,
            drawn=False,
        )

    def _outage(self, customer_id: str) -> Outage | None:
        now = self.clock.now_ms()
        return next((one for one in self.outages if one.hits(customer_id, now)), None)

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        return [self._push(push) for push in batch]

    def _push(self, push: PushRequest) -> Outcome:
        outage = self._outage(push.customer_id)
        if outage is not None and outage.kind == "unknown_customer":
            return Rejected(f"400: no such customer: {push.customer_id}")
        if outage is not None and outage.kind == "refused":
            return RetryAt(self.clock.now_ms() + WINDOW_MS, "503: the service is down, and took nothing")
        if outage is not None:
            if zlib.crc32(push.key.encode()) % 2:
                self.charged.setdefault(push.key, push)
            return Unknown("no answer in 10 s")
        if push.key in self.charged:
            return Duplicate()
        self.charged[push.key] = push
        return Accepted()

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        theirs = await self.real.customers([name for name in customer_ids if name not in self.paid_micro])
        return {**theirs, **{name: self._customer(name) for name in customer_ids if name in self.paid_micro}}

    def _customer(self, customer_id: str) -> CustomerRead:
        if self._outage(customer_id) is not None:
            return ReadFailed("no answer in 10 s")
        uses = (push for push in self.charged.values() if push.customer_id == customer_id)
        spent = sum(push.quantity * self.prices_micro.get(push.feature, 0) for push in uses)
        return CustomerState(self.paid_micro[customer_id] - spent, "scale", 40)

    async def lookup(self, request: PushRequest) -> LookupResult:
        outage = self._outage(request.customer_id)
        if outage is not None:
            return CannotTell(TANGLED) if outage.kind == "tangled" else ReadFailed("503")
        found = self.charged.get(request.key)
        return Absent() if found is None else Found(found.quantity)

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> Totals | ReadFailed:
        if self._outage(customer_id) is not None:
            return ReadFailed("503")
        found: dict[str, int] = {}
        for push in self.charged.values():
            if push.customer_id == customer_id and from_ms <= push.ts < to_ms:
                found[push.feature] = found.get(push.feature, 0) + push.quantity
        return found

    async def drawn(self, customer_id: str) -> Mapping[str, Drawn] | ReadFailed:
        return {}

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[Notice] | ReadFailed:
        raise WebhookRefused("the demo's services send no webhooks")

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        bad = [name for name in customer_ids if (one := self._outage(name)) and one.kind == "unknown_customer"]
        return [f"{name}: no such customer" for name in bad]


@dataclass
class DemoCard:
    """A payment service: each id is charged once; the card of DECLINED_CARD is declined; `silent` calls get no answer,
    though the money was taken."""

    capabilities: PaymentCapabilities
    clock: Clock
    name: str = "stripe"
    dormant: str | None = None
    silent: frozenset[str] = frozenset()
    paid: dict[str, Paid] = field(default_factory=dict)

    async def charge(self, request: Charge) -> ChargeResult:
        if request.customer_id == DECLINED_CARD:
            return Declined("insufficient_funds", "the card was declined", True)
        number = len(self.paid) + 1
        found = self.paid.setdefault(request.charge_id, Paid(f"pi_demo_{number:04}", request.amount, request.currency))
        return InDoubt("no answer in 30 s") if request.charge_id in self.silent else found

    async def look_up(self, request: Charge) -> ChargeResult:
        return self.paid.get(request.charge_id) or NotFound()

    async def card_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        return NoLink("the demo's card service has no pages")

    async def portal_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        return NoLink("the demo's card service has no pages")
