"""The webhooks of the emulated Autumn, in the order and with the contents that were recorded (section N).

Guarantee: `sent` holds each message as its endpoint gets it; delivery, headers and retries are not emulated. Of
`customer.products.updated` and `customer.threshold_reached`, which come in the shapes of older versions, it holds the
parts that name customer, plan and feature.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.emulators.autumn_draw import Pool, overage
from tests.emulators.autumn_numbers import Json, Number
from tests.emulators.autumn_state import Customer, Plan


@dataclass(frozen=True)
class Level:
    """A balance at one moment."""

    remaining: Number
    over: Number
    used: Number
    granted: Number

    @classmethod
    def of(cls, pool: Pool) -> Level:
        granted = sum(one.granted for one in pool.grants)
        return cls(pool.remaining, pool.over, granted - sum(one.balance for one in pool.grants), granted)

    def passes(self, kind: str, threshold: Number) -> bool:
        """Whether an alert of this kind is due."""
        if kind.startswith("remaining"):
            figure = self.remaining * 100 if kind.endswith("percentage") else self.remaining
            return figure <= threshold * (self.granted if kind.endswith("percentage") else 1)
        figure = self.used * 100 if kind.endswith("percentage") else self.used
        return figure >= threshold * (self.granted if kind.endswith("percentage") else 1)


@dataclass
class Hooks:
    """What one account has sent."""

    sent: list[Json] = field(default_factory=list)

    def send(self, kind: str, data: Json) -> None:
        self.sent.append({"type": kind, "data": data})

    def attached(self, customer: Customer, plan: Plan, subscription: Json, env: str) -> None:
        names = ("plan_id", "status", "past_due", "started_at", "canceled_at", "expires_at", "trial_ends_at",
                 "current_period_start", "current_period_end")  # fmt: skip
        change: Json = {
            "action": "activated", "subscription": {name: subscription[name] for name in names},
            "previous_attributes": None, "item_changes": [],
        }  # fmt: skip
        data: Json = {"object": "billing.updated", "customer_id": customer.name, "plan_changes": [change], "tags": []}
        self.send("billing.updated", data)
        who = {"id": customer.name, "created_at": customer.created_at, "name": customer.title, "email": customer.email}
        updated = {"id": plan.name, "name": plan.title, "env": env}
        self.send("customer.products.updated", {"scenario": "new", "customer": who, "updated_product": updated})

    def drawn(self, customer: Customer, pool: Pool, before: Level, tracked: str, version: str) -> None:
        """A balance changed by a charge, or by hand."""
        name, after = pool.feature.name, Level.of(pool)
        for one in customer.controls.of("usage_alerts", name):
            due = one.enabled and after.passes(str(one.told["threshold_type"]), one.number("threshold"))
            if due and not one.sent:
                alert = {what: one.told.get(what) for what in ("name", "threshold", "threshold_type")}
                self.send("balances.usage_alert_triggered", {**_place(customer, name), "usage_alert": alert})
            one.sent = due
        if any(one.unlimited for one in pool.grants):
            return
        if not overage(customer, pool):
            if before.remaining > 0 and after.remaining == 0:
                self._reached(customer, name, "included")
                # Only where the credits themselves are tracked, by old versions (K4, K7, C50).
                if version < "2.1" and tracked == name and pool.feature.kind == "credit_system":
                    self._threshold(customer, pool)
            return
        limit = customer.controls.clamp(name)
        if limit is not None and before.over < limit <= after.over:
            self._reached(customer, name, "spend_limit")

    def limited(self, customer: Customer, feature: str) -> None:
        """A usage limit was reached."""
        self._reached(customer, feature, "usage_limit")

    def _reached(self, customer: Customer, feature: str, kind: str) -> None:
        self.send("balances.limit_reached", {**_place(customer, feature), "limit_type": kind})

    def _threshold(self, customer: Customer, pool: Pool) -> None:
        data: Json = {
            "threshold_type": "limit_reached",
            "customer": {"id": customer.name},
            "feature": pool.feature.shown(),
        }
        self.send("customer.threshold_reached", data)


def _place(customer: Customer, feature: str) -> Json:
    return {"customer_id": customer.name, "feature_id": feature}
