"""The tables of the guard.

They store metrics, prices, limits and limit overrides, and the uses that the guard allowed and refused.
"""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, Serial, id_column, metadata, ms_column, said_columns

_PERIODS = "period IN ('hour', 'day', 'month')"
_PHASE = "phase BETWEEN 0 AND 3"


def _number() -> "sa.Column[int]":
    return sa.Column("number", sa.Integer, primary_key=True, autoincrement=False)


guard_metrics = sa.Table(
    "guard_metrics",
    metadata,
    id_column("metric", key=True),
    _number(),
    sa.Column("price_micro", Big, nullable=False),
    sa.Column("per_units", Big, nullable=False),
    id_column("payer", null=True),
    sa.Column("phase", sa.Integer, nullable=False),
    sa.Column("warn_ppm", sa.Integer, nullable=False),
    sa.Column("fails_open", sa.Boolean, nullable=False),
    id_column("counts", null=True),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint(
        f"{_PHASE} AND price_micro >= 0 AND per_units > 0 AND warn_ppm BETWEEN 0 AND 1000000", name="guard_metrics_sane"
    ),
    comment="Metrics that the guard counts. The row with the highest `number` applies. `price_micro`: price of "
    "`per_units`. `payer`: the customer who pays in place of the organisation. `fails_open`: allow use if the payer's "
    "credit is unknown. `counts`: the event type or feature that the metric counts (NULL: that with the metric's "
    "name).",
)

guard_limits = sa.Table(
    "guard_limits",
    metadata,
    id_column("metric", key=True),
    id_column("plan", key=True),
    sa.Column("period", sa.Text, primary_key=True),
    _number(),
    sa.Column("ended", sa.Boolean, nullable=False),
    sa.Column("amount", Big, nullable=True),
    sa.Column("phase", sa.Integer, nullable=True),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint(f"{_PERIODS} AND (phase IS NULL OR {_PHASE}) AND amount >= 0", name="guard_limits_sane"),
    comment="A plan's limit of a metric in a period. `amount` NULL: no limit. The row with the highest `number` "
    "applies. `plan` '*': all other plans, and organisations without a plan.",
)

_IN_FORCE = sa.text("state = 'in_force'")
guard_overrides = sa.Table(
    "guard_overrides",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    id_column("metric"),
    sa.Column("reach", sa.Text, nullable=False),
    id_column("target"),
    sa.Column("period", sa.Text, nullable=False),
    sa.Column("amount", Big, nullable=True),
    ms_column("ends_ms", null=True),
    sa.Column("state", sa.Text, nullable=False),
    ms_column("at_ms"),
    *said_columns(),
    ms_column("decided_ms", null=True),
    sa.Column("decided_by", sa.Text, nullable=True),
    sa.Column("decided_reason", sa.Text, nullable=True),
    sa.CheckConstraint(
        f"{_PERIODS} AND reach IN ('org', 'pattern', 'plan') AND state IN ('asked', 'in_force', 'refused', 'ended') "
        "AND amount >= 0",
        name="guard_overrides_sane",
    ),
    sa.CheckConstraint("(state = 'asked') = (decided_ms IS NULL)", name="guard_overrides_decided"),
    sa.Index(
        "guard_overrides_in_force", "metric", "reach", "target", sqlite_where=_IN_FORCE, postgresql_where=_IN_FORCE
    ),
    comment="Amounts that replace a plan's limit. `reach`: an organisation, organisations with a common prefix, or a "
    "plan. `ends_ms`: the end (NULL: permanent), which each read compares with its own time.",
)

_HELD = sa.text("state = 'held'")
_FAIL_OPEN = sa.text("degraded")
guard_uses = sa.Table(
    "guard_uses",
    metadata,
    id_column("use_key", key=True),
    id_column("org_id"),
    id_column("metric"),
    sa.Column("number", Big, nullable=False),
    ms_column("month_ms"),
    sa.Column("metric_number", sa.Integer, nullable=False),
    sa.Column("asked", Big, nullable=False),
    sa.Column("amount", Big, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("would", sa.Text, nullable=False),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("enforced", sa.Boolean, nullable=False),
    sa.Column("limit_period", sa.Text, nullable=True),
    sa.Column("limit_amount", Big, nullable=True),
    sa.Column("degraded", sa.Boolean, nullable=False),
    id_column("reservation", null=True),
    sa.Column("charged_micro", Big, nullable=False),
    sa.Column("forgone_micro", Big, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    ms_column("at_ms"),
    ms_column("expires_ms", null=True),
    ms_column("ended_ms", null=True),
    *said_columns(),
    sa.CheckConstraint(
        "state IN ('used', 'held', 'settled', 'released', 'expired') AND decision IN ('allow', 'warn') "
        "AND would IN ('allow', 'warn', 'block')",
        name="guard_uses_words",
    ),
    sa.CheckConstraint(
        "asked > 0 AND amount >= 0 AND charged_micro >= 0 AND forgone_micro >= 0 AND number > 0",
        name="guard_uses_sane",
    ),
    sa.Index("guard_uses_by_metric", "org_id", "metric", "at_ms"),
    sa.Index("guard_uses_by_time", "metric", "at_ms"),
    sa.Index("guard_uses_held", "org_id", "metric", "expires_ms", sqlite_where=_HELD, postgresql_where=_HELD),
    sa.Index("guard_uses_fail_open", "metric", "at_ms", sqlite_where=_FAIL_OPEN, postgresql_where=_FAIL_OPEN),
    comment="One row per use that the guard allowed; counters are sums of these rows. `asked`: the amount decided. "
    "`amount`: the amount that counts now. `number`: position among the organisation's uses of the metric in the "
    "month. `forgone_micro`: price of use allowed without credit.",
)

guard_counters = sa.Table(
    "guard_counters",
    metadata,
    id_column("org_id", key=True),
    id_column("metric", key=True),
    sa.Column("period", sa.Text, primary_key=True),
    ms_column("start_ms", key=True),
    sa.Column("used", Big, nullable=False),
    sa.Column("uses", Big, nullable=False),
    sa.Column("warned", sa.Boolean, nullable=False),
    sa.CheckConstraint(f"{_PERIODS} AND used >= 0 AND uses >= 0", name="guard_counters_sane"),
    comment="Total use of a metric in a period, and the number of its uses. The period is in the key, so counters are "
    "never reset.",
)

guard_denials = sa.Table(
    "guard_denials",
    metadata,
    id_column("org_id", key=True),
    id_column("metric", key=True),
    ms_column("minute_ms", key=True),
    id_column("reason_code", key=True),
    sa.Column("enforced", sa.Boolean, primary_key=True),
    sa.Column("count", Big, nullable=False),
    sa.Column("amount", Big, nullable=False),
    sa.Column("pays", sa.Boolean, nullable=False),
    ms_column("first_ms"),
    ms_column("last_ms"),
    id_column("sample"),
    sa.CheckConstraint("count > 0 AND amount > 0 AND last_ms >= first_ms", name="guard_denials_sane"),
    sa.Index("guard_denials_by_time", "metric", "minute_ms"),
    comment="Uses that the guard blocked, or would have blocked, by minute. `enforced`: false if only phase 3 would "
    "have blocked the use. `sample`: key of the first use. One row per minute keeps a program that retries in a loop "
    "from filling the disk.",
)

guard_corrections = sa.Table(
    "guard_corrections",
    metadata,
    sa.Column("number", Serial, primary_key=True),
    id_column("org_id"),
    id_column("metric"),
    sa.Column("period", sa.Text, nullable=False),
    ms_column("start_ms"),
    sa.Column("before", Big, nullable=False),
    sa.Column("after", Big, nullable=False),
    ms_column("at_ms"),
    *said_columns(),
    sa.CheckConstraint(f"{_PERIODS} AND before >= 0 AND after >= 0", name="guard_corrections_sane"),
    comment="A counter that differed from the sum of its uses, and its correction.",
)
