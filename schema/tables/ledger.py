"""The tables of the embedded ledger.

They store wallets, entries, rates, lots, the reservations of executions, plans and their monthly credit, tiers, pools
and payers.
"""

from __future__ import annotations

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, id_column, metadata, ms_column, said_columns

_DUE = sa.text("next_due_ms IS NOT NULL")
ledger_accounts = sa.Table(
    "ledger_accounts",
    metadata,
    id_column("account_id", key=True),
    sa.Column("balance_micro", Big, nullable=False, server_default=sa.text("0")),
    id_column("plan", null=True),
    sa.Column("held_micro", Big, nullable=False, server_default=sa.text("0")),
    sa.Column("overdraft_micro", Big, nullable=False, server_default=sa.text("0")),
    ms_column("next_due_ms", null=True),
    ms_column("lots_ended_ms", null=True),
    sa.Column("deferred_micro", Big, nullable=False, server_default=sa.text("0")),
    ms_column("given_to_ms", null=True),
    sa.Column("over_micro", Big, nullable=False, server_default=sa.text("0")),
    ms_column("lots_over_ms", null=True),
    sa.CheckConstraint("held_micro >= 0 AND overdraft_micro >= 0", name="ledger_accounts_sane"),
    sa.CheckConstraint("over_micro >= 0", name="ledger_accounts_over"),
    sa.Index("ledger_accounts_due", "next_due_ms", sqlite_where=_DUE, postgresql_where=_DUE),
    sa.Index("ledger_accounts_by_balance", "balance_micro", "account_id"),
    comment="Wallets. `balance_micro`: stored sum of the wallet's entries. `held_micro`: credit that open executions "
    "reserve. `next_due_ms`: the time at which the first reservation expires, or a lot begins, ends or expires (0: "
    "immediately). `over_micro`: remaining credit of ended lots that is not booked yet. `lots_over_ms`: use dated "
    "earlier may change that credit, or the amount that expired. `lots_ended_ms`: the last booked end of a lot. "
    "`deferred_micro`: credit that expires when an execution ends. `given_to_ms`: month up to which all credit of "
    "plans is granted.",
)

ledger_entries = sa.Table(
    "ledger_entries",
    metadata,
    id_column("key", key=True),
    sa.Column("kind", sa.Text, nullable=False),
    id_column("from_account"),
    id_column("to_account"),
    sa.Column("amount_micro", Big, nullable=False),
    id_column("feature", null=True),
    sa.Column("quantity", Big, nullable=True),
    ms_column("ts"),
    ms_column("at_ms"),
    *said_columns(),
    id_column("reservation", null=True),
    id_column("lot", null=True),
    ms_column("rate_ms", null=True),
    sa.CheckConstraint("kind IN ('usage', 'grant', 'execution', 'expiry', 'tier')", name="ledger_entries_kind"),
    sa.CheckConstraint(
        "CASE WHEN lot IS NULL THEN kind <> 'expiry' ELSE kind IN ('grant', 'expiry') END", name="ledger_entries_lot"
    ),
    sa.CheckConstraint("kind <> 'execution' OR reservation IS NOT NULL", name="ledger_entries_execution_says_which"),
    sa.CheckConstraint("from_account <> to_account", name="ledger_entries_two_sides"),
    sa.CheckConstraint(
        "kind <> 'usage' OR (feature IS NOT NULL AND quantity IS NOT NULL)", name="ledger_entries_usage_says_what"
    ),
    sa.Index("ledger_entries_by_from", "from_account", "ts"),
    sa.Index(
        "ledger_entries_by_reservation",
        "reservation",
        sqlite_where=sa.text("reservation IS NOT NULL"),
        postgresql_where=sa.text("reservation IS NOT NULL"),
    ),
    sa.Index(
        "ledger_entries_by_lot",
        "lot",
        sqlite_where=sa.text("lot IS NOT NULL"),
        postgresql_where=sa.text("lot IS NOT NULL"),
    ),
    sa.Index(
        "ledger_entries_returned",
        "to_account",
        "ts",
        sqlite_where=sa.text("kind = 'expiry' AND to_account <> 'breakage'"),
        postgresql_where=sa.text("kind = 'expiry' AND to_account <> 'breakage'"),
    ),
    comment="A move of an amount from one account to another. Its two lines sum to zero by construction. `lot`: the "
    "lot that the entry expires or takes back. `ts`: usage counts at the start of its window. `rate_ms`: the start of "
    "the rate at which the usage was charged (NULL: an older version charged it and did not record the rate).",
)

sa.Index(
    "ledger_entries_grants",
    ledger_entries.c.to_account,
    sqlite_where=sa.text("kind = 'grant'"),
    postgresql_where=sa.text("kind = 'grant'"),
)

sa.Index(
    "ledger_entries_of_executions",
    ledger_entries.c.ts,
    sqlite_where=sa.text("kind = 'execution'"),
    postgresql_where=sa.text("kind = 'execution'"),
)

high_spenders = sa.Table(
    "high_spenders",
    metadata,
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
    id_column("customer_id"),
    sa.Column("used_micro", Big, nullable=False),
    ms_column("from_ms"),
    ms_column("at_ms"),
    sa.CheckConstraint("place > 0 AND used_micro > 0 AND from_ms < at_ms", name="high_spenders_sane"),
    comment="The most used wallets before the last check. `from_ms`, `at_ms`: the measured time. If `at_ms` differs "
    "from that of the first row, the row is from an earlier check. No decision depends on this table.",
)

ledger_rates = sa.Table(
    "ledger_rates",
    metadata,
    id_column("feature", key=True),
    ms_column("start_ms", key=True),
    sa.Column("micro_credits", Big, nullable=False),
    sa.Column("per_quantity", Big, nullable=False, server_default=sa.text("1")),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint("micro_credits >= 0 AND per_quantity > 0", name="ledger_rates_sane"),
    comment="The rate card: micro-credits for each `per_quantity` base units, from `start_ms` on.",
)

ledger_plans = sa.Table(
    "ledger_plans",
    metadata,
    id_column("plan", key=True),
    sa.Column("max_concurrent_sandboxes", sa.Integer, nullable=False),
    sa.Column("hold_factor_ppm", Big, nullable=False, server_default=sa.text("1000000")),
    sa.Column("unknown_hold_micro", Big, nullable=True),
    sa.Column("most_hold_micro", Big, nullable=True),
    sa.Column("most_held_micro", Big, nullable=True),
    sa.Column("holds_halt", sa.Boolean, nullable=False, server_default=sa.true()),
    *(
        sa.CheckConstraint(f"{column} > 0", name=f"ledger_plans_{column}_check")
        for column in ("hold_factor_ppm", "unknown_hold_micro", "most_hold_micro", "most_held_micro")
    ),
    comment="Plans, with the number of concurrent sandboxes and the amounts that executions reserve.",
)

run_blocks = sa.Table(
    "run_blocks",
    metadata,
    id_column("org_id", key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    id_column("name", key=True),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint("kind IN ('project', 'action')", name="run_blocks_kind"),
    comment="Projects and actions for which a person blocks new executions.",
)

_HELD = sa.text("state = 'held'")
_METERING = sa.text("state = 'held' AND settled_by = 'metering'")
_OF_SUPPLIER = sa.text("supplier IS NOT NULL")
_EXPIRED = sa.text("state = 'expired'")
_SPONSORED = sa.text("payer_number IS NOT NULL")
_ELSEWHERE = sa.text("state = 'held' AND hold <> 'wallet'")
reservations = sa.Table(
    "reservations",
    metadata,
    id_column("reservation", key=True),
    id_column("org_id"),
    id_column("customer_id"),
    id_column("project", null=True),
    id_column("subject", null=True),
    id_column("action", null=True),
    sa.Column("estimate", sa.Text, nullable=True),
    sa.Column("amount_micro", Big, nullable=False),
    sa.Column("drawn_micro", Big, nullable=False, server_default=sa.text("0")),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("overage", sa.Text, nullable=False),
    ms_column("accepted_ms"),
    ms_column("expires_ms"),
    ms_column("ended_ms", null=True),
    sa.Column("ended_by", sa.Text, nullable=True),
    sa.Column("ended_reason", sa.Text, nullable=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    *said_columns(),
    id_column("supplier", null=True),
    sa.Column("settled_by", sa.Text, nullable=False, server_default="receipt"),
    sa.Column("metered_before_micro", Big, nullable=False, server_default=sa.text("0")),
    ms_column("metered_to_ms", null=True),
    sa.Column("payer_number", sa.Integer, nullable=True),
    sa.Column("hold", sa.Text, nullable=False, server_default="wallet"),
    sa.CheckConstraint(
        "hold = 'wallet' OR (hold IN ('local', 'declared') AND settled_by = 'receipt' AND payer_number IS NULL)",
        name="reservations_hold",
    ),
    sa.CheckConstraint("state IN ('held', 'settled', 'released', 'expired')", name="reservations_state"),
    sa.CheckConstraint("overage IN ('charge', 'cap', 'refuse')", name="reservations_overage"),
    sa.CheckConstraint("settled_by IN ('receipt', 'metering')", name="reservations_settled_by"),
    sa.CheckConstraint("amount_micro > 0 AND drawn_micro >= 0 AND expires_ms > accepted_ms", name="reservations_sane"),
    sa.CheckConstraint("(state = 'held') = (ended_ms IS NULL)", name="reservations_end"),
    sa.Index("reservations_held_by_wallet", "customer_id", "expires_ms", sqlite_where=_HELD, postgresql_where=_HELD),
    sa.Index("reservations_held_by_end", "expires_ms", sqlite_where=_HELD, postgresql_where=_HELD),
    sa.Index("reservations_by_org", "org_id", "accepted_ms"),
    sa.Index("reservations_by_accepted", "accepted_ms", "reservation"),
    sa.Index("reservations_held_by_org", "org_id", "expires_ms", sqlite_where=_ELSEWHERE, postgresql_where=_ELSEWHERE),
    sa.Index("reservations_by_supplier", "supplier", "state", sqlite_where=_OF_SUPPLIER, postgresql_where=_OF_SUPPLIER),
    sa.Index(
        "reservations_by_payer",
        "customer_id",
        "org_id",
        "payer_number",
        sqlite_where=_SPONSORED,
        postgresql_where=_SPONSORED,
    ),
    sa.Index("reservations_expired", "ended_ms", sqlite_where=_EXPIRED, postgresql_where=_EXPIRED),
    sa.Index("reservations_owed_by_wallet", "customer_id", sqlite_where=_OF_SUPPLIER, postgresql_where=_OF_SUPPLIER),
    sa.Index("reservations_metering", "customer_id", "reservation", sqlite_where=_METERING, postgresql_where=_METERING),
    comment="The credit that an execution may use, reserved before it starts. `customer_id`: the customer whose "
    "wallet pays; it never changes. `payer_number`: if another customer pays, the row of `payers` that permits it. "
    "`hold`: reserved in a wallet here (`wallet`), of the last balance read from a provider (`local`), or of no "
    "balance (`declared`). `drawn_micro`: if metering settles the execution, the charge of metering for its "
    "sandboxes. `metered_before_micro`: its part in windows before `metered_to_ms`, which are not read again.",
)

_OPEN = sa.text("is_open")
reservation_sandboxes = sa.Table(
    "reservation_sandboxes",
    metadata,
    id_column("reservation", key=True),
    id_column("sandbox_id", key=True),
    id_column("org_id"),
    sa.Column("is_open", sa.Boolean, nullable=False),
    sa.Index(
        "reservation_sandboxes_open",
        "org_id",
        "sandbox_id",
        unique=True,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    ),
    comment="The sandboxes that an execution names; they never change. `is_open`: the execution is open, and no other "
    "execution may name the sandbox.",
)

run_usage = sa.Table(
    "run_usage",
    metadata,
    id_column("reservation", key=True),
    sa.Column("number", sa.Text, primary_key=True),
    id_column("feature", key=True),
    sa.Column("quantity", Big, nullable=False),
    sa.Column("amount_micro", Big, nullable=False),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint("quantity >= 0 AND amount_micro >= 0", name="run_usage_sane"),
    comment="Usage of an execution without a wallet, by the number of the draw. An execution with a wallet has entries "
    "instead.",
)

run_samples = sa.Table(
    "run_samples",
    metadata,
    id_column("sample_id", key=True),
    id_column("reservation"),
    sa.Column("number", sa.Text, nullable=False),
    id_column("feature"),
    id_column("org_id"),
    sa.Column("memory_mb", Big, nullable=False),
    sa.Column("interval_s", Big, nullable=False),
    sa.Column("base_units", Big, nullable=False),
    ms_column("ts"),
    sa.CheckConstraint(
        "base_units > 0 AND base_units IN (interval_s, interval_s * memory_mb)", name="run_samples_sane"
    ),
    sa.Index("run_samples_by_run", "reservation", "number", "feature"),
    comment="The samples that bill the usage of an execution, and their contents.",
)

_TO_COME = sa.text("begins_ms > at_ms")
_OF_POOL = sa.text("pool IS NOT NULL")
ledger_lots = sa.Table(
    "ledger_lots",
    metadata,
    id_column("lot", key=True),
    id_column("customer_id"),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("amount_micro", Big, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, server_default=sa.text("50")),
    ms_column("begins_ms"),
    ms_column("expires_ms", null=True),
    sa.Column("features", sa.Text, nullable=True),
    ms_column("at_ms"),
    *said_columns(),
    id_column("pool", null=True),
    sa.CheckConstraint("kind IN ('included', 'bonus', 'purchased', 'sponsor', 'refund')", name="ledger_lots_kind"),
    sa.CheckConstraint("amount_micro > 0 AND (expires_ms IS NULL OR expires_ms > begins_ms)", name="ledger_lots_sane"),
    sa.Index("ledger_lots_by_end", "customer_id", "expires_ms"),
    sa.Index("ledger_lots_to_come", "customer_id", "begins_ms", sqlite_where=_TO_COME, postgresql_where=_TO_COME),
    sa.Index("ledger_lots_of_pool", "pool", "expires_ms", sqlite_where=_OF_POOL, postgresql_where=_OF_POOL),
    comment="One row per grant of credit, with the terms of its use. `lot`: the grant's key. Drawdown computes the "
    "remaining credit of each lot. `pool`: the pool that owns the credit, and to which unused credit returns.",
)


plan_terms = sa.Table(
    "plan_terms",
    metadata,
    id_column("plan", key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    ms_column("from_ms"),
    sa.Column("included_micro", Big, nullable=False),
    sa.Column("rollover_min_micro", Big, nullable=False),
    sa.Column("rollover_max_micro", Big, nullable=False),
    sa.Column("first_micro", Big, nullable=False),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint(
        "included_micro >= 0 AND rollover_min_micro >= 0 AND rollover_max_micro >= 0 AND first_micro >= 0",
        name="plan_terms_sane",
    ),
    comment="Credit that a plan gives, from `from_ms` on. `included_micro`: each month. `rollover_min_micro`, "
    "`rollover_max_micro`: bounds of the part that rolls over. `first_micro`: to a new customer.",
)

plan_stays = sa.Table(
    "plan_stays",
    metadata,
    id_column("customer_id", key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    id_column("plan"),
    ms_column("since_ms"),
    ms_column("at_ms"),
    *said_columns(),
    comment="A customer's plan, from `since_ms` until the customer's next row.",
)

plan_lots = sa.Table(
    "plan_lots",
    metadata,
    id_column("lot", key=True),
    id_column("customer_id"),
    sa.Column("part", sa.Text, nullable=False),
    id_column("plan"),
    sa.Column("period", sa.Text, nullable=True),
    sa.Column("rollover_min_micro", Big, nullable=False),
    sa.Column("rollover_max_micro", Big, nullable=False),
    sa.CheckConstraint("part IN ('included', 'rollover', 'first')", name="plan_lots_part"),
    sa.CheckConstraint("(part = 'first') = (period IS NULL)", name="plan_lots_period"),
    sa.Index("plan_lots_by_customer", "customer_id", "period"),
    comment="Lots that plans granted. `plan`, `period`: the plan, and the month. `rollover_min_micro`, "
    "`rollover_max_micro`: terms of rolling over, copied from the plan.",
)

tiers = sa.Table(
    "tiers",
    metadata,
    id_column("tier", key=True),
    sa.Column("at_once", sa.Integer, nullable=False),
    sa.Column("price_micro", Big, nullable=False),
    sa.CheckConstraint("at_once >= 0 AND price_micro >= 0", name="tiers_sane"),
    comment="Tiers, with the number of concurrent sandboxes and the price of a month.",
)

tier_holders = sa.Table(
    "tier_holders",
    metadata,
    id_column("customer_id", key=True),
    id_column("tier", key=True),
    ms_column("bought_ms"),
    ms_column("paid_to_ms"),
    sa.Column("renews", sa.Boolean, nullable=False),
    ms_column("ended_ms", null=True),
    sa.Column("ended_reason", sa.Text, nullable=True),
    *said_columns(),
    sa.Index("tier_holders_by_tier", "tier"),
    comment="Customers who bought a tier. `paid_to_ms`: the time until which it is paid. `renews`: true if it then "
    "continues.",
)


pools = sa.Table(
    "pools",
    metadata,
    id_column("pool", key=True),
    ms_column("at_ms"),
    *said_columns(),
    comment="Wallets that allot credit to others. Each pool has a wallet with its own name.",
)

payers = sa.Table(
    "payers",
    metadata,
    id_column("payer", key=True),
    id_column("org_id", key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("allowed", sa.Boolean, nullable=False),
    sa.Column("limit_micro", Big, nullable=True),
    ms_column("since_ms"),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint("limit_micro IS NULL OR (allowed AND limit_micro > 0)", name="payers_sane"),
    sa.Index("payers_by_org", "org_id"),
    comment="Customers that may pay for an organisation's executions, in addition to its own wallet. The row with the "
    "highest `number` applies, from its `since_ms` on. `limit_micro`: the most that executions accepted under the row "
    "may reserve and cost (NULL: no limit).",
)
