"""Ways to make Drawdown wait for ever, or forget that something ended, and what `verify` must say of each."""

from __future__ import annotations

from typing import Final

from drawdown.schema.units import DAY_MS
from tests.integration.breaking import Broken, push
from tests.integration.verifying import NEXT, ONE

FAR: Final = 400 * DAY_MS

WAITS = {
    "an accepted push that is due again": Broken(
        5,
        (f"UPDATE pushes SET state = 'due', settled_ms = NULL WHERE {push('rest', NEXT)}",),
        f"usage:rest:{NEXT}:{ONE} is due, but its attempt 1 was accepted at",
        window_ms=NEXT,
        feature=ONE,
        org="rest",
    ),
    "a push that waits for a year": Broken(
        5,
        (
            "UPDATE pushes SET state = 'due', settled_ms = NULL, attempts = 0, first_attempt_ms = NULL, "
            f"due_at_ms = due_at_ms + {FAR} WHERE {push('rest', NEXT)}",
            f"DELETE FROM attempts WHERE {push('rest', NEXT)}",
        ),
        f"usage:rest:{NEXT}:{ONE} is due and waits until",
        window_ms=NEXT,
        feature=ONE,
        org="rest",
    ),
    "a halt that waits for a year": Broken(
        7,
        (f"UPDATE halts SET due_at_ms = halted_at + {FAR}, acked_at_ms = NULL WHERE org_id = 'acme'",),
        "the next try of the halt at cell cell-1 is due at",
    ),
    "a customer that is read in a year": Broken(
        8,
        (f"UPDATE orgs SET projection_due_ms = halted_at + {FAR} WHERE org_id = 'acme'",),
        "the next read of the customer is due at",
    ),
    "a message that is sent in a year": Broken(
        13,
        (
            "UPDATE hook_deliveries SET state = 'due', ended_ms = NULL, due_at_ms = "
            f"(SELECT m.at_ms + {FAR} FROM hook_messages m WHERE m.message_id = hook_deliveries.message_id) "
            "WHERE message_id = (SELECT MIN(message_id) FROM hook_messages WHERE org_id = 'hooked')",
        ),
        "to app is due at",
        org="hooked",
    ),
    "a top-up that waits for a year": Broken(
        12,
        (
            "UPDATE topups SET state = 'in_doubt', ended_ms = NULL, answer = 'in_doubt', "
            f"due_at_ms = at_ms + {FAR} WHERE topup = 'topup:filled:1'",
        ),
        "topup:filled:1 is in_doubt, and its next try is due at",
        org="filled",
    ),
    "an organisation stopped by no action": Broken(
        4,
        ("UPDATE orgs SET stopped_at_ms = 1, stopped_reason = 'x' WHERE org_id = 'acme'",),
        "has been stopped since 1, but the last action in the audit log is not its stop",
    ),
    "an organisation resumed by no action": Broken(
        4,
        ("UPDATE orgs SET stopped_at_ms = NULL, stopped_reason = NULL WHERE org_id = 'stuck'",),
        "the organisation is not stopped, but its last stop or resume in the audit log is",
        org="stuck",
    ),
    "a sweep that is ahead": Broken(
        4,
        (
            "UPDATE buckets SET sweep_next_ms = watermark_ms + 300000 "
            "WHERE id = (SELECT bucket FROM orgs WHERE org_id = 'acme')",
        ),
        "reached",
    ),
    "a sweep that began in a year": Broken(
        4,
        (
            f"UPDATE buckets SET sweep_began_ms = watermark_ms + {FAR} "
            "WHERE id = (SELECT bucket FROM orgs WHERE org_id = 'acme')",
        ),
        "the sweep of bucket",
    ),
    "a hold for a year": Broken(
        10,
        (f"UPDATE reservations SET expires_ms = expires_ms + {FAR} WHERE reservation = 'far-going'",),
        "far-going holds credit until",
        org="far",
    ),
    "a run that somebody unknown released": Broken(
        10,
        ("UPDATE reservations SET state = 'released', ended_ms = accepted_ms WHERE reservation = 'far-going'",),
        "far-going has been released since",
        org="far",
    ),
    "a settlement whose times were moved together": Broken(
        11,
        (
            f"UPDATE reservations SET ended_ms = ended_ms - {30 * DAY_MS} WHERE reservation = 'sent'",
            f"UPDATE settlements SET settled_ms = settled_ms - {30 * DAY_MS}, "
            f"hold_until_ms = hold_until_ms - {30 * DAY_MS} WHERE reservation = 'sent'",
        ),
        "sent was settled at",
    ),
    "a top-up that was doubled everywhere": Broken(
        12,
        (
            "UPDATE topups SET credits_micro = 2 * credits_micro, money_minor = 2 * money_minor "
            "WHERE topup = 'topup:filled:2'",
            "UPDATE ledger_lots SET amount_micro = 2 * amount_micro WHERE lot = 'topup:filled:2'",
            "UPDATE ledger_entries SET amount_micro = 2 * amount_micro WHERE key = 'topup:filled:2'",
            "UPDATE ledger_accounts SET balance_micro = balance_micro + 20 WHERE account_id = 'wallet:filled'",
        ),
        "topup:filled:2 requested 4000 usd, but its payment pay_1 is booked as: paid as pay_1: 2000 usd (minor units)",
        org="filled",
    ),
}
