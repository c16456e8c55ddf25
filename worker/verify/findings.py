"""The words of what `verify` finds, and the invariants it proves, by their numbers and the names of docs/invariants.md.

Guarantee: each breach that a statement may answer has its invariant and its words here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FINDINGS: Final[dict[str, tuple[int, str]]] = {
    "vanished": (1, "sealed {n2}, and all samples there ever were come to {n1}: some are gone"),
    "unbilled_usage": (1, "samples in force {n1}, sealed {n2}"),
    "mapping_unrecorded": (1, "{thing} is {kept}; on record is {said}"),
    "carry": (2, "sealed {sealed}, sent {sent}, carried {carry} at {provider} as {customer_id}"),
    "state": (2, "{key} is {state} and sends {sent_qty}: carried means that nothing is sent, and only that"),
    "shadow": (2, "{key} is in shadow, which ends at {live_from_ms}: it is never sent"),
    "key": (2, "the key {key} is not the one of its push, {wanted}"),
    "twice": (2, "{pushes} accepted pushes have the key {key}"),
    "revisions": (2, "{pushes} revisions up to number {highest}: some are missing"),
    "not_charged": (2, "{key} is accepted and the ledger has no entry of it"),
    "charged_otherwise": (
        2,
        "{key} says {sent_qty} of {customer_id}; the ledger charged {quantity} to {from_account}, "
        "for {to_account} at {ts}",
    ),
    "mirrored": (2, "{key} is {state} and sends {sent_qty}; its customer's wallet was drawn on for {quantity}"),
    "undrawn": (2, "{key} is accepted, and the wallet of {customer_id} was not drawn on for it"),
    "mirrored_otherwise": (2, "{key} says {sent_qty} of {customer_id}; a wallet's entries of it say something else"),
    "mirrored_elsewhere": (5, "a wallet was drawn on for {key}, and {provider} keeps its balances elsewhere"),
    "given_back": (2, "{key} moved {amount_micro} where {drawn} had been drawn"),
    "mirrored_nothing": (5, "a wallet was drawn on for {key}, and there is no such push"),
    "adopted": (6, "{key} was adopted with evidence, and is {state} after {attempts} attempts"),
    "booked_otherwise": (
        2,
        "{key} was sealed at {sealed_at_ms} and settled at {settled_ms}; the ledger charged it at {at_ms}",
    ),
    "booked_early": (2, "the ledger charged {key} at {at_ms}, for what was used at {ts}"),
    "charged_in_vain": (2, "{key} is {state} and the ledger charged {quantity} for it"),
    "balance": (2, "the account {account_id} keeps {kept}, its lines sum to {lines}"),
    "sides": (2, "the ledger moves {key} from {from_account} to {to_account}: no wallet pays so"),
    "priced": (2, "the ledger charged {amount_micro} for {quantity} under {key}: no rate of the feature makes that"),
    "repriced": (
        2,
        "{from_account} was charged by the rate from {first_ms} on, and by the one from {other_ms} on, in one window",
    ),
    "rate_unrecorded": (2, "{thing} is {kept}; on record is {said}"),
    "granted": (
        2,
        "{said} to {said_account} were granted as {key}; the ledger has {amount_micro} to {to_account}, "
        "from {from_account}",
    ),
    "ungranted": (2, "the ledger has {amount_micro} to {to_account} as {key}, and no grant of it is on record"),
    "biller": (3, "{key} is billed by {provider} as {customer_id}; assigned: {assigned}"),
    "folded_biller": (3, "{pushes} folded pushes of that day are of {customer_id} at {provider}, not assigned then"),
    "assigned_twice": (3, "the assignment from {start_ms} ends at {end_ms}, the next one starts at {next_ms}"),
    "assigned_never": (3, "nothing is assigned between {end_ms} and {next_ms}"),
    "assignment_unrecorded": (
        3,
        "from {start_ms} on it is {provider} as {customer_id}; on record is {said} as {customer}",
    ),
    "shared": (3, "the customer {customer_id} at {provider} belongs to {other} in the same windows"),
    "shared_wallet": (
        3,
        "it draws on the wallet of {customer_id} at {provider}, as {other} does at {elsewhere} in the same windows",
    ),
    "above": (4, "{key} is sealed, and the watermark is {watermark_ms}"),
    "pending_above": (4, "{memory_mb} MB is pending, and the watermark is {watermark_ms}"),
    "floor": (4, "the floor {floor_ms} lies above the watermark {watermark_ms}"),
    "floored": (4, "the floor is {floor_ms}, and nothing was ever pruned above {pruned_ms}"),
    "folded_above": (
        4,
        "{pushes} pushes of that day were folded; the floor is {floor_ms}, and what was folded lies before {folded_ms}",
    ),
    "refloored": (4, "the sample {sample_id} came below the floor once; now the floor is {floor_ms}"),
    "watermark": (4, "bucket {bucket} was sealed up to {had}; now its watermark is {has}"),
    "ahead": (4, "the watermark of bucket {bucket} is {has}, and no seal ever came further than {had}"),
    "cursor": (4, "the cursor of bucket {bucket} had come to {had}; now it is {has}"),
    "cursor_order": (4, "seal {seal_id} of buckets {bucket_lo}..{bucket_hi} moved the cursor from {had} to {has}"),
    "beyond": (4, "the cursor of bucket {bucket} is {has}; the database has counted up to {newest} only"),
    "no_push": (5, "attempt {attempt} is of a push that is not there"),
    "other_bytes": (5, "attempt {attempt} sent {sent}, the push says {sent_qty}"),
    "sent_carried": (5, "attempt {attempt} of a push that sends nothing"),
    "numbers": (5, "{key} counts {attempts} attempts; on record are {tries}, numbered {lowest} to {highest}"),
    "early": (5, "{key} was sealed at {sealed_at_ms} and sent before, at {first_ms}"),
    "unaccepted": (5, "{key} is {state}, and attempt {attempt} of it was accepted at {finished_ms}"),
    "push_waits": (5, "{key} is {state} and waits until {due_at_ms}; now is {moment_ms}"),
    "halt_waits": (7, "the halt at {cell_id} waits until {due_at_ms}; now is {moment_ms}"),
    "read_waits": (8, "its customer is read again at {projection_due_ms}; now is {moment_ms}"),
    "delivery_waits": (13, "{message_id} is sent to {endpoint} at {due_at_ms}; now is {moment_ms}"),
    "topup_waits": (12, "{topup} is {state} and waits until {due_at_ms}; now is {moment_ms}"),
    "swept_ahead": (
        4,
        "the sweep of bucket {bucket} began at {sweep_began_ms} and came to {sweep_next_ms}; its watermark is "
        "{watermark_ms}",
    ),
    "stopped_unrecorded": (4, "it is stopped since {stopped_at_ms}, and no action says so"),
    "unstopped": (4, "{action} of {at_ms} is the last action about its stop, and it is not stopped"),
    "held_long": (10, "{reservation} holds credit until {expires_ms}; now is {moment_ms}"),
    "ended_unrecorded": (10, "{reservation} is {state} since {ended_ms}, and nothing says who ended it and why"),
    "settled_otherwise": (11, "{reservation} is settled at {settled_ms}; its receipt was written at {at_ms}"),
    "topup_paid": (
        12,
        "{topup} asked for {money_minor} {currency}; its payment {payment_id} is booked as: {booked}",
    ),
    "unproven": (5, "{key} is {state}, and no attempt or person settled it"),
    "charged_unsent": (5, "the ledger charged {quantity} for {key}, which was never sent"),
    "uncommitted": (5, "the ledger charged {quantity} for {key}; no such push was committed"),
    "folded_otherwise": (
        2,
        "{pushes} folded pushes of that day sent {sent}; the ledger charged {quantity} to {key} for no other push, in "
        "{entries} entries",
    ),
    "resent": (6, "{key} was sent again (at {started_ms}), after it went in doubt (at {doubt_ms})"),
    "no_evidence": (6, "{key} is voided without evidence"),
    "not_voided": (6, "{key} has a void and is {state}"),
    "void_of_nothing": (6, "revision {revision} has a void and is not there"),
    "sent_void": (6, "{key} was sent (at {started_ms}), after it was voided (at {at_ms})"),
    "no_halt": (7, "halted at {halted_at}: cell {cell_id} has sandboxes and no halt is due or acknowledged"),
    "half_halted": (7, "is_halted is {is_halted}, halted_at is {halted_at}"),
    "halted_never": (7, "cell {cell_id} acknowledged a halt of {halted_at}; the organisation was not halted then"),
    "verdict_regressed": (8, "projection {projection_id} was read at {read_ms}, the one before it at {before_ms}"),
    "older": (8, "the organisation's projection is of {projection_read_ms}, its newest one of {read_ms}"),
    "verdict": (8, "is_halted is {is_halted}, its newest projection says {said}"),
    "verdict_otherwise": (
        8,
        "the reason is {halt_reason} and the limit {most}; its newest projection says {reason} and {said_most}",
    ),
    "verdict_repeated": (8, "projection {projection_id} says the same as the one before it"),
    "verdict_unrecorded": (8, "is_halted is {is_halted} ({halt_reason}), and it has no projection"),
    "pending": (9, "{n1} MB: used and not sealable {n2} s in {n3} samples ({t1}), pending {n4} s in {n5} ({t2})"),
    "held": (10, "{account_id} keeps {kept} held; its reservations have {parts} left"),
    "never_due": (10, "{reservation} expires at {expires_ms}, and its wallet knows of nothing before {next_due_ms}"),
    "run_drawn": (10, "{reservation} has drawn {drawn_micro}, its entries sum to {lines}"),
    "run_entry": (10, "{key} is drawn from {from_account} for {reservation}, which is a run of {customer_id}"),
    "run_entry_early": (10, "{key} was written at {at_ms}, and {reservation} was accepted at {accepted_ms}"),
    "no_receipt": (10, "{reservation} is settled, and no entry says with what"),
    "receipt": (10, "{reservation} is {state}, and an entry says that it ended"),
    "run_twice": (10, "{reservation} is held as {hold}, and was billed in both ways, or in the other one"),
    "run_unbilled": (10, "{number} of {reservation} used {said}; its samples come to {billed}"),
    "run_sample": (10, "{sample_id} bills a part of {reservation}, and is not there as it was noted"),
    "above_hold": (10, "{reservation} drew {drawn_micro} of {amount_micro}, and was to {overage} what is above"),
    "paid_twice": (
        10,
        "{sandbox_id} was metered for {seconds} s from {first_ms} on, while {reservation}, whose receipt charges for "
        "it, went on",
    ),
    "metered_entry": (10, "{key} charges {amount_micro} for {reservation}, which metering charges for"),
    "sandboxless": (10, "metering charges for {reservation}, which names no sandbox"),
    "sandbox_open": (10, "{sandbox_id} is {said}, and {reservation}, which names it, is {state}"),
    "sandbox_elsewhere": (10, "{sandbox_id} is named by {reservation} as a sandbox of {named_org_id}"),
    "metered_beyond": (
        10,
        "the hold of {reservation} shrank by {drawn_micro}; the samples of its sandboxes come to {most}",
    ),
    "metered_uncharged": (
        10,
        "the hold of {reservation} shrank by {drawn_micro}; metering charged its wallet {charged}",
    ),
    "lot_unbegun": (10, "{lot} has no entry, and begins at {begins_ms}; its wallet falls due at {next_due_ms}"),
    "lot_early": (10, "{lot} begins at {begins_ms}, and was put into {to_account} at {at_ms}"),
    "lot_booked": (10, "{lot} was given at {given_ms}, and was put into {to_account} at {at_ms}"),
    "lot_otherwise": (10, "{lot} is {said} of {customer_id}; its entry is {amount_micro} to {to_account}"),
    "lotless": (10, "{amount_micro} were given to {to_account} as {key}, and there is no such lot"),
    "expired_early": (10, "{lot} ends at {expires_ms}, and expired before, at {at_ms}"),
    "lot_elsewhere": (10, "{key} moves {from_account} to {to_account} for {lot}, which is of {known}"),
    "lot_beyond": (10, "{lot} is {said}; of it {expired} expired and {taken} were taken back"),
    "lots_sum": (
        10,
        "{account_id} was given {given} in lots; it keeps {kept}, consumed {consumed}, {expired} expired, {taken} were "
        "taken back",
    ),
    "lot_never_over": (10, "{lot} expires at {expires_ms}, and its wallet falls due at {next_due_ms}"),
    "lots_ended": (
        10,
        "the lots of {account_id} were looked at as of {moment_ms}: none of them was over then",
    ),
    "lots_over": (
        10,
        "lots of {account_id} were booked up to {lots_ended_ms}, and it knows of {lots_over_ms} as the last end",
    ),
    "overdraft": (10, "{account_id} may be overdrawn by {overdraft_micro}, and nobody can have said so"),
    "credit_unrecorded": (10, "{thing} is {kept}; on record is {said}"),
    "over_wrong": (10, "{account_id} has {over_micro} left of lots that are over; it can be {least} to {most}"),
    "lot_left": (10, "{lot} is over and booked, and {rest} of it stay in {account_id}: {used} can have been used"),
    "deferred_wrong": (
        10,
        "{deferred_micro} wait to expire in {account_id}; {rest} are left of lots that are over, and {held_micro} held",
    ),
    "period_missing": (10, "{plan} included credit for {period}, and {customer_id}, who was on it, was given none"),
    "first_missing": (10, "{plan} gave new customers credit, and {customer_id}, on it from {since_ms}, got none"),
    "period_twice": (10, "{customer_id} was given {lots} lots for {period} on {plan}"),
    "period_otherwise": (
        10,
        "{lot} is {amount_micro} of {customer_id} from {begins_ms} to {expires_ms}; the plan {plan} gave no such lot",
    ),
    "rolled_short": (
        10,
        "of {period} {expired} expired for {customer_id}, and {rolled} rolled over: {wanted} should have",
    ),
    "rolled_beyond": (10, "of {period} {rolled} rolled over for {customer_id}; the plan lets {allowed}"),
    "reduced_otherwise": (10, "{key} takes {amount_micro} of {lot}, which did not roll over"),
    "plan_unrecorded": (10, "the wallet of {customer_id} is on the plan {plan}; on record is {said}"),
    "plan_never_due": (10, "the wallet of {customer_id} is on the plan {plan}, and falls due at {next_due_ms}"),
    "tier_entry": (10, "{amount_micro} were charged to {from_account} as {key}, and it has no such tier"),
    "tier_unpaid": (10, "{customer_id} has the tier {tier} until {paid_to_ms}, and nothing was charged for it"),
    "tier_never_due": (10, "{customer_id} has paid {tier} until {paid_to_ms}; its wallet falls due at {next_due_ms}"),
    "allotted_otherwise": (10, "{key} moves {amount_micro} from {from_account} to {to_account}; its lot is of {pool}"),
    "allotted_unrecorded": (
        10,
        "{lot} is {amount_micro} of {pool} for {customer_id}; on record are {said} of {said_pool} for {said_customer}",
    ),
    "returned_otherwise": (
        10,
        "{lot} was {said}, and {returned} came back to {pool}: {gone} were used, and can have been {least} to {most}",
    ),
    "pool_never_due": (10, "{lot} comes back after {expires_ms}, and the wallet of {pool} falls due at {next_due_ms}"),
    "pool_billed": (3, "from {start_ms} on it is billed by {provider} as {customer_id}, which is a pool"),
    "payer_unallowed": (10, "{reservation} is paid by {customer_id}, who did not pay for {org_id} at {accepted_ms}"),
    "payer_limit": (10, "{payer} pays {limit_micro}, and runs were accepted for {accepted}"),
    "settlement_unrecorded": (11, "{thing} is {kept}; on record is {said}"),
    "no_settlement": (11, "{reservation} is {state}, and nothing says what {supplier} is owed for it"),
    "settles_nothing": (
        11,
        "{reservation} is settled with {supplier} at {settled_ms}; it is {state}, and a run of {its}",
    ),
    "gross": (11, "{reservation} is settled for {gross_micro}, its entries sum to {charged}"),
    "share": (11, "{reservation} owes {net_micro} of {gross_micro} at {share_ppm} ppm; its terms make that {wanted}"),
    "over_reversed": (11, "{taken} were taken back of {reservation}, which owed {net_micro}"),
    "clawed_back": (11, "{reversal} claws back {amount_micro} of {reservation}, which was not released, or for good"),
    "released_early": (11, "{reservation} is held until {hold_until_ms}, and {payout} released it at {at_ms}"),
    "released_frozen": (11, "{reservation} was frozen from {from_ms}, and {payout} released it at {at_ms}"),
    "released_amount": (11, "{line} of {payout} is {amount_micro}, and {wanted} were left"),
    "released_twice": (11, "{lines} lines of payouts are of the same part of {reservation}"),
    "payout_line_supplier": (11, "{line} is of {payout}, which is not a payout of {supplier}"),
    "payout_total": (
        11,
        "{payout} comes to {total_micro}, {released_micro} released and {carried_micro} taken off; its lines come to "
        "{released} and {carried}, and were to be more than {threshold}",
    ),
    "uncredited": (
        12,
        "{topup} was paid for {credits_micro} to {customer_id}; the ledger has {amount_micro} to {to_account} for it",
    ),
    "unpaid": (12, "the ledger has {amount_micro} to {to_account} as {key}, and no such top-up was paid: {state}"),
    "two_open": (12, "{topups} top-ups of {customer_id} are open at once"),
    "topup_named": (12, "{topup} is called otherwise than episode {episode} of {customer_id}"),
    "topup_cost": (12, "{topup} asks {money_minor} for {credits_micro} at {price_minor} a credit"),
    "topup_cap": (
        12,
        "{topup} is number {day} of a day and {month} of 30; its terms allowed {max_day} and {max_month}",
    ),
    "topup_calls": (12, "{topup} counts {attempts} calls; on record are {tries}"),
    "topup_uncalled": (12, "{topup} is {state}, and was never called"),
    "topup_unrecorded": (12, "{thing} is {kept}; on record is {said}"),
    "message_without_fact": (13, "{message_id} tells of {fact}, which is on no record"),
    "undelivered": (13, "{message_id} is {state} at {endpoint} after {attempts} calls and {failures} failures"),
    "sampleless": (9, "the event {event_id} of {source} has no sample, so that nothing bills it"),
    "event_otherwise": (
        9,
        "the event {event_id} of {source} says {quantity} of {event_type}; its sample says {its_quantity} of the meter "
        "{its_meter} for {its_org}, or another moment",
    ),
    "backfilled_otherwise": (
        9,
        "the event {event_id} of {source} went in by {backfill}, and is not there as it was staged",
    ),
    "backfill_unrecorded": (9, "{thing} is {kept}; on record is {said}"),
    "backfill_unreverted": (9, "{backfill} was reverted, and the event {event_id} of {source} still counts"),
    "batch_otherwise": (
        9,
        "{name} ({batch}) put in {samples} samples that come to {total}; there are {its_samples}, of {its_total}",
    ),
    "file_otherwise": (9, "{name} ({batch}) is not both a batch and a file that was taken"),
    "batchless": (9, "{sample_id} is of a batch that nobody took"),
    "batch_unwithdrawn": (9, "{name} was withdrawn, and {sample_id} still counts"),
    "eventless": (9, "{sample_id} counts units of the meter {meter}, and no event says so"),
    "stranger": (9, "{n1} samples of an organisation that has no row with a bucket"),
    "guard_counter": (
        14,
        "the counter of {metric} for the {period} from {start_ms} says {kept} in {kept_uses} uses; they come to "
        "{amount} in {uses}",
    ),
    "guard_number": (14, "{uses} uses of {metric} in the month from {month_ms} are numbered up to {highest}"),
    "guard_beyond": (14, "{use_key} was within {limit_amount} of {metric} a {limit_period}, and it came to {came_to}"),
    "guard_charged": (
        14,
        "{use_key} is {state} and was charged {charged_micro}; its run is {run_state} and has drawn {drawn_micro} "
        "(used at {at_ms}, accepted at {accepted_ms})",
    ),
    "guard_price": (
        14,
        "{use_key} used {amount} at {price_micro} for {per_units}; {charged_micro} were charged, {forgone_micro} "
        "let go",
    ),
    "billed_twice": (
        14,
        "{use_key} was charged {charged_micro} for {counts} as {metric}, and {sealed} were sealed as {feature}",
    ),
    "guard_unrecorded": (14, "{thing} is {kept}; on record is {said}"),
    "parity_sum": (
        15,
        "{cell_id} on the day of {day_ms} is {ours_s} here and {theirs_s} there, {withdrawn_s} withdrawn, {off_s} "
        "apart ({ppm} ppm); its organisations come to {ours}, {theirs}, {withdrawn}, {off}",
    ),
    "parity_line": (
        15,
        "{its_org} at {cell_id} on the day of {day_ms} is {ours_s} here and {theirs_s} there, {off_s} apart ({ppm} "
        "ppm): that is not {verdict}",
    ),
    "parity_stray": (
        15,
        "{its_org} at {cell_id} on the day of {day_ms} was compared at {at_ms}; the whole cell's day at {checked_ms}",
    ),
    "bill_unimported": (
        15,
        "{vendor} billed {service} for the day of {day_ms} in file {number}, which nobody imported",
    ),
    "bill_unfinal": (15, "the bill of {vendor} for the day of {day_ms} was final, and file {number} is not"),
    "imports_gap": (15, "{files} files of bills are numbered up to {highest}"),
    "import_otherwise": (15, "{thing} is {kept}; on record is {said}"),
    "units_unrecorded": (15, "{thing} is {kept}; on record is {said}"),
}
"""The invariant that each is a breach of, and its words, with the row's numbers."""


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
