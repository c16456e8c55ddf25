"""Every table, as SQLAlchemy Core sees it, in one file for each part of the house. The migrations create them, with
the triggers that carry the rules. A test holds the two equal."""

from drawdown.schema.tables.columns import metadata
from drawdown.schema.tables.fleet import (
    action_chain,
    balance_marks,
    cells,
    halts,
    incarnation,
    losses,
    operator_actions,
    projections,
    provider_states,
    reconciliations,
    replays,
    sandboxes,
    ticks,
)
from drawdown.schema.tables.ledger import ledger_accounts, ledger_entries, ledger_plans, ledger_rates, reservations
from drawdown.schema.tables.orgs import assignments, buckets, mappings, orgs
from drawdown.schema.tables.outbox import (
    adoptions,
    attempts,
    carries,
    dirty_windows,
    pending_usage,
    pushes,
    seals,
    voids,
)
from drawdown.schema.tables.samples import (
    late_quarantine,
    quarantine_closed,
    sample_conflicts,
    usage_samples,
    withdrawals,
)
from drawdown.schema.tables.server import api_keys, gate_asks, used_signatures, webhooks
from drawdown.schema.tables.watch import provider_rates, provider_reads, provider_when_down, watch_state

__all__ = [
    "action_chain",
    "adoptions",
    "api_keys",
    "assignments",
    "attempts",
    "balance_marks",
    "buckets",
    "carries",
    "cells",
    "dirty_windows",
    "gate_asks",
    "halts",
    "incarnation",
    "late_quarantine",
    "ledger_accounts",
    "ledger_entries",
    "ledger_plans",
    "ledger_rates",
    "losses",
    "mappings",
    "metadata",
    "operator_actions",
    "orgs",
    "pending_usage",
    "projections",
    "provider_rates",
    "provider_reads",
    "provider_states",
    "provider_when_down",
    "pushes",
    "quarantine_closed",
    "reconciliations",
    "replays",
    "reservations",
    "sample_conflicts",
    "sandboxes",
    "seals",
    "ticks",
    "usage_samples",
    "used_signatures",
    "voids",
    "watch_state",
    "webhooks",
    "withdrawals",
]
