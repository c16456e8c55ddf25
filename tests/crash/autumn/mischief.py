"""What people, and Autumn itself, do between two kills of the siege.

Guarantee: it follows from the setting and the number of the kill alone, so that each kind comes about in each siege of
some length. The service does what it is ordered to before its next call, and loses or repeats its next charge.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from drawdown.providers.autumn import CHANGES, _customer_of
from drawdown.providers.protocol import CustomerChanged
from drawdown.schema.audit import By
from drawdown.schema.clock import Clock
from drawdown.schema.database import connect, write
from drawdown.worker.push.webhooks import apply_notices
from drawdown.worker.usage.withdrawals import withdraw
from tests.acceptance.tables import rows
from tests.crash.autumn.setting import (
    BY_HAND,
    CHANGED,
    GRANTED_AT_ONCE,
    NEW_COST,
    PROMO,
    STEADY,
    Customer,
    Setting,
    Struck,
)
from tests.crash.billers import MINUTE_MS
from tests.emulators.serve import CREDITS

LOSSES_EVERY, OUTAGE_EVERY, REPEATS_EVERY = 9, 6, 3
"""Kills between two losses of the balance store, between two outages of a part of the service, at most, and between two
charges that a proxy repeats."""
ENDS_IN_MS: Final = 7 * MINUTE_MS
OUTAGES: Final = ("key store refuses", "key store hangs", "balance store down", "list stands still")
OUTAGE: Final = "outage: "
COST_CHANGED: Final = "cost changed"
SEEN: Final = "SELECT DISTINCT customer_id FROM balance_parts WHERE plan IS NOT NULL"


@dataclass
class Mischief:
    """`kills`: how many there are in all."""

    url: str
    autumn: Struck
    setting: Setting
    clock: Clock
    kills: int
    _delivered: int = 0

    def deliver(self) -> None:
        """Apply the webhooks that the service has sent since the last kill, as the server would.

        Without them, a plan that begins and ends while no worker reads its customer is invisible to every comparison.
        """
        sent = list(self.autumn.webhooks)
        new, self._delivered = sent[self._delivered :], len(sent)
        changed = dict.fromkeys(_customer_of(one) for one in new if one["type"] in CHANGES)
        notices = [CustomerChanged(name) for name in changed]
        if notices:
            engine = connect(self.url)
            write(engine, lambda c: apply_notices(c, "autumn", notices, self.clock.now_ms()))
            engine.dispose()

    def begin(self, at: int) -> None:
        """After kill number `at`."""
        autumn = self.autumn
        if at == 0:
            self._withdraw()
        if at % LOSSES_EVERY == LOSSES_EVERY // 2 or self.kills < LOSSES_EVERY:
            autumn.loses = True
        autumn.repeats = at % REPEATS_EVERY == 0
        if at == self.kills // 2:
            autumn.orders.append(_change_cost(autumn))
        seen = {str(name) for (name,) in rows(self.url, SEEN)}
        for one in self.setting.customers:
            self._change_parts(one, at, seen)
            if one.manner == "exact":
                autumn.top_up(one.name, f"more{at}", GRANTED_AT_ONCE * STEADY)
            if one.manner == "by_hand" and at == self.kills // 3:
                autumn.by_hand[one.name] += 1
                autumn.orders.append(add_by_hand(autumn, one.name, BY_HAND))

    def _withdraw(self) -> None:
        """The host finds that some of what was billed in peace is wrong."""
        engine, by = connect(self.url), By(self.clock.now_ms(), "test", "the host")
        write(engine, lambda c: withdraw(c, [one.name for one in self.setting.withdrawn], by))
        engine.dispose()

    def _change_parts(self, one: Customer, at: int, seen: Collection[str]) -> None:
        """Plans begin after a quarter of the kills and end after most; the part ends a while after its end was set.

        `seen`: the customers with a plan that Drawdown has read. A plan that begins and ends between two reads is
        beyond every comparison (limits in ops/proof.md), so a passing one ends only after a read.
        """
        begins, ends = self.kills // 4, self.kills * 5 // 8
        account, orders = self.autumn.account, self.autumn.orders
        if one.manner == "ending" and at == begins:
            orders.append(lambda now_ms: account.expire(one.name, PROMO, now_ms + ENDS_IN_MS))
        if one.manner in ("joining", "passing") and at == begins:
            orders.append(lambda now_ms: account.attach(one.name, "large", now_ms))
        is_passing = one.manner == "passing" and at >= ends and one.name in seen
        if is_passing or (one.manner == "leaving" and at == ends):
            orders.append(lambda now_ms: account.detach(one.name, "large", now_ms))

    def outage(self, at: int) -> None:
        """A part of the service is away until the next kill."""
        autumn, now = self.autumn, self.clock.now_ms()
        autumn.key_store = autumn.balance_store = "up"
        every = min(OUTAGE_EVERY, max(2, self.kills // len(OUTAGES)))
        if at % every != 1:
            return
        which = OUTAGES[at // every % len(OUTAGES)]
        autumn.faults.counts[f"{OUTAGE}{which}"] += 1
        match which:
            case "key store refuses":
                autumn.key_store = "refusing"
            case "key store hangs":
                autumn.key_store = "hanging"
            case "balance store down":
                autumn.balance_store = "down"
            case _:
                autumn.list_stands_still = (now, now + 10 * MINUTE_MS)


def _change_cost(autumn: Struck) -> Callable[[int], None]:
    def do(_now_ms: int) -> None:
        autumn.account.features[CREDITS].credit_schema[CHANGED] = NEW_COST
        autumn.faults.counts[COST_CHANGED] += 1

    return do


def add_by_hand(autumn: Struck, name: str, amount: Decimal | Fraction) -> Callable[[int], None]:
    """An order to change a balance, as a person does at a console."""
    exact = Decimal(amount.numerator) / Decimal(amount.denominator) if isinstance(amount, Fraction) else amount

    def do(now_ms: int) -> None:
        autumn.account.add_to_balance(name, CREDITS, exact, now_ms=now_ms)

    return do
