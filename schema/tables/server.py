"""The server's tables: webhooks that were taken, the gate's last asks, signatures that were used, programs' keys, and
what they sent that was invalid."""

import sqlalchemy as sa

from drawdown.schema.tables.columns import Big, id_column, metadata, ms_column, said_columns

webhooks = sa.Table(
    "webhooks",
    metadata,
    id_column("provider", key=True),
    id_column("event_id", key=True),
    ms_column("received_ms"),
    sa.Column("body_sha256", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("error", sa.Text, nullable=True),
    sa.CheckConstraint("state IN ('done', 'ignored', 'failed')", name="webhooks_state"),
    sa.Index("webhooks_by_time", "received_ms"),
    comment="Webhooks proven genuine, by their provider's event id, so that a repeat is known. failed: comes again.",
)

gate_asks = sa.Table(
    "gate_asks",
    metadata,
    id_column("org_id", key=True),
    ms_column("asked_ms"),
    ms_column("busy_until_ms", null=True),
    comment="When the gate last had a provider asked about an organisation, and until when that call may be under way.",
)

used_signatures = sa.Table(
    "used_signatures",
    metadata,
    sa.Column("signature_sha256", sa.Text, primary_key=True),
    ms_column("expires_ms"),
    sa.Index("used_signatures_by_time", "expires_ms"),
    comment="Signatures of admin requests that were taken: each counts once, for as long as it is fresh.",
)

_GOING = sa.text("rotated_ms IS NULL")
api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_sha256", sa.Text, primary_key=True),
    id_column("name"),
    sa.Column("scopes", sa.Text, nullable=False),
    id_column("org_id", null=True),
    ms_column("created_ms"),
    ms_column("expires_ms", null=True),
    ms_column("rotated_ms", null=True),
    ms_column("ended_ms", null=True),
    *said_columns(),
    ms_column("used_ms", null=True),
    id_column("cell_id", null=True),
    id_column("source", null=True),
    sa.CheckConstraint("length(key_sha256) = 64", name="api_keys_hash"),
    sa.Index("api_keys_going", "name", unique=True, sqlite_where=_GOING, postgresql_where=_GOING),
    comment="Keys of programs, by their hash: the key itself is nowhere. Scopes are separated by blanks; org_id: the "
    "one organisation it may name; cell_id: the one cell whose samples it may send; source: the one source of its "
    "events. rotated_ms: when another took its place; expires_ms: until when it is taken; used_ms: when it was last "
    "used, to a minute.",
)

invalid_items = sa.Table(
    "invalid_items",
    metadata,
    ms_column("hour_ms", key=True),
    id_column("key_name", key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("code", sa.Text, primary_key=True),
    sa.Column("items", Big, nullable=False),
    ms_column("first_ms"),
    ms_column("last_ms"),
    id_column("source", null=True),
    id_column("item_id", null=True),
    sa.CheckConstraint("kind IN ('events', 'samples')", name="invalid_items_kind"),
    sa.CheckConstraint("items > 0 AND last_ms >= first_ms", name="invalid_items_sane"),
    comment="What programs sent and was answered invalid, by hour: whoever sends in a loop fills no disk. source, "
    "item_id: what one of them calls itself, cut short; nothing else of an item is kept.",
)
