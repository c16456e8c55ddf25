"""Ways to break what suppliers are owed, and what `verify` must say of each."""

from __future__ import annotations

from drawdown.schema.units import DAY_MS
from tests.integration.breaking import Broken

BATCH = "payout:pixel:2026-01"
SETTLEMENTS = {
    "a run whose supplier was forgotten": Broken(
        11,
        ("DELETE FROM settlements WHERE reservation = 'sent'",),
        "sent is settled, but does not have a settlement for stone",
    ),
    "a run that names another supplier": Broken(
        11,
        ("UPDATE reservations SET supplier = 'pixel' WHERE reservation = 'sent'",),
        "sent has a settlement for stone at",
    ),
    "a settlement of another moment": Broken(
        11,
        (
            "UPDATE settlements SET settled_ms = settled_ms + 1, hold_until_ms = hold_until_ms + 1 "
            "WHERE reservation = 'sent'",
        ),
        "sent has a settlement for stone at",
    ),
    "a settlement of more than was charged": Broken(
        11,
        ("UPDATE settlements SET gross_micro = 51 WHERE reservation = 'sent'",),
        "the settlement of sent is for 51, but its entries sum to 50",
    ),
    "a share rounded up": Broken(
        11,
        ("UPDATE settlements SET net_micro = 36 WHERE reservation = 'sent'",),
        "sent owes 36 of 50 at 700000 ppm, but its terms give 35",
    ),
    "terms rewritten": Broken(
        11,
        ("UPDATE supplier_terms SET threshold_micro = 1 WHERE supplier = 'stone'",),
        "sent owes 35 of 50",
    ),
    "a hold that was made longer": Broken(
        11,
        ("UPDATE settlements SET hold_until_ms = hold_until_ms + 1 WHERE reservation = 'sent'",),
        "sent owes 35 of 50",
    ),
    "more taken back than was owed": Broken(
        11,
        ("UPDATE settlement_reversals SET amount_micro = 66 WHERE reversal = 'r-2'",),
        "76 was reversed for sold, but its settlement is only 70",
    ),
    "a claw-back that was not agreed on": Broken(
        11,
        (
            "UPDATE settlements SET takes_clawbacks = false WHERE reservation = 'sold'",
            "UPDATE supplier_terms SET takes_clawbacks = false WHERE supplier = 'pixel'",
        ),
        "r-2 claws back 5 of sold",
    ),
    "a claw-back of what was not released": Broken(
        11,
        (
            "UPDATE settlement_reversals SET is_clawback = true WHERE reversal = 'r-1'",
            f"DELETE FROM payout_lines WHERE payout = '{BATCH}'",
        ),
        "r-1 claws back 10 of sold",
    ),
    "a payout before its time": Broken(
        11,
        (f"UPDATE payouts SET at_ms = at_ms - {6 * DAY_MS}",),
        f"{BATCH} released the settlement of sold at",
    ),
    "a payout while it was frozen": Broken(
        11,
        ("UPDATE settlement_freezes SET ended_ms = NULL",),
        "the settlement of sold was frozen from",
    ),
    "a payout while its supplier was frozen": Broken(
        11,
        (
            "INSERT INTO settlement_freezes (supplier, from_ms, actor, reason) "
            "SELECT supplier, at_ms - 1, 't', 't' FROM payouts",
        ),
        "the settlement of sold was frozen from",
    ),
    "a line of more than was left": Broken(
        11,
        (
            "UPDATE payout_lines SET amount_micro = 70",
            "UPDATE payouts SET released_micro = 70, total_micro = 70",
        ),
        f"settlement:sold of {BATCH} is 70: expected 60",
    ),
    "a claw-back taken off otherwise": Broken(
        11,
        (
            "INSERT INTO payout_lines (line, payout, reservation, reversal, amount_micro) "
            f"VALUES ('reversal:r-2', '{BATCH}', 'sold', 'r-2', -4)",
            "UPDATE payouts SET carried_micro = -4, total_micro = 56",
        ),
        f"reversal:r-2 of {BATCH} is -4: expected -5",
    ),
    "a line of no payout": Broken(
        11,
        ("UPDATE payout_lines SET payout = 'payout:gone'",),
        "settlement:sold belongs to payout:gone, which is not a payout of pixel",
    ),
    "a payout that is not its lines": Broken(
        11,
        ("UPDATE payouts SET released_micro = 61, total_micro = 61",),
        f"{BATCH} has a total of 61, with 61 released and 0 taken off, but its lines sum to 60 and 0",
    ),
    "a payout below its threshold": Broken(
        11,
        (
            "UPDATE settlements SET threshold_micro = 60 WHERE reservation = 'sold'",
            "UPDATE supplier_terms SET threshold_micro = 60 WHERE supplier = 'pixel'",
        ),
        "must exceed 60",
    ),
    "a payout under another month's name": Broken(
        11,
        ("UPDATE payouts SET period = '2025-12'",),
        f"{BATCH} has a total of 60",
    ),
}
