"""The tables of the outbox.

They store owed, sealed and sent quantities, and the outcome of each push.
"""

import sqlalchemy as sa

from drawdown.schema.pending import REASONS
from drawdown.schema.push_states import OPEN_STORED, STATES, sql_list
from drawdown.schema.tables.columns import (
    OFTEN_VACUUMED,
    Big,
    Serial,
    id_column,
    metadata,
    ms_column,
    push_reference,
    said_columns,
)

dirty_windows = sa.Table(
    "dirty_windows",
    metadata,
    id_column("org_id", key=True),
    ms_column("window_ms", key=True),
    sqlite_with_rowid=False,
    comment="Windows below the watermark whose difference must be computed again. Causes are late samples, fixes, "
    "voids and withdrawals.",
)

pending_usage = sa.Table(
    "pending_usage",
    metadata,
    ms_column("window_ms", key=True),
    id_column("org_id", key=True),
    sa.Column("memory_mb", Big, primary_key=True, autoincrement=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("seconds", Big, nullable=False),
    sa.Column("samples", Big, nullable=False),
    sa.CheckConstraint(f"reason IN {tuple(REASONS)}", name="pending_usage_reason"),
    sa.Index("pending_usage_by_org", "org_id", "window_ms"),
    sqlite_with_rowid=False,
    comment="Usage that cannot be sealed yet, with the reason (S6). When the reason is fixed, the window becomes "
    "dirty.",
)

pushes = sa.Table(
    "pushes",
    metadata,
    *push_reference(),
    id_column("provider"),
    id_column("customer_id"),
    sa.Column("sealed_qty", Big, nullable=False),
    sa.Column("sent_qty", Big, nullable=False),
    id_column("key"),
    ms_column("sealed_at_ms"),
    sa.Column("seal_id", Big, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    ms_column("due_at_ms"),
    sa.Column("claim_owner", sa.Text, nullable=True),
    sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
    ms_column("first_attempt_ms", null=True),
    ms_column("settled_ms", null=True),
    sa.Column("last_error", sa.Text, nullable=True),
    id_column("wire_key", null=True),
    sa.Column("lookups", sa.Integer, nullable=False, server_default=sa.text("0")),
    # The time of the last lookup, and the result: found, found N, drawn, absent, cannot_tell, not_read.
    ms_column("looked_up_ms", null=True),
    sa.Column("lookup_answer", sa.Text, nullable=True),
    # True if the push was rejected, and a person billed it, with an event at the provider or elsewhere.
    sa.Column("by_hand", sa.Boolean, nullable=False, server_default=sa.false()),
    # The number of attempts when the provider refused the accepted push. Their responses show the earlier state.
    sa.Column("refused_attempts", sa.Integer, nullable=True),
    # Credits for one base unit, as the provider reported for this charge. The cost may change while the charge is in
    # flight. The value is a decimal, or a fraction such as 1/3000. A fraction is the mean cost of a charge that ended
    # inside a unit.
    sa.Column("credit_cost", sa.Text, nullable=True),
    sa.CheckConstraint(
        f"state IN {sql_list(name for name, state in STATES.items() if state.is_stored)}", name="pushes_state"
    ),
    # SQLite turns an overflowing product into a float. Cut to an integer, it is outside these bounds (S8).
    sa.CheckConstraint("sealed_qty BETWEEN -9000000000000000000 AND 9000000000000000000", name="pushes_quantity_bound"),
    sqlite_with_rowid=False,
    **OFTEN_VACUUMED,
    comment="The outbox, one immutable quantity per row (S3). Only the delivery state changes.",
)
_OPEN = sa.text(f"state IN {sql_list(OPEN_STORED)}")
sa.Index(
    "pushes_open",
    pushes.c.provider,
    pushes.c.due_at_ms,
    sqlite_where=_OPEN,
    postgresql_where=_OPEN,
)

# The embedded ledger charges in this process, in the order of due times, so it needs no entry here.
_UNSENT = sa.text("state = 'due' AND first_attempt_ms IS NULL AND provider <> 'embedded'")
sa.Index("pushes_unsent", pushes.c.provider, pushes.c.window_ms, sqlite_where=_UNSENT, postgresql_where=_UNSENT)

_SHADOW = sa.text("state = 'shadow'")
sa.Index("pushes_in_shadow", pushes.c.provider, pushes.c.window_ms, sqlite_where=_SHADOW, postgresql_where=_SHADOW)

_FOR_PEOPLE = sa.text("state IN ('in_doubt', 'rejected')")
sa.Index(
    "pushes_for_people",
    pushes.c.state,
    pushes.c.window_ms,
    pushes.c.org_id,
    pushes.c.feature,
    pushes.c.revision,
    sqlite_where=_FOR_PEOPLE,
    postgresql_where=_FOR_PEOPLE,
)
sa.Index(
    "pushes_by_wire_key",
    pushes.c.wire_key,
    sqlite_where=sa.text("wire_key IS NOT NULL"),
    postgresql_where=sa.text("wire_key IS NOT NULL"),
)

attempts = sa.Table(
    "attempts",
    metadata,
    *push_reference(),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    ms_column("started_ms"),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("sent_qty", Big, nullable=False),
    ms_column("finished_ms", null=True),
    sa.Column("outcome", sa.Text, nullable=True),
    sa.Column("detail", sa.Text, nullable=True),
    sa.Column("attempts_then", sa.Integer, nullable=True),  # the number of attempts when the response was written
    sa.Index("attempts_by_start", "started_ms"),
    sqlite_with_rowid=False,
    comment="One row per send, committed before a byte leaves (P1). `outcome` NULL: Drawdown did not see a response.",
)

voids = sa.Table(
    "voids",
    metadata,
    *push_reference(),
    ms_column("at_ms"),
    sa.Column("evidence_kind", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    *said_columns(),
    sa.Column("attempts_then", sa.Integer, nullable=True),  # the number of attempts of the push at `at_ms`
    sa.CheckConstraint("evidence_kind IN ('rejected', 'absent', 'operator', 'adopted')", name="voids_evidence_kind"),
    sa.CheckConstraint("length(evidence) > 0", name="voids_evidence_given"),
    comment="Statements that a push never reached its provider, with evidence (P5).",
)

adoptions = sa.Table(
    "adoptions",
    metadata,
    *push_reference(),
    ms_column("at_ms"),
    # other: the push's key, with another quantity; excess: a charge outside our keys; drawn: a draw of a balance
    # without an event.
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    *said_columns(),
    sa.CheckConstraint("kind IN ('other', 'excess', 'drawn')", name="adoptions_kind"),
    sa.CheckConstraint("length(evidence) > 0", name="adoptions_evidence_given"),
    comment="Charges of a provider that Drawdown recorded as pushes, with evidence (R1, R2). A charge that the "
    "provider lost has a negative quantity.",
)

carries = sa.Table(
    "carries",
    metadata,
    id_column("org_id", key=True),
    id_column("provider", key=True),
    id_column("customer_id", key=True),
    id_column("feature", key=True),
    sa.Column("carry_qty", Big, nullable=False),
    comment="Quantities sealed but not sent (S10). They are parts of a unit, or refused negative quantities.",
)

folded_pushes = sa.Table(
    "folded_pushes",
    metadata,
    ms_column("day_ms", key=True),
    id_column("org_id", key=True),
    id_column("provider", key=True),
    id_column("customer_id", key=True),
    id_column("feature", key=True),
    sa.Column("state", sa.Text, primary_key=True),
    *(sa.Column(name, Big, nullable=False) for name in ("pushes", "attempts", "sealed_qty", "sent_qty")),
    ms_column("folded_ms"),
    sa.CheckConstraint("state IN ('accepted', 'voided', 'carried', 'shadow')", name="folded_pushes_state"),
    sa.Index("folded_pushes_by_org", "org_id", "day_ms"),
    comment="Sums by UTC day of settled pushes below the floor that were deleted. Their voids and adoptions stay.",
)

seals = sa.Table(
    "seals",
    metadata,
    sa.Column("seal_id", Serial, primary_key=True),
    ms_column("at_ms"),
    sa.Column("bucket_lo", sa.Integer, nullable=False),
    sa.Column("bucket_hi", sa.Integer, nullable=False),
    ms_column("horizon_ms"),
    sa.Column("cursor", Big, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    comment="One row per committed seal, with its watermark and cursor (invariant 4).",
)
