"""List endpoints, messages and low balances, without secrets.

This module only reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.declare import ID, ORG, Column, Listing, Look, Page, Showing
from drawdown.schema.sql import queries
from drawdown.worker.halts.addresses import origin

SQL = queries(__file__)

STATES: Final = ("due", "delivered", "failed")


@dataclass(frozen=True)
class EndpointRow:
    """An endpoint in a list. Times are in milliseconds.

    `due`, `failed`: the numbers of its messages in these states. `oldest_due_ms`: the time of the oldest due event
    (None: `due` is 0). `old_until_ms`: the time until which the old secret also signs (None: the secret was never
    rotated). `ended_ms`: the time of its end (None: it is active).
    """

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
    """The delivery of a message to one endpoint.

    `attempts`: the number of calls that may have begun. `failures`: the number of consecutive failures. `at_ms`: the
    time of the event. `replays`: the number of replays. `due_at_ms`: the time of the next call, in the state `due`.
    `ended_ms`: the time of the success, of the last failure, or of the endpoint's end (None: the message is due).
    `last_status`: the HTTP status of the last call (None: without a response).
    """

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
    """The level at or below which an organisation's balance is low.

    `low_micro`: the level in micro-credits (None: a balance is never low). `org_id` empty: the level for all
    organisations without their own level.
    """

    org_id: str
    low_micro: int | None


@dataclass(frozen=True)
class MessageFilter:
    """A filter of messages by state, endpoint and organisation.

    An empty `endpoint` or `org` matches all.
    """

    states: tuple[str, ...] = STATES
    endpoint: str = ""
    org: str = ""


def list_endpoints(connection: sa.Connection) -> list[EndpointRow]:
    """Return the endpoints: active ones first, each group sorted by name."""
    rows = SQL.run(connection, "endpoints").mappings()
    return [EndpointRow(**{**row, "events": row["events"].split()}) for row in rows]


def find_endpoint(connection: sa.Connection, name: str) -> EndpointRow:
    """Return an endpoint. Errors: UnknownId."""
    ids.require(connection, ids.ENDPOINT, name)
    return next(row for row in list_endpoints(connection) if row.name == name)


def list_levels(connection: sa.Connection, most: int) -> list[LevelRow]:
    """Return the levels of low balances, the level for all organisations first."""
    return [LevelRow(**row) for row in SQL.run(connection, "levels", {"at_most": most}).mappings()]


def list_messages(connection: sa.Connection, chosen: MessageFilter, most: int) -> list[DeliveryRow]:
    """Return messages, newest first. Errors: UnknownId."""
    for kind, name in ((ids.ENDPOINT, chosen.endpoint), (ids.ORG, chosen.org)):
        if name:
            ids.require(connection, kind, name)
    values = {"states": list(chosen.states), "endpoint": chosen.endpoint, "org": chosen.org, "at_most": most}
    return [DeliveryRow(**row) for row in SQL.run(connection, "messages", values).mappings()]


def show_message(connection: sa.Connection, message_id: str) -> tuple[str, list[DeliveryRow]]:
    """Return the body of a message, as it is sent, and its deliveries.

    Errors: UnknownId.
    """
    ids.require(connection, ids.MESSAGE, message_id)
    values = {"message_id": message_id}
    body = str(SQL.run(connection, "body", values).scalar_one())
    return body, [DeliveryRow(**row) for row in SQL.run(connection, "of_message", values).mappings()]


EndpointName = Annotated[str, ID, "Name of the endpoint, which you choose"]
MessageId = Annotated[str, ID, "Message's id, msg_…"]
AtEndpoint = Annotated[str, ID, "Endpoint of the messages"]
State = Literal["due", "delivered", "failed"]


@dataclass(frozen=True)
class ShownMessage:
    """The body of a message, as it is sent, and its delivery to each endpoint."""

    message_id: str
    body: str
    deliveries: list[DeliveryRow]


@dataclass(frozen=True)
class ListedEndpoint(EndpointRow):
    """An endpoint in a list.

    `allowed`: True if Drawdown calls it: DRAWDOWN_HOOK_ORIGINS allows its origin, and DRAWDOWN_HOOK_SECRET is set.
    """

    allowed: bool


def _endpoints(connection: sa.Connection, look: Look) -> Page[ListedEndpoint]:
    origins = frozenset() if look.hooks is None else look.hooks.origins
    found = list_endpoints(connection)[: look.most]
    return Page([ListedEndpoint(**vars(row), allowed=origin(row.url) in origins) for row in found])


def _levels(connection: sa.Connection, look: Look) -> Page[LevelRow]:
    return Page(list_levels(connection, look.most))


def _messages(
    connection: sa.Connection,
    look: Look,
    *,
    endpoint: AtEndpoint = "",
    org_id: Annotated[str | None, ORG, "Organisation of the messages"] = None,
    state: Annotated[list[State] | None, "State of the messages"] = None,
) -> Page[DeliveryRow]:
    chosen = MessageFilter(tuple(state or STATES), endpoint, org_id or "")
    return Page(list_messages(connection, chosen, look.most))


def _message(connection: sa.Connection, _look: Look, message: MessageId) -> ShownMessage:
    body, found = show_message(connection, message)
    return ShownMessage(message, body, found)


def _all(org: str) -> str:
    return org or "all others"


SCOPE: Final = "hooks:read"
OF_MESSAGES: Final = (
    Column("message_id", "message"), "event", Column("org_id", "organisation"), "endpoint", "state",
    Column("attempts", "#calls"), Column("at_ms", "happened"), Column("due_at_ms", "next call"),
    Column("last_error", "last error"),
)  # fmt: skip
LISTS: Final = (
    Listing(
        "hook list",
        "Endpoints",
        "List endpoints and their due messages, without secrets.",
        _endpoints,
        (Column("name", "endpoint"), "url", Column("events", show=" ".join), Column("due", "#due"),
         Column("oldest_due_ms", "oldest"), Column("failed", "#failed"), "allowed", Column("ended_ms", "ended")),
        holds="endpoints",
        path="/v1/hooks",
        scope=SCOPE,
    ),
    Listing(
        "hook levels",
        "Low balances",
        "List the low balances of organisations.",
        _levels,
        (Column("org_id", "organisation", _all), "low_micro"),
        holds="levels",
        path="/v1/levels",
        scope=SCOPE,
    ),
    Listing(
        "hook messages",
        "Messages",
        "List messages and their outcome, newest first.",
        _messages,
        OF_MESSAGES,
        holds="messages",
        path="/v1/messages",
        scope=SCOPE,
        most=50,
    ),
    Showing(
        "hook show",
        "Message",
        "Show a message, and its delivery to each endpoint.",
        _message,
        path="/v1/messages/{message}",
        scope=SCOPE,
        parts={"deliveries": ("Deliveries", OF_MESSAGES)},
    ),
)  # fmt: skip
