"""Autumn's answers about a customer: balances, plans, concurrency, and drawn quantities. Pure.

Guarantee: an answer that cannot be read is Unreadable, never zero. Two shapes are read: today's (`remaining`,
`granted`, `next_reset_at`) and the one of API 2.0 (`current_balance`, `granted_balance`, `reset`), as recorded.
"""

from __future__ import annotations

import calendar
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from drawdown.providers.autumn.controls import Controls, read_controls
from drawdown.providers.autumn.credits import Schema
from drawdown.providers.autumn.deductions import number, whole
from drawdown.providers.autumn.errors import Unreadable
from drawdown.providers.autumn.settings import AutumnSettings
from drawdown.providers.protocol import Drawn, Lasting, Part
from drawdown.schema.units import SECOND_MS

ACTIVE: Final = frozenset({"active", "trialing", "past_due"})
"""Statuses under which a plan still grants; `scheduled` and `expired` do not."""
FIXED: Final = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
MONTHS: Final = {"month": 1, "quarter": 3, "semi_annual": 6, "year": 12}


@dataclass(frozen=True)
class Begun:
    """When one part of a balance began its cycle (milliseconds; 0: it never begins anew), and whether it is untouched
    since."""

    at_ms: int
    untouched: bool


@dataclass(frozen=True)
class Balance:
    """One feature's balance. `overage`: usage beyond it is paid for afterwards, up to `max_purchase` if that is set."""

    feature: str
    remaining: Decimal
    granted: Decimal
    usage: Decimal
    unlimited: bool
    overage: bool
    max_purchase: Decimal | None
    begun: tuple[Begun, ...] | None
    """Of each part; None: it cannot be told."""
    parts: tuple[Part, ...]
    """The parts that were granted once."""
    lasting: Lasting | None = None


@dataclass(frozen=True)
class AutumnCustomer:
    """Balances by feature; `plans` that are active, main ones before add-ons; `bought` ones were paid for once."""

    balances: Mapping[str, Balance]
    plans: tuple[str, ...]
    controls: Controls = field(default_factory=Controls)
    bought: tuple[str, ...] = ()

    @property
    def all_plans(self) -> frozenset[str]:
        return frozenset((*self.plans, *self.bought))


def read_customer(body: Mapping[str, object]) -> AutumnCustomer:
    """Errors: Unreadable for a body without balances, or with one that has no numbers."""
    balances = body.get("balances")
    if not isinstance(balances, dict):
        raise Unreadable("Autumn's answer has no balances")
    found = {name: read_balance(name, balance) for name, balance in balances.items()}
    return AutumnCustomer(found, tuple(_plans(body)), read_controls(body), tuple(_bought(body)))


def read_balance(feature: str, found: object) -> Balance:
    """Errors: Unreadable."""
    if not isinstance(found, dict):
        raise Unreadable(f"Autumn's answer has no readable balance of {feature}")
    return Balance(
        feature=feature,
        remaining=_figure(found, feature, "remaining", "current_balance"),
        granted=_figure(found, feature, "granted", "granted_balance"),
        usage=_figure(found, feature, "usage"),
        unlimited=_said(found, feature, "unlimited"),
        overage=_said(found, feature, "overage_allowed"),
        max_purchase=number(found.get("max_purchase")),
        begun=_begun(found),
        parts=tuple(parts_of(found, feature)),
        lasting=_lasting(found),
    )


def _said(found: Mapping[str, object], feature: str, name: str) -> bool:
    value = found.get(name, False)
    if not isinstance(value, bool | None):
        raise Unreadable(f"Autumn's balance of {feature} says neither yes nor no under {name}")
    return value is True


def _figure(found: Mapping[str, object], feature: str, *names: str) -> Decimal:
    for name in names:
        if name in found:
            value = number(found[name])
            if value is not None:
                return value
    raise Unreadable(f"Autumn's balance of {feature} has no number under {' or '.join(names)}")


def parts_of(found: Mapping[str, object], feature: str) -> list[Part]:
    """The parts of a balance that were granted once. Each disappears from Autumn's answers once it is used up exactly
    (recorded)."""
    breakdown = found.get("breakdown")
    parts = [part for part in breakdown if isinstance(part, dict)] if isinstance(breakdown, list) else []
    return [
        Part(
            feature,
            part["id"],
            granted,
            part["expires_at"] if type(part.get("expires_at")) is int else None,
            None if part.get("plan_id") is None else str(part["plan_id"]),
        )
        for part in parts
        if isinstance(part.get("id"), str) and _reset_of(part)[0] is None
        if (granted := _granted(part)) > 0
    ]


def _granted(part: Mapping[str, object]) -> Decimal:
    figures = (number(part.get(name)) for name in ("included_grant", "prepaid_grant"))
    return sum((figure for figure in figures if figure is not None), Decimal(0))


def _plans(body: Mapping[str, object]) -> list[str]:
    subscriptions = body.get("subscriptions")
    if not isinstance(subscriptions, list):
        raise Unreadable("Autumn's answer has no list of subscriptions")
    active = [item for item in subscriptions if isinstance(item, dict) and str(item.get("status")) in ACTIVE]
    named = [(item.get("add_on") is True, item["plan_id"]) for item in active if isinstance(item.get("plan_id"), str)]
    return [plan for _add_on, plan in sorted(named, key=lambda pair: pair[0])]


def _bought(body: Mapping[str, object]) -> list[str]:
    bought = body.get("purchases")
    named = [item.get("plan_id") for item in bought if isinstance(item, dict)] if isinstance(bought, list) else []
    return [plan for plan in named if isinstance(plan, str)]


def candidates(customer: AutumnCustomer, settings: AutumnSettings) -> list[Balance]:
    """Balances that may decide, but for which of them are used up: only the features' list says that."""
    return [balance for balance in customer.balances.values() if balance.feature != settings.concurrency_feature]


def drawn(customer: AutumnCustomer, settings: AutumnSettings, schema: Schema) -> dict[str, Drawn]:
    """What was drawn from each balance in its present cycle; where that cannot be told, it is left out.

    It counts every deduction, also those that left no event (a key store that fails open), and follows an operator's
    change of a balance: `usage` is what was granted less what remains. A credit system counts in credits. It includes
    the balances of its features, and is always there: a grant that was used up exactly has left no balance.
    """
    found: dict[str, Drawn] = {}
    pooled: set[str] = set()
    for system in schema.systems:
        members = [name for name in schema.members(system) if name in customer.balances]
        pooled.update((system, *members))
        pool = _pool_drawn(customer, system, members, schema)
        if pool is not None:
            found[system] = pool
    for balance in candidates(customer, settings):
        used = whole(balance.usage)
        if balance.feature not in pooled and balance.begun is not None and used is not None:
            found[balance.feature] = _drawn(used, balance.begun, balance.parts, balance.lasting)
    return {name: replace(one, plans=customer.all_plans) for name, one in found.items()}


def _pool_drawn(customer: AutumnCustomer, system: str, members: Sequence[str], schema: Schema) -> Drawn | None:
    quantity, begun, parts = Decimal(0), list[Begun](), list[Part]()
    for name in (system, *members):
        balance = customer.balances.get(name)
        if balance is None:
            continue
        cost = Decimal(1) if name == system else schema.cost(name, system)
        if cost is None or balance.begun is None:
            return None
        quantity += balance.usage * cost
        begun += balance.begun
        parts += balance.parts
    # Of several balances nothing tells which was drawn on first: that depends on the feature.
    lasting = customer.balances[system].lasting if system in customer.balances and not members else None
    return _drawn(quantity, begun, parts, lasting)


def _drawn(quantity: int | Decimal, begun: Sequence[Begun], parts: Sequence[Part], lasting: Lasting | None) -> Drawn:
    """The cycle of a balance is the newest of its parts'. A top-up beside a plan is a part that never begins anew; what
    was drawn from it before the plan's cycle cannot be told from what was drawn since."""
    newest = max((part.at_ms for part in begun), default=0)
    untouched = all(part.untouched for part in begun if part.at_ms != newest)
    return Drawn(quantity, newest or None, untouched, tuple(parts), lasting)


def _lasting(found: Mapping[str, object]) -> Lasting | None:
    """A charge empties the parts of a cycle before those granted once (recorded). Where a part that expires stands in
    that order was not recorded."""
    breakdown = found.get("breakdown")
    parts = [part for part in breakdown if isinstance(part, dict)] if isinstance(breakdown, list) else []
    resets = [_reset_of(part) for part in parts]
    cycles = {reset for reset in resets if reset[0] is not None}
    endless = any(part.get("expires_at") is not None or part.get("unlimited") is True for part in parts)
    if len(cycles) != 1 or endless:
        return None
    used = left = cycle_left = Decimal(0)
    for part, reset in zip(parts, resets, strict=True):
        usage, remaining = number(part.get("usage")), number(part.get("remaining", part.get("current_balance")))
        if usage is None or remaining is None:
            return None
        used, left = (used + usage, left + remaining) if reset[0] is None else (used, left)
        cycle_left += remaining if reset[0] is not None else 0
    return Lasting(used, left, cycle_left, cycles.pop()[2])


_UNKNOWN: Final = ("?", 0, 0)


def _begun(found: Mapping[str, object]) -> tuple[Begun, ...] | None:
    """When each part of a balance began its cycle; None: it cannot be told."""
    parts = found.get("breakdown")
    if not (isinstance(parts, list) and parts):
        # Without its parts only a balance that is never reset can be told.
        reset = _reset_of(found) if found.get("reset") or found.get("next_reset_at") is None else _UNKNOWN
        start = _start(reset)
        return None if start is None else (Begun(start, number(found.get("usage")) == 0),)
    begun = []
    for part in parts:
        start = _start(_reset_of(part)) if isinstance(part, dict) else None
        if start is None:
            return None
        begun.append(Begun(start, number(part.get("usage")) == 0))
    return tuple(begun)


def _start(reset: tuple[str | None, int, int]) -> int | None:
    """When a part's cycle began, 0 where it has none; None: it cannot be told."""
    interval, count, resets_at_ms = reset
    return 0 if interval is None else cycle_start_ms(interval, count, resets_at_ms)


def _reset_of(part: Mapping[str, object]) -> tuple[str | None, int, int]:
    reset = part.get("reset")
    if reset is None:
        return (None, 0, 0)
    if not isinstance(reset, dict):
        return _UNKNOWN
    interval, count, at_ms = reset.get("interval"), reset.get("interval_count", 1), reset.get("resets_at")
    if interval == "one_off":
        return (None, 0, 0)
    if isinstance(interval, str) and type(count) is int and type(at_ms) is int and 0 < count <= 1000:
        return (interval, count, at_ms)
    return _UNKNOWN


def cycle_start_ms(interval: str, count: int, resets_at_ms: int) -> int | None:
    """When the cycle began that ends at `resets_at_ms`; None for an interval that is not known, and where the calendar
    does not say: a cycle that ends on the last day of a short month may have begun on the 28th to the 31st."""
    try:
        end = datetime.fromtimestamp(resets_at_ms // SECOND_MS, UTC)
        if interval in FIXED:
            return resets_at_ms - int(FIXED[interval].total_seconds()) * count * SECOND_MS
        if interval not in MONTHS:
            return None
        year, month = divmod(end.year * 12 + end.month - 1 - MONTHS[interval] * count, 12)
        month += 1
        before = calendar.monthrange(year, month)[1]
        if end.day == calendar.monthrange(end.year, end.month)[1] and before > end.day:
            return None
        start = end.replace(year=year, month=month, day=min(end.day, before))
    except (ValueError, OverflowError, OSError, calendar.IllegalMonthError):
        return None
    return int(start.timestamp()) * SECOND_MS + resets_at_ms % SECOND_MS
