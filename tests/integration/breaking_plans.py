"""Ways to break what plans give, what rolls over, and tiers; and what `verify` must say of each."""

from __future__ import annotations

from tests.integration.breaking import Broken

JANUARY = "lot = 'included:planned:club:2026-01'"


def _of(text: str, *statements: str, also: tuple[int, ...] = ()) -> Broken:
    return Broken(10, statements, text, org="planned", also=also)


def _lets(micro: int) -> tuple[str, str]:
    """Another amount that rolls over at most."""
    lets = f"SET rollover_max_micro = {micro}"
    return f"UPDATE plan_terms {lets}", f"UPDATE plan_lots {lets} WHERE part <> 'first'"


PLANS = {
    "a month that was not given": _of(
        "club included credit for 2026-01, but planned, who was on this plan, did not get it",
        f"DELETE FROM plan_lots WHERE {JANUARY}",
        also=(2,),
    ),
    "a month that was given twice": _of(
        "planned got 2 lots for 2026-01 on club",
        "INSERT INTO plan_lots (lot, customer_id, part, plan, period, rollover_min_micro, rollover_max_micro) "
        f"SELECT 'grant:planned', customer_id, part, plan, period, 0, 30 FROM plan_lots WHERE {JANUARY}",
    ),
    "a month of another amount than the plan includes": _of(
        "included:planned:club:2026-01 gives 50 to planned from 1767225600000 to 1769904000000, but the plan club did",
        "UPDATE plan_terms SET included_micro = 51",
    ),
    "a month that ends later": _of(
        "included:planned:club:2026-01 gives 50 to planned",
        f"UPDATE ledger_lots SET expires_ms = expires_ms + 1 WHERE {JANUARY}",
    ),
    "a first credit that was not given": _of(
        "club gave credit to new customers, but planned, on it since",
        "DELETE FROM plan_lots WHERE lot = 'first:planned'",
        also=(2,),
    ),
    "less that rolled over than expired": _of(
        "for 2025-12 expired and 30 rolled over, but 40 must roll over", *_lets(40)
    ),
    "more that rolled over than the plan lets": _of("for 2025-12 rolled over, but the plan allows 20", *_lets(20)),
    "late use that took from what did not roll over": _of(
        "takes -6 from grant:planned, but that lot did not roll over",
        "UPDATE ledger_entries SET lot = 'grant:planned' WHERE key LIKE 'reduced:%'",
    ),
    "a plan that nobody put it on": _of(
        "the wallet of planned is on the plan club, but the last plan on record is free",
        "UPDATE plan_stays SET plan = 'free' WHERE customer_id = 'planned'",
    ),
    "a wallet that does not know of the next month": _of(
        "the wallet of planned is on the plan club, but misses its next month, because it is next due at none",
        "UPDATE ledger_accounts SET next_due_ms = NULL WHERE account_id = 'wallet:planned'",
    ),
    "a charge of a tier that nobody bought": _of(
        "wallet:planned was charged 6 as tier:planned:base:2026-01, but does not have that tier",
        "UPDATE ledger_entries SET key = 'tier:planned:base:2026-01' WHERE key = 'tier:planned:pro:2026-01'",
    ),
    "a tier that nobody paid for": _of(
        "planned has the tier pro until 1772323200000, but was not charged for it",
        "UPDATE tier_holders SET paid_to_ms = 1772323200000",
    ),
    "a tier that would never end": _of(
        "planned has paid for pro until 1769904000000, but its wallet is next due at",
        "UPDATE ledger_accounts SET next_due_ms = next_due_ms + 86400000 WHERE account_id = 'wallet:planned'",
    ),
}
