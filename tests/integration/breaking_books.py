"""Ways to break the books and the records behind them, each sum kept whole: what no balance shows."""

from __future__ import annotations

from tests.integration.breaking import Broken, push
from tests.integration.verifying import NEXT, ONE
from tests.world import T0


def moved(key: str, from_account: str, to_account: str) -> tuple[str, ...]:
    """An entry's amount in the balances of the wallets among these, so that their lines go on adding up."""
    amount = f"(SELECT amount_micro FROM ledger_entries WHERE key = '{key}')"
    return tuple(
        f"UPDATE ledger_accounts SET balance_micro = balance_micro {sign} {amount} WHERE account_id = '{account}'"
        for sign, account in (("-", from_account), ("+", to_account))
        if account.startswith("wallet:")
    )


BOOKS = {
    "a charge at another price": Broken(
        2,
        (
            f"UPDATE ledger_entries SET amount_micro = amount_micro + 1 WHERE key = 'usage:acme:{NEXT}:{ONE}'",
            "UPDATE ledger_accounts SET balance_micro = balance_micro - 1 WHERE account_id = 'wallet:acme'",
        ),
        f"for 100 as usage:acme:{NEXT}:{ONE}, which",
        NEXT,
        ONE,
    ),
    "a charge of another window": Broken(
        2,
        (f"UPDATE ledger_entries SET ts = ts + 300000 WHERE key = 'usage:acme:{NEXT}:{ONE}'",),
        f"for revenue:{ONE} at {NEXT + 300_000}",
        NEXT,
        ONE,
    ),
    "a charge booked before it was sealed": Broken(
        2,
        (f"UPDATE ledger_entries SET at_ms = at_ms - 900000 WHERE key = 'usage:acme:{NEXT}:{ONE}'",),
        f"usage:acme:{NEXT}:{ONE} was sealed at",
        NEXT,
        ONE,
    ),
    "a charge booked after it was settled": Broken(
        2,
        (f"UPDATE ledger_entries SET at_ms = at_ms + 61000 WHERE key = 'usage:acme:{NEXT}:{ONE}'",),
        f"usage:acme:{NEXT}:{ONE} was sealed at",
        NEXT,
        ONE,
    ),
    "a charge that another customer was given": Broken(
        2,
        (
            f"UPDATE ledger_entries SET to_account = 'wallet:other' WHERE key = 'usage:acme:{NEXT}:{ONE}'",
            *moved(f"usage:acme:{NEXT}:{ONE}", f"revenue:{ONE}", "wallet:other"),
        ),
        "to wallet:acme for wallet:other at",
        NEXT,
        ONE,
    ),
    "a charge that counts as another feature's": Broken(
        2,
        (
            f"UPDATE ledger_entries SET to_account = 'revenue:tiny' WHERE key = 'usage:acme:{NEXT}:{ONE}'",
            *moved(f"usage:acme:{NEXT}:{ONE}", f"revenue:{ONE}", "revenue:tiny"),
        ),
        "to wallet:acme for revenue:tiny at",
        NEXT,
        ONE,
    ),
    "a charge drawn twice, under a wallet's name": Broken(
        5,
        (
            "INSERT INTO ledger_entries SELECT 'mirror:' || key, kind, from_account, to_account, amount_micro, "
            "feature, quantity, ts, at_ms, actor, reason, reservation, lot, rate_ms FROM ledger_entries "
            f"WHERE key = 'usage:acme:{NEXT}:{ONE}'",
            *moved(f"usage:acme:{NEXT}:{ONE}", "wallet:acme", f"revenue:{ONE}"),
        ),
        "but embedded does not keep its balances in the ledger",
        NEXT,
        ONE,
    ),
    "a grant out of another wallet": Broken(
        2,
        (
            "UPDATE ledger_entries SET from_account = 'wallet:other' WHERE key = 'grant:g1'",
            *moved("grant:g1", "wallet:other", "source:grants"),
        ),
        "the ledger has 50 to wallet:acme, from wallet:other",
    ),
    "a rate rewritten": Broken(
        2,
        ("UPDATE ledger_rates SET micro_credits = 3 WHERE feature = 'compute_2gb'",),
        "for 11 as",
        T0,
        "compute_2gb",
    ),
    "a grant altered": Broken(
        2,
        (
            "UPDATE ledger_entries SET amount_micro = 51 WHERE key = 'grant:g1'",
            "UPDATE ledger_lots SET amount_micro = 51 WHERE lot = 'grant:g1'",
            "UPDATE ledger_accounts SET balance_micro = balance_micro + 1 WHERE account_id = 'wallet:acme'",
        ),
        "a grant of 50 to wallet:acme as grant:g1, but the ledger has 51",
    ),
    "a grant of nobody": Broken(
        2,
        (
            "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, ts, at_ms, actor, reason) "
            "VALUES ('grant:free', 'grant', 'source:grants', 'wallet:acme', 7, 0, 0, 't', 't')",
            "INSERT INTO ledger_lots (lot, customer_id, kind, amount_micro, begins_ms, at_ms, actor, reason) "
            "VALUES ('grant:free', 'acme', 'bonus', 7, 0, 0, 't', 't')",
            "UPDATE ledger_accounts SET balance_micro = balance_micro + 7 WHERE account_id = 'wallet:acme'",
        ),
        "7 to wallet:acme as grant:free, but the audit log does not have this grant",
    ),
    "a grant booked a month before": Broken(
        10,
        ("UPDATE ledger_entries SET at_ms = at_ms - 2678400000 WHERE key = 'grant:g1'",),
        "grant:g1 was granted at",
    ),
    "an accepted push taken for shadow": Broken(
        2,
        (
            f"DELETE FROM attempts WHERE {push('rest', NEXT)}",
            f"UPDATE pushes SET state = 'shadow', attempts = 0 WHERE {push('rest', NEXT)}",
        ),
        "ends at none",
        NEXT,
        ONE,
        "rest",
    ),
    "another customer, wherever it stands": Broken(
        3,
        (
            "UPDATE assignments SET customer_id = 'zoe' WHERE org_id = 'acme'",
            "UPDATE pushes SET customer_id = 'zoe' WHERE org_id = 'acme'",
            "UPDATE reservations SET customer_id = 'zoe' WHERE customer_id = 'acme'",
            "UPDATE ledger_accounts SET held_micro = 0 WHERE account_id = 'wallet:acme'",
            "UPDATE ledger_entries SET from_account = 'wallet:zoe' WHERE from_account = 'wallet:acme'",
            "INSERT INTO ledger_accounts (account_id, held_micro, next_due_ms, balance_micro) SELECT 'wallet:zoe', 40, "
            "0, "
            "-SUM(amount_micro) FROM ledger_entries WHERE from_account = 'wallet:zoe'",
            "UPDATE ledger_accounts SET balance_micro = (SELECT SUM(amount_micro) FROM ledger_entries "
            "WHERE kind = 'grant' AND to_account = 'wallet:acme') WHERE account_id = 'wallet:acme'",
        ),
        "on is embedded as zoe, but the audit log has embedded as acme",
    ),
    "a run that counts as a feature's": Broken(
        2,
        (f"UPDATE ledger_entries SET to_account = 'revenue:{ONE}' WHERE key = 'run:done:final:*'",),
        f"run:done:final:* moves credit from wallet:acme to revenue:{ONE}",
        T0 + 900_000,
    ),
    "credit to come that nobody gave": Broken(
        2,
        (
            "INSERT INTO ledger_lots (lot, customer_id, kind, amount_micro, begins_ms, at_ms, actor, reason) "
            "SELECT 'grant:more', customer_id, kind, 99, begins_ms, at_ms, actor, reason FROM ledger_lots "
            "WHERE lot = 'grant:later'",
        ),
        "the ledger has 99 to wallet:other as grant:more, but the audit log",
        org="other",
    ),
}
