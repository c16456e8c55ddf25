"""Ways to break what pools allot, and who pays for runs; and what `verify` must say of each."""

from __future__ import annotations

from tests.integration.breaking import Broken


def _of(text: str, *statements: str, also: tuple[int, ...] = ()) -> Broken:
    return Broken(10, statements, text, org="pupil", also=also)


POOLS = {
    "an allotment that no pool paid for": _of(
        "allot:course:over moves 20 from source:grants to wallet:pupil, which does not match its lot",
        "UPDATE ledger_entries SET from_account = 'source:grants' WHERE key = 'allot:course:over'",
        "UPDATE ledger_accounts SET balance_micro = balance_micro + 20 WHERE account_id = 'wallet:course'",
    ),
    "an allotment whose rest went to nobody": _of(
        "expiry:allot:course:over:r0 moves 12 from wallet:pupil to breakage, which does not match its lot",
        "UPDATE ledger_entries SET to_account = 'breakage' WHERE key = 'expiry:allot:course:over:r0'",
        "UPDATE ledger_accounts SET balance_micro = balance_micro - 12 WHERE account_id = 'wallet:course'",
    ),
    "what was taken back of an allotment and went elsewhere": _of(
        "moves -30 from source:grants to wallet:pupil, which does not match its lot of the pool course",
        "UPDATE ledger_entries SET from_account = 'source:grants' WHERE lot = 'allot:course:goes-on'",
        "UPDATE ledger_accounts SET balance_micro = balance_micro - 30 WHERE account_id = 'wallet:course'",
        also=(2,),
    ),
    "an allotment of another pool than was said": _of(
        "allot:course:again is 10 of curse for pupil, but the audit log has 10 of course for pupil",
        "UPDATE ledger_lots SET pool = 'curse' WHERE lot = 'allot:course:again'",
    ),
    "an allotment that is not there": _of(
        "allot:course:again is none of none for pupil, but the audit log has 10 of course for pupil",
        "DELETE FROM ledger_lots WHERE lot = 'allot:course:again'",
        "DELETE FROM ledger_entries WHERE key = 'allot:course:again'",
        "UPDATE ledger_accounts SET balance_micro = balance_micro + 10 WHERE account_id = 'wallet:course'",
        "UPDATE ledger_accounts SET balance_micro = balance_micro - 10 WHERE account_id = 'wallet:pupil'",
    ),
    "less that came back than nobody used": _of(
        "allot:course:over was 20 and returned 11 to course, so 9 was used, but",
        "UPDATE ledger_entries SET amount_micro = 11 WHERE key = 'expiry:allot:course:over:r0'",
        "UPDATE ledger_accounts SET balance_micro = balance_micro - 1 WHERE account_id = 'wallet:course'",
        "UPDATE ledger_accounts SET balance_micro = balance_micro + 1 WHERE account_id = 'wallet:pupil'",
    ),
    "an allotment that its pool does not wait for": _of(
        "allot:course:again returns after",
        "UPDATE ledger_accounts SET next_due_ms = NULL WHERE account_id = 'wallet:course'",
    ),
    "a payer that never was": _of(
        "course pays for pupil-paid, but could not pay for pupil at",
        "UPDATE reservations SET payer_number = 3 WHERE reservation = 'pupil-paid'",
    ),
    "a run that was accepted after its payer ended": _of(
        "course pays for pupil-paid, but could not pay for pupil at",
        "UPDATE payers SET since_ms = 0 WHERE number = 2",
    ),
    "a run that was accepted before its payer paid": _of(
        "course pays for pupil-paid, but could not pay for pupil at",
        "UPDATE payers SET since_ms = since_ms + 864000000 WHERE number = 1",
    ),
    "a run that another wallet pays for, and no payer": _of(
        "course pays for pupil-paid, but could not pay for pupil at",
        "UPDATE reservations SET payer_number = NULL WHERE reservation = 'pupil-paid'",
    ),
    "a run whose entries are in another wallet than its payer's": _of(
        "run:pupil-paid:final:*, from wallet:pupil, does not match its execution pupil-paid of course",
        "UPDATE ledger_entries SET from_account = 'wallet:pupil' WHERE reservation = 'pupil-paid'",
        "UPDATE ledger_accounts SET balance_micro = balance_micro + 7 WHERE account_id = 'wallet:course'",
        "UPDATE ledger_accounts SET balance_micro = balance_micro - 7 WHERE account_id = 'wallet:pupil'",
    ),
    "more accepted than a payer's limit": _of(
        "course pays up to 5, but executions were accepted for 7",
        "UPDATE payers SET limit_micro = 5 WHERE number = 1",
    ),
}
