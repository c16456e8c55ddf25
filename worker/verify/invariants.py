"""The invariants that `verify` proves, by their numbers. Guarantee: their names are those of docs/invariants.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

INVARIANTS: Final[Mapping[int, tuple[str, str]]] = {
    1: ("Conservation", "What is sealed and not voided is what the samples in force say, window by window."),
    2: ("Sent and carried", "Sent and carried add up to sealed; a key is accepted once; the ledger charged just that."),
    3: (
        "One biller",
        "A push's provider and customer are those assigned to its window; a customer is one's at a time.",
    ),
    4: ("Nothing moves back", "Watermark, floor and cursor never move back, but by a recover that is on record."),
    5: ("Nothing uncommitted is sent", "Each send is on record before it begins; key, quantity and body never change."),
    6: ("Doubt and voids", "A push in doubt is never sent again; a void has evidence; the audit's chain is whole."),
    7: ("Halts", "A sandbox of a halted organisation has a halt on its cell that is due or acknowledged."),
    8: ("Verdicts", "A projection never goes back in time."),
    9: (
        "Nothing is dropped",
        "Each sample is sealed, open, pending, exempt, withdrawn or below the floor; each event counts once.",
    ),
    10: ("Reserved credit and lots", "Holds, draws, lots, plans, tiers and pools add up, to the micro-credit."),
    11: (
        "Settlement",
        "Net is hold, eligible, frozen, released and reversed; nothing is released early, frozen or twice.",
    ),
    12: ("Top-ups", "What was paid for is credited once, and nothing is credited that was not paid."),
    13: ("Webhooks", "The product is told of nothing that is on no record; what was delivered was sent."),
    14: ("The guard", "A counter is the sum of its uses; what was within a limit was; a use is charged once."),
    15: ("What others count", "What cells and vendors count is on record as it was compared and imported."),
}
"""Each with its name and what it says, in a sentence."""
