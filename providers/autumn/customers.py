"""Autumn's responses about a customer.

The responses show balances, plans, concurrency, draws, and the remaining credit.

Guarantee: this module is pure. A response that cannot be read is Unreadable, never zero. Drawdown reads two recorded
shapes: the present shape (`remaining`, `granted`, `next_reset_at`) and that of API 2.0 (`current_balance`,
`granted_balance`, `reset`). The balance is zero exactly if Autumn's own `check` refuses everything that the customer
could draw on. Amounts of different units are never added. If a deciding figure or control (usage limit, spend limit,
overage) is unreadable, the customer is Unreadable, and never counts as unlimited or empty.

Facts, observed in recorded calls: a spend limit limits overage. A usage limit refuses although the balance lasts. Once
a one-off grant is used up exactly, it disappears, and `check` refuses. `customers.get` merges the plan's controls with
the customer's own. At 2.1.0 `source` is missing.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from types import MappingProxyType
from typing import Final

from drawdown.providers.autumn.credits import Schema, Unreadable, deducted, number, whole
from drawdown.providers.autumn.settings import AutumnSettings
from drawdown.providers.protocol import CustomerState, Drawn, Lasting, Part, ShownCredit
from drawdown.schema.units import MICRO, MINUTE_MS, SECOND_MS

ACTIVE: Final = frozenset({"active", "trialing", "past_due"})
"""Statuses in which a plan grants credit, unlike `scheduled` and `expired`."""
FIXED: Final = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
MONTHS: Final = {"month": 1, "quarter": 3, "semi_annual": 6, "year": 12}


@dataclass(frozen=True)
class Begun:
    """The start of the cycle of one part of a balance.

    `at_ms`, `earliest_ms`: the latest and the earliest possible start, in milliseconds. `at_ms` 0: the cycle of the
    part does not repeat. `untouched`: True if the part is unused since the start.
    """

    at_ms: int
    earliest_ms: int
    untouched: bool
    is_first: bool = False
    """True if its plan began with this cycle."""


@dataclass(frozen=True)
class Balance:
    """The balance of one feature, in its units.

    `overage`: True if the customer can use more than the balance and pay later, up to `max_purchase` (None: unlimited).
    `lasting`: the part that does not end with the cycle (None: without exactly one cycle, or unknown).
    """

    feature: str
    remaining: Decimal
    granted: Decimal
    usage: Decimal
    unlimited: bool
    overage: bool
    max_purchase: Decimal | None
    begun: tuple[Begun, ...] | None
    """The cycles of its parts; None: unknown."""
    parts: tuple[Part, ...]
    """The parts that were granted once, or by a plan."""
    lasting: Lasting | None = None


@dataclass(frozen=True)
class Controls:
    """The controls that apply to Drawdown's charges.

    They are enabled and do not have a filter.
    """

    usage_limits: tuple[UsageLimit, ...] = ()
    spend_limits: Mapping[str, Decimal] = field(default_factory=dict)
    """The amount by which a balance may be overdrawn, by feature."""
    overage: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()
    """The controls that Drawdown does not understand, as text for `check`."""

    @cached_property
    def remaining_by_feature(self) -> Mapping[str, Decimal]:
        """Return the units that the usage limits leave, by feature."""
        found: dict[str, Decimal] = {}
        for one in self.usage_limits:
            found[one.feature] = min(one.remaining_units, found.get(one.feature, one.remaining_units))
        return found


@dataclass(frozen=True)
class AutumnCustomer:
    """A customer at Autumn.

    `balances`: by feature. `plans`: active plans, main plans before add-ons. `bought`: plans that were paid for once.
    """

    balances: Mapping[str, Balance]
    plans: tuple[str, ...]
    controls: Controls = field(default_factory=Controls)
    bought: tuple[str, ...] = ()

    @property
    def all_plans(self) -> frozenset[str]:
        return frozenset((*self.plans, *self.bought))


def read_customer(body: Mapping[str, object]) -> AutumnCustomer:
    """Read a customer from Autumn's response.

    Errors: Unreadable for a body without balances or subscriptions, or with an invalid balance or control.
    """
    balances = body.get("balances")
    if not isinstance(balances, dict):
        raise Unreadable("Autumn's response has missing or invalid balances: expected an object")
    plans, begins = tuple(_plans(body)), _begins_of(body)
    found = {name: read_balance(name, balance, begins) for name, balance in balances.items()}
    return AutumnCustomer(found, plans, read_controls(body), tuple(_bought(body)))


_REMAINING: Final = ("remaining", "current_balance")
_UNLIMITED: Final = "unlimited"
_OVERAGE: Final = "overage_allowed"


def read_balance(feature: str, found: object, begins: Mapping[str, PlanBegins] = MappingProxyType({})) -> Balance:
    """Read the balance of a feature.

    `begins`: the starts of each plan, by plan. Errors: Unreadable.
    """
    if not isinstance(found, dict):
        raise Unreadable(f"Autumn's response lacks the balance of {feature}, or the balance is not an object")
    return Balance(
        feature=feature,
        remaining=_figure(found, feature, *_REMAINING),
        granted=_figure(found, feature, "granted", "granted_balance"),
        usage=_figure(found, feature, "usage"),
        unlimited=_read_flag(found, feature, _UNLIMITED),
        overage=_read_flag(found, feature, _OVERAGE),
        max_purchase=None if found.get("max_purchase") is None else _figure(found, feature, "max_purchase"),
        begun=_begun(found, begins),
        parts=tuple(parts_of(found, feature)),
        lasting=_lasting(found),
    )


def _read_flag(found: Mapping[str, object], feature: str, name: str) -> bool:
    value = found.get(name, False)
    if not isinstance(value, bool | None):
        raise Unreadable(f"Autumn's balance of {feature} has an invalid {name}: expected true or false")
    return value is True


def _figure(found: Mapping[str, object], feature: str, *names: str) -> Decimal:
    """Return the first of these figures that is present.

    Errors: Unreadable if all are missing, or the figure is not a number.
    """
    shown = next((found[name] for name in names if found.get(name) is not None), None)
    value = number(shown)
    if value is not None:
        return value
    raise Unreadable(f"Autumn's balance of {feature} lacks a number under {' or '.join(names)}")


def parts_of(found: Mapping[str, object], feature: str) -> list[Part]:
    """Return the parts of a balance that were granted once, or came with a plan.

    A part granted once disappears from Autumn's responses as soon as it is used up exactly (seen in a recorded call).
    """
    breakdown = found.get("breakdown")
    parts = [part for part in breakdown if isinstance(part, dict)] if isinstance(breakdown, list) else []
    return [
        _part(part, feature, granted)
        for part in parts
        if isinstance(part.get("id"), str) and (part.get("plan_id") is not None or _reset_of(part)[0] is None)
        if (granted := _granted(part)) > 0
    ]


def _part(part: Mapping[str, object], feature: str, granted: Decimal) -> Part:
    expires_at, plan = part.get("expires_at"), part.get("plan_id")
    ends_ms = expires_at if type(expires_at) is int else None
    is_kept = _reset_of(part)[0] is None and not (ends_ms is None and plan is None)
    used = number(part.get("usage")) if is_kept else None
    return Part(feature, str(part["id"]), granted, ends_ms, None if plan is None else str(plan), used)


def _granted(part: Mapping[str, object]) -> Decimal:
    figures = (number(part.get(name)) for name in ("included_grant", "prepaid_grant"))
    return sum((figure for figure in figures if figure is not None), Decimal(0))


def _plans(body: Mapping[str, object]) -> list[str]:
    subscriptions = body.get("subscriptions")
    if not isinstance(subscriptions, list):
        raise Unreadable("Autumn's response lacks the list of subscriptions")
    active = [item for item in subscriptions if isinstance(item, dict) and str(item.get("status")) in ACTIVE]
    named = [(item.get("add_on") is True, item["plan_id"]) for item in active if isinstance(item.get("plan_id"), str)]
    return [plan for _add_on, plan in sorted(named, key=lambda pair: pair[0])]


@dataclass
class PlanBegins:
    """The starts of a customer's plan and of its present period (milliseconds).

    The lists lack starts that Autumn does not show. Recorded calls show only `started`.
    """

    started: list[int] = field(default_factory=list)
    periods: list[int] = field(default_factory=list)

    def is_first(self, cycle_ms: int) -> bool:
        """Return True if this cycle is the first."""
        return bool(self.started) and min(self.started) > cycle_ms - MINUTE_MS


def _begins_of(body: Mapping[str, object]) -> dict[str, PlanBegins]:
    """Return the starts of each active plan, by plan."""
    found: dict[str, PlanBegins] = {}
    subscriptions = body.get("subscriptions")
    for item in subscriptions if isinstance(subscriptions, list) else ():
        if isinstance(item, dict) and isinstance(item.get("plan_id"), str) and str(item.get("status")) in ACTIVE:
            plan = found.setdefault(item["plan_id"], PlanBegins())
            for name, moments in (("started_at", plan.started), ("current_period_start", plan.periods)):
                at_ms = item.get(name)
                if type(at_ms) is int and at_ms > 0:
                    moments.append(at_ms)
    return found


def _bought(body: Mapping[str, object]) -> list[str]:
    bought = body.get("purchases")
    named = [item.get("plan_id") for item in bought if isinstance(item, dict)] if isinstance(bought, list) else []
    return [plan for plan in named if isinstance(plan, str)]


def candidates(customer: AutumnCustomer, settings: AutumnSettings) -> list[Balance]:
    """Return all balances except that of the concurrency feature.

    A balance does not show whether its feature is consumable. Only the list of features does.
    """
    return [balance for balance in customer.balances.values() if balance.feature != settings.concurrency_feature]


def drawn(customer: AutumnCustomer, settings: AutumnSettings, schema: Schema) -> dict[str, Drawn]:
    """Return the draws on each balance in its present cycle.

    The result omits a balance with unknown draws.

    The draws include every deduction, even one without an event, which is possible because Autumn's key store fails
    open. If an operator changes a balance, its draws change too, because `usage` is the granted quantity less the
    remaining quantity. The draws of a credit system are in credits. Its field `own` has the own units that its features
    drew. Any other feature has its draws in its units. The result includes a credit system even if the customer lacks
    its balance, because a grant that was used up exactly disappears.
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
    begun, parts = list[Begun](), list[Part]()
    for name in (system, *members):
        balance = customer.balances.get(name)
        if balance is None:
            continue
        if balance.begun is None or (name != system and schema.cost(name, system) is None):
            return None
        begun += balance.begun
        parts += balance.parts
    credits = customer.balances.get(system)
    # With several balances, the order of the draws is unknown, because it depends on the feature.
    lasting = credits.lasting if credits is not None and not members else None
    own = {name: customer.balances[name].usage for name in members}
    return replace(_drawn(Decimal(0) if credits is None else credits.usage, begun, parts, lasting), own=own)


def _drawn(quantity: int | Decimal, begun: Sequence[Begun], parts: Sequence[Part], lasting: Lasting | None) -> Drawn:
    """Return the draws on a balance in the newest cycle of its parts.

    A top-up in addition to a plan is a part without a repeating cycle. A draw from it before the plan's cycle cannot be
    distinguished from a later draw.
    """
    newest = max((part.at_ms for part in begun), default=0)
    earliest = max((part.earliest_ms for part in begun), default=0)
    untouched = all(part.untouched for part in begun if part.at_ms != newest)
    cycles = [part for part in begun if part.at_ms]
    found = Drawn(quantity, newest or None, untouched, tuple(parts), lasting)
    found = replace(found, is_first=bool(cycles) and all(part.is_first for part in cycles))
    return found if earliest == newest else replace(found, earliest_ms=earliest)


def _lasting(found: Mapping[str, object]) -> Lasting | None:
    """Return the part of a balance that outlasts its cycle.

    Its figures are zero if the whole balance renews. Return None if no part renews, or the order of draws is unknown.

    In recorded calls, a charge empties the parts of a cycle before those granted once. No recorded call shows when a
    charge empties a part that expires.
    """
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


def _begun(found: Mapping[str, object], begins: Mapping[str, PlanBegins]) -> tuple[Begun, ...] | None:
    """Return the start of the cycle of each part of a balance.

    Return None if a start is unknown.
    """
    parts = found.get("breakdown")
    if not (isinstance(parts, list) and parts):
        # If a balance has neither parts nor its own `reset` (API 2.0), the start is known only if it is never reset.
        reset = _reset_of(found) if found.get("reset") or found.get("next_reset_at") is None else _UNKNOWN
        one = _part_begun(found, reset, begins)
        return None if one is None else (one,)
    begun = []
    for part in parts:
        one = _part_begun(part, _reset_of(part), begins) if isinstance(part, dict) else None
        if one is None:
            return None
        begun.append(one)
    return tuple(begun)


def _part_begun(
    part: Mapping[str, object], reset: tuple[str | None, int, int], begins: Mapping[str, PlanBegins]
) -> Begun | None:
    plan = begins.get(str(part.get("plan_id")), PlanBegins())
    starts = _starts(reset, [*plan.periods, *plan.started])
    if not starts:
        return None
    return Begun(starts[-1], starts[0], number(part.get("usage")) == 0, plan.is_first(starts[-1]))


def _starts(reset: tuple[str | None, int, int], known: Sequence[int]) -> Sequence[int]:
    """Return the possible starts of a part's cycle, in milliseconds.

    Without a cycle, the start is 0. If the start is unknown, the list is empty.

    `known`: the starts of the part's plan, and of that plan's periods.
    """
    interval, count, resets_at_ms = reset
    if interval is None:
        return [0]
    starts = cycle_starts_ms(interval, count, resets_at_ms)
    if len(starts) > 1:
        for began_ms in known:
            narrowed = [start for start in _cycles(interval, count, began_ms, resets_at_ms) if start in starts]
            if narrowed:
                return narrowed
    return starts


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


def cycle_starts_ms(interval: str, count: int, resets_at_ms: int) -> Sequence[int]:
    """Return the possible starts of the cycle that ends at `resets_at_ms`, in order.

    The result is empty if the interval is unknown. If a cycle ends on the last day of a short month, it can have
    several starts. They are the same day of its first month, and each later day.
    """
    try:
        end = datetime.fromtimestamp(resets_at_ms // SECOND_MS, UTC)
        if interval in FIXED:
            return [resets_at_ms - int(FIXED[interval].total_seconds()) * count * SECOND_MS]
        if interval not in MONTHS:
            return []
        year, month = divmod(end.year * 12 + end.month - 1 - MONTHS[interval] * count, 12)
        before = calendar.monthrange(year, month + 1)[1]
        is_last = end.day == calendar.monthrange(end.year, end.month)[1]
        days = range(end.day, before + 1) if is_last and before > end.day else (min(end.day, before),)
        starts = [end.replace(year=year, month=month + 1, day=day) for day in days]
    except (ValueError, OverflowError, OSError, calendar.IllegalMonthError):
        return []
    return [int(start.timestamp()) * SECOND_MS + resets_at_ms % SECOND_MS for start in starts]


MOST_CYCLES: Final = 1_200
"""Cycles of a plan to follow from its start (a hundred years of months)."""


def _cycles(interval: str, count: int, began_ms: int, resets_at_ms: int) -> Sequence[int]:
    """Return the possible starts of the cycle that ends at `resets_at_ms`.

    The plan began at `began_ms`.

    No recorded call shows whether a cycle after a short month begins on the day of the first cycle, or of the previous
    cycle. If these starts differ, return both.
    """
    months = MONTHS[interval] * count
    found = set()
    try:
        for is_anchored in (True, False):
            start, number = began_ms, 0
            while start < resets_at_ms and number < MOST_CYCLES:
                number += 1
                end = _months_after(began_ms, months * number) if is_anchored else _months_after(start, months)
                found |= {start} if end == resets_at_ms else set()
                start = end
    except (ValueError, OverflowError, OSError):
        return []
    return sorted(found)


def _months_after(at_ms: int, months: int) -> int:
    start = datetime.fromtimestamp(at_ms // SECOND_MS, UTC)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    end = start.replace(year=year, month=month + 1, day=min(start.day, calendar.monthrange(year, month + 1)[1]))
    return int(end.timestamp()) * SECOND_MS + at_ms % SECOND_MS


MAX_MICRO: Final = 10**18
"""Largest balance in micro-credits (10^12 credits).

Drawdown reports a larger balance as this amount, so that it fits in 64 bits.
"""
MAX_CONCURRENT: Final = 10**9
"""Most concurrent sandboxes that a balance of the concurrency feature allows.

A larger grant counts as this number.
"""
_LEAST: Final = Decimal(1) / MICRO


@dataclass(frozen=True)
class Spendable:
    """The amount that a customer can still spend.

    `amount` None: unlimited. `refused`: features that cannot draw on it although others can.
    """

    amount: Decimal | None
    refused: frozenset[str] = frozenset()

    @property
    def lasts(self) -> bool:
        return self.amount is None or self.amount > 0


def state(customer: AutumnCustomer, settings: AutumnSettings, schema: Schema) -> CustomerState:
    """Return the state to copy to the organisation.

    A customer without any balance has a balance of zero, as in Autumn's own `check`.
    """
    found = _decided(customer, settings, schema)
    limits = {
        feature: units
        for feature, units in customer.controls.remaining_by_feature.items()
        if feature not in schema.systems
    }
    parts = [part for balance in candidates(customer, settings) for part in balance.parts]
    return CustomerState(
        balance_micro=None if found.amount is None else _micro(found.amount),
        plan=customer.plans[0] if customer.plans else None,
        max_concurrent=_concurrency(customer, settings),
        refused=found.refused | {feature for feature, units in limits.items() if units <= 0},
        parts=_distinct(parts),
        plans=customer.all_plans,
        feature_limits={feature: max(int(units), 0) for feature, units in limits.items()},
    )


def decider(settings: AutumnSettings, schema: Schema) -> str | None:
    """Return the balance that decides; None if several decide.

    It is the configured balance, or else the account's only credit system.
    """
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
    """Return the largest figure of several balances.

    The figure is zero only if all balances are zero.

    If the balance of a feature has ended while other balances last, the feature is refused. Figures of different units
    are not added.
    """
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
    """Return the amount that a balance still allows.

    The amount of a credit system includes the balances of its features.
    """
    credits = _alone(customer, name)
    members = schema.members(name)
    own = {member: _alone(customer, member) for member in members if member in customer.balances}
    lasting = {member: amount for member, amount in own.items() if amount is None or amount > 0}
    if not lasting:
        return Spendable(credits)
    # In recorded calls, own units are drawn first. At zero credit, Autumn refuses features without own units.
    refused = frozenset(members) - lasting.keys() if credits is not None and credits <= 0 else frozenset()
    amounts = [_in_credits(amount, schema.cost(member, name)) for member, amount in lasting.items()]
    if credits is None or any(amount is None for amount in amounts):
        return Spendable(None, refused)
    return Spendable(max(credits, Decimal(0)) + sum(amount for amount in amounts if amount is not None), refused)


def _in_credits(amount: Decimal | None, cost: Decimal | None) -> Decimal | None:
    """Return an amount of own units in credits; None: unlimited.

    Without a usable cost, the result is the least amount, so that such units never count as zero.
    """
    if amount is None:
        return None
    return amount * cost if cost is not None and cost > 0 else _LEAST


def _alone(customer: AutumnCustomer, feature: str) -> Decimal | None:
    """Return the amount that one feature's balance allows; None: unlimited.

    Without a balance, the amount is 0 under any controls.
    """
    balance = customer.balances.get(feature)
    if balance is None:
        return Decimal(0)
    limits = [_by_balance(balance, customer), customer.controls.remaining_by_feature.get(feature)]
    amounts = [limit for limit in limits if limit is not None]
    if not amounts:
        return None
    least = min(amounts)
    # Usage may exceed a limit, but that is not a debt.
    return least if least == balance.remaining else max(least, Decimal(0))


def _by_balance(balance: Balance, customer: AutumnCustomer) -> Decimal | None:
    if balance.unlimited:
        return None
    if not balance.overage and balance.feature not in customer.controls.overage:
        # A spend limit alone does not allow overage, because Autumn's `check` also requires the overage setting.
        return balance.remaining
    # Webhooks name a limit `max_purchase`. No recording has such a balance.
    ends = [customer.controls.spend_limits.get(balance.feature), balance.max_purchase]
    overdraft = min((end for end in ends if end is not None), default=None)
    return None if overdraft is None else balance.granted + overdraft - balance.usage


def read_shown_credit(body: Mapping[str, object], settings: AutumnSettings, schema: Schema) -> ShownCredit | None:
    """Return the remaining deciding balance that the response to a charge shows.

    Return None if the response does not show that balance.

    A response does not show limits. So the result for a credit system has a `part`, and never states that the credit is
    unlimited. In recorded calls, the response sometimes has an unchanged balance under `balance`, and the deciding
    balance under `balances`.
    """
    shown = body.get("balance")
    named = shown.get("feature_id") if isinstance(shown, dict) else None
    feature = decider(settings, schema)
    if feature is None and isinstance(named, str):
        feature = next(iter(schema.payers(named)), named)  # a read converts own units to credits
    if feature is None or feature == settings.concurrency_feature:
        return None
    if settings.balance_feature is None and (feature not in schema.features or not schema.is_consumable(feature)):
        return None
    others = body.get("balances")
    found = shown if named == feature else others.get(feature) if isinstance(others, dict) else None
    taken = deducted(body, feature)
    if taken is None or not isinstance(found, dict):
        return None
    try:  # read only the deciding fields, because every push comes here
        remaining = _figure(found, feature, *_REMAINING)
        is_unlimited = _read_flag(found, feature, _UNLIMITED) | _read_flag(found, feature, _OVERAGE)
        if is_unlimited and found.get("max_purchase") is not None:
            _figure(found, feature, "max_purchase")
    except Unreadable:
        return None
    charged = _micro(taken.own)
    if is_unlimited:
        return None if feature in schema.systems else ShownCredit(None, charged)
    whole = settings.balance_feature == feature and feature not in schema.systems
    return ShownCredit(_micro(remaining), charged, None if whole else feature)


def shown_parts(body: Mapping[str, object], settings: AutumnSettings) -> tuple[Part, ...]:
    """Return the parts that the response to a charge shows.

    If a later charge uses a part up exactly, reads no longer show the part (observed in recorded calls).
    """
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
    """Return an amount in micro-credits.

    An amount between 0 and 1 becomes 1, so that the customer is not refused.
    """
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


READ: Final = frozenset({"usage_limits", "spend_limits", "overage_allowed"})
IGNORED: Final = frozenset({"usage_alerts", "auto_topups"})
"""Kinds of controls that never refuse usage."""
INTERVALS: Final = frozenset({"hour", "day", "week", "month", "quarter", "semi_annual", "year"})
ABSOLUTE: Final = (None, "absolute")
"""Types of spend limits with an absolute amount."""


@dataclass(frozen=True)
class UsageLimit:
    """The remaining units of a feature's usage limit.

    The limit is reached at zero or less.
    """

    feature: str
    remaining_units: Decimal


def read_controls(body: Mapping[str, object]) -> Controls:
    """Return the controls of a customer. Errors: Unreadable."""
    found = body.get("billing_controls")
    if found is None:
        return Controls()
    if not isinstance(found, dict):
        raise Unreadable("Autumn's response has invalid billing_controls: expected an object")
    return Controls(
        tuple(_usage_limit(one) for one in _entries(found, "usage_limits", default=True) if not _is_filtered(one)),
        dict(_spend_limits(found)),
        frozenset(_feature(one, "overage_allowed") for one in _entries(found, "overage_allowed", default=False)),
        tuple(_unknown(found)),
    )


def _entries(found: Mapping[str, object], kind: str, *, default: bool) -> Iterator[Mapping[str, object]]:
    """Yield the enabled entries of a kind.

    `default`: the value for an entry without `enabled`. Errors: Unreadable.
    """
    entries = found.get(kind)
    if entries is None:
        return
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise Unreadable(f"Autumn's response has invalid {kind}: expected a list of objects")
    for one in entries:
        enabled = one.get("enabled", default)
        if not isinstance(enabled, bool):
            raise Unreadable(f"Autumn's response has {kind} with an invalid enabled: expected true or false")
        if enabled:
            yield one


def _feature(one: Mapping[str, object], kind: str) -> str:
    name = one.get("feature_id")
    if not isinstance(name, str) or not name:
        raise Unreadable(f"Autumn's response has {kind} without a feature")
    return name


def _is_filtered(one: Mapping[str, object]) -> bool:
    chosen = one.get("filter")
    if not isinstance(chosen, dict | None):
        raise Unreadable("Autumn's response has usage_limits with an invalid filter: expected an object")
    return chosen is not None


def _usage_limit(one: Mapping[str, object]) -> UsageLimit:
    feature = _feature(one, "usage_limits")
    limit, usage = number(one.get("limit")), number(one.get("usage"))
    if limit is None or usage is None:
        raise Unreadable(f"Autumn's usage limit of {feature} lacks a number under limit or usage")
    return UsageLimit(feature, limit - usage)


def _spend_limits(found: Mapping[str, object]) -> Iterator[tuple[str, Decimal]]:
    least: dict[str, Decimal] = {}
    for one in _entries(found, "spend_limits", default=False):
        if one.get("overage_limit") is None:
            continue  # this entry does not have a limit
        feature, limit = _feature(one, "spend_limits"), number(one["overage_limit"])
        if limit is None or one.get("limit_type") not in ABSOLUTE:
            raise Unreadable(f"Autumn's spend limit of {feature} has an invalid overage_limit: expected an amount")
        least[feature] = min(limit, least.get(feature, limit))
    yield from least.items()


def _unknown(found: Mapping[str, object]) -> Iterator[str]:
    """Yield the controls of an unknown kind or shape, as text for `check`.

    Drawdown's charges carry one property, so a filter on another property never matches them. A filter that is not of
    properties may match.
    """
    for kind in sorted(found.keys() - READ - IGNORED):
        if found[kind]:
            yield f"billing controls of the kind {kind}"
    for one in _entries(found, "usage_limits", default=True):
        feature, interval, chosen = one.get("feature_id"), one.get("interval"), one.get("filter")
        if interval not in INTERVALS:
            yield f"a usage limit of {feature} with the interval {interval}"
        if chosen is not None and not _is_of_properties(chosen):
            yield f"a usage limit of {feature} with a filter that is not of properties"


def _is_of_properties(chosen: object) -> bool:
    if not isinstance(chosen, dict) or chosen.keys() != {"properties"}:
        return False
    properties = chosen["properties"]
    return isinstance(properties, dict) and bool(properties)
