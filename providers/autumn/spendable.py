"""What an Autumn customer can still spend, by the rules of Autumn's own `check`. Pure.

Guarantee: the balance is zero exactly where Autumn refuses everything that the customer could draw on. Amounts of
different units are never added. Facts (recorded): overage is limited by a spend limit; a usage limit refuses although
the balance lasts; a one-off grant that is used up exactly is gone, and `check` refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from drawdown.providers.autumn.credits import Schema
from drawdown.providers.autumn.customers import AutumnCustomer, Balance, candidates, parts_of, read_balance
from drawdown.providers.autumn.deductions import deducted
from drawdown.providers.autumn.errors import Unreadable
from drawdown.providers.autumn.settings import AutumnSettings
from drawdown.providers.protocol import CustomerState, Left, Part
from drawdown.schema.units import MICRO

MAX_MICRO: Final = 10**18
"""A balance above a million million is told as that much: it is stored in 64 bits."""
MAX_CONCURRENT: Final = 10**9
_LEAST: Final = Decimal(1) / MICRO


@dataclass(frozen=True)
class Spendable:
    """`amount` None: unlimited. `refused`: features that cannot draw on it although others can."""

    amount: Decimal | None
    refused: frozenset[str] = frozenset()

    @property
    def lasts(self) -> bool:
        return self.amount is None or self.amount > 0


def state(customer: AutumnCustomer, settings: AutumnSettings, schema: Schema) -> CustomerState:
    """What is copied onto the organisation. No balance at all is one of zero: Autumn's own `check` says no, too."""
    found = _decided(customer, settings, schema)
    reached = {one.feature for one in customer.controls.usage_limits if one.left <= 0} - schema.systems.keys()
    parts = [part for balance in candidates(customer, settings) for part in balance.parts]
    return CustomerState(
        balance_micro=None if found.amount is None else _micro(found.amount),
        plan=customer.plans[0] if customer.plans else None,
        max_concurrent=_concurrency(customer, settings),
        refused=found.refused | reached,
        parts=_distinct(parts),
        plans=customer.all_plans,
    )


def decider(settings: AutumnSettings, schema: Schema) -> str | None:
    """The one balance that decides: the one that is set, or else the account's only credit system. None: several."""
    return settings.balance_feature or schema.sole


def _decided(customer: AutumnCustomer, settings: AutumnSettings, schema: Schema) -> Spendable:
    decides = decider(settings, schema)
    if decides is not None:
        return _of(customer, decides, schema)
    members = {name for system in schema.systems for name in schema.members(system)}
    names = [balance.feature for balance in candidates(customer, settings) if schema.is_consumable(balance.feature)]
    held = set(names)
    pools = {system for system in schema.systems if not held.isdisjoint((system, *schema.members(system)))}
    pooled = members | pools
    return _most([*sorted(pools), *(name for name in names if name not in pooled)], customer, schema)


def _most(names: list[str], customer: AutumnCustomer, schema: Schema) -> Spendable:
    """Where several balances decide: the largest figure, so that it is zero only once all are. A feature whose own
    balance has ended is refused while others last. Figures of different units are not added."""
    found = {name: _of(customer, name, schema) for name in names}
    ended = {name for name, one in found.items() if not one.lasts and name not in schema.systems}
    ended |= {
        member
        for name, one in found.items()
        if not one.lasts and name in schema.systems
        for member in schema.members(name)
    }
    lasting = [one for one in found.values() if one.lasts]
    refused = frozenset(ended if lasting else ()).union(*(one.refused for one in lasting))
    if any(one.amount is None for one in lasting):
        return Spendable(None, refused)
    return Spendable(max((one.amount for one in found.values() if one.amount is not None), default=Decimal(0)), refused)


def _of(customer: AutumnCustomer, name: str, schema: Schema) -> Spendable:
    """What one balance, or a credit system with the balances of its features, still allows."""
    credits = _alone(customer, name)
    members = schema.members(name)
    own = {member: _alone(customer, member) for member in members if member in customer.balances}
    lasting = {member: amount for member, amount in own.items() if amount is None or amount > 0}
    if not lasting:
        return Spendable(credits)
    # Own units are drawn first (recorded). Without credit, the features that have none are refused.
    refused = frozenset(members) - lasting.keys() if credits is not None and credits <= 0 else frozenset()
    amounts = [_in_credits(amount, schema.cost(member, name)) for member, amount in lasting.items()]
    if credits is None or any(amount is None for amount in amounts):
        return Spendable(None, refused)
    return Spendable(max(credits, Decimal(0)) + sum(amount for amount in amounts if amount is not None), refused)


def _in_credits(amount: Decimal | None, cost: Decimal | None) -> Decimal | None:
    """Without a cost that can be used, the least amount there is: such units are never a silent zero."""
    if amount is None:
        return None
    return amount * cost if cost is not None and cost > 0 else _LEAST


def _alone(customer: AutumnCustomer, feature: str) -> Decimal | None:
    """What one feature's balance allows; None: no end. Without a balance nothing, whatever the controls say."""
    balance = customer.balances.get(feature)
    if balance is None:
        return Decimal(0)
    limits = [_by_balance(balance, customer), customer.controls.left(feature)]
    amounts = [limit for limit in limits if limit is not None]
    if not amounts:
        return None
    least = min(amounts)
    # Usage may be past a limit, which is no debt.
    return least if least == balance.remaining else max(least, Decimal(0))


def _by_balance(balance: Balance, customer: AutumnCustomer) -> Decimal | None:
    if balance.unlimited:
        return None
    if not balance.overage and balance.feature not in customer.controls.overage:
        # A spend limit alone allows nothing: `check` asks for overage, too.
        return balance.remaining
    # `max_purchase` is a limit by the name that webhooks give it; such a balance was never recorded.
    ends = [customer.controls.spend_limits.get(balance.feature), balance.max_purchase]
    overdraft = min((end for end in ends if end is not None), default=None)
    return None if overdraft is None else balance.granted + overdraft - balance.usage


def left(body: Mapping[str, object], settings: AutumnSettings, schema: Schema) -> Left | None:
    """What the answer to a charge says is left of the balance that decides. None: it does not say.

    An answer shows no limits, so that of a credit system it tells a part, never the whole, and never "no end". It can
    show a balance under `balance` of which nothing changed, and the deciding one under `balances` (recorded).
    """
    shown = body.get("balance")
    named = shown.get("feature_id") if isinstance(shown, dict) else None
    feature = decider(settings, schema) or named
    if not isinstance(feature, str) or feature == settings.concurrency_feature:
        return None
    if settings.balance_feature is None and (feature not in schema.features or not schema.is_consumable(feature)):
        return None
    others = body.get("balances")
    found = shown if named == feature else others.get(feature) if isinstance(others, dict) else None
    taken = deducted(body, feature)
    if taken is None:
        return None
    try:
        balance = read_balance(feature, found)
    except Unreadable:
        return None
    charged = _micro(taken.own)
    if balance.unlimited or balance.overage:
        return None if feature in schema.systems else Left(None, charged)
    whole = settings.balance_feature == feature and feature not in schema.systems
    return Left(_micro(balance.remaining), charged, None if whole else feature)


def shown_parts(body: Mapping[str, object], settings: AutumnSettings) -> tuple[Part, ...]:
    """The parts granted once that the answer to a charge shows. A part that the next charge uses up exactly is shown by
    no read (recorded)."""
    others = body.get("balances")
    shown = [body.get("balance"), *(others.values() if isinstance(others, dict) else ())]
    named = [(one, one.get("feature_id")) for one in shown if isinstance(one, dict)]
    return _distinct(
        [
            part
            for one, feature in named
            if isinstance(feature, str) and feature != settings.concurrency_feature
            for part in parts_of(one, feature)
        ]
    )


def _micro(value: Decimal) -> int:
    """Micro-credits. An amount below one is one: a customer who has it is not refused."""
    found = max(-MAX_MICRO, min(int(value * MICRO), MAX_MICRO))
    return 1 if value > 0 and found == 0 else found


def _concurrency(customer: AutumnCustomer, settings: AutumnSettings) -> int | None:
    named = [settings.plans[plan] for plan in customer.plans if plan in settings.plans]
    if named:
        return max(named)
    granted = customer.balances.get(settings.concurrency_feature)
    if granted is None or granted.unlimited or granted.overage:
        return None
    return max(0, min(int(granted.granted), MAX_CONCURRENT))


def _distinct(parts: list[Part]) -> tuple[Part, ...]:
    return tuple({(part.balance, part.name): part for part in parts}.values())
