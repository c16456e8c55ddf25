"""What the emulated Autumn holds: features, plans, customers and their balances, in the shapes that were recorded.

Guarantee: plain data and arithmetic; no clock. Numbers are JSON's: integers stay integers, others are binary fractions
told to ten decimals, and deductions to fourteen digits, as the recorded server told them.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

Number = int | float
Json = dict[str, object]

ONE_OFF = "one_off"
"""What a top-up's part says in place of an interval."""
DAYS = {"day": 1, "week": 7}
MONTHS = {"month": 1, "quarter": 3, "semi_annual": 6, "year": 12}


def tidy(value: Number) -> Number:
    """As balances are told."""
    if type(value) is int:
        return value
    rounded = round(value, 10)
    return int(rounded) if rounded == int(rounded) else rounded


def short(value: Number) -> Number:
    """As deductions are told."""
    if type(value) is int:
        return value
    told = float(f"{value:.14g}")
    return int(told) if told == int(told) else told


def later(ts_ms: int, interval: str) -> int:
    """One interval after a moment, by the calendar (UTC)."""
    if interval == "hour":
        return ts_ms + 3_600_000
    if interval in DAYS:
        return ts_ms + DAYS[interval] * 86_400_000
    start = datetime.fromtimestamp(ts_ms // 1000, UTC)
    year, month = divmod(start.year * 12 + start.month - 1 + MONTHS[interval], 12)
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return int(start.replace(year=year, month=month + 1, day=day).timestamp()) * 1000 + ts_ms % 1000


@dataclass
class Feature:
    """`credit_schema`, of a credit system: credits a unit, by metered feature."""

    name: str
    title: str
    kind: str = "metered"
    consumable: bool = True
    credit_schema: dict[str, Number] = field(default_factory=dict)

    def shown(self) -> Json:
        told: Json = {
            "id": self.name, "name": self.title, "type": self.kind, "consumable": self.consumable,
            "event_names": [], "archived": False,
        }  # fmt: skip
        if self.kind == "credit_system":
            told["credit_schema"] = [
                {"metered_feature_id": one, "credit_cost": n} for one, n in self.credit_schema.items()
            ]
        return told


@dataclass
class Item:
    """What a plan grants of a feature."""

    feature: Feature
    entitlement: str
    included: Number = 0
    interval: str | None = None
    unlimited: bool = False

    def shown(self) -> Json:
        text = self.feature.title if self.feature.kind == "boolean" else f"{self.included} {self.feature.title}"
        return {
            "feature_id": self.feature.name, "included": self.included, "unlimited": self.unlimited, "pooled": False,
            "reset": {"interval": self.interval} if self.interval else None, "price": None,
            "display": {"primary_text": text}, "entitlement_id": self.entitlement,
        }  # fmt: skip


@dataclass
class Plan:
    """A plan; `auto_enable` gives it to every new customer."""

    name: str
    title: str
    auto_enable: bool
    items: list[Item]
    created_at: int

    def shown(self) -> Json:
        return {
            "id": self.name, "name": self.title, "description": None, "group": None, "version": 1, "add_on": False,
            "auto_enable": self.auto_enable, "price": None,
            "items": [one.shown() for one in sorted(self.items, key=lambda one: one.feature.name)],
            "created_at": self.created_at, "env": "sandbox", "archived": False,
            "config": {"ignore_past_due": False}, "billing_controls": {}, "metadata": {}, "base_variant_id": None,
        }  # fmt: skip


@dataclass
class Grant:
    """One customer's balance of one feature from one source. `balance` may be below zero; told, it never is."""

    name: str
    feature: Feature
    plan: str | None
    granted: Number
    balance: Number
    interval: str | None = None
    resets_at: int | None = None
    unlimited: bool = False
    overage_allowed: bool = False

    @property
    def reset(self) -> Json | None:
        return {"interval": self.interval, "resets_at": self.resets_at} if self.interval else None

    def renew(self, now_ms: int) -> None:
        while self.interval and self.resets_at is not None and self.resets_at <= now_ms:
            self.balance = self.granted
            self.resets_at = later(self.resets_at, self.interval)

    def shown(self) -> Json:
        return {
            "id": self.name, "plan_id": self.plan, "included_grant": self.granted, "prepaid_grant": 0,
            "remaining": tidy(max(0, self.balance)), "usage": tidy(self.granted - self.balance),
            "unlimited": self.unlimited, "reset": self.reset, "price": None, "expires_at": None,
        }  # fmt: skip

    def shown_2_0(self) -> Json:
        return {
            "id": self.name, "plan_id": self.plan, "granted_balance": self.granted, "purchased_balance": 0,
            "current_balance": tidy(max(0, self.balance)), "usage": tidy(self.granted - self.balance),
            "overage_allowed": self.overage_allowed, "max_purchase": None, "reset": self.reset,
            "prepaid_quantity": 0, "expires_at": None,
        }  # fmt: skip

    def deduction(self, value: Number) -> Json:
        return {
            "balance_id": self.name, "feature_id": self.feature.name, "plan_id": self.plan,
            "reset": self.reset, "value": short(value),
        }  # fmt: skip


def balance(grants: list[Grant], version: str) -> Json:
    """What is told of one feature's balance, all sources together."""
    first = grants[0]
    granted = tidy(sum(one.granted for one in grants))
    remaining = tidy(sum(max(0, one.balance) for one in grants))
    usage = tidy(sum(one.granted - one.balance for one in grants))
    unlimited, overage = any(one.unlimited for one in grants), any(one.overage_allowed for one in grants)
    if version < "2.1":
        return {
            "feature_id": first.feature.name, "unlimited": unlimited, "granted_balance": granted,
            "purchased_balance": 0, "current_balance": remaining, "usage": usage, "overage_allowed": overage,
            "max_purchase": None, "reset": first.reset, "plan_id": first.plan,
            "breakdown": [one.shown_2_0() for one in grants],
        }  # fmt: skip
    resets = [one.resets_at for one in grants if one.resets_at is not None]
    return {
        "feature_id": first.feature.name, "granted": granted, "remaining": remaining, "usage": usage,
        "unlimited": unlimited, "overage_allowed": overage, "max_purchase": None,
        "next_reset_at": min(resets) if resets else None, "breakdown": [one.shown() for one in grants],
    }  # fmt: skip


@dataclass
class Customer:
    """A customer: grants by feature, flags for booleans, one subscription for each plan."""

    name: str
    title: str | None
    email: str | None
    created_at: int
    grants: dict[str, list[Grant]] = field(default_factory=dict)
    flags: dict[str, Json] = field(default_factory=dict)
    subscriptions: list[Json] = field(default_factory=list)

    def shown(self, env: str, version: str) -> Json:
        return {
            "id": self.name, "name": self.title, "email": self.email, "created_at": self.created_at,
            "fingerprint": None, "stripe_id": None, "env": env, "metadata": {}, "send_email_receipts": False,
            "billing_controls": {}, "subscriptions": self.subscriptions, "purchases": [], "licenses": [],
            "balances": {name: balance(grants, version) for name, grants in self.grants.items()},
            "flags": self.flags, "config": {},
        }  # fmt: skip


def subscription(name: str, plan: Plan, now_ms: int) -> Json:
    """As a customer's answer tells it."""
    return {
        "id": name, "plan_id": plan.name, "auto_enable": plan.auto_enable, "add_on": False, "status": "active",
        "past_due": False, "canceled_at": None, "expires_at": None, "trial_ends_at": None, "started_at": now_ms,
        "current_period_start": None, "current_period_end": None, "quantity": 1, "scope": "customer",
    }  # fmt: skip


def spread(grants: Iterable[Grant], value: Number, *, overflow: bool) -> list[tuple[Grant, Number]]:
    """Who pays how much of a value; nothing is changed yet. Positive ones stop at zero unless they overflow, negative
    ones at what was granted (recorded)."""
    parts: list[tuple[Grant, Number]] = []
    left = value
    last: Grant | None = None
    for one in grants:
        last = one
        if one.unlimited or one.overage_allowed:
            take = left
        elif value > 0:
            take = min(left, max(0, one.balance))
        else:
            take = -min(-left, max(0, one.granted - one.balance))
        if take:
            parts.append((one, take))
            left -= take
        if not left:
            break
    if left > 0 and overflow and last is not None:
        if parts and parts[-1][0] is last:
            parts[-1] = (last, parts[-1][1] + left)
        else:
            parts.append((last, left))
    return parts
