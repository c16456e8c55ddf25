"""Ways to break reserved credit, and what `verify` must say of each."""

from __future__ import annotations

from drawdown.schema.units import WINDOW_MS
from tests.integration.breaking import Broken
from tests.integration.verifying import ONE
from tests.world import T0

CREDIT = {
    "a sandbox that was metered under a receipt": Broken(
        10,
        ("UPDATE usage_samples SET sandbox_id = 'box-receipt' WHERE org_id = 'boxed' AND sandbox_id = 'another'",),
        "box-receipt was metered for 60 s from",
        org="boxed",
    ),
    "a receipt of a run that metering settles": Broken(
        10,
        (
            "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, ts, at_ms, actor, reason, "
            "reservation) SELECT 'run:metered:final:*', 'execution', 'wallet:boxed', 'revenue', 5, accepted_ms, "
            "accepted_ms, 't', 't', 'metered' FROM reservations WHERE reservation = 'metered'",
            "UPDATE ledger_accounts SET balance_micro = balance_micro - 5 WHERE account_id = 'wallet:boxed'",
        ),
        "run:metered:final:* charges 5 for metered, but metering charges for it, too",
        org="boxed",
    ),
    "a run that meters no sandbox": Broken(
        10,
        ("DELETE FROM reservation_sandboxes WHERE reservation = 'metered'",),
        "metering charges for metered, but the execution does not name a sandbox",
        org="boxed",
    ),
    "a sandbox that is free though its run goes on": Broken(
        10,
        ("UPDATE reservation_sandboxes SET is_open = FALSE WHERE reservation = 'metered'",),
        "box-metering is free, but metered, which names it, is held",
        org="boxed",
    ),
    "a sandbox that is named as another organisation's": Broken(
        10,
        ("UPDATE reservation_sandboxes SET org_id = 'acme' WHERE reservation = 'metered'",),
        "metered names box-metering as a sandbox of another organisation, acme",
        org="boxed",
    ),
    "a hold that shrank by more than its sandboxes used": Broken(
        10,
        (
            "UPDATE reservations SET drawn_micro = drawn_micro + 1 WHERE reservation = 'metered'",
            "UPDATE ledger_accounts SET held_micro = held_micro - 1 WHERE account_id = 'wallet:boxed'",
        ),
        "the reserved credit of metered shrank by 6001, but the samples of its sandboxes cost at most 6000",
        org="boxed",
    ),
    "a hold that shrank by more than was charged": Broken(
        10,
        (
            "UPDATE ledger_entries SET amount_micro = amount_micro - 1 WHERE from_account = 'wallet:boxed' AND ts >= "
            "(SELECT accepted_ms - accepted_ms % 300000 FROM reservations WHERE reservation = 'metered')",
            "UPDATE ledger_accounts SET balance_micro = balance_micro + 1 WHERE account_id = 'wallet:boxed'",
        ),
        "the reserved credit of metered shrank by 6000, but metering charged its wallet 5999",
        org="boxed",
        also=(2,),
    ),
    "a hold off by one": Broken(
        10,
        ("UPDATE ledger_accounts SET held_micro = held_micro + 1 WHERE account_id = 'wallet:acme'",),
        "wallet:acme has 41 reserved, but the rest of its reservations sums to 40",
    ),
    "a hold that was forgotten as its run ended": Broken(
        10,
        (
            "UPDATE reservations SET state = 'released', ended_ms = accepted_ms WHERE reservation = 'going'",
            "UPDATE ledger_accounts SET next_due_ms = NULL WHERE account_id = 'wallet:acme'",
        ),
        "has 40 reserved, but the rest of its reservations sums to 0",
    ),
    "a hold that nobody would end": Broken(
        10,
        ("UPDATE ledger_accounts SET next_due_ms = NULL WHERE account_id = 'wallet:acme'",),
        "going expires at",
    ),
    "a draw that is not among the entries": Broken(
        10,
        (
            "UPDATE reservations SET drawn_micro = drawn_micro + 1 WHERE reservation = 'going'",
            "UPDATE ledger_accounts SET held_micro = held_micro - 1 WHERE account_id = 'wallet:acme'",
        ),
        "going has drawn 21, but its entries sum to 20",
    ),
    "a draw under another run's name": Broken(
        10,
        ("UPDATE ledger_entries SET key = 'run:gone:d1:*' WHERE key = 'run:going:d1:*'",),
        "run:gone:d1:*, from wallet:acme, does not match its execution going",
    ),
    "a receipt that is gone": Broken(
        10,
        (
            "DELETE FROM ledger_entries WHERE key = 'run:done:final:*'",
            "UPDATE reservations SET drawn_micro = 0 WHERE reservation = 'done'",
            "UPDATE ledger_accounts SET balance_micro = balance_micro + 70 WHERE account_id = 'wallet:acme'",
        ),
        "done is settled, but does not have a receipt",
    ),
    "a run at a rate that was set after its acceptance": Broken(
        2,
        (
            "INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, reason) "
            "SELECT 'tokens', 0, 7, 1, accepted_ms + 1, 't', 't' FROM reservations WHERE reservation = 'done'",
            "UPDATE ledger_entries SET feature = 'tokens', quantity = 10, to_account = 'revenue:tokens' "
            "WHERE key = 'run:done:final:*'",
        ),
        "the ledger charged 70 for 10 as run:done:final:*, which does not match a rate",
        T0 + 3 * WINDOW_MS,
        "tokens",
    ),
    "a run that was settled and goes on": Broken(
        10,
        ("UPDATE reservations SET state = 'expired' WHERE reservation = 'done'",),
        "done is expired, but has a receipt",
    ),
    "a lot that is in no balance": Broken(
        10,
        (
            "DELETE FROM ledger_lots WHERE lot = 'grant:later'",
            "INSERT INTO ledger_lots (lot, customer_id, kind, amount_micro, begins_ms, at_ms, actor, reason) "
            "VALUES ('grant:later', 'other', 'included', 30, 1, 1, 't', 't')",
        ),
        "grant:later begins at 1 and has no entry,",
        org="other",
    ),
    "a lot that nobody would begin": Broken(
        10,
        ("UPDATE ledger_accounts SET next_due_ms = NULL WHERE account_id = 'wallet:other'",),
        "grant:later begins at",
        org="other",
    ),
    "a lot that nobody would end": Broken(
        10,
        ("UPDATE ledger_accounts SET next_due_ms = NULL WHERE account_id = 'wallet:other'",),
        "grant:ends expires at",
        org="other",
    ),
    "a lot that is over and goes on paying": Broken(
        10,
        (
            "UPDATE ledger_accounts SET lots_over_ms = (SELECT expires_ms FROM ledger_lots WHERE lot = 'grant:ends') "
            "WHERE account_id = 'wallet:other'",
        ),
        "wallet:other has 0 left of ended lots: expected 30 to 30",
        org="other",
    ),
    "more that is over than lots have left": Broken(
        10,
        ("UPDATE ledger_accounts SET over_micro = over_micro + 1 WHERE account_id = 'wallet:other'",),
        "wallet:other has 1 left of ended lots: expected 0 to 0",
        org="other",
    ),
    "what is over of a wallet that falls due no more": Broken(
        10,
        ("UPDATE ledger_accounts SET over_micro = 1, next_due_ms = NULL WHERE account_id = 'wallet:acme'",),
        "wallet:acme has 1 left of ended lots: expected 0 to 0",
        org="acme",
    ),
    "what is left of a lot that is over, and will never expire": Broken(
        10,
        (
            "DELETE FROM ledger_entries WHERE key = 'expiry:grant:over:r0'",
            "UPDATE ledger_accounts SET balance_micro = balance_micro + 30 WHERE account_id = 'wallet:other'",
        ),
        "grant:over ended and is booked, but 30 of it did not expire from wallet:other, and at most 0 was used",
        org="other",
    ),
    "more that waits to expire than runs hold": Broken(
        10,
        ("UPDATE ledger_accounts SET deferred_micro = 7 WHERE account_id = 'wallet:other'",),
        "7 waits to expire in wallet:other, but ended lots have 0 left, and",
        org="other",
    ),
    "a lot that was in the balance before it began": Broken(
        10,
        ("UPDATE ledger_lots SET begins_ms = at_ms + 1 WHERE lot = 'grant:ends'",),
        "was added to wallet:other at",
        org="other",
    ),
    "a lot of another amount than its grant": Broken(
        10,
        ("UPDATE ledger_lots SET amount_micro = 31 WHERE lot = 'grant:over'",),
        "grant:over is 31 for other, but its entry is 30 to wallet:other",
        org="other",
    ),
    "a grant without a lot": Broken(
        10,
        ("DELETE FROM ledger_lots WHERE lot = 'grant:ends'",),
        "30 was granted to wallet:other as grant:ends, but that lot does not exist",
        org="other",
    ),
    "a lot that expired too early": Broken(
        10,
        ("UPDATE ledger_lots SET expires_ms = expires_ms + 100000000 WHERE lot = 'grant:over'",),
        "grant:over ends at",
        org="other",
    ),
    "what expired of no lot": Broken(
        10,
        ("UPDATE ledger_entries SET lot = 'gone' WHERE key = 'expiry:grant:over:r0'",),
        "expiry:grant:over:r0 moves credit of gone from wallet:other to breakage, but the lot belongs to none",
        org="other",
    ),
    "more that expired than there was": Broken(
        10,
        (
            "UPDATE ledger_entries SET amount_micro = 31 WHERE key = 'expiry:grant:over:r0'",
            "UPDATE ledger_accounts SET balance_micro = balance_micro - 1 WHERE account_id = 'wallet:other'",
        ),
        "grant:over is 30, but 31 of it expired and 0 was taken back",
        org="other",
    ),
    "a wallet with another sum than its lots": Broken(
        10,
        ("UPDATE ledger_lots SET amount_micro = 31 WHERE lot = 'grant:ends'",),
        "wallet:other was given",
        org="other",
    ),
    "a capped run that drew more": Broken(
        10,
        ("UPDATE reservations SET overage = 'cap' WHERE reservation = 'done'",),
        "done drew 70 of 60, which its overage cap does not allow",
    ),
    "a run that is paid in both ways": Broken(
        10,
        ("UPDATE reservations SET hold = 'wallet' WHERE reservation = 'far-going'",),
        "the credit of far-going is reserved as wallet, but the execution was also billed in another way",
        org="far",
    ),
    "a run that is billed for less than it used": Broken(
        10,
        ("DELETE FROM run_samples WHERE reservation = 'far-done' AND number = 'final'",),
        "final of far-done used 70, but its samples sum to 0",
        feature=ONE,
        org="far",
    ),
    "a run that is billed for the same twice": Broken(
        10,
        (
            "INSERT INTO run_samples SELECT 'again', reservation, number, feature, org_id, memory_mb, interval_s, "
            "base_units, -1 FROM run_samples WHERE reservation = 'far-done' AND number = 'final'",
        ),
        "final of far-done used 70, but its samples sum to 140",
        feature=ONE,
        org="far",
    ),
    "a run's sample that says something else": Broken(
        10,
        ("UPDATE run_samples SET ts = ts + 1 WHERE reservation = 'far-done' AND number = 'final'",),
        "run:far-done:final:compute_1gb:0 bills a part of far-done, but the sample is missing or differs",
        feature=ONE,
        org="far",
    ),
    "a run's use that it did not draw": Broken(
        10,
        ("UPDATE reservations SET drawn_micro = drawn_micro + 1 WHERE reservation = 'far-going'",),
        "far-going has drawn 41, but its entries sum to 40",
        org="far",
    ),
    "a run at a provider without a receipt": Broken(
        10,
        (
            "UPDATE run_usage SET number = 'd2' WHERE reservation = 'far-done' AND number = 'final'",
            "UPDATE run_samples SET number = 'd2' WHERE reservation = 'far-done' AND number = 'final'",
        ),
        "far-done is settled, but does not have a receipt",
        org="far",
    ),
    "a wallet that may be overdrawn": Broken(
        10,
        ("UPDATE ledger_accounts SET overdraft_micro = 1000 WHERE account_id = 'wallet:acme'",),
        "wallet:acme may be overdrawn by 1000",
    ),
    "a wallet that takes all its lots to be over": Broken(
        10,
        ("UPDATE ledger_accounts SET lots_ended_ms = 9999999999999 WHERE account_id = 'wallet:other'",),
        "wallet:other records the end of a lot at 9999999999999",
        org="other",
    ),
    "a wallet that takes a lot to be over that goes on": Broken(
        10,
        (
            "UPDATE ledger_accounts SET lots_ended_ms = (SELECT expires_ms FROM ledger_lots WHERE lot = 'grant:ends') "
            "WHERE account_id = 'wallet:other'",
        ),
        "wallet:other records the end of a lot at",
        org="other",
    ),
    "a wallet that forgot which lots are over, so that late use gives nothing back": Broken(
        10,
        ("UPDATE ledger_accounts SET lots_over_ms = NULL WHERE account_id = 'wallet:other'",),
        "wallet:other has booked lots up to",
        org="other",
    ),
    "a wallet that takes lots to be over up to no end of any": Broken(
        10,
        ("UPDATE ledger_accounts SET lots_over_ms = lots_over_ms + 1 WHERE account_id = 'wallet:other'",),
        "wallet:other records the end of a lot at",
        org="other",
    ),
    "a run that was charged for before it was accepted": Broken(
        10,
        ("UPDATE ledger_entries SET at_ms = 1 WHERE key = 'run:done:final:*'",),
        "run:done:final:* was written at 1, but done was accepted at",
    ),
}
