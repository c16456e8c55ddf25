"""Ways to break reserved credit, and what `verify` must say of each."""

from __future__ import annotations

from tests.integration.breaking import Broken

CREDIT = {
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
    "a capped run that drew more": Broken(
        10,
        ("UPDATE reservations SET overage = 'cap' WHERE reservation = 'done'",),
        "done drew 70 of 60, and was to cap what is above",
    ),
}
