"""Ways to break what people did about credit and suppliers, every sum kept whole: what only the record of their actions
shows; and what `verify` must say of each."""

from __future__ import annotations

from drawdown.schema.units import DAY_MS
from tests.integration.breaking import Broken
from tests.world import T0

BATCH = "payout:pixel:2026-01"


def _credit(text: str, *statements: str, org: str | None = None) -> Broken:
    return Broken(10, statements, text, org=org)


def _owed(text: str, *statements: str) -> Broken:
    return Broken(11, statements, text, org=None)


def _price(text: str, statement: str) -> Broken:
    return Broken(2, (statement,), text, org=None)


def _mapped(text: str, statement: str) -> Broken:
    return Broken(1, (statement,), text, org=None)


def _topped(text: str, statement: str) -> Broken:
    return Broken(12, (statement,), text, org="filled")


SAID = {
    "a rate that is another one before its first use": _price(
        "rate compute_64gb from 0 is 5 for 1 at",
        "UPDATE ledger_rates SET micro_credits = 5 WHERE feature = 'compute_64gb'",
    ),
    "a rate for more that nobody used yet": _price(
        "rate compute_32gb from 0 is 3200 for 9 at",
        "UPDATE ledger_rates SET per_quantity = 9 WHERE feature = 'compute_32gb'",
    ),
    "a rate that is gone before its first use": _price(
        "rate compute_64gb from 0 is none, but the audit log has 6400 for 1 at",
        "DELETE FROM ledger_rates WHERE feature = 'compute_64gb'",
    ),
    "a rate that nobody set": _price(
        "rate compute_64gb from 9000000000000 is 1 for 1 at 5 by t: t, but the audit log has none",
        "INSERT INTO ledger_rates VALUES ('compute_64gb', 9000000000000, 1, 1, 5, 't', 't')",
    ),
    "a first rate that nobody set, beside the mapping of its feature": _price(
        "rate tiny from 0 is 7 for 1 at",
        "INSERT INTO ledger_rates SELECT target, 0, 7, 1, at_ms, actor, reason FROM operator_actions "
        "WHERE action = 'feature_map' AND target = 'tiny'",
    ),
    "a rate that counts from later": _price(
        "rate compute_64gb from 300000 is 6400 for 1 at",
        "UPDATE ledger_rates SET start_ms = 300000 WHERE feature = 'compute_64gb'",
    ),
    "a rate at a provider that nobody set so": _price(
        f"rate compute_1gb from {T0} of minutes is 1 for 1 at", "UPDATE provider_rates SET micro = 1"
    ),
    "a size that makes another feature before its first use": _mapped(
        "mapping exact 65536 MB from 0, number 1 is compute_1gb in s at",
        "UPDATE mappings SET feature = 'compute_1gb' WHERE feature = 'compute_64gb'",
    ),
    "a mapping that nobody made": _mapped(
        "mapping up to any size from 9000000000000, number 1 is tiny in mb_s at 5 by t: t, but the audit log has none",
        "INSERT INTO mappings (kind, feature, unit, start_ms, at_ms, actor, reason) "
        "VALUES ('up_to', 'tiny', 'mb_s', 9000000000000, 5, 't', 't')",
    ),
    "a price of credit that nobody set": _topped(
        "top-ups of filled is 5 and 20 at 1 usd, at most 1000000000, 3 a day and 20 in 30, of cus_1 at fake, but the",
        "UPDATE topup_terms SET price_minor = 1 WHERE customer_id = 'filled'",
    ),
    "top-ups that stopped by themselves": _topped(
        "mode of top-ups of filled is stopped at",
        "UPDATE topup_terms SET mode = 'stopped' WHERE customer_id = 'filled'",
    ),
    "credit that is of another kind": _credit(
        "grant:g1 is bonus, priority 50",
        "UPDATE ledger_lots SET kind = 'bonus' WHERE lot = 'grant:g1'",
        org="acme",
    ),
    "credit that is used sooner": _credit(
        "grant:g1 is purchased, priority 1,",
        "UPDATE ledger_lots SET priority = 1 WHERE lot = 'grant:g1'",
        org="acme",
    ),
    "credit for all that was for one feature": _credit(
        "grant:back is sponsor, priority 50",
        "UPDATE ledger_lots SET features = NULL WHERE lot = 'grant:back'",
        org="other",
    ),
    "credit for one feature that was for all": _credit(
        "grant:g1 is purchased",
        """UPDATE ledger_lots SET features = '["compute_2gb"]' WHERE lot = 'grant:g1'""",
        org="acme",
    ),
    "credit that ends, and was given for good": _credit(
        "to no end, for all at",
        "UPDATE ledger_lots SET expires_ms = 1893456000000 WHERE lot = 'grant:g1'",
        "UPDATE ledger_accounts SET next_due_ms = 0 WHERE account_id = 'wallet:acme'",
        org="acme",
    ),
    "credit that no longer ends": _credit(
        "no end, for",
        "UPDATE ledger_lots SET expires_ms = NULL WHERE lot = 'grant:ends'",
        org="other",
    ),
    "credit to come that begins later": _credit(
        "grant:later is included, priority 50",
        f"UPDATE ledger_lots SET begins_ms = begins_ms + {DAY_MS} WHERE lot = 'grant:later'",
        org="other",
    ),
    "an allotment that ends later": _credit(
        "allot:course:again is sponsor, priority 40",
        f"UPDATE ledger_lots SET expires_ms = expires_ms + {DAY_MS} WHERE lot = 'allot:course:again'",
        org="pupil",
    ),
    "an allotment that is used last": _credit(
        "allot:course:again is sponsor, priority 60",
        "UPDATE ledger_lots SET priority = 60 WHERE lot = 'allot:course:again'",
        org="pupil",
    ),
    "an allotment that counts as bought": _credit(
        "allot:course:again is purchased, priority 40",
        "UPDATE ledger_lots SET kind = 'purchased' WHERE lot = 'allot:course:again'",
        org="pupil",
    ),
    "a pool that somebody else made": _credit(
        "pool course is there at",
        "UPDATE pools SET actor = 'ghost'",
    ),
    "a pool that nobody made": _credit(
        "pool curse is there at 5 by t: t, but the audit log has none",
        "INSERT INTO pools (pool, at_ms, actor, reason) VALUES ('curse', 5, 't', 't')",
    ),
    "a payer's limit that was raised": _credit(
        "payer course of pupil, number 1 is up to 1000 at",
        "UPDATE payers SET limit_micro = 1000 WHERE number = 1",
        org="pupil",
    ),
    "a payer that goes on": _credit(
        "payer course of pupil, number 2 is up to no limit at",
        "UPDATE payers SET allowed = TRUE WHERE number = 2",
        org="pupil",
    ),
    "a payer that paid for longer": _credit(
        "payer course of pupil, number 2 is ended at",
        f"UPDATE payers SET since_ms = since_ms + {DAY_MS} WHERE number = 2",
        org="pupil",
    ),
    "a payer that nobody allowed": _credit(
        "payer acme of pupil, number 1 is up to no limit at 1 by t: t, from 1 on, but the audit log has none",
        "INSERT INTO payers (payer, org_id, number, allowed, since_ms, at_ms, actor, reason) "
        "VALUES ('acme', 'pupil', 1, TRUE, 1, 1, 't', 't')",
        org="pupil",
    ),
    "a payer's end that was forgotten": _credit(
        "payer course of pupil, number 2 is none, but the audit log has ended at",
        "DELETE FROM payers WHERE number = 2",
        org="pupil",
    ),
    "a tier at another price": _credit(
        "tier pro is 9 at once for 5, but the audit log has 9 at once for 6",
        "UPDATE tiers SET price_micro = 5",
    ),
    "a tier that nobody made": _credit(
        "tier top is 99 at once for 0, but the audit log has none",
        "INSERT INTO tiers (tier, at_once, price_micro) VALUES ('top', 99, 0)",
    ),
    "a plan that allows more": _credit(
        "plan club is 6 at once, but the audit log has 5 at once",
        "UPDATE ledger_plans SET max_concurrent_sandboxes = 6 WHERE plan = 'club'",
    ),
    "a plan that holds less": _credit(
        "holds on club is 1 ppm, nothing without an estimate, at most all of all, halting, but the",
        "UPDATE ledger_plans SET hold_factor_ppm = 1 WHERE plan = 'club'",
    ),
    "a plan whose holds halt nobody": _credit(
        "at most all of all, but the audit log has",
        "UPDATE ledger_plans SET holds_halt = FALSE WHERE plan = 'club'",
    ),
    "terms of a plan that nobody set": _credit(
        "terms club, number 2 is 500 a month, of which 0 to 30 roll over, 4 at first",
        "INSERT INTO plan_terms SELECT plan, 2, 9000000000000, 500, rollover_min_micro, rollover_max_micro, "
        "first_micro, at_ms, actor, reason FROM plan_terms WHERE plan = 'club'",
    ),
    "terms of a plan that count from earlier": _credit(
        "terms club, number 1 is 50 a month",
        "UPDATE plan_terms SET from_ms = from_ms - 1 WHERE plan = 'club'",
    ),
    "terms of a supplier that nobody set": _owed(
        "terms stone, number 2 is 999999 ppm, held 3024000000, above 0 at",
        "INSERT INTO supplier_terms SELECT supplier, 1, 999999, hold_ms, threshold_micro, takes_clawbacks, at_ms, "
        "actor, reason FROM supplier_terms WHERE supplier = 'stone'",
    ),
    "terms rewritten, and all that followed from them": _owed(
        "terms stone, number 1 is 900000 ppm",
        "UPDATE supplier_terms SET share_ppm = 900000 WHERE supplier = 'stone'",
        "UPDATE settlements SET share_ppm = 900000, net_micro = 45 WHERE supplier = 'stone'",
    ),
    "a payout that is forgotten, so that it is paid again": _owed(
        f"payout {BATCH} is none, but the audit log has 60 released, 0 taken off, in 1 lines at",
        "DELETE FROM settlement_reversals WHERE reversal = 'r-2'",
        "DELETE FROM payout_lines",
        "DELETE FROM payouts",
    ),
    "a payout of another month": _owed(
        "payout payout:pixel:2025-12 is 60 released, 0 taken off, in 1 lines at",
        "UPDATE payouts SET period = '2025-12', payout = 'payout:pixel:2025-12'",
        "UPDATE payout_lines SET payout = 'payout:pixel:2025-12'",
    ),
    "a payout of another moment": _owed(
        f"payout {BATCH} is 60 released, 0 taken off, in 1 lines at",
        f"UPDATE payouts SET at_ms = at_ms + {DAY_MS}",
    ),
    "a reversal that nobody made": _owed(
        "reversal r-9 of sent is 1 taken off at 5 by t: t, but the audit log has none",
        "INSERT INTO settlement_reversals (reversal, reservation, amount_micro, is_clawback, at_ms, actor, reason) "
        "VALUES ('r-9', 'sent', 1, FALSE, 5, 't', 't')",
    ),
    "a claw-back that is forgotten": _owed(
        "reversal r-2 of sold is none, but the audit log has 5 taken back at",
        "DELETE FROM settlement_reversals WHERE reversal = 'r-2'",
    ),
    "a freeze that nobody made": _owed(
        "freeze stone, number 1 is made at 5 by t: t, but the audit log has none",
        "INSERT INTO settlement_freezes (supplier, from_ms, actor, reason) VALUES ('stone', 5, 't', 't')",
    ),
    "a freeze that is forgotten": _owed(
        "freeze pixel of sold, number 1 is none, but the audit log has made at",
        "DELETE FROM settlement_freezes",
    ),
    "a freeze that ended sooner": _owed(
        "end of a freeze pixel of sold, number 1 is made at",
        "UPDATE settlement_freezes SET ended_ms = ended_ms - 1",
    ),
}
