"""Webhooks to the operator's product, as people and metrics look at them: never a secret. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.sql import queries

SQL = queries(__file__)

STATES: Final = ("due", "delivered", "failed")


@dataclass(frozen=True)
class EndpointRow:
    """An endpoint; times are milliseconds. `due` and `failed` count messages, `oldest_due_ms` is when the oldest of
    those that are due happened, `old_until_ms` until when the secret before signs, too."""

    name: str
    url: str
    events: list[str]
    generation: int
    old_until_ms: int | None
    created_ms: int
    ended_ms: int | None
    due: int
    failed: int
    oldest_due_ms: int | None


@dataclass(frozen=True)
class DeliveryRow:
    """A message for one endpoint. `attempts`: calls that were begun, or may have been; `failures`: in a row."""

    message_id: str
    event: str
    org_id: str | None
    customer_id: str | None
    at_ms: int
    endpoint: str
    state: str
    attempts: int
    failures: int
    replays: int
    due_at_ms: int
    ended_ms: int | None
    last_status: int | None
    last_error: str | None


@dataclass(frozen=True)
class LevelRow:
    """At or below which balance an organisation's is low; None: never. The one without an organisation is for all that
    have none of their own."""

    org_id: str
    low_micro: int | None


@dataclass(frozen=True)
class MessageFilter:
    """Which messages: in these states; to an endpoint, of an organisation. Empty: any."""

    states: tuple[str, ...] = STATES
    endpoint: str = ""
    org: str = ""


def list_endpoints(connection: sa.Connection) -> list[EndpointRow]:
    """Those that go on first, by their names."""
    rows = SQL.run(connection, "endpoints").mappings()
    return [EndpointRow(**{**row, "events": row["events"].split()}) for row in rows]


def find_endpoint(connection: sa.Connection, name: str) -> EndpointRow:
    """Errors: UnknownId."""
    ids.require(connection, ids.ENDPOINT, name)
    return next(row for row in list_endpoints(connection) if row.name == name)


def list_levels(connection: sa.Connection, most: int) -> list[LevelRow]:
    """Everybody's first, then those of single organisations."""
    return [LevelRow(**row) for row in SQL.run(connection, "levels", {"at_most": most}).mappings()]


def list_messages(connection: sa.Connection, chosen: MessageFilter, most: int) -> list[DeliveryRow]:
    """The newest first. Errors: UnknownId."""
    for kind, name in ((ids.ENDPOINT, chosen.endpoint), (ids.ORG, chosen.org)):
        if name:
            ids.require(connection, kind, name)
    values = {"states": list(chosen.states), "endpoint": chosen.endpoint, "org": chosen.org, "at_most": most}
    return [DeliveryRow(**row) for row in SQL.run(connection, "messages", values).mappings()]


def show_message(connection: sa.Connection, message_id: str) -> tuple[str, list[DeliveryRow]]:
    """A message's body, as it is sent, and its deliveries. Errors: UnknownId."""
    ids.require(connection, ids.MESSAGE, message_id)
    values = {"message_id": message_id}
    body = str(SQL.run(connection, "body", values).scalar_one())
    return body, [DeliveryRow(**row) for row in SQL.run(connection, "of_message", values).mappings()]
