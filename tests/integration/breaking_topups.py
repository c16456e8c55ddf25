"""Ways to break automatic top-ups, and what `verify` must say of each."""

from __future__ import annotations

from tests.integration.breaking import Broken

_PAID = "topup = 'topup:filled:2'"
_ENTRY = "key = 'topup:filled:2'"


def _of(text: str, *statements: str, also: tuple[int, ...] = ()) -> Broken:
    return Broken(12, statements, text, org="filled", also=also)


def _balance(by: int) -> str:
    return f"UPDATE ledger_accounts SET balance_micro = balance_micro + {by} WHERE account_id = 'wallet:filled'"


TOPUPS = {
    "a top-up that was paid and not credited": _of(
        "topup:filled:2 was paid for 20 to filled, but the ledger has none to none",
        f"DELETE FROM ledger_entries WHERE {_ENTRY}",
        _balance(-20),
        also=(10,),
    ),
    "a top-up that was credited with more": _of(
        "topup:filled:2 was paid for 20 to filled, but the ledger has 21",
        f"UPDATE ledger_entries SET amount_micro = 21 WHERE {_ENTRY}",
        _balance(1),
        also=(10,),
    ),
    "credit of a top-up that was declined": _of(
        "the ledger has 20 to wallet:filled as topup:filled:2, but that top-up is missing, or was not paid (state: "
        "declined)",
        f"UPDATE topups SET state = 'declined', payment_id = NULL WHERE {_PAID}",
    ),
    "credit of no top-up": _of(
        "as topup:filled:9, but that top-up is missing, or was not paid (state: none)",
        "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, ts, at_ms, actor, reason) "
        "VALUES ('topup:filled:9', 'grant', 'source:grants', 'wallet:filled', 5, 0, 0, 't', 't')",
        _balance(5),
        also=(10,),
    ),
    "another id": _of(
        "the id topup:filled:1x does not match episode 1 of filled",
        "UPDATE topups SET topup = 'topup:filled:1x' WHERE topup = 'topup:filled:1'",
        "UPDATE topup_attempts SET topup = 'topup:filled:1x' WHERE topup = 'topup:filled:1'",
    ),
    "another price": _of(
        "topup:filled:2 charges 1999 for 20, which does not match 100000000 a credit",
        f"UPDATE topups SET money_minor = 1999 WHERE {_PAID}",
    ),
    "a payment that credited two top-ups": _of(
        "topup:filled:2 and topup:filled:1 are credited from the same payment pay_1 of fake",
        "DROP INDEX topups_one_payment",
        f"UPDATE topups SET state = 'credited', payment_id = (SELECT payment_id FROM topups WHERE {_PAID}) "
        "WHERE topup = 'topup:filled:1'",
    ),
    "more than its cap": _of(
        "topup:filled:2 is number 2 of a day and 2 of 30 days, but its terms allowed 1 and 20",
        f"UPDATE topups SET max_day = 1 WHERE {_PAID}",
    ),
    "a call that is on no record": _of(
        "the calls of topup:filled:1 do not match: counted 1, on record 0",
        "DELETE FROM topup_attempts WHERE topup = 'topup:filled:1'",
    ),
    "a payment of what was never called": _of(
        "topup:filled:2 is credited, but the payment service was never called",
        f"UPDATE topups SET attempts = 0 WHERE {_PAID}",
        f"DELETE FROM topup_attempts WHERE {_PAID}",
    ),
}
