"""The tables of the fleet and of its operators.

They store cells, sandboxes, halts, verdicts, ticks, the audit log and jobs.
"""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, Serial, id_column, metadata, ms_column, said_columns

cells = sa.Table(
    "cells",
    metadata,
    id_column("cell_id", key=True),
    sa.Column("url", sa.Text, nullable=False),
    comment="Host groups that run sandboxes and obey POST /admin/halt-org.",
)

_RUNNING = sa.text("state = 'running'")
sandboxes = sa.Table(
    "sandboxes",
    metadata,
    id_column("sandbox_id", key=True),
    id_column("org_id"),
    id_column("cell_id"),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("memory_mb", Big, nullable=True),
    ms_column("since_ms", null=True),
    sa.CheckConstraint("state IN ('running', 'hibernated', 'migrating', 'stopped')", name="sandboxes_state"),
    sa.Index("sandboxes_by_org", "org_id", "cell_id"),
    sa.Index("sandboxes_running", "cell_id", sqlite_where=_RUNNING, postgresql_where=_RUNNING),
    sa.Index("sandboxes_since", "since_ms", sqlite_where=_RUNNING, postgresql_where=_RUNNING),
    comment="Sandboxes of organisations, by cell. A program on the hosts writes this table. `since_ms`: when the "
    "sandbox began to run. With `memory_mb` and `since_ms`, an estimate can begin before the first sample.",
)

halts = sa.Table(
    "halts",
    metadata,
    id_column("org_id", key=True),
    id_column("cell_id", key=True),
    ms_column("halted_at", key=True),
    ms_column("due_at_ms", null=True),
    ms_column("acked_at_ms", null=True),
    sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("claim_owner", sa.Text, nullable=True),
    sa.Column("last_error", sa.Text, nullable=True),
    sa.Column("ignored", sa.Integer, nullable=False, server_default=sa.text("0")),
    ms_column("ignored_since_ms", null=True),
    sa.CheckConstraint("due_at_ms IS NOT NULL OR acked_at_ms IS NOT NULL", name="halts_due_or_acked"),
    comment="A halt to send to a cell, until the cell acknowledges it. `due_at_ms`: the time of the next send (NULL: "
    "acknowledged). `ignored`: how often sandboxes still ran after the cell acknowledged it.",
)
sa.Index(
    "halts_due_by_cell",
    halts.c.cell_id,
    halts.c.due_at_ms,
    sqlite_where=sa.text("due_at_ms IS NOT NULL"),
    postgresql_where=sa.text("due_at_ms IS NOT NULL"),
)
sa.Index(
    "halts_due",
    halts.c.due_at_ms,
    sqlite_where=sa.text("due_at_ms IS NOT NULL"),
    postgresql_where=sa.text("due_at_ms IS NOT NULL"),
)
sa.Index("halts_by_time", halts.c.halted_at, halts.c.org_id, halts.c.cell_id)
sa.Index(
    "halts_ignored",
    halts.c.org_id,
    sqlite_where=sa.text("ignored > 0"),
    postgresql_where=sa.text("ignored > 0"),
)

projections = sa.Table(
    "projections",
    metadata,
    sa.Column("projection_id", Serial, primary_key=True),
    id_column("org_id"),
    ms_column("read_ms"),
    ms_column("at_ms"),
    sa.Column("is_halted", sa.Boolean, nullable=False),
    sa.Column("max_concurrent_sandboxes", sa.Integer, nullable=True),
    sa.Column("reason", sa.Text, nullable=True),
    sa.Column("balance_micro", Big, nullable=True),
    sa.Column("unaccepted_micro", Big, nullable=True),
    sa.Column("unsealed_micro", Big, nullable=True),
    sa.Column("held_micro", Big, nullable=True),
    sa.Index("projections_by_org", "org_id", "projection_id"),
    comment="Each change of an organisation's verdict, with its reason and figures (invariant 8). `read_ms`: the start "
    "of the read of the provider.",
)
sa.Index(
    "projections_wrong",
    projections.c.at_ms,
    sqlite_where=sa.text("reason = 'estimate_wrong'"),
    postgresql_where=sa.text("reason = 'estimate_wrong'"),
)

provider_states = sa.Table(
    "provider_states",
    metadata,
    id_column("provider", key=True),
    sa.Column("terms", sa.Text, nullable=True),
    ms_column("live_from_ms", null=True),
    sa.Column("wire_since_ms", Big, nullable=False, server_default=sa.text("0")),
    ms_column("paused_ms", null=True),
    sa.Column("paused_reason", sa.Text, nullable=True),
    ms_column("costs_read_ms", null=True),  # the last read of the costs of units in credits
    comment="One row per provider: its terms and its state. `terms`: JSON; seals depend on them. `live_from_ms`: "
    "windows before it are in shadow. `wire_since_ms`: the start of its present names and units. `paused_ms`, "
    "`paused_reason`: the time and reason of a pause by a person (NULL: not paused).",
)

reconciliations = sa.Table(
    "reconciliations",
    metadata,
    ms_column("day_ms", key=True),
    id_column("org_id", key=True),
    id_column("provider", key=True),
    id_column("customer_id", key=True),
    id_column("feature", key=True),
    sa.Column("ours_qty", Big, nullable=False),
    sa.Column("theirs_qty", Big, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    ms_column("at_ms"),
    sa.CheckConstraint("verdict IN ('equal', 'short', 'over', 'shadow')", name="reconciliations_verdict"),
    sa.Index("reconciliations_by_run", "at_ms", "verdict"),
    comment="The last comparison of our accepted usage with the provider's total, by UTC day (R2).",
)
sa.Index(
    "reconciliations_differing",
    reconciliations.c.provider,
    reconciliations.c.verdict,
    reconciliations.c.day_ms,
    sqlite_where=sa.text("verdict IN ('short', 'over')"),
    postgresql_where=sa.text("verdict IN ('short', 'over')"),
)

compared_marks = sa.Table(
    "compared_marks",
    metadata,
    id_column("provider", key=True),
    id_column("customer_id", key=True),
    ms_column("compared_ms"),
    sa.Column("open_days", Big, nullable=False),
    ms_column("open_since_ms", null=True),
    sa.Column("said", sa.Text, nullable=False),
    ms_column("at_ms"),
    comment="The progress of the comparison of settled pushes with a provider, by customer. `customer_id` '': the "
    "provider as a whole. `compared_ms`: the time up to which they were compared. `open_days`, `open_since_ms`, "
    "`said`: the number of open days, the first of them, and the reason. If all days are compared, `open_since_ms` "
    "and `said` are about a balance that was not compared.",
)

balance_marks = sa.Table(
    "balance_marks",
    metadata,
    id_column("provider", key=True),
    id_column("customer_id", key=True),
    id_column("feature", key=True),
    ms_column("since_ms"),
    sa.Column("apart_qty", Big, nullable=False),
    ms_column("at_ms"),
    id_column("org_id"),
    sa.Column("told_qty", Big, nullable=False, server_default=sa.text("0")),
    ms_column("told_ms", null=True),
    sa.Column("scale", Big, nullable=False, server_default=sa.text("1")),
    sa.Column("accepted_qty", Big, nullable=True),  # this and the next four columns: the base for the next cycle
    sa.Column("used_qty", Big, nullable=True),
    sa.Column("left_qty", Big, nullable=True),
    sa.Column("cycle_left_qty", Big, nullable=True),
    ms_column("ends_ms", null=True),
    sa.Column("own_units", sa.Text, nullable=True),  # JSON, by feature: units drawn, and the value assumed for each
    # The possible additional excess, because the amounts of some charges are unknown.
    sa.Column("unsure_qty", Big, nullable=False, server_default=sa.text("0")),
    comment="Use of a balance in its present cycle that exceeds our pushes, at the last comparison (P5, R2). "
    "`apart_qty`: that excess. `told_qty`, `told_ms`: the part that Drawdown reported and a person has not "
    "acknowledged. `unsure_qty`: the possible additional excess. `scale`: quantities in one unit of the balance.",
)

balance_parts = sa.Table(
    "balance_parts",
    metadata,
    id_column("provider", key=True),
    id_column("customer_id", key=True),
    id_column("balance", key=True),
    id_column("part", key=True),
    sa.Column("granted", sa.Text, nullable=False),
    ms_column("ends_ms", null=True),
    ms_column("seen_ms"),
    id_column("plan", null=True),
    sa.Column("used", sa.Text, nullable=True),
    comment="Parts of customers' balances, granted once or by a plan, in units of the balance. A provider no longer "
    "shows a part that is used up exactly, that expired, or whose plan ended. `used`: the use of a part that can end. "
    "`seen_ms`: the last time at which a read or a response showed the part, to a minute.",
)

ticks = sa.Table(
    "ticks",
    metadata,
    sa.Column("tick_id", Serial, primary_key=True),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("bucket_lo", sa.Integer, nullable=False),
    sa.Column("bucket_hi", sa.Integer, nullable=False),
    ms_column("started_ms"),
    ms_column("finished_ms", null=True),
    sa.Column("exit_status", sa.Integer, nullable=True),
    sa.Column("clock_trusted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("report", sa.Text, nullable=True),
    sa.Index("ticks_by_time", "started_ms"),
    comment="One row per tick, with its results and the work left, as JSON.",
)

operator_actions = sa.Table(
    "operator_actions",
    metadata,
    sa.Column("action_id", Serial, primary_key=True),
    ms_column("at_ms"),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    *said_columns(),
    sa.Column("via", sa.Text, nullable=False, server_default="unknown"),  # a channel of worker.access.audit.VIAS
    sa.Index("operator_actions_by_target", "target", "action_id"),
    sa.Column("hash", sa.Text, nullable=True),  # of this row and the previous hash; NULL: Drawdown did not write it
    comment="One row per change by a person, append-only and chained by hash. `hash`: over this row and the previous "
    "hash (NULL: Drawdown did not write the row).",
)

action_chain = sa.Table(
    "action_chain",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("actions", Big, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.CheckConstraint("id = 1", name="action_chain_one_row"),
    comment="A single row with the number of chained actions and the newest hash. Its lock puts actions in one order.",
)

incarnation = sa.Table(
    "incarnation",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    id_column("database_id"),
    sa.Column("number", sa.Integer, nullable=False),
    id_column("system_id", null=True),
    sa.Column("timeline", sa.Text, nullable=True),
    sa.Column("sends", Big, nullable=False, server_default=sa.text("0")),
    ms_column("doubted_ms", null=True),
    sa.Column("doubted_reason", sa.Text, nullable=True),
    sa.Column("doubted_after_tick", Big, nullable=True),  # the last tick on record at that time
    sa.CheckConstraint("id = 1", name="incarnation_one_row"),
    comment="A single row that identifies this database (R1). `sends`: the number of sends that it ever claimed. "
    "`doubted_ms`, `doubted_reason`: the start and the reason of a doubt about its history (NULL: no doubt). During a "
    "doubt, ticks do not seal or send.",
)

losses = sa.Table(
    "losses",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    ms_column("from_ms"),
    ms_column("until_ms"),
    ms_column("at_ms"),
    sa.Column("seal_id", Big, nullable=False),  # the last seal before the loss
    sa.Column("found", sa.Text, nullable=False),
    *said_columns(),
    sa.CheckConstraint("from_ms <= until_ms", name="losses_in_order"),
    comment="Spans of time that lost their history in a restore (R1). Drawdown looks up their windows at the provider "
    "before a first send. `seal_id`: the last seal before the loss.",
)

replays = sa.Table(
    "replays",
    metadata,
    sa.Column("replay_id", Serial, primary_key=True),
    sa.Column("scope", sa.Text, nullable=False),
    ms_column("from_ms"),
    ms_column("to_ms"),
    ms_column("next_ms"),
    sa.Column("pushes", Big, nullable=False, server_default=sa.text("0")),
    sa.Column("worker", sa.Text, nullable=False),
    ms_column("started_ms"),
    ms_column("lease_ms"),
    ms_column("finished_ms", null=True),
    *said_columns(),
    sa.Column("job_id", Big, nullable=True),
    sqlite_autoincrement=True,
    comment="One row per replay, with its progress. `next_ms`: the window from which it continues. `lease_ms`: the "
    "time until which its process counts as running.",
)
sa.Index(
    "replays_by_job",
    replays.c.job_id,
    postgresql_where=sa.text("job_id IS NOT NULL"),
    sqlite_where=sa.text("job_id IS NOT NULL"),
)


jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("job_id", Serial, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    ms_column("at_ms"),
    ms_column("began_ms", null=True),
    ms_column("ended_ms", null=True),
    sa.Column("worker", sa.Text, nullable=True),
    ms_column("lease_ms", null=True),
    sa.Column("tries", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("said", sa.Text, nullable=False, server_default=""),
    sa.Column("via", sa.Text, nullable=False),
    *said_columns(),
    sa.CheckConstraint("kind IN ('replay', 'accept', 'assign', 'topup', 'correct')", name="jobs_kind"),
    sa.CheckConstraint("state IN ('waiting', 'under_way', 'done', 'failed', 'cancelled')", name="jobs_state"),
    sa.CheckConstraint("(state = 'under_way') = (lease_ms IS NOT NULL)", name="jobs_leased"),
    comment="Work that a person queued and a tick does. `payload`: the work, as JSON. `tries`: the number of turns "
    "since the last progress.",
)
sa.Index(
    "jobs_open",
    jobs.c.job_id,
    postgresql_where=sa.text("state IN ('waiting', 'under_way')"),
    sqlite_where=sa.text("state IN ('waiting', 'under_way')"),
)
sa.Index(
    "jobs_failed",
    jobs.c.ended_ms,
    postgresql_where=sa.text("state = 'failed'"),
    sqlite_where=sa.text("state = 'failed'"),
)
