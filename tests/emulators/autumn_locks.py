"""Autumn's locks, emulated: `check` with `lock` draws at once, `balances.finalize` makes it a charge or gives it back.

Guarantee: the two refusals are in their recorded words. The rest is read in the open-source server: the receipt of a
lock lies in the balance store alone, and is gone once it is finalised, or with the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from tests.emulators.autumn_account import Track
from tests.emulators.autumn_call import Ask, Refused
from tests.emulators.autumn_losses import Charge
from tests.emulators.autumn_numbers import Json, Number, decimal
from tests.emulators.autumn_state import Feature


@dataclass
class Locks:
    """Receipts by lock."""

    receipts: dict[str, Charge] = field(default_factory=dict)

    def lose_store(self) -> None:
        """The store comes back as it was written down last: balances are there, receipts were never written."""
        self.receipts.clear()

    def take(self, ask: Ask, customer: str, feature: Feature, amount: Number) -> None:
        """The part of a check that holds: the balance is drawn on, and no event says so."""
        lock = ask.body.get("lock")
        if not isinstance(lock, dict) or lock.get("enabled") is not True:
            return
        if not feature.consumable:
            raise Refused(400, "invalid_request", "Lock is not supported for allocated features")
        track = Track(customer, feature, amount, None, "reject", {}, None, None)
        ask.account.charge(track, ask.now_ms, fate="no event")
        self.receipts[str(lock["lock_id"])] = ask.account.eventless[-1]

    def finalize(self, ask: Ask) -> tuple[int, Json]:
        """`balances.finalize`: confirm writes the event, release gives back."""
        name = ask.text("lock_id")
        held = self.receipts.pop(name, None)
        if held is None:
            raise Refused(400, "invalid_request", f"Lock not found for ID: {name}")
        feature = ask.account.features[held.feature]
        if ask.body.get("action") == "release":
            for balance, amount in held.parts:
                ask.account.add_to_balance(held.customer, balance, amount)
        else:
            track = Track(held.customer, feature, decimal(Fraction(held.value)), None, "overflow", {}, None, None)
            ask.account.note(track, [], ask.now_ms)
        return 200, {"success": True}
