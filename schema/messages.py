"""The messages to the operator's product, sent as webhooks.

Guarantee: a message is written in the transaction that writes its fact, with the bytes that will be sent. The message's
id is computed from the fact, so a repeated fact does not add a message. A message is written only if an endpoint
subscribes to its event at that moment, except for a person's test (`tell_one`). `worker/hooks` sends messages after the
commit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import SECOND_MS, in_credits

SQL = queries(__file__)

BALANCE_EXHAUSTED: Final = "balance.exhausted"
BALANCE_LOW: Final = "balance.low"
ORG_HALTED: Final = "organisation.halted"
ORG_RESUMED: Final = "organisation.resumed"
OVERRIDE_APPROVED: Final = "override.approved"
OVERRIDE_ENDED: Final = "override.ended"
OVERRIDE_REFUSED: Final = "override.refused"
OVERRIDE_REQUESTED: Final = "override.requested"
RESERVATION_EXPIRED: Final = "reservation.expired"
TOPUP_CREDITED: Final = "topup.credited"
TOPUP_FAILED: Final = "topup.failed"
EVENTS: Final = (
    BALANCE_EXHAUSTED, BALANCE_LOW, ORG_HALTED, ORG_RESUMED, OVERRIDE_APPROVED, OVERRIDE_ENDED, OVERRIDE_REFUSED,
    OVERRIDE_REQUESTED, RESERVATION_EXPIRED, TOPUP_CREDITED, TOPUP_FAILED,
)  # fmt: skip
"""The events that an endpoint can subscribe to."""
TEST: Final = "endpoint.test"
"""The event of a person's test of an endpoint."""
ID_CHARS: Final = 32
"""Hexadecimal digits of a message's id (128 bits)."""
TOLD_AT_ONCE: Final = 1_000
"""Webhook messages that one statement writes."""


@dataclass(frozen=True)
class Message:
    """A message about an event.

    `fact`: its unique name, such as `topup.credited:topup:acme:3`. `at_ms`: the moment of the event. `data`: its
    content, as JSON values. `org_id` None: the message is not about an organisation. `customer_id` None: it is not
    about a customer.
    """

    event: str
    fact: str
    at_ms: int
    data: Mapping[str, object]
    org_id: str | None = None
    customer_id: str | None = None

    @property
    def message_id(self) -> str:
        """Return the id of the message, the same for the same fact.

        The id does not contain a full stop, because full stops separate a signature's parts.
        """
        return f"msg_{hashlib.sha256(self.fact.encode()).hexdigest()[:ID_CHARS]}"

    @property
    def body(self) -> str:
        """Return the body to send: compact JSON in ASCII."""
        data = {"org_id": self.org_id, "customer_id": self.customer_id, **self.data}
        told = {"type": self.event, "timestamp": _format_time(self.at_ms), "data": data}
        return json.dumps(told, separators=(",", ":"))


def amount(name: str, micro: int | None) -> dict[str, object]:
    """Return an amount in credits, and as a whole number of micro-credits."""
    return {name: None if micro is None else in_credits(micro), f"{name}_micro": micro}


def find_wanted_events(connection: sa.Connection) -> frozenset[str]:
    """Return the events that at least one endpoint subscribes to."""
    return frozenset(event for events in SQL.run(connection, "wanted").scalars() for event in str(events).split())


def tell(connection: sa.Connection, messages: Sequence[Message]) -> int:
    """Write messages for the endpoints that subscribe to them.

    Return the number of new messages.
    """
    if not messages:
        return 0
    events = find_wanted_events(connection)
    rows = [_row(message) for message in messages if message.event in events]
    return sum(_write(connection, rows[at : at + TOLD_AT_ONCE]) for at in range(0, len(rows), TOLD_AT_ONCE))


def tell_one(connection: sa.Connection, message: Message, endpoint: str) -> None:
    """Write a message for one endpoint, even if it does not subscribe to it."""
    SQL.run(connection, "insert", {"messages": [_row(message)]}).all()
    values = {"message_id": message.message_id, "endpoint": endpoint, "at_ms": message.at_ms}
    SQL.run(connection, "deliver_to", values)


def _write(connection: sa.Connection, rows: Sequence[dict[str, object]]) -> int:
    new = SQL.run(connection, "insert", {"messages": rows}).scalars().all()
    if new:
        SQL.run(connection, "deliver", {"new": [{"message_id": message_id} for message_id in new]})
    return len(new)


def _row(message: Message) -> dict[str, object]:
    return {
        "message_id": message.message_id,
        "event": message.event,
        "fact": message.fact,
        "org_id": message.org_id,
        "customer_id": message.customer_id,
        "at_ms": message.at_ms,
        "body": message.body,
    }


def _format_time(ms: int) -> str:
    """Return a moment as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(ms // SECOND_MS, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % SECOND_MS:03d}Z"
