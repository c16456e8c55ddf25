"""The messages of `verify`, and the invariants that it proves.

Their numbers and names are those of docs/invariants.md.

Guarantee: each breach that a statement may return has its invariant and its message here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

FINDINGS: Final[dict[str, tuple[int, str]]] = {
    "missing_samples": (1, "pushes sealed {n2}, but all samples ever received sum to {n1}, so samples are missing"),
    "unbilled_usage": (1, "samples in force sum to {n1}, but pushes sealed {n2}"),
    "mapping_audit_mismatch": (1, "{thing} is {kept}, but the audit log has {said}"),
    "carry_sum": (
        2,
        "for {customer_id} at {provider}, sealed {sealed} is not the sum of sent {sent} and carried {carry}",
    ),
    "push_state": (
        2,
        "{key} is {state} and sends {sent_qty}. A push must be carried if and only if it sends 0, and a "
        "shadow push must not be sent",
    ),
    "shadow_after_end": (
        2,
        "{key} is a shadow push, but the shadow of its provider ends at {live_from_ms}, so its usage is never sent",
    ),
    "push_key": (2, "the key {key} does not match its push: expected {wanted}"),
    "duplicate_acceptance": (2, "{pushes} accepted pushes have the key {key}"),
    "revision_gap": (2, "revisions are missing: found {pushes}, numbered from 0 up to {highest}"),
    "missing_charge": (2, "{key} is accepted, but the ledger does not have an entry for it"),
    "charge_mismatch": (
        2,
        "{key} bills {sent_qty} to {customer_id}, but the ledger charged {quantity} to {from_account} for "
        "{to_account} at {ts}",
    ),
    "unexpected_wallet_charge": (
        2,
        "{key} is {state} and sends {sent_qty}, but its customer's wallet was charged for {quantity}",
    ),
    "missing_wallet_charge": (2, "{key} is accepted, but the wallet of {customer_id} was not charged for it"),
    "wallet_charge_mismatch": (
        2,
        "{key} bills {sent_qty} to {customer_id}, but the wallet entries for it differ in account, "
        "feature, quantity or time",
    ),
    "external_wallet_charge": (
        5,
        "a wallet was charged for {key}, but {provider} does not keep its balances in the ledger",
    ),
    "refund_mismatch": (2, "the refund {key} moved {amount_micro}, but the charge was {drawn}"),
    "wallet_charge_without_push": (5, "a wallet was charged for {key}, but that push does not exist"),
    "adoption_state": (
        6,
        "{key} was adopted, but is {state} (attempts: {attempts}): expected evidence, 0 attempts, and "
        "the state accepted, rejected or voided",
    ),
    "charge_time": (
        2,
        "{key} was sealed at {sealed_at_ms} and settled at {settled_ms}, but the ledger charged it at {at_ms}",
    ),
    "charge_before_usage": (2, "the ledger charged {key} at {at_ms}, before its usage at {ts}"),
    "charge_of_unaccepted_push": (2, "{key} is {state}, but the ledger charged {quantity} for it"),
    "balance_sum": (2, "the balance of {account_id} is {kept}, but its entries sum to {lines}"),
    "entry_accounts": (
        2,
        "the entry {key} moves credit from {from_account} to {to_account}, which its kind does not allow",
    ),
    "charge_rate": (
        2,
        "the ledger charged {amount_micro} for {quantity} as {key}, which does not match a rate of the feature",
    ),
    "rate_change_in_window": (
        2,
        "{from_account} was charged at two rates in one window: the rate from {first_ms} on and the rate "
        "from {other_ms} on",
    ),
    "rate_audit_mismatch": (2, "{thing} is {kept}, but the audit log has {said}"),
    "grant_mismatch": (
        2,
        "the audit log has a grant of {said} to {said_account} as {key}, but the ledger has {amount_micro} "
        "to {to_account}, from {from_account}",
    ),
    "unaudited_grant": (
        2,
        "the ledger has {amount_micro} to {to_account} as {key}, but the audit log does not have this grant",
    ),
    "push_biller": (
        3,
        "{key} is billed by {provider} as {customer_id}, but the assignment of its window is {assigned}",
    ),
    "folded_biller": (
        3,
        "the daily sums of `push fold` (pushes: {pushes}) bill {customer_id} at {provider}, but that customer was not "
        "assigned then",
    ),
    "assignment_overlap": (
        3,
        "the assignment from {start_ms} on ends at {end_ms}, but the next one starts at {next_ms}",
    ),
    "assignment_gap": (3, "the organisation does not have an assignment between {end_ms} and {next_ms}"),
    "assignment_audit_mismatch": (
        3,
        "the assignment from {start_ms} on is {provider} as {customer_id}, but the audit log has {said} as {customer}",
    ),
    "shared_customer": (3, "the customer {customer_id} at {provider} also belongs to {other} in the same windows"),
    "shared_wallet": (
        3,
        "the organisation uses the wallet of {customer_id} at {provider}, and {other} uses it at "
        "{elsewhere} in the same windows",
    ),
    "push_above_watermark": (4, "{key} is sealed, but its window is not below the watermark {watermark_ms}"),
    "pending_above_watermark": (
        4,
        "usage of {memory_mb} MB is pending, but its window is not below the watermark {watermark_ms}",
    ),
    "floor_above_watermark": (4, "the floor {floor_ms} is above the watermark {watermark_ms}"),
    "floor_audit_mismatch": (4, "the floor is {floor_ms}, but the highest prune in the audit log is {pruned_ms}"),
    "fold_above_floor": (
        4,
        "`push fold` replaced pushes of the day ({pushes}), but the floor is {floor_ms}, and the audit log allows "
        "folds only before {folded_ms}",
    ),
    "floor_regression": (
        4,
        "the sample {sample_id} arrived below the floor, but the floor is now lower, at {floor_ms}",
    ),
    "watermark_regression": (4, "bucket {bucket} was sealed up to {had}, but its watermark is now {has}"),
    "watermark_ahead": (4, "the watermark of bucket {bucket} is {has}, but its furthest seal reached {had}"),
    "cursor_regression": (4, "the cursor of bucket {bucket} had reached {had}, but it is now {has}"),
    "cursor_order": (
        4,
        "seal {seal_id} of buckets {bucket_lo} to {bucket_hi} moved the cursor back from {had} to {has}",
    ),
    "cursor_ahead": (4, "the cursor of bucket {bucket} is {has}, but the database has counted only up to {newest}"),
    "attempt_without_push": (5, "attempt {attempt} belongs to a push that does not exist"),
    "attempt_quantity": (5, "attempt {attempt} sent {sent}, but the quantity of its push is {sent_qty}"),
    "attempt_of_carried_push": (5, "attempt {attempt} sent a carried push, which must not be sent"),
    "attempt_numbers": (
        5,
        "the attempts of {key} do not match: counted {attempts}, on record {tries}, numbered {lowest} to {highest}",
    ),
    "attempt_before_seal": (5, "{key} was sealed at {sealed_at_ms}, but was first sent before that, at {first_ms}"),
    "unstored_acceptance": (5, "{key} is {state}, but its attempt {attempt} was accepted at {finished_ms}"),
    "push_wait": (
        5,
        "{key} is {state} and waits until {due_at_ms}, beyond the limit from now ({moment_ms}): 2 days in the state "
        "due, 40 days otherwise",
    ),
    "halt_wait": (
        7,
        "the next try of the halt at cell {cell_id} is due at {due_at_ms}, more than 1 day from now ({moment_ms})",
    ),
    "read_wait": (
        8,
        "the next read of the customer is due at {projection_due_ms}, more than 2 days from now ({moment_ms})",
    ),
    "delivery_wait": (
        13,
        "the next delivery of {message_id} to {endpoint} is due at {due_at_ms}, more than 2 days from now "
        "({moment_ms})",
    ),
    "topup_wait": (
        12,
        "{topup} is {state}, and its next try is due at {due_at_ms}, more than 2 days from now ({moment_ms})",
    ),
    "sweep_ahead": (
        4,
        "the sweep of bucket {bucket} began at {sweep_began_ms} and reached {sweep_next_ms}, which is ahead of "
        "the clock or of the watermark {watermark_ms}",
    ),
    "stop_audit_mismatch": (
        4,
        "the organisation has been stopped since {stopped_at_ms}, but the last action in the audit log is not its stop",
    ),
    "resume_audit_mismatch": (
        4,
        "the organisation is not stopped, but its last stop or resume in the audit log is {action} at {at_ms}",
    ),
    "reservation_length": (
        10,
        "{reservation} holds credit until {expires_ms}, more than 31 days from now ({moment_ms})",
    ),
    "reservation_end": (
        10,
        "{reservation} has been {state} since {ended_ms}, but the actor or the reason of its end is not recorded",
    ),
    "receipt_time": (11, "{reservation} was settled at {settled_ms}, but its receipt was written at {at_ms}"),
    "topup_payment": (
        12,
        "{topup} requested {money_minor} {currency}, but its payment {payment_id} is booked as: {booked}",
    ),
    "push_without_proof": (5, "{key} is {state}, but neither an attempt nor a person settled it"),
    "charge_of_unsent_push": (5, "the ledger charged {quantity} for {key}, but the push was never sent"),
    "charge_without_push": (5, "the ledger charged {quantity} for {key}, but that push does not exist"),
    "fold_charge_mismatch": (
        2,
        "the daily sums of `push fold` (pushes: {pushes}) sent {sent}, but the ledger charged {quantity} to {key} in "
        "entries without a push ({entries})",
    ),
    "send_in_doubt": (6, "{key} was sent again at {started_ms}, after it went in doubt at {doubt_ms}"),
    "void_without_evidence": (6, "{key} is voided without evidence"),
    "void_state": (6, "{key} has a void, but is {state}"),
    "void_without_push": (6, "a void names revision {revision}, which does not exist"),
    "send_after_void": (6, "{key} was sent at {started_ms}, after it was voided at {at_ms}"),
    "missing_halt": (
        7,
        "the organisation was halted at {halted_at}, but cell {cell_id} has its sandboxes, and neither a due nor an "
        "acknowledged halt",
    ),
    "halt_time": (7, "is_halted is {is_halted}, but halted_at is {halted_at}"),
    "halt_without_verdict": (
        7,
        "cell {cell_id} acknowledged a halt of {halted_at}, but the organisation was not halted then",
    ),
    "verdict_regressed": (
        8,
        "projection {projection_id} was read at {read_ms}, but the previous projection at {before_ms}",
    ),
    "projection_time": (
        8,
        "the organisation's projection was read at {projection_read_ms}, but its newest projection at {read_ms}",
    ),
    "verdict_state": (8, "is_halted is {is_halted}, but the newest projection has {said}"),
    "verdict_reason": (
        8,
        "the halt reason is {halt_reason} and the limit {most}, but the newest projection has {reason} and {said_most}",
    ),
    "duplicate_projection": (8, "projection {projection_id} repeats the previous one"),
    "verdict_without_projection": (
        8,
        "is_halted is {is_halted} ({halt_reason}), but the organisation does not have a projection",
    ),
    "pending_usage_sum": (
        9,
        "usage of {n1} MB that cannot be sealed is {n2} s (samples: {n3}, reason: {t1}), but the pending usage on "
        "record is {n4} s (samples: {n5}, reason: {t2})",
    ),
    "reserved_sum": (10, "{account_id} has {kept} reserved, but the rest of its reservations sums to {parts}"),
    "reservation_due_time": (10, "{reservation} expires at {expires_ms}, but its wallet is next due at {next_due_ms}"),
    "reservation_draw_sum": (10, "{reservation} has drawn {drawn_micro}, but its entries sum to {lines}"),
    "execution_entry": (
        10,
        "the entry {key}, from {from_account}, does not match its execution {reservation} of {customer_id}",
    ),
    "execution_entry_time": (10, "{key} was written at {at_ms}, but {reservation} was accepted at {accepted_ms}"),
    "missing_receipt": (10, "{reservation} is settled, but does not have a receipt"),
    "unexpected_receipt": (10, "{reservation} is {state}, but has a receipt"),
    "execution_double_billing": (
        10,
        "the credit of {reservation} is reserved as {hold}, but the execution was also billed in another way",
    ),
    "execution_usage_sum": (10, "charge {number} of {reservation} used {said}, but its samples sum to {billed}"),
    "execution_sample": (
        10,
        "{sample_id} bills a part of {reservation}, but the sample is missing or differs from the record",
    ),
    "draw_above_reservation": (
        10,
        "{reservation} drew {drawn_micro} of {amount_micro}, which its overage {overage} does not allow",
    ),
    "sandbox_double_billing": (
        10,
        "{sandbox_id} was metered for {seconds} s from {first_ms} on, but the receipt of {reservation} "
        "charges for it, too",
    ),
    "metered_execution_entry": (10, "{key} charges {amount_micro} for {reservation}, but metering charges for it, too"),
    "metered_execution_without_sandbox": (
        10,
        "metering charges for {reservation}, but the execution does not name a sandbox",
    ),
    "sandbox_state": (10, "{sandbox_id} is {said}, but {reservation}, which names it, is {state}"),
    "sandbox_of_other_org": (
        10,
        "{reservation} names {sandbox_id} as a sandbox of another organisation, {named_org_id}",
    ),
    "metered_draw_limit": (
        10,
        "the reserved credit of {reservation} shrank by {drawn_micro}, but the samples of its sandboxes cost at "
        "most {most}",
    ),
    "metered_draw_sum": (
        10,
        "the reserved credit of {reservation} shrank by {drawn_micro}, but metering charged its wallet {charged}",
    ),
    "lot_begin_due_time": (
        10,
        "{lot} begins at {begins_ms} and has no entry, but its wallet is next due at {next_due_ms}",
    ),
    "lot_entry_before_begin": (10, "{lot} begins at {begins_ms}, but was added to {to_account} at {at_ms}"),
    "lot_entry_time": (10, "{lot} was granted at {given_ms}, but was added to {to_account} at {at_ms}"),
    "lot_entry_mismatch": (10, "{lot} is {said} for {customer_id}, but its entry is {amount_micro} to {to_account}"),
    "grant_without_lot": (10, "{amount_micro} was granted to {to_account} as {key}, but that lot does not exist"),
    "lot_early_expiry": (10, "{lot} ends at {expires_ms}, but expired before, at {at_ms}"),
    "lot_owner": (
        10,
        "{key} moves credit of {lot} from {from_account} to {to_account}, but the lot belongs to {known}",
    ),
    "lot_overuse": (10, "{lot} is {said}, but {expired} of it expired and {taken} was taken back"),
    "lots_sum": (
        10,
        "{account_id} was given {given} in lots, which is not the sum of its balance {kept}, consumed "
        "{consumed}, expired {expired} and taken back {taken}",
    ),
    "lot_expiry_due_time": (10, "{lot} expires at {expires_ms}, but its wallet is next due at {next_due_ms}"),
    "lot_end_record": (
        10,
        "{account_id} records the end of a lot at {moment_ms}, but its lots do not end then, or not yet",
    ),
    "lot_last_end": (
        10,
        "{account_id} has booked lots up to {lots_ended_ms}, but the last end that it knows is {lots_over_ms}",
    ),
    "overdraft": (10, "{account_id} may be overdrawn by {overdraft_micro}, but commands do not allow overdrafts"),
    "credit_audit_mismatch": (10, "{thing} is {kept}, but the audit log has {said}"),
    "ended_lot_rest": (10, "{account_id} has {over_micro} left of ended lots: expected {least} to {most}"),
    "unexpired_lot": (
        10,
        "{lot} ended and is booked, but {rest} of it did not expire from {account_id}, and at most {used} was used",
    ),
    "deferred_expiry_sum": (
        10,
        "{deferred_micro} waits to expire in {account_id}, but ended lots have {rest} left, and "
        "{held_micro} is reserved",
    ),
    "missing_plan_lot": (
        10,
        "{plan} included credit for {period}, but {customer_id}, who was on this plan, did not get it",
    ),
    "missing_signup_lot": (
        10,
        "{plan} gave credit to new customers, but {customer_id}, on it since {since_ms}, did not get it",
    ),
    "duplicate_plan_lot": (10, "{customer_id} got {lots} lots for {period} on {plan}: expected 1"),
    "plan_lot_mismatch": (
        10,
        "{lot} gives {amount_micro} to {customer_id} from {begins_ms} to {expires_ms}, but the plan {plan} "
        "did not give that",
    ),
    "rollover_shortfall": (
        10,
        "{expired} of {customer_id}'s credit for {period} expired and {rolled} rolled over, but {wanted} "
        "must roll over",
    ),
    "rollover_excess": (
        10,
        "{rolled} of {customer_id}'s credit for {period} rolled over, but the plan allows {allowed}",
    ),
    "rollover_reduction": (10, "{key} takes {amount_micro} from {lot}, but that lot did not roll over"),
    "plan_audit_mismatch": (
        10,
        "the wallet of {customer_id} is on the plan {plan}, but the last plan on record is {said}",
    ),
    "plan_due_time": (
        10,
        "the wallet of {customer_id} is on the plan {plan}, but misses its next month, because it is next due at "
        "{next_due_ms}",
    ),
    "unknown_tier_charge": (10, "{from_account} was charged {amount_micro} as {key}, but does not have that tier"),
    "missing_tier_charge": (10, "{customer_id} has the tier {tier} until {paid_to_ms}, but was not charged for it"),
    "tier_due_time": (
        10,
        "{customer_id} has paid for {tier} until {paid_to_ms}, but its wallet is next due at {next_due_ms}",
    ),
    "allotment_entry": (
        10,
        "{key} moves {amount_micro} from {from_account} to {to_account}, which does not match its lot of "
        "the pool {pool}",
    ),
    "allotment_audit_mismatch": (
        10,
        "{lot} is {amount_micro} of {pool} for {customer_id}, but the audit log has {said} of {said_pool} "
        "for {said_customer}",
    ),
    "allotment_return": (
        10,
        "{lot} was {said} and returned {returned} to {pool}, so {gone} was used, but {least} to {most} is possible",
    ),
    "pool_due_time": (10, "{lot} returns after {expires_ms}, but the wallet of {pool} is next due at {next_due_ms}"),
    "billed_pool": (3, "from {start_ms} on, {provider} bills the organisation as {customer_id}, which is a pool"),
    "payer_permission": (10, "{customer_id} pays for {reservation}, but could not pay for {org_id} at {accepted_ms}"),
    "payer_limit": (10, "{payer} pays up to {limit_micro}, but executions were accepted for {accepted}"),
    "settlement_audit_mismatch": (11, "{thing} is {kept}, but the audit log has {said}"),
    "missing_settlement": (11, "{reservation} is {state}, but does not have a settlement for {supplier}"),
    "unexpected_settlement": (
        11,
        "{reservation} has a settlement for {supplier} at {settled_ms}, but the execution is {state} and "
        "names the supplier {its}",
    ),
    "settlement_gross": (11, "the settlement of {reservation} is for {gross_micro}, but its entries sum to {charged}"),
    "settlement_share": (
        11,
        "{reservation} owes {net_micro} of {gross_micro} at {share_ppm} ppm, but its terms give {wanted}",
    ),
    "reversal_excess": (11, "{taken} was reversed for {reservation}, but its settlement is only {net_micro}"),
    "clawback": (
        11,
        "{reversal} claws back {amount_micro} of {reservation}, but that amount was not released, or "
        "the supplier's terms do not allow clawbacks",
    ),
    "early_release": (
        11,
        "{payout} released the settlement of {reservation} at {at_ms}, before its hold ended at {hold_until_ms}, or "
        "within 35 days of the settlement although the supplier's terms do not allow clawbacks",
    ),
    "frozen_release": (
        11,
        "the settlement of {reservation} was frozen from {from_ms} on, but {payout} released it at {at_ms}",
    ),
    "release_amount": (11, "{line} of {payout} is {amount_micro}: expected {wanted}"),
    "duplicate_release": (11, "{lines} payout lines are for the same part of {reservation}"),
    "payout_line_supplier": (11, "{line} belongs to {payout}, which is not a payout of {supplier}"),
    "payout_total": (
        11,
        "{payout} has a total of {total_micro}, with {released_micro} released and {carried_micro} taken "
        "off, but its lines sum to {released} and {carried}. The total must exceed {threshold}",
    ),
    "missing_topup_credit": (
        12,
        "{topup} was paid for {credits_micro} to {customer_id}, but the ledger has {amount_micro} to "
        "{to_account} for it",
    ),
    "unpaid_topup_credit": (
        12,
        "the ledger has {amount_micro} to {to_account} as {key}, but that top-up is missing, or was not paid (state: "
        "{state})",
    ),
    "concurrent_topups": (12, "{topups} top-ups of {customer_id} are open at once: expected at most 1"),
    "topup_id": (12, "the id {topup} does not match episode {episode} of {customer_id}"),
    "topup_cost": (
        12,
        "{topup} charges {money_minor} for {credits_micro}, which does not match {price_minor} a credit",
    ),
    "shared_payment": (12, "{topup} and {other} are credited from the same payment {payment_id} of {service}"),
    "topup_cap": (
        12,
        "{topup} is number {day} of a day and {month} of 30 days, but its terms allowed {max_day} and {max_month}",
    ),
    "topup_calls": (12, "the calls of {topup} do not match: counted {attempts}, on record {tries}"),
    "topup_without_call": (12, "{topup} is {state}, but the payment service was never called"),
    "topup_audit_mismatch": (12, "{thing} is {kept}, but the audit log has {said}"),
    "message_without_fact": (13, "{message_id} reports {fact}, which is not on record"),
    "delivery_state": (
        13,
        "{message_id} is {state} at {endpoint}, which its history does not allow (calls: {attempts}, "
        "failures: {failures})",
    ),
    "event_without_sample": (9, "the event {event_id} of {source} does not have a sample, so it is never billed"),
    "event_mismatch": (
        9,
        "the event {event_id} of {source} has {quantity} of {event_type}, but its sample has "
        "{its_quantity} of the meter {its_meter} for {its_org}, or another time",
    ),
    "backfill_event_mismatch": (
        9,
        "the event {event_id} of {source} was added by {backfill}, but is missing or differs from the staged event",
    ),
    "backfill_audit_mismatch": (9, "{thing} is {kept}, but the audit log has {said}"),
    "unreverted_backfill": (9, "{backfill} was reverted, but the event {event_id} of {source} still counts"),
    "batch_mismatch": (
        9,
        "the samples of {name} ({batch}) do not match: added {samples} with the sum {total}, found "
        "{its_samples} with the sum {its_total}",
    ),
    "batch_file_mismatch": (
        9,
        "{name} ({batch}) must be both a batch and an accepted file, but one of them is missing",
    ),
    "sample_without_batch": (9, "{sample_id} belongs to a batch that does not exist"),
    "unwithdrawn_batch": (9, "{name} was withdrawn, but {sample_id} still counts"),
    "sample_without_event": (9, "{sample_id} counts units of the meter {meter}, but does not have an event"),
    "samples_without_org": (9, "an organisation without a row and a bucket has samples: {n1}"),
    "guard_counter": (
        14,
        "the counter of {metric} for the {period} from {start_ms} has {kept} (uses: {kept_uses}), but its "
        "uses sum to {amount} (uses: {uses})",
    ),
    "guard_numbers": (
        14,
        "the uses of {metric} in the month from {month_ms} must have the numbers 1 to {uses}, once each, but "
        "the highest is {highest}",
    ),
    "guard_limit_excess": (
        14,
        "{use_key} was allowed within {limit_amount} of {metric} a {limit_period}, but the total was {came_to}",
    ),
    "guard_charge_state": (
        14,
        "{use_key} is {state} and was charged {charged_micro}, but its execution is {run_state} and has "
        "drawn {drawn_micro} (used at {at_ms}, accepted at {accepted_ms})",
    ),
    "guard_price": (
        14,
        "{use_key} used {amount} at {price_micro} for {per_units}, but {charged_micro} was charged and "
        "{forgone_micro} was forgone",
    ),
    "guard_double_billing": (
        14,
        "{use_key} was charged {charged_micro} for {counts} as {metric}, but {sealed} was sealed as {feature}, too",
    ),
    "guard_audit_mismatch": (14, "{thing} is {kept}, but the audit log has {said}"),
    "parity_sum": (
        15,
        "{cell_id} on the day of {day_ms} has, in seconds, {ours_s} by samples, {theirs_s} by the cell, {withdrawn_s} "
        "withdrawn, {off_s} apart ({ppm} ppm), but its organisations sum to {ours}, {theirs}, {withdrawn}, {off}",
    ),
    "parity_line": (
        15,
        "{its_org} at {cell_id} on the day of {day_ms} has, in seconds, {ours_s} by samples, {theirs_s} by the cell, "
        "{off_s} apart ({ppm} ppm), which does not match the verdict {verdict}",
    ),
    "parity_time": (
        15,
        "{its_org} at {cell_id} on the day of {day_ms} was compared at {at_ms}, but the whole cell was "
        "compared at {checked_ms}",
    ),
    "bill_without_import": (
        15,
        "{vendor} billed {service} for the day of {day_ms} in file {number}, but that file was not imported",
    ),
    "bill_final": (15, "the bill of {vendor} for the day of {day_ms} was final, but file {number} is not"),
    "import_gap": (15, "files of bills are missing: found {files}, numbered from 1 up to {highest}"),
    "import_audit_mismatch": (15, "{thing} is {kept}, but the audit log has {said}"),
    "units_audit_mismatch": (15, "{thing} is {kept}, but the audit log has {said}"),
}
"""The invariant that each finding breaks, and its message with the row's values."""


INVARIANTS: Final[Mapping[int, tuple[str, str]]] = {
    1: ("Conservation", "For each window, the sealed pushes that are not voided equal the samples in force."),
    2: (
        "Sent and carried",
        "Sent and carried add up to sealed. A key is accepted once. The ledger charged exactly the accepted pushes.",
    ),
    3: (
        "One biller",
        "A push has the provider and customer of its window. A customer belongs to one organisation at a time.",
    ),
    4: ("Nothing moves back", "Watermark, floor and cursor never move back, except by a recover on record."),
    5: ("Nothing uncommitted is sent", "Each send is on record before it begins. Key, quantity and body never change."),
    6: (
        "Doubt and voids",
        "A push in doubt is never sent again. A void has evidence. The chain of the audit log is complete.",
    ),
    7: ("Halts", "If an organisation is halted, each cell with its sandboxes has a due or acknowledged halt."),
    8: ("Verdicts", "A projection never goes back in time."),
    9: (
        "Nothing is dropped",
        "Each sample is sealed, open, pending, exempt, withdrawn or below the floor. Each event counts once.",
    ),
    10: ("Reserved credit and lots", "Reservations, draws, lots, plans, tiers and pools add up to the micro-credit."),
    11: (
        "Settlement",
        "A net amount is the sum of its held, eligible, frozen, released and reversed parts. A settlement is never "
        "released early, while frozen, or twice.",
    ),
    12: ("Top-ups", "Each paid top-up is credited once. An unpaid top-up is never credited."),
    13: ("Webhooks", "Each webhook message reports a fact on record. Each delivered message was sent."),
    14: (
        "The guard",
        "A counter is the sum of its uses. A use allowed within a limit was within it. A use is charged once.",
    ),
    15: ("What others count", "The counts of cells are on record as compared, and those of vendors as imported."),
}
"""Each invariant with its name and its meaning in short."""
