"""Autumn's answers about a customer: balances, plans, concurrency, and drawn quantities. Pure.

Guarantee: an answer that cannot be read is Unreadable, never zero. Two shapes are read: today's (`remaining`,
`granted`, `next_reset_at`) and the one of API 2.0 (`current_balance`, `granted_balance`, `reset`), as recorded.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from drawdown.providers.autumn.settings import AutumnSettings
from drawdown.providers.autumn.wire import deducted, number, whole
from drawdown.providers.protocol import CustomerState, Drawn, Left
from drawdown.schema.errors import DrawdownError
from drawdown.schema.units import MICRO, SECOND_MS

MAX_MICRO: Final = 10**18
"""A balance above a million million is told as that much: it is stored in 64 bits."""
MAX_CONCURRENT: Final = 10**9
ACTIVE: Final = frozenset({"active", "trialing", "past_due"})
"""Statuses under which a plan still grants; `scheduled` and `expired` do not."""
FIXED: Final = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
MONTHS: Final = {"month": 1, "quarter": 3, "semi_annual": 6, "year": 12}


class Unreadable(DrawdownError):
    """An answer of Autumn's that says no, or does not say what it should. `their_code`: its own, if it gave one."""

    def __init__(self, reason: str, their_code: str | None = None, status: int | None = None) -> None:
        super().__init__(reason)
        self.their_code = their_code
        self.status = status


class TooMany(Unreadable):
    """A list that is longer than is read."""


@dataclass(frozen=True)
class Cycle:
    """When the newest of a balance's parts began its cycle (milliseconds; None: it never begins anew). `whole`: nothing
    had been drawn from any part then."""

    since_ms: int | None
    whole: bool


@dataclass(frozen=True)
class Balance:
    """One feature's balance. `free` is true where usage is never stopped: unlimited, or paid for afterwards."""

    feature: str
    remaining: Decimal
    granted: Decimal
    usage: Decimal
    free: bool
    cycle: Cycle | None
    """None: it cannot be told."""


@dataclass(frozen=True)
class AutumnCustomer:
    """Balances by feature; `plans` that are active, main ones before add-ons."""

    balances: Mapping[str, Balance]
    plans: tuple[str, ...]


def read_customer(body: Mapping[str, object]) -> AutumnCustomer:
    """Errors: Unreadable for a body without balances, or with one that has no numbers."""
    balances = body.get("balances")
    if not isinstance(balances, dict):
        raise Unreadable("Autumn's answer has no balances")
    return AutumnCustomer({name: _balance(name, balance) for name, balance in balances.items()}, tuple(_plans(body)))


def _balance(feature: str, found: object) -> Balance:
    if not isinstance(found, dict):
        raise Unreadable(f"Autumn's answer has no readable balance of {feature}")
    return Balance(
        feature=feature,
        remaining=_figure(found, feature, "remaining", "current_balance"),
        granted=_figure(found, feature, "granted", "granted_balance"),
        usage=_figure(found, feature, "usage"),
        free=_said(found, feature, "unlimited") or _said(found, feature, "overage_allowed"),
        cycle=_cycle(found),
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


def _plans(body: Mapping[str, object]) -> list[str]:
    subscriptions = body.get("subscriptions")
    if not isinstance(subscriptions, list):
        raise Unreadable("Autumn's answer has no list of subscriptions")
    active = [item for item in subscriptions if isinstance(item, dict) and str(item.get("status")) in ACTIVE]
    named = [(item.get("add_on") is True, item["plan_id"]) for item in active if isinstance(item.get("plan_id"), str)]
    return [plan for _add_on, plan in sorted(named, key=lambda pair: pair[0])]


def state(customer: AutumnCustomer, settings: AutumnSettings, consumable: Mapping[str, bool]) -> CustomerState:
    """What is copied onto the organisation. No balance at all is one of zero: Autumn's own `check` says no, too."""
    deciding = list(_deciding(customer, settings, consumable))
    free = any(balance.free for balance in deciding)
    # Zero exactly where every one is exhausted, for none is below zero on the wire.
    remaining = sum((balance.remaining for balance in deciding), Decimal(0))
    return CustomerState(
        balance_micro=None if free else _micro(remaining),
        plan=customer.plans[0] if customer.plans else None,
        max_concurrent=_concurrency(customer, settings),
    )


def left(body: Mapping[str, object], settings: AutumnSettings, consumable: Mapping[str, bool]) -> Left | None:
    """What the answer to a charge says is left: it shows the balance that was drawn on, and no other. That is the whole
    where that balance alone decides, or never ends. None: it does not say, or of a balance that does not decide."""
    found = body.get("balance")
    feature = found.get("feature_id") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(feature, str) or not _decides(feature, settings, consumable):
        return None
    charged = deducted(body, feature)
    if charged is None:
        return None
    try:
        if _said(found, feature, "unlimited") or _said(found, feature, "overage_allowed"):
            return Left(None, _micro(charged))
        remaining = _figure(found, feature, "remaining", "current_balance")
    except Unreadable:
        return None
    return Left(_micro(remaining), _micro(charged), None if settings.balance_feature == feature else feature)


def _decides(feature: str, settings: AutumnSettings, consumable: Mapping[str, bool]) -> bool:
    """Whether a balance's end counts; of one that is not known to be used up, that cannot be told."""
    if settings.balance_feature is not None:
        return feature == settings.balance_feature
    return feature != settings.concurrency_feature and consumable.get(feature, False)


def _deciding(customer: AutumnCustomer, settings: AutumnSettings, consumable: Mapping[str, bool]) -> Iterable[Balance]:
    """The balances whose end halts the customer."""
    if settings.balance_feature is not None:
        return [balance for balance in customer.balances.values() if balance.feature == settings.balance_feature]
    return [balance for balance in candidates(customer, settings) if consumable.get(balance.feature, True)]


def candidates(customer: AutumnCustomer, settings: AutumnSettings) -> list[Balance]:
    """Balances that may decide, but for which of them are used up: only the features' list says that."""
    return [balance for balance in customer.balances.values() if balance.feature != settings.concurrency_feature]


def _micro(value: Decimal) -> int:
    return max(-MAX_MICRO, min(int(value * MICRO), MAX_MICRO))


def _concurrency(customer: AutumnCustomer, settings: AutumnSettings) -> int | None:
    named = [settings.plans[plan] for plan in customer.plans if plan in settings.plans]
    if named:
        return max(named)
    granted = customer.balances.get(settings.concurrency_feature)
    if granted is None or granted.free:
        return None
    return max(0, min(int(granted.granted), MAX_CONCURRENT))


def drawn(customer: AutumnCustomer, settings: AutumnSettings) -> dict[str, Drawn]:
    """What was drawn from each balance in its present cycle, in whole units; where that cannot be told, it is left out.

    It counts every deduction, also those that left no event (a key store that fails open), and follows an operator's
    change of a balance: `usage` is what was granted less what remains.
    """
    found = {}
    for balance in candidates(customer, settings):
        used = whole(balance.usage)
        if balance.cycle is not None and used is not None:
            found[balance.feature] = Drawn(used, balance.cycle.since_ms, balance.cycle.whole)
    return found


_UNKNOWN: Final = ("?", 0, 0)


def _cycle(found: Mapping[str, object]) -> Cycle | None:
    """The cycle of a balance: the newest among its parts. A top-up beside a plan is a part that never begins anew; what
    was drawn from it before the plan's cycle cannot be told from what was drawn since."""
    parts = found.get("breakdown")
    if not (isinstance(parts, list) and parts):
        # Without its parts only a balance that is never reset can be told.
        reset = _reset_of(found) if found.get("reset") or found.get("next_reset_at") is None else _UNKNOWN
        start = _start(reset)
        return None if start is None else Cycle(start or None, whole=True)
    told = [part for part in parts if isinstance(part, dict)]
    starts = [_start(_reset_of(part)) for part in told]
    if len(told) < len(parts) or None in starts:
        return None
    newest = max(start for start in starts if start is not None)
    older = [part for part, start in zip(told, starts, strict=True) if start != newest]
    return Cycle(newest or None, whole=all(number(part.get("usage")) == 0 for part in older))


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
