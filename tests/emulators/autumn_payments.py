"""The part of the Autumn emulator that takes money: what an attach costs, cards, invoices, pages.

Guarantee: what was taken is kept apart from what is answered and listed. `taken` is the books: a test that wants to
know who was charged twice asks there, whatever faults struck. The shapes are read in Autumn's open-source server and
its documentation; only the refusal without a Stripe account was recorded.

Fault kinds of an attach: those of any call that may be cut, refused or garbled; unnoted (charged, answered with a 500,
and in no list ever: the server logs that and goes on); left_open (an invoice that the bank did not pay yet).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.emulators.autumn_call import Ask, Refused, bad
from tests.emulators.autumn_numbers import Json

ATTACH_FAULTS = (
    "request_lost", "answer_lost", "error_500_before", "error_500_after", "throttled", "throttled_nonsense",
    "connection_refused", "nonsense", "unnoted", "left_open",
)  # fmt: skip
REFUSALS = {
    "declined": ("payment_failed", "Your card was declined."),
    "authenticate": ("3ds_required", "The bank asks for confirmation."),
    "none": ("payment_method_required", "There is no card on file."),
}
"""How a card is refused: the action that an answer asks for. Any other manner is a good card."""


@dataclass(frozen=True)
class Taken:
    """Money that changed hands."""

    charge_id: str
    customer_id: str
    amount: int
    currency: str
    payment_id: str


@dataclass
class Books:
    """What one account has taken. `each`: minor units for one of the plan's prepaid feature."""

    plan: str = "topup"
    feature: str = "cents"
    each: int = 1
    currency: str = "usd"
    cards: dict[str, str] = field(default_factory=dict)
    fills_itself: dict[str, bool] = field(default_factory=dict)
    """Customers with a rule for Autumn's own top-ups, and whether it is on."""
    taken: list[Taken] = field(default_factory=list)
    invoices: list[Json] = field(default_factory=list)
    attaches: int = 0

    def doubles(self) -> list[str]:
        """Ids under which money was taken more than once."""
        counts = Counter(one.charge_id for one in self.taken)
        return sorted(charge_id for charge_id, count in counts.items() if count > 1)

    def shown(self, customer: str, ask: Ask, told: Json) -> Json:
        """What a customer says beside its balances."""
        rules = [{"feature_id": "credits", "enabled": self.fills_itself.get(customer), "threshold": 5, "quantity": 10}]
        more: Json = {"billing_controls": {"auto_topups": rules} if customer in self.fills_itself else {}}
        expand = ask.body.get("expand")
        if isinstance(expand, list) and "invoices" in expand:
            hidden = ("customer_id", "metadata")
            own = [one for one in reversed(self.invoices) if one["customer_id"] == customer]
            more["invoices"] = [{name: one[name] for name in one if name not in hidden} for one in own]
        return {**told, **more}

    def cost(self, ask: Ask) -> int:
        """In minor units, of what a purchase asks for."""
        ask.known_customer(ask.text("customer_id"))
        if ask.text("plan_id") != self.plan:
            raise Refused(404, "product_not_found", f"Product {ask.text('plan_id')} not found")
        quantities = ask.body.get("feature_quantities")
        asked = quantities[0] if isinstance(quantities, list) and len(quantities) == 1 else {}
        if not isinstance(asked, dict) or asked.get("feature_id") != self.feature:
            raise bad("feature_quantities: a quantity of the plan's prepaid feature is needed")
        return int(asked["quantity"]) * self.each

    def preview(self, ask: Ask) -> tuple[int, Json]:
        """`billing.preview_attach`: charges nothing."""
        total = self.cost(ask)
        return 200, {
            "customer_id": ask.body["customer_id"],
            "line_items": [],
            "total": total,
            "currency": self.currency,
        }

    def attach(self, ask: Ask) -> tuple[int, Json]:
        """`billing.attach`, with the card on file."""
        total, customer = self.cost(ask), ask.text("customer_id")
        self.attaches += 1
        if ask.header_key:
            ask.account.claims[ask.header_key] = ask.now_ms + ask.account.key_retention_ms
        told: Json = {"customer_id": customer, "payment_url": None}
        manner = self.cards.get(customer, "none")
        if manner in REFUSALS:
            code, reason = REFUSALS[manner]
            return 200, {**told, "required_action": {"code": code, "reason": reason}}
        metadata = ask.body.get("metadata")
        invoice: Json = {
            "plan_ids": [self.plan], "stripe_id": f"in_{len(self.taken) + len(self.invoices) + 1}", "status": "paid",
            "total": total, "currency": self.currency, "created_at": ask.now_ms, "hosted_invoice_url": None,
            "customer_id": customer, "metadata": metadata,
        }  # fmt: skip
        if ask.fault == "left_open":
            invoice["status"] = "open"
        else:
            charge_id = str(metadata.get("drawdown_charge")) if isinstance(metadata, dict) else ""
            self.taken.append(Taken(charge_id, customer, total, self.currency, str(invoice["stripe_id"])))
        if ask.fault == "unnoted":
            raise Refused(500, "internal_error", "the invoice could not be noted")
        self.invoices.append(invoice)
        names = ("status", "stripe_id", "total", "currency", "hosted_invoice_url")
        return 200, {**told, "invoice": {name: invoice[name] for name in names}}

    def page(self, ask: Ask) -> tuple[int, Json]:
        """A page for one customer."""
        customer = ask.known_customer(ask.text("customer_id")).name
        return 200, {"customer_id": customer, "url": f"https://pages.autumn.test/{ask.route}/{customer}"}
