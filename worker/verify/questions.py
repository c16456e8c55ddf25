"""List the statements of `verify` in their order.

Guarantee: each statement is in a file of this package, and does not share code with the statements that it proves.
"""

from pathlib import Path
from typing import Final

from drawdown.schema.sql import queries

_HERE: Final = Path(__file__)
USAGE: Final = queries(str(_HERE.with_name("usage.sql")))
PUSHES: Final = queries(str(_HERE.with_name("pushes.sql")))
LEDGER: Final = queries(str(_HERE.with_name("ledger.sql")))
CREDIT: Final = queries(str(_HERE.with_name("credit.sql")))
METERING: Final = queries(str(_HERE.with_name("metering.sql")))
PLANS: Final = queries(str(_HERE.with_name("plans.sql")))
GUARD: Final = queries(str(_HERE.with_name("guard.sql")))
POOLS: Final = queries(str(_HERE.with_name("pools.sql")))
SAID: Final = queries(str(_HERE.with_name("said.sql")))
SETTLEMENTS: Final = queries(str(_HERE.with_name("settlements.sql")))
TOPUPS: Final = queries(str(_HERE.with_name("topups.sql")))
HOOKS: Final = queries(str(_HERE.with_name("hooks.sql")))
DRIFT: Final = queries(str(_HERE.with_name("drift.sql")))
BATCHES: Final = queries(str(_HERE.with_name("batches.sql")))
EVENTS: Final = queries(str(_HERE.with_name("events.sql")))
STATE: Final = queries(str(_HERE.with_name("state.sql")))

STATEMENTS: Final = (
    (USAGE, ("usage",)),
    (PUSHES, ("carry", "state", "shadow", "key", "twice", "revisions")),
    (LEDGER, ("charged", "uncommitted", "mirrored", "undrawn", "given_back")),
    (PUSHES, ("adopted",)),
    (LEDGER, ("balance", "sides", "priced", "repriced", "granted", "ungranted")),
    (PUSHES, ("biller", "folded_biller", "assignments", "assignment_unrecorded")),
    (LEDGER, ("shared",)),
    (STATE, ("above", "pending_above", "floor", "floored", "folded_above", "refloored")),
    (STATE, ("watermark", "ahead", "cursor", "cursor_order", "beyond")),
    (
        PUSHES,
        ("attempt", "attempts", "resent", "unaccepted", "push_waits", "no_evidence", "void_of_nothing", "sent_void"),
    ),
    (
        CREDIT,
        ("held", "never_due", "held_long", "ended_unrecorded", "run_drawn", "run_entry", "unsettled", "above_hold"),
    ),
    (CREDIT, ("run_twice", "run_unbilled", "run_sample")),
    (
        CREDIT,
        ("lot_entry", "lotless", "lot_moved", "lot_beyond", "lots_sum", "lot_never_over", "lots_ended", "overdraft"),
    ),
    (CREDIT, ("over_wrong", "lot_left", "deferred_wrong")),
    (METERING, ("paid_twice", "metered_entry", "sandboxless", "sandbox_open", "sandbox_elsewhere")),
    (METERING, ("metered_beyond", "metered_uncharged")),
    (PLANS, ("period_missing", "first_missing", "period_twice", "period_otherwise", "rolled", "reduced_otherwise")),
    (PLANS, ("plan_unrecorded", "plan_never_due", "tier_entry", "tier_holder")),
    (POOLS, ("allotted_otherwise", "allotted_unrecorded", "returned_otherwise", "pool_never_due")),
    (POOLS, ("payer_unallowed", "pool_billed", "payer_limit")),
    (
        SETTLEMENTS,
        ("no_settlement", "settles_nothing", "gross", "share", "settled_otherwise", "over_reversed", "clawed_back"),
    ),
    (
        SETTLEMENTS,
        (
            "released_early",
            "released_frozen",
            "released_amount",
            "released_twice",
            "payout_line_supplier",
            "payout_total",
        ),
    ),
    (SAID, ("lot_unrecorded", "acts")),
    (TOPUPS, ("uncredited", "unpaid", "two_open", "named", "cost", "paid_otherwise", "paid_again")),
    (TOPUPS, ("capped", "calls", "topup_waits", "uncalled")),
    (HOOKS, ("message_without_fact", "delivery_waits", "undelivered")),
    (EVENTS, ("sampleless", "event_otherwise", "eventless", "backfilled_otherwise", "backfill_unreverted")),
    (BATCHES, ("batch_otherwise", "file_otherwise", "batchless", "batch_unwithdrawn")),
    (GUARD, ("guard_counter", "guard_number", "guard_beyond", "guard_charged", "guard_price", "guard_unrecorded")),
    (GUARD, ("billed_twice",)),
    (DRIFT, ("parity_sum", "parity_line", "parity_stray")),
    (DRIFT, ("bill_unimported", "bill_unfinal", "imports_gap", "import_otherwise", "units_unrecorded")),
    (STATE, ("swept_ahead", "stopped_unrecorded", "halt_waits", "read_waits")),
    (STATE, ("no_halt", "half_halted", "halted_never", "verdict_regressed", "verdict", "verdict_unrecorded")),
)
"""All statements of `verify`.

`usage` also returns one row with the counts of examined rows.
"""

CHECKED: Final = {
    "pushes": True,
    "attempts": True,
    "entries": False,
    "settlements": False,
    "actions": False,
    "projections": True,
}
"""Counts of checked rows besides samples and windows.

They show that a clean run read rows.

The value is True if the count can be limited to the chosen organisations.
"""
OPEN: Final = ("dirty_windows", "stopped_orgs")
"""Counts of known, unsettled rows, besides samples after the cursor."""
