"""Whatever crashes, stalls or is lost, and however many months turn: what people and products were told is what is."""

from __future__ import annotations

from collections import Counter
from typing import Final

import pytest

from tests.simulation.commerce.life import Life, lived
from tests.simulation.commerce.planted import PLANTED
from tests.simulation.lives import lives, missing
from tests.simulation.mutants_remote import Patches
from tests.whole import share

SEEDS: Final = share(1, whole=25)
"""Lives in which all of it happens, taken together."""
TICKS: Final = 25
FIRST: Final = share((1,), whole=tuple(range(0, 8 * SEEDS, SEEDS)))
LOOKED: Final = 12
"""Lives in which a planted bug is looked for, at most."""
BOOKED: Final = {
    "months given": "SELECT COUNT(*) FROM plan_lots WHERE part = 'included'",
    "months given late": "SELECT COUNT(*) FROM ledger_entries WHERE key LIKE 'included:%' AND at_ms > ts + 86400000",
    "rolled over": "SELECT COUNT(*) FROM ledger_entries WHERE key LIKE 'rollover:%'",
    "lots expired": "SELECT COUNT(*) FROM ledger_entries WHERE kind = 'expiry' AND to_account = 'breakage'",
    "expired and used in time": "SELECT COUNT(*) FROM ledger_entries WHERE kind = 'expiry' AND amount_micro < 0",
    "allotments returned": "SELECT COUNT(*) FROM ledger_entries WHERE kind = 'expiry' AND to_account = 'wallet:kitty'",
    "tiers renewed": "SELECT COUNT(*) FROM ledger_entries WHERE kind = 'tier' AND actor = 'drawdown'",
    "tiers unpaid": "SELECT COUNT(*) FROM tier_holders WHERE ended_reason = 'no_credit'",
    "holds shrunk": "SELECT COUNT(*) FROM reservations WHERE settled_by = 'metering' AND drawn_micro > 0",
    "samples of runs": "SELECT COUNT(*) FROM run_samples",
    "paid by another": "SELECT COUNT(*) FROM reservations WHERE payer_number IS NOT NULL AND drawn_micro > 0",
    "written off": r"SELECT COUNT(*) FROM ledger_entries WHERE key LIKE 'run\:%\:-' ESCAPE '\'",
    "lines released": "SELECT COUNT(*) FROM payout_lines WHERE reversal IS NULL AND amount_micro > 0",
    "lines taken off": "SELECT COUNT(*) FROM payout_lines WHERE reversal IS NOT NULL",
}
HAPPENED: Final = (
    "month_turned", "called_again", "called_again_later", "died_before_commit", "lot_that_ends", "lot_for_later",
    "taken_back", "plan_changed", "tier_bought", "tier_ended", "allotted", "payer_named", "expired", "extended",
    "accepted_receipt_wallet", "accepted_metering_wallet", "accepted_remote_local", "accepted_remote_declared",
    "drawn_receipt", "drawn_remote", "settled_receipt", "settled_receipt_late", "released_receipt", "settled_metering",
    "settled_metering_late", "receipt_of_metered_refused", "settled_remote", "settled_remote_late", "released_remote",
    "used_by_metered", "owed", "reversed", "clawed_back", "frozen", "batch", "denied_no_credit",
    "denied_payer_not_allowed", "denied_sandbox_taken",
)  # fmt: skip
STRUCK: Final = (
    "crash_before_transaction", "crash_after_transaction", "crash_before_commit", "commit_answer_lost",
    "transaction_failed", "serialisation_failure", "paused_past_lease",
)  # fmt: skip
EXPECTED: Final = frozenset((*BOOKED, *STRUCK, *(f"shop_{kind}" for kind in HAPPENED)))


def booked(life: Life) -> dict[str, int]:
    """How often each of what workers do by themselves was done."""
    return {what: int(life.world.rows(text)[0][0]) for what, text in BOOKED.items()}


@pytest.mark.parametrize("first", FIRST)
def test_commerce_lives_match_answers_given_to_users(first: int) -> None:
    there = Counter[str]()
    for seed in lives(range(first, first + SEEDS), lambda: missing(EXPECTED, +there)):
        life, wrong = lived(seed, TICKS)
        assert wrong == [], f"seed {seed}"
        there.update(booked(life))
        there.update(life.world.faults.counts)
        life.world.close()
    assert missing(EXPECTED, +there) == set()


@pytest.mark.parametrize("bug", share(list(PLANTED)[:1], whole=list(PLANTED)))
def test_planted_bug_is_found(bug: str) -> None:
    plant, text = PLANTED[bug]
    seen: list[str] = []
    for seed in range(LOOKED):
        patches = Patches()
        with patches.kept():
            plant(patches)
            life, wrong = lived(seed, TICKS)
        life.world.close()
        if any(text in line for line in wrong if not line.startswith("verify:")):
            return
        seen += wrong[:3]
    raise AssertionError(f"{bug} was not seen in {LOOKED} lives: {seen}")
