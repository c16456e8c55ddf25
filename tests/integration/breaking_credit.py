"""Ways to break reserved credit, and what `verify` must say of each."""

from __future__ import annotations

from tests.integration.breaking import Broken

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
}
