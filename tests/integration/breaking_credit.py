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
            "reservation) SELECT 'run:metered:final:*', 'run', 'wallet:boxed', 'revenue', 5, accepted_ms, "
            "accepted_ms, 't', 't', 'metered' FROM reservations WHERE reservation = 'metered'",
            "UPDATE ledger_accounts SET balance_micro = balance_micro - 5 WHERE account_id = 'wallet:boxed'",
        ),
        "run:metered:final:* charges 5 for metered, which metering charges for",
        org="boxed",
    ),
    "a run that meters no sandbox": Broken(
        10,
        ("DELETE FROM reservation_sandboxes WHERE reservation = 'metered'",),
        "metering charges for metered, which names no sandbox",
        org="boxed",
    ),
    "a sandbox that is free though its run goes on": Broken(
        10,
        ("UPDATE reservation_sandboxes SET is_open = FALSE WHERE reservation = 'metered'",),
        "box-metering is free, and metered, which names it, is held",
        org="boxed",
    ),
    "a sandbox that is named as another organisation's": Broken(
        10,
        ("UPDATE reservation_sandboxes SET org_id = 'acme' WHERE reservation = 'metered'",),
        "box-metering is named by metered as a sandbox of acme",
        org="boxed",
    ),
    "a hold that shrank by more than its sandboxes used": Broken(
        10,
        (
            "UPDATE reservations SET drawn_micro = drawn_micro + 1 WHERE reservation = 'metered'",
            "UPDATE ledger_accounts SET held_micro = held_micro - 1 WHERE account_id = 'wallet:boxed'",
        ),
        "the hold of metered shrank by 6001; the samples of its sandboxes come to 6000",
        org="boxed",
    ),
    "a hold that shrank by more than was charged": Broken(
        10,
        (
            "UPDATE ledger_entries SET amount_micro = amount_micro - 1 WHERE from_account = 'wallet:boxed' AND ts >= "
            "(SELECT accepted_ms - accepted_ms % 300000 FROM reservations WHERE reservation = 'metered')",
            "UPDATE ledger_accounts SET balance_micro = balance_micro + 1 WHERE account_id = 'wallet:boxed'",
        ),
        "the hold of metered shrank by 6000; metering charged its wallet 5999",
        org="boxed",
        also=(2,),
    ),
    "a hold off by one": Broken(
        10,
        ("UPDATE ledger_accounts SET held_micro = held_micro + 1 WHERE account_id = 'wallet:acme'",),
        "wallet:acme keeps 41 held; its reservations have 40 left",
    ),
    "a hold that was forgotten as its run ended": Broken(
        10,
        (
            "UPDATE reservations SET state = 'released', ended_ms = accepted_ms WHERE reservation = 'going'",
            "UPDATE ledger_accounts SET next_due_ms = NULL WHERE account_id = 'wallet:acme'",
        ),
        "keeps 40 held; its reservations have 0 left",
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
        "going has drawn 21, its entries sum to 20",
    ),
    "a draw under another run's name": Broken(
        10,
        ("UPDATE ledger_entries SET key = 'run:gone:d1:*' WHERE key = 'run:going:d1:*'",),
        "run:gone:d1:* is drawn from wallet:acme for going",
    ),
    "a receipt that is gone": Broken(
        10,
        (
            "DELETE FROM ledger_entries WHERE key = 'run:done:final:*'",
            "UPDATE reservations SET drawn_micro = 0 WHERE reservation = 'done'",
            "UPDATE ledger_accounts SET balance_micro = balance_micro + 70 WHERE account_id = 'wallet:acme'",
        ),
        "done is settled, and no entry says with what",
    ),
    "a run at a rate that was set after its acceptance": Broken(
        2,
        (
            "INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, reason) "
            "SELECT 'tokens', 0, 7, 1, accepted_ms + 1, 't', 't' FROM reservations WHERE reservation = 'done'",
            "UPDATE ledger_entries SET feature = 'tokens', quantity = 10, to_account = 'revenue:tokens' "
            "WHERE key = 'run:done:final:*'",
        ),
        "the ledger charged 70 for 10 under run:done:final:*: no rate of the feature makes that",
        T0 + 3 * WINDOW_MS,
        "tokens",
    ),
    "a run that was settled and goes on": Broken(
        10,
        ("UPDATE reservations SET state = 'expired' WHERE reservation = 'done'",),
        "done is expired, and an entry says that it ended",
    ),
    "a lot that is in no balance": Broken(
        10,
        (
            "DELETE FROM ledger_lots WHERE lot = 'grant:later'",
            "INSERT INTO ledger_lots (lot, customer_id, kind, amount_micro, begins_ms, at_ms, actor, reason) "
            "VALUES ('grant:later', 'other', 'included', 30, 1, 1, 't', 't')",
        ),
        "grant:later has no entry, and begins at 1;",
        org="other",
    ),
    "a lot that nobody would begin": Broken(
        10,
        ("UPDATE ledger_accounts SET next_due_ms = NULL WHERE account_id = 'wallet:other'",),
        "grant:later has no entry, and begins at",
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
        "wallet:other has 0 left of lots that are over; it can be 30 to 30",
        org="other",
    ),
    "more that is over than lots have left": Broken(
        10,
        ("UPDATE ledger_accounts SET over_micro = over_micro + 1 WHERE account_id = 'wallet:other'",),
        "wallet:other has 1 left of lots that are over; it can be 0 to 0",
        org="other",
    ),
    "what is over of a wallet that falls due no more": Broken(
        10,
        ("UPDATE ledger_accounts SET over_micro = 1, next_due_ms = NULL WHERE account_id = 'wallet:acme'",),
        "wallet:acme has 1 left of lots that are over; it can be 0 to 0",
        org="acme",
    ),
    "what is left of a lot that is over, and will never expire": Broken(
        10,
        (
            "DELETE FROM ledger_entries WHERE key = 'expiry:grant:over:r0'",
            "UPDATE ledger_accounts SET balance_micro = balance_micro + 30 WHERE account_id = 'wallet:other'",
        ),
        "grant:over is over and booked, and 30 of it stay in wallet:other: 0 can have been used",
        org="other",
    ),
    "more that waits to expire than runs hold": Broken(
        10,
        ("UPDATE ledger_accounts SET deferred_micro = 7 WHERE account_id = 'wallet:other'",),
        "7 wait to expire in wallet:other; 0 are left of lots that are over, and",
        org="other",
    ),
    "a lot that was in the balance before it began": Broken(
        10,
        ("UPDATE ledger_lots SET begins_ms = at_ms + 1 WHERE lot = 'grant:ends'",),
        "was put into wallet:other at",
        org="other",
    ),
    "a lot of another amount than its grant": Broken(
        10,
        ("UPDATE ledger_lots SET amount_micro = 31 WHERE lot = 'grant:over'",),
        "grant:over is 31 of other; its entry is 30 to wallet:other",
        org="other",
    ),
    "a grant without a lot": Broken(
        10,
        ("DELETE FROM ledger_lots WHERE lot = 'grant:ends'",),
        "30 were given to wallet:other as grant:ends, and there is no such lot",
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
        "expiry:grant:over:r0 moves wallet:other to breakage for gone, which is of nothing",
        org="other",
    ),
    "more that expired than there was": Broken(
        10,
        (
            "UPDATE ledger_entries SET amount_micro = 31 WHERE key = 'expiry:grant:over:r0'",
            "UPDATE ledger_accounts SET balance_micro = balance_micro - 1 WHERE account_id = 'wallet:other'",
        ),
        "grant:over is 30; of it 31 expired and 0 were taken back",
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
        "done drew 70 of 60, and was to cap what is above",
    ),
    "a run that is paid in both ways": Broken(
        10,
        ("UPDATE reservations SET hold = 'wallet' WHERE reservation = 'far-going'",),
        "far-going is held as wallet, and was billed in both ways, or in the other one",
        org="far",
    ),
    "a run that is billed for less than it used": Broken(
        10,
        ("DELETE FROM run_samples WHERE reservation = 'far-done' AND number = 'final'",),
        "final of far-done used 70; its samples come to 0",
        feature=ONE,
        org="far",
    ),
    "a run that is billed for the same twice": Broken(
        10,
        (
            "INSERT INTO run_samples SELECT 'again', reservation, number, feature, org_id, memory_mb, interval_s, "
            "base_units, -1 FROM run_samples WHERE reservation = 'far-done' AND number = 'final'",
        ),
        "final of far-done used 70; its samples come to 140",
        feature=ONE,
        org="far",
    ),
    "a run's sample that says something else": Broken(
        10,
        ("UPDATE run_samples SET ts = ts + 1 WHERE reservation = 'far-done' AND number = 'final'",),
        "run:far-done:final:compute_1gb:0 bills a part of far-done, and is not there as it was noted",
        feature=ONE,
        org="far",
    ),
    "a run's use that it did not draw": Broken(
        10,
        ("UPDATE reservations SET drawn_micro = drawn_micro + 1 WHERE reservation = 'far-going'",),
        "far-going has drawn 41, its entries sum to 40",
        org="far",
    ),
    "a run at a provider without a receipt": Broken(
        10,
        (
            "UPDATE run_usage SET number = 'd2' WHERE reservation = 'far-done' AND number = 'final'",
            "UPDATE run_samples SET number = 'd2' WHERE reservation = 'far-done' AND number = 'final'",
        ),
        "far-done is settled, and no entry says with what",
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
        "the lots of wallet:other were looked at as of 9999999999999",
        org="other",
    ),
    "a wallet that takes a lot to be over that goes on": Broken(
        10,
        (
            "UPDATE ledger_accounts SET lots_ended_ms = (SELECT expires_ms FROM ledger_lots WHERE lot = 'grant:ends') "
            "WHERE account_id = 'wallet:other'",
        ),
        "the lots of wallet:other were looked at as of",
        org="other",
    ),
    "a wallet that forgot which lots are over, so that late use gives nothing back": Broken(
        10,
        ("UPDATE ledger_accounts SET lots_over_ms = NULL WHERE account_id = 'wallet:other'",),
        "lots of wallet:other were booked up to",
        org="other",
    ),
    "a wallet that takes lots to be over up to no end of any": Broken(
        10,
        ("UPDATE ledger_accounts SET lots_over_ms = lots_over_ms + 1 WHERE account_id = 'wallet:other'",),
        "the lots of wallet:other were looked at as of",
        org="other",
    ),
    "a run that was charged for before it was accepted": Broken(
        10,
        ("UPDATE ledger_entries SET at_ms = 1 WHERE key = 'run:done:final:*'",),
        "run:done:final:* was written at 1, and done was accepted at",
    ),
}
