"""What the emulated Autumn holds: features, plans, customers and their balances, in the shapes that were recorded.

Guarantee: plain data and exact arithmetic, no clock. Inside, numbers are integers and decimals. They are printed as the
recorded server prints them: balances to ten decimals, deductions to fourteen digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal

from tests.emulators.autumn_controls import Controls
from tests.emulators.autumn_numbers import ONE_OFF, Json, Number, later, short, tidy


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
                {"metered_feature_id": one, "credit_cost": float(n) if isinstance(n, Decimal) else n}
                for one, n in self.credit_schema.items()
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
    controls: Controls = field(default_factory=Controls)

    def shown(self) -> Json:
        return {
            "id": self.name, "name": self.title, "description": None, "group": None, "version": 1, "add_on": False,
            "auto_enable": self.auto_enable, "price": None,
            "items": [one.shown() for one in sorted(self.items, key=lambda one: one.feature.name)],
            "created_at": self.created_at, "env": "sandbox", "archived": False,
            "config": {"ignore_past_due": False}, "billing_controls": self.controls.given(), "metadata": {},
            "base_variant_id": None,
        }  # fmt: skip


@dataclass
class Grant:
    """One customer's balance of one feature from one source. `balance` may be below zero; told, it never is.

    `name` is the id that deductions name, `given` the one that was given with the balance, which reads show instead."""

    name: str
    feature: Feature
    plan: str | None
    granted: Number
    balance: Number
    interval: str | None = None
    resets_at: int | None = None
    unlimited: bool = False
    overage_allowed: bool = False
    given: str | None = None
    expires_at: int | None = None

    @property
    def reset(self) -> Json | None:
        return {"interval": self.interval, "resets_at": self.resets_at} if self.interval else None

    @property
    def over(self) -> Number:
        """How far it is below zero."""
        return max(0, -self.balance)

    def gone(self, now_ms: int) -> bool:
        """Whether the server has dropped it: it expired, or was granted once and is used up exactly (recorded). One
        that never held anything stays, and so does one below zero."""
        return self.ended(now_ms) or (self.interval == ONE_OFF and self.granted != 0 and self.balance == 0)

    def ended(self, now_ms: int) -> bool:
        """Whether it expired, or its plan ended."""
        return self.expires_at is not None and self.expires_at <= now_ms

    def renew(self, now_ms: int) -> None:
        while self.interval and self.resets_at is not None and self.resets_at <= now_ms:
            self.balance = self.granted
            self.resets_at = later(self.resets_at, self.interval)

    def shown(self) -> Json:
        return {
            "id": self.given or self.name, "plan_id": self.plan, "included_grant": tidy(self.granted),
            "prepaid_grant": 0, "remaining": tidy(max(0, self.balance)), "usage": tidy(self.granted - self.balance),
            "unlimited": self.unlimited, "reset": self.reset, "price": None, "expires_at": self.expires_at,
        }  # fmt: skip

    def shown_2_0(self) -> Json:
        return {
            "id": self.given or self.name, "plan_id": self.plan, "granted_balance": tidy(self.granted),
            "purchased_balance": tidy(self.over), "current_balance": tidy(max(0, self.balance)),
            "usage": tidy(self.granted - self.balance), "overage_allowed": self.overage_allowed, "max_purchase": None,
            "reset": self.reset, "prepaid_quantity": 0, "expires_at": self.expires_at,
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
            "purchased_balance": tidy(sum(one.over for one in grants)), "current_balance": remaining, "usage": usage,
            "overage_allowed": overage,
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
    """A customer: grants by feature, flags for booleans, one subscription for each plan. `spent`: dropped grants."""

    name: str
    title: str | None
    email: str | None
    created_at: int
    grants: dict[str, list[Grant]] = field(default_factory=dict)
    flags: dict[str, Json] = field(default_factory=dict)
    subscriptions: list[Json] = field(default_factory=list)
    spent: list[Grant] = field(default_factory=list)
    controls: Controls = field(default_factory=Controls)

    def add(self, grant: Grant) -> None:
        """Put a grant where it is drawn from: those that expire first, then those of a cycle, then the others
        (recorded: J8, C46, C4). That one that expires goes before one of a cycle was not recorded."""
        grants = self.grants.setdefault(grant.feature.name, [])
        grants.append(grant)
        grants.sort(key=lambda one: (one.expires_at is None, one.expires_at or 0, one.interval in (None, ONE_OFF)))

    def refresh(self, now_ms: int) -> None:
        """Begin cycles anew that ended, and drop what is gone."""
        for feature, grants in list(self.grants.items()):
            for one in grants:
                if one.resets_at is not None and one.resets_at <= now_ms:
                    one.renew(now_ms)
            gone = [one for one in grants if one.gone(now_ms)]
            if gone:
                self.spent += gone
                grants[:] = [one for one in grants if one not in gone]
                if not grants:
                    del self.grants[feature]

    def copy(self) -> Customer:
        """As it is now."""
        grants = {name: [replace(one) for one in parts] for name, parts in self.grants.items()}
        return replace(self, grants=grants, spent=list(self.spent), controls=self.controls.copy())

    def shown(self, env: str, version: str, now_ms: int) -> Json:
        return {
            "id": self.name, "name": self.title, "email": self.email, "created_at": self.created_at,
            "fingerprint": None, "stripe_id": None, "env": env, "metadata": {}, "send_email_receipts": False,
            "billing_controls": self.controls.shown(now_ms, with_source=version >= "2.3"),
            "subscriptions": self.subscriptions, "purchases": [], "licenses": [],
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
