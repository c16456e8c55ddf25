"""A payment service for tests, in this process: cards, books of its own, and faults by rate or by script.

Guarantee: the books (`taken`) say what was truly taken, whatever was answered. It keeps an id's first answer for as
long as it declares, and no longer; a call may be worked on late; what was done may be seen late.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from drawdown.providers.payments.protocol import (
    Charge,
    ChargeResult,
    Declined,
    InDoubt,
    Link,
    NeedsCustomer,
    NoLink,
    NotFound,
    NotSent,
    OtherContent,
    Payment,
    PaymentCapabilities,
)
from drawdown.schema.clock import FixedClock
from drawdown.schema.units import DAY_MS, MINUTE_MS

HOUR_MS = 60 * MINUTE_MS
CAN = PaymentCapabilities(
    key_retention_ms=DAY_MS, lookup_lag_ms=10 * MINUTE_MS, applied_within_ms=DAY_MS, least={"usd": 50}, most=10**9
)
CHARGE_FAULTS = ("not_sent", "request_lost", "answer_lost", "slow", "very_slow", "seen_late", "raised")
LOOK_UP_FAULTS = ("unread", "raised")
MANNERS = ("good", "declined", "stolen", "action", "none")


@dataclass(frozen=True)
class Taken:
    """Money that changed hands."""

    charge_id: str
    customer_id: str
    amount: int
    currency: str
    payment_id: str
    at_ms: int


@dataclass
class Known:
    """One charge as it stands over there."""

    charge: Charge
    result: ChargeResult
    made_ms: int
    seen_ms: int


@dataclass
class FakePayments:
    """Everybody's card is good, but for `cards`. `script`: the faults of the next charges, in turn; then by `rate`."""

    clock: FixedClock
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    rate: float = 0.0
    name: str = "fake"
    capabilities: PaymentCapabilities = CAN
    dormant: str | None = None
    keeps_ms: int = DAY_MS
    """For how long ids are truly known."""
    cards: dict[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = CHARGE_FAULTS
    script: deque[str | None] = field(default_factory=deque)
    taken: list[Taken] = field(default_factory=list)
    known: dict[str, list[Known]] = field(default_factory=dict)
    under_way: list[tuple[int, Charge]] = field(default_factory=list)
    charges: list[str] = field(default_factory=list)
    look_ups: list[str] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    fills: dict[str, NotSent | InDoubt] = field(default_factory=dict)
    """Customers whom it tops up by itself, or does not tell of."""
    asked_of: list[str] = field(default_factory=list)
    """Of whom it was asked that."""
    meanwhile: Callable[[], object] = int
    """What happens while it is."""

    async def charge(self, request: Charge) -> ChargeResult:
        return self.charged(request)

    async def look_up(self, request: Charge) -> ChargeResult:
        return self.looked_up(request)

    async def card_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        return Link(f"https://pay.test/card/{customer_id}", None)

    async def portal_link(self, customer_id: str, return_url: str) -> Link | NoLink:
        return NoLink("the portal is not set up") if customer_id == "cus_none" else Link("https://pay.test/portal", 1)

    async def fills_itself(self, customer_id: str) -> NotSent | InDoubt | None:
        return self.who_fills(customer_id)

    def who_fills(self, customer_id: str) -> NotSent | InDoubt | None:
        self.asked_of.append(customer_id)
        self.meanwhile()
        return self.fills.get(customer_id)

    def charged(self, request: Charge) -> ChargeResult:
        """One call that may take money."""
        self.charges.append(request.charge_id)
        self.work()
        now, fault = self.clock.at_ms, self._fault(self.faults)
        if fault == "not_sent":
            return NotSent("refused", now + self.rng.randint(-1_000, HOUR_MS))
        if fault == "request_lost":
            return InDoubt("no answer")
        if fault in ("slow", "very_slow"):
            most = 8 * MINUTE_MS if fault == "slow" else self.capabilities.applied_within_ms
            self.under_way.append((now + self.rng.randint(1, most), request))
            return InDoubt("no answer")
        if any(one.charge_id == request.charge_id for _, one in self.under_way):
            return InDoubt("a call under this id is under way")
        if self.cards.get(request.customer_id) == "none":
            return NotSent("the customer does not have a card on file", None)
        late = self.rng.randint(1, 9 * MINUTE_MS) if fault == "seen_late" else 0
        result = self._made(request, late)
        if fault == "raised":
            raise OSError("the connection was cut")
        return InDoubt("no answer") if fault in ("answer_lost", "seen_late") else result

    def looked_up(self, request: Charge) -> ChargeResult:
        """What is seen of a charge."""
        self.look_ups.append(request.charge_id)
        self.work()
        fault = self._fault(LOOK_UP_FAULTS)
        if fault == "raised":
            raise OSError("the connection was cut")
        if fault == "unread":
            return InDoubt("503")
        seen = [
            one
            for one in self.known.get(request.charge_id, [])
            if one.seen_ms <= self.clock.at_ms and one.made_ms >= request.begun_ms - HOUR_MS
        ]
        if len(seen) > 1:
            return OtherContent(f"{len(seen)} payments carry this id")
        if seen and _content(seen[0].charge) != _content(request):
            return OtherContent("this id stands for another charge")
        return seen[0].result if seen else NotFound()

    def work(self) -> None:
        """Calls that were worked on late."""
        for at_ms, request in sorted(self.under_way, key=lambda one: one[0]):
            if at_ms <= self.clock.at_ms:
                self.under_way.remove((at_ms, request))
                self._made(request, 0, at_ms)

    def _made(self, request: Charge, late_ms: int, at_ms: int | None = None) -> ChargeResult:
        now = self.clock.at_ms if at_ms is None else at_ms
        earlier = [one for one in self.known.get(request.charge_id, []) if now - one.made_ms < self.keeps_ms]
        if earlier:
            same = _content(earlier[-1].charge) == _content(request)
            return earlier[-1].result if same else OtherContent("this id was used for another charge")
        result = self._by_card(request, now)
        self.known.setdefault(request.charge_id, []).append(Known(request, result, now, now + late_ms))
        return result

    def _by_card(self, request: Charge, now: int) -> ChargeResult:
        match self.cards.get(request.customer_id, "good"):
            case "declined":
                return Declined("generic_decline", "the card was declined", True)
            case "stolen":
                return Declined("stolen_card", "the card was declined", False)
            case "action":
                return NeedsCustomer("the bank wants the customer")
        payment_id = f"pay_{len(self.taken) + 1}"
        content = (request.charge_id, request.customer_id, request.amount, request.currency)
        self.taken.append(Taken(*content, payment_id, now))
        return Payment(payment_id, request.amount, request.currency)

    def _fault(self, kinds: tuple[str, ...]) -> str | None:
        if self.script and kinds is self.faults:
            fault = self.script.popleft()
        else:
            fault = self.rng.choice(kinds) if self.rng.random() < self.rate else None
        if fault is not None:
            self.struck[fault] += 1
        return fault

    def doubles(self) -> list[str]:
        """Ids under which money was taken more than once."""
        return sorted(name for name, count in Counter(one.charge_id for one in self.taken).items() if count > 1)


def _content(request: Charge) -> tuple[str, int, str, str]:
    return (request.customer_id, request.amount, request.currency, request.description)
