"""`verify` finds a value that was changed behind the guards; each other change is harmless for a reason."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.integration import corrupting
from tests.integration.corrupting import columns_of, corruptions, drop_guards
from tests.integration.verifying import copy, lived
from tests.whole import share
from tests.world import Fleet

HARMLESS = {
    "words for people, and when they were written: no figure and no decision rests on them": """
        actor reason detail last_error last_status stopped_reason ended_by ended_reason doubted_reason
        blocked_reason paused_reason evidence evidence_kind answer said fact finished_ms started_ms at_ms created_ms
        bought_ms ended_ms settled_ms ingested_ms ingested_at first_seen_ms asked_ms begun_ms""",
    "a name that products gave, which is shown and groups nothing that is billed": """
        project subject action estimate properties plan_key cpu_count usage_samples.cell_id usage_events.source
        usage_events.event_id""",
    "who holds a row for how long: another takes over once the lease is over, and waits are held to bounds": """
        claim_owner owner due_at_ms first_attempt_ms looked_up_ms lookup_answer attempts failures replays lookups
        wire_key by_hand refused_attempts attempts_then acked_at_ms ignored ignored_since_ms wait_until_ms declines
        blocked_ms""",
    "a copy of what a provider said, which the next read replaces": """
        orgs.balance_micro orgs.balance_read_ms orgs.plan orgs.unconfirmed_micro orgs.unread_since_ms orgs.watch_due_ms
        orgs.resume_above_micro orgs.runs_out_ms orgs.refresh_deadline_ms orgs.refresh_requests orgs.projection_due_ms
        orgs.projection_read_ms orgs.billing_provider orgs.feature_limits projections.balance_micro
        projections.held_micro projections.unaccepted_micro projections.unsealed_micro
        projections.projection_id provider_rates.balance
        provider_rates.confirmed_ms provider_reads.outcome provider_reads.reads provider_states.costs_read_ms
        provider_states.live_from_ms provider_states.paused_ms provider_states.terms provider_states.wire_since_ms""",
    "where a host's sandboxes are, which the host writes": """
        sandboxes.memory_mb sandboxes.org_id sandboxes.cell_id sandboxes.since_ms sandboxes.state""",
    "what ran and when, for people and alerts": """
        ticks.bucket_hi ticks.bucket_lo ticks.clock_trusted ticks.exit_status ticks.report ticks.tick_id ticks.worker
        watch_state.id watch_state.round_ms watch_state.rounds""",
    "a setting that an operator reads back, and of which the record of actions is the proof where it counts money": """
        cells.cell_id cells.url hook_endpoints.events hook_endpoints.generation hook_endpoints.name hook_endpoints.url
        hook_endpoints.old_until_ms hook_deliveries.endpoint hook_messages.body hook_messages.customer_id
        orgs.operator_halt orgs.override_halted orgs.override_max_concurrent orgs.override_until_ms event_types.org_id
        event_types.key_name event_types.source event_types.freed_ms
        topup_terms.fill_to_micro tier_holders.renews""",
    "what the guard refused or only warned of: no use is charged by it": """
        guard_counters.warned guard_denials.amount guard_denials.count guard_denials.enforced guard_denials.first_ms
        guard_denials.last_ms guard_denials.metric guard_denials.minute_ms guard_denials.org_id guard_denials.pays
        guard_denials.reason_code guard_denials.sample guard_uses.asked guard_uses.decision guard_uses.degraded
        guard_uses.enforced guard_uses.expires_ms guard_uses.limit_amount guard_uses.limit_period guard_uses.rule
        guard_uses.would""",
    "it tells two requests of one key apart: a repetition is refused as other content": "fingerprint",
    "which database this is: `drawdown doctor` and the witness outside compare it": """
        incarnation.database_id incarnation.doubted_after_tick incarnation.doubted_ms incarnation.id incarnation.number
        incarnation.sends incarnation.system_id incarnation.timeline""",
    "the number of a row, which nothing else names": """
        action_chain.id mappings.mapping_id payout_lines.line settlement_freezes.freeze_id pushes.seal_id seals.epoch
        seals.bucket_lo seals.bucket_hi buckets.epoch buckets.in_flight usage_samples.arrival""",
    "a copy of what the sample itself says, which alone is billed": """
        withdrawals.interval_s withdrawals.memory_mb withdrawals.org_id withdrawals.ts""",
    "a floor at or below what was pruned closes nothing more": "orgs.floor_ms",
    "the wallet is given its lots again by their own keys": "ledger_accounts.given_to_ms",
    "a hold that no wallet keeps, and what metering had charged before it": """
        reservations.amount_micro reservations.metered_before_micro reservations.metered_to_ms""",
    "terms as they were copied: what they allowed is claimed by the cap": """
        topups.max_day topups.max_month topups.service topups.service_customer topup_attempts.outcome""",
    "which line of a bill is of which day or service is not claimed": """
        vendor_bills.day_ms vendor_bills.service vendor_bills.vendor""",
}
"""Column names of any table, or `table.column`, by why a change of one value is no loss that `verify` could name."""

SAID_IN = """
    event_values guard_limits guard_metrics guard_overrides ledger_lots ledger_rates mappings payers payouts
    plan_terms pools provider_rates settlement_freezes settlement_reversals supplier_terms topup_terms
    operator_actions"""
"""Tables whose rows are compared whole with the record of actions: words and moments, too."""
SEED = 5


def reason_of(column: str) -> str | None:
    table, _, name = column.partition(".")
    if table in SAID_IN.split() and name in ("actor", "reason", "at_ms"):
        return None
    names = {column, name}
    return next((reason for reason, listed in HARMLESS.items() if names & set(listed.split())), None)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return copy(lived(), tmp_path_factory.mktemp("corrupt"))


def test_verify_changed_value_is_found_unless_harmless(broken: Fleet) -> None:
    claimed = [column for column in columns_of() if reason_of(column) is None]
    unseen, changed = [], 0
    with broken.engine.connect() as connection:
        drop_guards(connection)
        for column in claimed[:: share(9, whole=1)]:
            found, changes = _found(connection, column, broken.clock.at_ms)
            unseen += [] if found or not changes else [column]
            changed += changes
    assert unseen == [] and changed >= share(25, whole=300)


def test_verify_projection_moved_to_wrong_org_is_found(broken: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing rests on one that lies within both histories and differs from the rows beside it: the newest decides."""
    monkeypatch.setattr(corrupting, "MOST_ROWS", 20)
    with broken.engine.connect() as connection:
        drop_guards(connection)
        made = list(corruptions(connection, "projections.org_id", broken.clock.at_ms, SEED))
        assert len(made) >= 8 and sum(bool(one.found) for one in made) >= len(made) * 3 // 4


def test_harmless_columns_exist_in_schema(broken: Fleet) -> None:
    there = {*columns_of(), *(column.partition(".")[2] for column in columns_of())}
    assert [name for listed in HARMLESS.values() for name in listed.split() if name not in there] == []


def _found(connection: sa.Connection, column: str, now_ms: int) -> tuple[bool, int]:
    """Whether a change of it was found, and how many were made until then. A record that cannot be read is found."""
    changes = 0
    try:
        for one in corruptions(connection, column, now_ms, SEED):
            changes += 1
            if one.found:
                return True, changes
    except sa.exc.OperationalError:
        connection.rollback()
        return True, changes + 1
    return False, changes
