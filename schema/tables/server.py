"""The server's tables.

They store accepted webhooks, the gate's last reads, used signatures, programs' keys and invalid items. For the console,
they store people, sessions, failed sign-ins, and facts about its database.
"""

from __future__ import annotations

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
    comment="Webhooks that were proven genuine, by the provider's event id, to recognise a repeat. `state` 'failed': "
    "the provider sends it again.",
)

gate_asks = sa.Table(
    "gate_asks",
    metadata,
    id_column("org_id", key=True),
    ms_column("asked_ms"),
    ms_column("busy_until_ms", null=True),
    comment="The gate's last request to a provider about each organisation. `busy_until_ms`: the latest end of that "
    "request (NULL: it ended).",
)

used_signatures = sa.Table(
    "used_signatures",
    metadata,
    sa.Column("signature_sha256", sa.Text, primary_key=True),
    ms_column("expires_ms"),
    sa.Index("used_signatures_by_time", "expires_ms"),
    comment="Accepted signatures of admin requests. Each counts once, until `expires_ms`.",
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
    sa.Column("gives_micro", Big, nullable=False, server_default="0"),
    sa.CheckConstraint("length(key_sha256) = 64", name="api_keys_hash"),
    sa.Index("api_keys_going", "name", unique=True, sqlite_where=_GOING, postgresql_where=_GOING),
    comment="Keys of programs, by hash. The key itself is not stored. `scopes`: separated by spaces. `org_id`: the "
    "only organisation that the key may name. `cell_id`: the only cell for which it may send samples. `source`: the "
    "only source of its events. `gives_micro`: the most credit that one action may grant. `rotated_ms`: the time at "
    "which another key replaced it. `expires_ms`: the end of its use. `used_ms`: its last use, to a minute.",
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
    comment="Counts of items that programs sent and Drawdown rejected as invalid, by hour. Hourly counts keep a "
    "program that sends in a loop from filling the disk. `source`, `item_id`: the shortened source and id of an "
    "example. No other part of an item is stored.",
)


_LINKED = sa.text("link_sha256 IS NOT NULL")
console_users = sa.Table(
    "console_users",
    metadata,
    id_column("name", key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("grant_limit_micro", Big, nullable=True),
    sa.Column("password", sa.Text, nullable=True),
    sa.Column("link_sha256", sa.Text, nullable=True),
    ms_column("link_expires_ms", null=True),
    ms_column("created_ms"),
    ms_column("signed_in_ms", null=True),
    ms_column("ended_ms", null=True),
    *said_columns(),
    sa.CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="console_users_role"),
    sa.CheckConstraint("grant_limit_micro >= 0", name="console_users_grant_limit"),
    sa.CheckConstraint("(link_sha256 IS NULL) = (link_expires_ms IS NULL)", name="console_users_link"),
    sa.CheckConstraint(
        "ended_ms IS NULL OR (password IS NULL AND link_sha256 IS NULL)", name="console_users_ended_have_no_way_in"
    ),
    sa.Index("console_users_by_link", "link_sha256", unique=True, sqlite_where=_LINKED, postgresql_where=_LINKED),
    comment="People of the console. A name belongs to one person permanently. `password`: its Argon2id hash (older "
    "hashes: scrypt). `link_sha256`: hash of the one-time link that sets a password. `grant_limit_micro`: the most "
    "credit that the person may grant in one action.",
)

console_sessions = sa.Table(
    "console_sessions",
    metadata,
    sa.Column("session_sha256", sa.Text, primary_key=True),
    id_column("name"),
    ms_column("began_ms"),
    ms_column("seen_ms"),
    sa.CheckConstraint("length(session_sha256) = 64", name="console_sessions_hash"),
    sa.CheckConstraint("seen_ms >= began_ms", name="console_sessions_seen"),
    sa.Index("console_sessions_by_name", "name"),
    sa.Index("console_sessions_by_time", "began_ms"),
    comment="Signed-in people, by the hash of the token in their browser. Drawdown deletes ended sessions. `seen_ms`: "
    "its last use, to a minute.",
)

console_failures = sa.Table(
    "console_failures",
    metadata,
    id_column("name", key=True),
    id_column("address", key=True),
    ms_column("since_ms"),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.CheckConstraint("failures > 0", name="console_failures_some"),
    sa.Index("console_failures_by_time", "since_ms"),
    comment="Recent tries to sign in, by the typed name and the address. `name` '': all tries of the address. "
    "`since_ms`: the first of these.",
)

console_marks = sa.Table(
    "console_marks",
    metadata,
    sa.Column("mark", sa.Text, primary_key=True),
    ms_column("at_ms"),
    sa.CheckConstraint("mark IN ('demo')", name="console_marks_known"),
    comment="Facts that the console shows about the database itself. `mark` 'demo': all its data is made up.",
)

console_acts = sa.Table(
    "console_acts",
    metadata,
    id_column("key", key=True),
    id_column("name"),
    sa.Column("action", sa.Text, nullable=False),
    ms_column("at_ms"),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("place", sa.Text, nullable=False),
    sa.Index("console_acts_by_time", "at_ms"),
    comment="Forms of the console and programs' calls that took effect, by their key. A repeat takes effect once. "
    "`answer`: the response. `place`: the next page of a form, or the hash of a call's content. The keys `turn:…` "
    "serialise changes by the same shown state. Drawdown deletes a row once its key no longer counts.",
)

my_sessions = sa.Table(
    "my_sessions",
    metadata,
    sa.Column("session_sha256", sa.Text, primary_key=True),
    sa.Column("link_sha256", sa.Text, nullable=False),
    id_column("org_id"),
    id_column("person", null=True),
    ms_column("began_ms"),
    ms_column("ended_ms", null=True),
    sa.CheckConstraint("length(session_sha256) = 64 AND length(link_sha256) = 64", name="my_sessions_hash"),
    sa.CheckConstraint("ended_ms >= began_ms", name="my_sessions_ended"),
    sa.Index("my_sessions_by_link", "link_sha256", unique=True),
    sa.Index("my_sessions_by_org", "org_id", "began_ms"),
    sa.Index("my_sessions_by_time", "began_ms"),
    comment="Sessions of an organisation's own people, by the hash of the token in their browser. `link_sha256`: hash "
    "of the id of the link, which signs in once. Drawdown deletes a row once its session and its link have ended.",
)
