"""Rules that the database enforces by triggers, for every writer.

Each rule is declared once for SQLite and PostgreSQL.

Guarantee: a guard rejects a statement, with a message that names the rule. PostgreSQL never truncates a table that is
in NEVER_TRUNCATED. SQL that differs between the databases is in `by_hand.postgresql.sql` and `by_hand.sqlite.sql`.

One exception: SQLite calls the guards of a delete for `INSERT OR REPLACE` only if the writer's connection sets
`recursive_triggers`. Each connection of Drawdown sets it. The trigger `samples_once` protects samples from all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Guard:
    """A trigger that rejects `event` on `table` if `when` holds.

    `when`: SQL over NEW and OLD; `<>?` is a comparison in which NULL is a value. `only_if`: a part of `when` without a
    subquery. PostgreSQL then does not call a function for the rows that this part excludes.
    """

    name: str
    table: str
    event: str
    when: str
    message: str
    only_if: str = ""


def statements(guard: Guard, dialect: str) -> Iterator[str]:
    """Yield the SQL that creates a guard."""
    is_postgresql = dialect == "postgresql"
    when = guard.when.replace("<>?", "IS DISTINCT FROM" if is_postgresql else "IS NOT")
    message = guard.message.replace("'", "''")
    head = f"CREATE TRIGGER {guard.name} BEFORE {guard.event} ON {guard.table} FOR EACH ROW"
    if not is_postgresql:
        yield f"{head} WHEN {when} BEGIN SELECT RAISE(ABORT, '{message}'); END"
        return
    # PostgreSQL checks a condition without a subquery in the trigger, and calls the function only if it is true.
    native = when if "SELECT" not in when else ""
    condition = native or guard.only_if
    back = "OLD" if guard.event == "DELETE" else "NEW"
    yield (
        f"CREATE FUNCTION {guard.name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF ({'true' if native else when}) THEN RAISE EXCEPTION '{message}' USING ERRCODE = 'check_violation'; "
        f"END IF; RETURN {back}; END $$"
    )
    yield f"{head} {f'WHEN ({condition})' if condition else ''} EXECUTE FUNCTION {guard.name}()"


def never_truncated(table: str) -> str:
    """Return the SQL that prevents PostgreSQL from truncating a table.

    SQLite cannot truncate a table.
    """
    return (
        f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} FOR EACH STATEMENT "
        "EXECUTE FUNCTION never_truncated()"
    )


def _append_only(table: str, event: str) -> Guard:
    act = "change" if event == "UPDATE" else "delete"
    message = f"cannot {act} a row of {table}: the table is append-only"
    return Guard(f"{table}_no_{event.lower()}", table, event, "1 = 1", message)


APPEND_ONLY: Final = (
    "adoptions", "event_values", "ledger_entries", "ledger_lots", "ledger_rates", "losses",
    "mappings", "operator_actions", "plan_lots", "projections", "sample_conflicts", "seals", "voids",
    "withdrawals",
)  # fmt: skip
"""Tables that accept only inserts. A row is never changed or deleted."""

NEVER_TRUNCATED: Final = (
    "action_chain", "adoptions", "api_keys", "assignments", "attempts", "backfill_events", "backfills",
    "balance_episodes",
    "balance_levels", "batch_refused_rows", "batches", "buckets", "carries", "console_users", "dirty_windows",
    "event_types", "event_values", "folded_pushes", "guard_corrections", "guard_counters", "guard_denials",
    "guard_limits",
    "guard_metrics", "guard_overrides", "guard_uses", "hook_deliveries", "hook_endpoints", "hook_messages",
    "incarnation", "late_quarantine", "ledger_accounts", "ledger_entries", "ledger_lots", "ledger_rates",
    "losses", "mappings", "operator_actions", "jobs", "orgs", "payers", "payout_lines", "payouts",
    "pending_usage", "plan_lots", "plan_stays", "plan_terms", "pools", "projections", "proofs",
    "provider_rates", "pushes", "reservation_sandboxes", "reservations", "run_samples", "run_usage",
    "sample_conflicts", "seals", "settlement_freezes", "settlement_reversals", "settlements", "supplier_terms",
    "tier_holders", "tiers", "topup_attempts", "topup_terms", "topups", "usage_events", "usage_samples", "vendor_bills",
    "vendor_imports", "vendor_units", "voids", "withdrawals",
)  # fmt: skip
"""Tables that PostgreSQL must not truncate."""

GUARDS: Final = (
    *(_append_only(table, event) for table in APPEND_ONLY for event in ("UPDATE", "DELETE")),
    Guard(
        "event_types_no_delete", "event_types", "DELETE",
        "1 = 1",
        "cannot delete an event type",
    ),
    Guard(
        "event_types_frozen", "event_types", "UPDATE",
        "NEW.event_type <>? OLD.event_type OR NEW.meter <>? OLD.meter OR NEW.first_seen_ms <>? OLD.first_seen_ms OR "
        "NEW.org_id <>? OLD.org_id OR NEW.key_name <>? OLD.key_name OR NEW.source <>? OLD.source",
        "cannot change an event type's meter, organisation, key or source (S5)",
    ),
    Guard(
        "samples_immutable", "usage_samples", "UPDATE",
        "1 = 1",
        "cannot change a sample: withdraw it (S7)",
    ),
    Guard(
        "attempts_frozen", "attempts", "UPDATE",
        "NEW.started_ms <>? OLD.started_ms OR NEW.sent_qty <>? OLD.sent_qty OR NEW.owner <>? OLD.owner",
        "cannot change an attempt (P1)",
    ),
    Guard(
        "buckets_forward", "buckets", "UPDATE",
        "NEW.epoch < OLD.epoch OR (NEW.epoch = OLD.epoch AND (NEW.watermark_ms < OLD.watermark_ms OR "
        "NEW.cursor < OLD.cursor))",
        "cannot move a watermark or cursor back within an epoch (invariant 4)",
    ),
    Guard(
        "buckets_kept", "buckets", "DELETE",
        "1 = 1",
        "cannot delete a bucket: seals lock it (S1)",
    ),
    Guard(
        "orgs_watermark_forward", "orgs", "UPDATE OF held_watermark_ms",
        "NEW.held_watermark_ms <>? OLD.held_watermark_ms AND EXISTS (SELECT 1 FROM assignments a WHERE "
        "a.org_id = NEW.org_id) AND COALESCE(NEW.held_watermark_ms, (SELECT watermark_ms FROM buckets "
        "WHERE id = NEW.bucket)) < COALESCE(OLD.held_watermark_ms, (SELECT watermark_ms FROM buckets "
        "WHERE id = OLD.bucket))",
        "cannot move an organisation's watermark back (invariant 4)",
    ),
    Guard(
        "orgs_floor_forward", "orgs", "UPDATE OF floor_ms",
        "NEW.floor_ms < OLD.floor_ms OR (NEW.floor_ms > OLD.floor_ms AND (EXISTS (SELECT 1 FROM "
        "pending_usage p WHERE p.org_id = NEW.org_id AND p.window_ms < NEW.floor_ms) OR EXISTS (SELECT 1 "
        "FROM dirty_windows d WHERE d.org_id = NEW.org_id AND d.window_ms < NEW.floor_ms) OR NEW.floor_ms"
        " > COALESCE(NEW.held_watermark_ms, (SELECT watermark_ms FROM buckets WHERE id = NEW.bucket))))",
        "cannot move a floor back, past the watermark, or past pending usage (S4)",
    ),
    Guard(
        "orgs_kept", "orgs", "DELETE",
        "1 = 1",
        "cannot delete an organisation: its usage refers to it",
    ),
    Guard(
        "orgs_bucket_fixed", "orgs", "UPDATE OF bucket",
        "OLD.bucket IS NOT NULL AND NEW.bucket <>? OLD.bucket",
        "cannot move an organisation to another bucket (S1)",
    ),
    Guard(
        "assignments_forward", "assignments", "INSERT",
        "NEW.start_ms < (SELECT COALESCE(o.held_watermark_ms, b.watermark_ms) FROM orgs o JOIN buckets b "
        "ON b.id = o.bucket WHERE o.org_id = NEW.org_id) AND NEW.start_ms >= COALESCE((SELECT "
        "MIN(start_ms) FROM assignments a WHERE a.org_id = NEW.org_id), NEW.start_ms + 1)",
        "cannot start an assignment before the watermark (P4)",
    ),
    Guard(
        "assignments_one_customer", "assignments", "INSERT",
        "NEW.provider NOT IN ('legacy', 'none') AND NEW.customer_id <> '' AND EXISTS (SELECT 1 FROM "
        "assignments a WHERE a.provider = NEW.provider AND a.customer_id = NEW.customer_id AND a.org_id "
        "<> NEW.org_id AND (a.end_ms IS NULL OR a.end_ms > NEW.start_ms) AND (NEW.end_ms IS NULL OR "
        "a.start_ms < NEW.end_ms))",
        "cannot assign a customer to two organisations at a time (P4)",
    ),
    Guard(
        "assignments_kept", "assignments", "DELETE",
        "COALESCE(OLD.start_ms < (SELECT COALESCE(o.held_watermark_ms, b.watermark_ms) FROM orgs o JOIN "
        "buckets b ON b.id = o.bucket WHERE o.org_id = OLD.org_id), 1 = 0)",
        "cannot delete an assignment that started before the watermark (P4)",
    ),
    Guard(
        "assignments_append_only", "assignments", "UPDATE",
        "NEW.org_id <>? OLD.org_id OR NEW.start_ms <>? OLD.start_ms OR NEW.provider <>? OLD.provider OR "
        "(NEW.customer_id <>? OLD.customer_id AND OLD.customer_id <> '') OR (NEW.end_ms <>? OLD.end_ms "
        "AND (COALESCE(OLD.end_ms < (SELECT COALESCE(o.held_watermark_ms, b.watermark_ms) FROM orgs o "
        "JOIN buckets b ON b.id = o.bucket WHERE o.org_id = OLD.org_id), 1 = 0) OR COALESCE(NEW.end_ms < "
        "(SELECT COALESCE(o.held_watermark_ms, b.watermark_ms) FROM orgs o JOIN buckets b ON b.id = "
        "o.bucket WHERE o.org_id = OLD.org_id), 1 = 0)))",
        "cannot change an assignment, except to end it at or after the watermark (P4)",
    ),
    Guard(
        "withdrawals_match", "withdrawals", "INSERT",
        "NOT EXISTS (SELECT 1 FROM usage_samples s WHERE s.id = NEW.sample_id AND s.org_id = NEW.org_id "
        "AND s.ts = NEW.ts AND s.memory_mb = NEW.memory_mb AND s.interval_s = NEW.interval_s AND "
        "s.problem IS NULL)",
        "cannot withdraw a sample with different content: repeat its content exactly (S7)",
    ),
    Guard(
        "pushes_frozen", "pushes", "UPDATE",
        "NEW.window_ms <>? OLD.window_ms OR NEW.org_id <>? OLD.org_id OR NEW.feature <>? OLD.feature OR "
        "NEW.revision <>? OLD.revision OR NEW.provider <>? OLD.provider OR NEW.customer_id <>? "
        "OLD.customer_id OR NEW.sealed_qty <>? OLD.sealed_qty OR NEW.sent_qty <>? OLD.sent_qty OR NEW.key"
        " <>? OLD.key OR NEW.sealed_at_ms <>? OLD.sealed_at_ms OR NEW.seal_id <>? OLD.seal_id OR "
        "(OLD.wire_key IS NOT NULL AND NEW.wire_key <>? OLD.wire_key)",
        "cannot change the content of a push: void it (S3)",
    ),
    Guard(
        "pushes_void_has_evidence", "pushes", "UPDATE",
        "NEW.state = 'voided' AND NOT EXISTS (SELECT 1 FROM voids v WHERE v.window_ms = NEW.window_ms AND"
        " v.org_id = NEW.org_id AND v.feature = NEW.feature AND v.revision = NEW.revision)",
        "cannot void a push without evidence in voids (P5)",
        only_if="NEW.state = 'voided'",
    ),
    Guard(
        "pushes_final", "pushes", "UPDATE",
        "(OLD.state IN ('voided', 'carried', 'shadow') AND NEW.state NOT IN (OLD.state, 'voided')) OR "
        "(OLD.state = 'accepted' AND NEW.state NOT IN ('accepted', 'rejected', 'voided', 'in_doubt')) OR "
        "(OLD.state = 'in_doubt' AND NEW.state IN ('due', 'queued'))",
        "cannot reopen a settled push, or resend a push in doubt (P5, P2)",
    ),
    Guard(
        "incarnation_forward", "incarnation", "UPDATE",
        "NEW.database_id <>? OLD.database_id OR NEW.number < OLD.number OR NEW.sends < OLD.sends",
        "cannot rename the database, or lower its incarnation or its count of sends (R1)",
    ),
    Guard(
        "incarnation_kept", "incarnation", "DELETE",
        "1 = 1",
        "cannot delete the name of the database (R1)",
    ),
    Guard(
        "provider_rates_no_update", "provider_rates", "UPDATE",
        "1 = 1",
        "cannot change a provider's rate: rates are append-only",
    ),
    Guard(
        "provider_rates_no_delete", "provider_rates", "DELETE",
        "1 = 1",
        "cannot delete a provider's rate: rates are append-only",
    ),
    Guard(
        "action_chain_forward", "action_chain", "UPDATE",
        "NEW.actions < OLD.actions",
        "cannot shorten the audit log: it is append-only",
    ),
    Guard(
        "action_chain_kept", "action_chain", "DELETE",
        "1 = 1",
        "cannot delete the chain of the audit log",
    ),
    Guard(
        "ledger_accounts_kept", "ledger_accounts", "DELETE",
        "1 = 1",
        "cannot delete a ledger account",
    ),
    Guard(
        "reservations_kept", "reservations", "DELETE",
        "1 = 1",
        "cannot delete a reservation",
    ),
    Guard(
        "reservations_frozen", "reservations", "UPDATE",
        "NEW.reservation <>? OLD.reservation OR NEW.org_id <>? OLD.org_id OR NEW.customer_id <>? "
        "OLD.customer_id OR NEW.project <>? OLD.project OR NEW.subject <>? OLD.subject OR NEW.action <>? "
        "OLD.action OR NEW.estimate <>? OLD.estimate OR NEW.overage <>? OLD.overage OR NEW.accepted_ms "
        "<>? OLD.accepted_ms OR NEW.fingerprint <>? OLD.fingerprint OR NEW.actor <>? OLD.actor OR "
        "NEW.reason <>? OLD.reason",
        "cannot change the accepted terms of an execution",
    ),
    Guard(
        "reservations_forward", "reservations", "UPDATE",
        "NEW.amount_micro < OLD.amount_micro OR (NEW.state <> OLD.state AND NOT (OLD.state = 'held' OR "
        "(OLD.state = 'expired' AND NEW.state = 'settled')))",
        "cannot shrink or reopen a reservation, or settle it late unless it expired",
    ),
    Guard(
        "reservations_supplier_frozen", "reservations", "UPDATE",
        "NEW.supplier <>? OLD.supplier",
        "cannot change the supplier of an accepted execution",
    ),
    Guard(
        "reservations_settled_by_frozen", "reservations", "UPDATE",
        "NEW.settled_by <>? OLD.settled_by",
        "cannot change how an accepted execution is settled",
    ),
    Guard(
        "reservations_metered_forward", "reservations", "UPDATE",
        "NEW.settled_by = 'metering' AND NEW.drawn_micro < OLD.drawn_micro",
        "cannot lower the credits that metering drew from a reservation",
    ),
    Guard(
        "reservations_payer_frozen", "reservations", "UPDATE",
        "NEW.payer_number <>? OLD.payer_number",
        "cannot change the payer of an accepted execution",
    ),
    Guard(
        "reservations_hold_frozen", "reservations", "UPDATE",
        "NEW.hold <>? OLD.hold",
        "cannot change the source of a reservation's credit",
    ),
    Guard(
        "supplier_terms_no_update", "supplier_terms", "UPDATE",
        "1 = 1",
        "cannot change a supplier's terms: they are append-only. Add a new revision",
    ),
    Guard(
        "supplier_terms_no_delete", "supplier_terms", "DELETE",
        "1 = 1",
        "cannot delete a supplier's terms: they are append-only. Add a new revision",
    ),
    Guard(
        "settlements_no_update", "settlements", "UPDATE",
        "1 = 1",
        "cannot change a settlement: settlements are append-only. Add a reversal",
    ),
    Guard(
        "settlements_no_delete", "settlements", "DELETE",
        "1 = 1",
        "cannot delete a settlement: settlements are append-only. Add a reversal",
    ),
    Guard(
        "settlement_reversals_no_update", "settlement_reversals", "UPDATE",
        "1 = 1",
        "cannot change a reversal: reversals are append-only",
    ),
    Guard(
        "settlement_reversals_no_delete", "settlement_reversals", "DELETE",
        "1 = 1",
        "cannot delete a reversal: reversals are append-only",
    ),
    Guard(
        "payouts_no_update", "payouts", "UPDATE",
        "1 = 1",
        "cannot change a payout: payouts are append-only",
    ),
    Guard(
        "payouts_no_delete", "payouts", "DELETE",
        "1 = 1",
        "cannot delete a payout: payouts are append-only",
    ),
    Guard(
        "payout_lines_no_update", "payout_lines", "UPDATE",
        "1 = 1",
        "cannot change a line of a payout: payouts are append-only",
    ),
    Guard(
        "payout_lines_no_delete", "payout_lines", "DELETE",
        "1 = 1",
        "cannot delete a line of a payout: payouts are append-only",
    ),
    Guard(
        "settlement_freezes_kept", "settlement_freezes", "DELETE",
        "1 = 1",
        "cannot delete a freeze: end it",
    ),
    Guard(
        "settlement_freezes_end_once", "settlement_freezes", "UPDATE",
        "OLD.ended_ms IS NOT NULL OR NEW.freeze_id <>? OLD.freeze_id OR NEW.supplier <>? OLD.supplier OR "
        "NEW.reservation <>? OLD.reservation OR NEW.from_ms <>? OLD.from_ms OR NEW.actor <>? OLD.actor OR"
        " NEW.reason <>? OLD.reason",
        "cannot change a freeze, except to end it once",
    ),
    Guard(
        "topup_terms_kept", "topup_terms", "DELETE",
        "1 = 1",
        "cannot delete the terms of top-ups: stop them",
    ),
    Guard(
        "topups_kept", "topups", "DELETE",
        "1 = 1",
        "cannot delete a top-up",
    ),
    Guard(
        "topups_frozen", "topups", "UPDATE",
        "NEW.topup <>? OLD.topup OR NEW.customer_id <>? OLD.customer_id OR NEW.episode <>? OLD.episode OR"
        " NEW.credits_micro <>? OLD.credits_micro OR NEW.money_minor <>? OLD.money_minor OR "
        "NEW.price_minor <>? OLD.price_minor OR NEW.currency <>? OLD.currency OR NEW.service <>? "
        "OLD.service OR NEW.service_customer <>? OLD.service_customer OR NEW.max_day <>? OLD.max_day OR "
        "NEW.max_month <>? OLD.max_month OR NEW.at_ms <>? OLD.at_ms OR NEW.begun_ms <>? OLD.begun_ms",
        "cannot change the charge of a top-up",
    ),
    Guard(
        "topups_forward", "topups", "UPDATE",
        "NEW.attempts < OLD.attempts OR (NEW.state <> OLD.state AND (OLD.state IN ('credited', 'shadow') "
        "OR (OLD.state IN ('declined', 'needs_customer', 'given_up') AND NEW.state <> 'credited'))) OR "
        "(NEW.state <> OLD.state AND NEW.state = 'shadow') OR (OLD.state = 'credited' AND NEW.payment_id "
        "<>? OLD.payment_id)",
        "cannot reopen an ended top-up, or credit it twice",
    ),
    Guard(
        "topup_attempts_kept", "topup_attempts", "DELETE",
        "1 = 1",
        "cannot delete a call that may take money",
    ),
    Guard(
        "topup_attempts_frozen", "topup_attempts", "UPDATE",
        "OLD.outcome IS NOT NULL OR NEW.topup <>? OLD.topup OR NEW.attempt <>? OLD.attempt OR "
        "NEW.started_ms <>? OLD.started_ms OR NEW.owner <>? OLD.owner",
        "cannot change a call that may take money, or answer it twice",
    ),
    Guard(
        "api_keys_kept", "api_keys", "DELETE",
        "1 = 1",
        "cannot delete an API key: end it",
    ),
    Guard(
        "api_keys_forward", "api_keys", "UPDATE",
        "(OLD.rotated_ms IS NOT NULL AND NEW.rotated_ms <>? OLD.rotated_ms) OR (OLD.ended_ms IS NOT NULL "
        "AND NEW.ended_ms <>? OLD.ended_ms) OR (OLD.expires_ms IS NOT NULL AND (NEW.expires_ms IS NULL OR"
        " NEW.expires_ms > OLD.expires_ms))",
        "cannot rotate or end an API key twice, or extend its expiry",
    ),
    Guard(
        "api_keys_frozen", "api_keys", "UPDATE",
        "NEW.key_sha256 <>? OLD.key_sha256 OR NEW.name <>? OLD.name OR NEW.scopes <>? OLD.scopes OR "
        "NEW.org_id <>? OLD.org_id OR NEW.created_ms <>? OLD.created_ms OR NEW.actor <>? OLD.actor OR "
        "NEW.reason <>? OLD.reason OR NEW.cell_id <>? OLD.cell_id OR NEW.source <>? OLD.source OR "
        "NEW.gives_micro <>? OLD.gives_micro",
        "cannot change the scopes or terms of an API key. Create another key",
    ),
    Guard(
        "hook_endpoints_kept", "hook_endpoints", "DELETE",
        "1 = 1",
        "cannot delete an endpoint: end it",
    ),
    Guard(
        "hook_endpoints_forward", "hook_endpoints", "UPDATE",
        "NEW.name <>? OLD.name OR NEW.created_ms <>? OLD.created_ms OR NEW.generation < OLD.generation OR"
        " OLD.ended_ms IS NOT NULL",
        "cannot rename or reopen an endpoint, or restore its secrets",
    ),
    Guard(
        "hook_messages_no_update", "hook_messages", "UPDATE",
        "1 = 1",
        "cannot change a message: messages are append-only",
    ),
    Guard(
        "hook_messages_no_delete", "hook_messages", "DELETE",
        "1 = 1",
        "cannot delete a message: messages are append-only",
    ),
    Guard(
        "hook_deliveries_kept", "hook_deliveries", "DELETE",
        "1 = 1",
        "cannot delete a delivery",
    ),
    Guard(
        "hook_deliveries_forward", "hook_deliveries", "UPDATE",
        "NEW.message_id <>? OLD.message_id OR NEW.endpoint <>? OLD.endpoint OR NEW.attempts < "
        "OLD.attempts OR NEW.replays < OLD.replays OR (OLD.state <> 'due' AND NEW.replays = OLD.replays)",
        "cannot reopen an ended delivery without a replay, or lower its counts",
    ),
    Guard(
        "balance_levels_kept", "balance_levels", "DELETE",
        "1 = 1",
        "cannot delete a level: set it to none",
    ),
    Guard(
        "balance_episodes_kept", "balance_episodes", "DELETE",
        "1 = 1",
        "cannot delete an episode",
    ),
    Guard(
        "balance_episodes_end_once", "balance_episodes", "UPDATE",
        "NEW.org_id <>? OLD.org_id OR NEW.level <>? OLD.level OR NEW.episode <>? OLD.episode OR "
        "NEW.begun_ms <>? OLD.begun_ms OR OLD.ended_ms IS NOT NULL",
        "cannot change an episode, except to end it once",
    ),
    Guard(
        "plan_terms_no_update", "plan_terms", "UPDATE",
        "1 = 1",
        "cannot change the terms of a plan's grants: they are append-only. Add terms for later months",
    ),
    Guard(
        "plan_terms_no_delete", "plan_terms", "DELETE",
        "1 = 1",
        "cannot delete the terms of a plan's grants: they are append-only. Add terms for later months",
    ),
    Guard(
        "plan_stays_no_update", "plan_stays", "UPDATE",
        "1 = 1",
        "cannot change a customer's plan: plans are append-only. Add a row to end the previous plan",
    ),
    Guard(
        "plan_stays_no_delete", "plan_stays", "DELETE",
        "1 = 1",
        "cannot delete a customer's plan: plans are append-only. Add a row to end the previous plan",
    ),
    Guard(
        "tiers_kept", "tiers", "DELETE",
        "1 = 1",
        "cannot delete a tier",
    ),
    Guard(
        "tier_holders_kept", "tier_holders", "DELETE",
        "1 = 1",
        "cannot delete the purchase of a tier",
    ),
    Guard(
        "tier_holders_forward", "tier_holders", "UPDATE",
        "NEW.customer_id <>? OLD.customer_id OR NEW.tier <>? OLD.tier OR NEW.paid_to_ms < OLD.paid_to_ms",
        "cannot shorten the paid time of a tier, or change its holder or tier",
    ),
    Guard(
        "reservation_sandboxes_kept", "reservation_sandboxes", "DELETE",
        "1 = 1",
        "cannot delete a sandbox of an execution",
    ),
    Guard(
        "reservation_sandboxes_frozen", "reservation_sandboxes", "UPDATE",
        "NEW.reservation <>? OLD.reservation OR NEW.sandbox_id <>? OLD.sandbox_id OR NEW.org_id <>? "
        "OLD.org_id OR (NEW.is_open AND NOT OLD.is_open)",
        "cannot change a sandbox of an execution, or reopen it",
    ),
    Guard(
        "pools_no_update", "pools", "UPDATE",
        "1 = 1",
        "cannot change a pool: pools are append-only",
    ),
    Guard(
        "pools_no_delete", "pools", "DELETE",
        "1 = 1",
        "cannot delete a pool: pools are append-only",
    ),
    Guard(
        "payers_no_update", "payers", "UPDATE",
        "1 = 1",
        "cannot change a payer's row: payers are append-only. Add a row to end the previous right",
    ),
    Guard(
        "payers_no_delete", "payers", "DELETE",
        "1 = 1",
        "cannot delete a payer's row: payers are append-only. Add a row to end the previous right",
    ),
    Guard(
        "run_usage_no_update", "run_usage", "UPDATE",
        "1 = 1",
        "cannot change the usage of an execution: it is append-only",
    ),
    Guard(
        "run_usage_no_delete", "run_usage", "DELETE",
        "1 = 1",
        "cannot delete the usage of an execution: it is append-only",
    ),
    Guard(
        "run_samples_no_update", "run_samples", "UPDATE",
        "1 = 1",
        "cannot change the usage of an execution: it is append-only",
    ),
    Guard(
        "run_samples_no_delete", "run_samples", "DELETE",
        "1 = 1",
        "cannot delete the usage of an execution: it is append-only",
    ),
    Guard(
        "events_immutable", "usage_events", "UPDATE",
        "1 = 1",
        "cannot change an event: withdraw it (S7)",
    ),
    Guard(
        "events_with_samples", "usage_events", "DELETE",
        "EXISTS (SELECT 1 FROM usage_samples s WHERE s.id = OLD.sample_id)",
        "cannot delete an event without its sample (S4)",
    ),
    Guard(
        "guard_metrics_no_update", "guard_metrics", "UPDATE",
        "1 = 1",
        "cannot change a metric's terms: they are append-only. Add a row with the next number",
    ),
    Guard(
        "guard_metrics_no_delete", "guard_metrics", "DELETE",
        "1 = 1",
        "cannot delete a metric's terms: they are append-only. Add a row with the next number",
    ),
    Guard(
        "guard_limits_no_update", "guard_limits", "UPDATE",
        "1 = 1",
        "cannot change a limit: limits are append-only. Add a row with the next number",
    ),
    Guard(
        "guard_limits_no_delete", "guard_limits", "DELETE",
        "1 = 1",
        "cannot delete a limit: limits are append-only. Add a row with the next number",
    ),
    Guard(
        "guard_corrections_no_update", "guard_corrections", "UPDATE",
        "1 = 1",
        "cannot change a correction: corrections are append-only",
    ),
    Guard(
        "guard_corrections_no_delete", "guard_corrections", "DELETE",
        "1 = 1",
        "cannot delete a correction: corrections are append-only",
    ),
    Guard(
        "guard_uses_kept", "guard_uses", "DELETE",
        "1 = 1",
        "cannot delete a use",
    ),
    Guard(
        "guard_uses_frozen", "guard_uses", "UPDATE",
        "NEW.use_key <>? OLD.use_key OR NEW.org_id <>? OLD.org_id OR NEW.metric <>? OLD.metric OR "
        "NEW.number <>? OLD.number OR NEW.month_ms <>? OLD.month_ms OR NEW.metric_number <>? "
        "OLD.metric_number OR NEW.asked <>? OLD.asked OR NEW.decision <>? OLD.decision OR NEW.would <>? "
        "OLD.would OR NEW.rule <>? OLD.rule OR NEW.enforced <>? OLD.enforced OR NEW.limit_period <>? "
        "OLD.limit_period OR NEW.limit_amount <>? OLD.limit_amount OR NEW.fingerprint <>? OLD.fingerprint"
        " OR NEW.at_ms <>? OLD.at_ms OR NEW.actor <>? OLD.actor OR NEW.reason <>? OLD.reason",
        "cannot change a use, except to end it once",
    ),
    Guard(
        "guard_uses_end_once", "guard_uses", "UPDATE",
        "OLD.state IN ('used', 'settled', 'released') OR (OLD.state = 'expired' AND NEW.state <> 'settled')",
        "cannot change an ended use, except to settle an expired use",
    ),
    Guard(
        "guard_overrides_kept", "guard_overrides", "DELETE",
        "1 = 1",
        "cannot delete a limit override: end it",
    ),
    Guard(
        "guard_overrides_frozen", "guard_overrides", "UPDATE",
        "NEW.number <>? OLD.number OR NEW.metric <>? OLD.metric OR NEW.reach <>? OLD.reach OR NEW.target "
        "<>? OLD.target OR NEW.period <>? OLD.period OR NEW.amount <>? OLD.amount OR NEW.ends_ms <>? "
        "OLD.ends_ms OR NEW.at_ms <>? OLD.at_ms OR NEW.actor <>? OLD.actor OR NEW.reason <>? OLD.reason",
        "cannot change the allowance of a limit override. Create another limit override",
    ),
    Guard(
        "guard_overrides_forward", "guard_overrides", "UPDATE",
        "OLD.state IN ('refused', 'ended') OR (OLD.state = 'in_force' AND NEW.state <> 'ended')",
        "cannot decide or end a limit override twice",
    ),
    Guard(
        "guard_counters_kept", "guard_counters", "DELETE",
        "1 = 1",
        "cannot delete a counter",
    ),
    Guard(
        "guard_denials_kept", "guard_denials", "DELETE",
        "1 = 1",
        "cannot delete refusals",
    ),
    Guard(
        "vendor_units_no_update", "vendor_units", "UPDATE",
        "1 = 1",
        "cannot change a vendor's cost: costs are append-only",
    ),
    Guard(
        "vendor_units_no_delete", "vendor_units", "DELETE",
        "1 = 1",
        "cannot delete a vendor's cost: costs are append-only",
    ),
    Guard(
        "vendor_imports_no_update", "vendor_imports", "UPDATE",
        "1 = 1",
        "cannot change an import of vendors' bills: imports are append-only",
    ),
    Guard(
        "vendor_imports_no_delete", "vendor_imports", "DELETE",
        "1 = 1",
        "cannot delete an import of vendors' bills: imports are append-only",
    ),
    Guard(
        "vendor_bills_no_update", "vendor_bills", "UPDATE",
        "1 = 1",
        "cannot change a vendor's bill: bills are append-only",
    ),
    Guard(
        "vendor_bills_no_delete", "vendor_bills", "DELETE",
        "1 = 1",
        "cannot delete a vendor's bill: bills are append-only",
    ),
    Guard(
        "backfills_no_delete", "backfills", "DELETE",
        "1 = 1",
        "cannot delete a backfill",
    ),
    Guard(
        "backfills_forward", "backfills", "UPDATE",
        "NEW.backfill <> OLD.backfill OR NEW.org_id <> OLD.org_id OR NEW.from_ms <> OLD.from_ms OR "
        "NEW.to_ms <> OLD.to_ms OR OLD.state = 'reverted' OR NEW.state = 'open' OR (OLD.state = 'closed' "
        "AND NEW.diff_hash <>? OLD.diff_hash)",
        "cannot change a backfill, except to close or revert it once",
    ),
    Guard(
        "backfill_events_staged", "backfill_events", "INSERT",
        "NOT EXISTS (SELECT 1 FROM backfills b WHERE b.backfill = NEW.backfill AND b.state = 'open')",
        "cannot stage an event: its backfill is not open",
    ),
    Guard(
        "backfill_events_kept", "backfill_events", "DELETE",
        "NOT EXISTS (SELECT 1 FROM backfills b WHERE b.backfill = OLD.backfill AND b.state = 'open')",
        "cannot delete an event of a backfill that is not open",
    ),
    Guard(
        "backfill_events_frozen", "backfill_events", "UPDATE",
        "1 = 1",
        "cannot change an event: stage another event (S7)",
    ),
    Guard(
        "console_users_no_delete", "console_users", "DELETE",
        "1 = 1",
        "cannot delete a user of the console: end the user",
    ),
    Guard(
        "console_users_forward", "console_users", "UPDATE",
        "NEW.name <> OLD.name OR NEW.created_ms <> OLD.created_ms OR OLD.ended_ms IS NOT NULL",
        "cannot rename a user of the console, or change an ended user",
    ),
    Guard(
        "console_sessions_frozen", "console_sessions", "UPDATE",
        "NEW.session_sha256 <> OLD.session_sha256 OR NEW.name <> OLD.name OR NEW.began_ms <> OLD.began_ms"
        " OR NEW.seen_ms < OLD.seen_ms",
        "cannot move or reopen a session",
    ),
    Guard(
        "my_sessions_frozen", "my_sessions", "UPDATE",
        "NEW.session_sha256 <> OLD.session_sha256 OR NEW.link_sha256 <> OLD.link_sha256 OR NEW.org_id <> "
        "OLD.org_id OR NEW.person <>? OLD.person OR NEW.began_ms <> OLD.began_ms OR OLD.ended_ms IS NOT "
        "NULL",
        "cannot move a session, or change an ended session",
    ),
    Guard(
        "proofs_no_update", "proofs", "UPDATE",
        "1 = 1",
        "cannot change a run of `verify`",
    ),
    Guard(
        "proofs_no_delete", "proofs", "DELETE",
        "1 = 1",
        "cannot delete a run of `verify`",
    ),
    Guard(
        "jobs_no_delete", "jobs", "DELETE",
        "1 = 1",
        "cannot delete a job",
    ),
    Guard(
        "jobs_forward", "jobs", "UPDATE",
        "NEW.job_id <> OLD.job_id OR NEW.kind <> OLD.kind OR NEW.payload <> OLD.payload OR NEW.at_ms <> "
        "OLD.at_ms OR NEW.via <> OLD.via OR NEW.actor <> OLD.actor OR NEW.reason <> OLD.reason OR "
        "OLD.state IN ('done', 'failed', 'cancelled') OR (OLD.state = 'under_way' AND NEW.state = "
        "'cancelled')",
        "cannot change the work of a job, reopen an ended job, or cancel a job that is under way",
    ),
    Guard(
        "batches_no_delete", "batches", "DELETE",
        "1 = 1",
        "cannot delete a batch",
    ),
    Guard(
        "batches_forward", "batches", "UPDATE",
        "OLD.withdrawn_ms IS NOT NULL OR NEW.batch <> OLD.batch OR NEW.source <> OLD.source OR NEW.name "
        "<> OLD.name OR NEW.samples <> OLD.samples OR NEW.total <> OLD.total OR NEW.from_ms <>? "
        "OLD.from_ms OR NEW.to_ms <>? OLD.to_ms OR NEW.row_count <> OLD.row_count OR NEW.refused <> "
        "OLD.refused OR NEW.taken_ms <> OLD.taken_ms OR NEW.path <> OLD.path",
        "cannot change a batch, except to withdraw it once (S7)",
    ),
    Guard(
        "batches_rows_frozen", "batches", "UPDATE",
        "NEW.rows_hash <>? OLD.rows_hash OR NEW.row_labels <>? OLD.row_labels OR NEW.rows_kept <>? "
        "OLD.rows_kept OR NEW.field_map <>? OLD.field_map",
        "cannot change the rows of a batch (S7)",
    ),
    Guard(
        "batch_refused_rows_frozen", "batch_refused_rows", "UPDATE",
        "1 = 1",
        "cannot change a refused row",
    ),
    Guard(
        "batch_refused_rows_no_delete", "batch_refused_rows", "DELETE",
        "1 = 1",
        "cannot delete a refused row",
    ),
    Guard(
        "folded_pushes_kept", "folded_pushes", "DELETE",
        "1 = 1",
        "cannot delete a sum of folded pushes (S3)",
    ),
    Guard(
        "folded_pushes_forward", "folded_pushes", "UPDATE",
        "NEW.day_ms <> OLD.day_ms OR NEW.org_id <> OLD.org_id OR NEW.provider <> OLD.provider OR "
        "NEW.customer_id <> OLD.customer_id OR NEW.feature <> OLD.feature OR NEW.state <> OLD.state OR "
        "NEW.pushes <= OLD.pushes OR NEW.attempts < OLD.attempts",
        "cannot change a sum of folded pushes, except to add a push (S3)",
    ),
)  # fmt: skip
