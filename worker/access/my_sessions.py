"""Begin, find and end sessions of an organisation's users.

Users sign in by a link, and see only their organisation.

Guarantee: a link begins one session, even if several callers use it at the same time. A session belongs to one
organisation, and ends at the latest LIFE_MS after its start. Only the SHA-256 of links and sessions is stored. The hash
of a link is stored for LIFE_MS, even if its session ends earlier. This is longer than a link is valid.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import By, record
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.schema.text import clean
from drawdown.schema.units import MAX_ID_CHARS, MINUTE_MS
from drawdown.worker.access.people import LINK, Person, hash_of

SQL = queries(__file__)

LIFE_MS: Final = 60 * MINUTE_MS
"""Lifetime of a session at `/my`, in milliseconds."""
LINK_MS: Final = 15 * MINUTE_MS
"""Longest lifetime of a link to `/my`, in milliseconds."""
MOST_SESSIONS: Final = 200
"""Sessions of one organisation at `/my`.

A further session ends the oldest session.
"""
VIA: Final = "my"
STAFF: Final = "console:"
"""Prefix of the names of console users who view an organisation's pages.

Links cannot have such a name.
"""


class UsedLink(Refused):
    """Raised if the link was used before."""

    code = "used_link"


@dataclass(frozen=True)
class Visitor(Person):
    """A user of an organisation, as the operator's product names them.

    `name`: the user, or the organisation if the product did not name a user. A visitor cannot see the console's own
    pages. `is_staff`: the visitor is a console user, who views the organisation's pages.
    """

    org_id: str = ""

    @property
    def is_staff(self) -> bool:
        return self.name.startswith(STAFF)

    @property
    def via(self) -> str:
        return VIA

    @property
    def actor(self) -> str:
        return self.name if self.is_staff else f"{VIA}:{self.name}"


def visitor(org_id: str, person: str | None) -> Visitor:
    return Visitor(person or org_id, "viewer", org_id=org_id)


def enter(connection: sa.Connection, link_id: str, who: Visitor, session: str, address: str, now_ms: int) -> None:
    """Begin a session for the visitor of a verified link. Errors: UsedLink."""
    SQL.run(connection, "forget", {"life_ms": now_ms - LIFE_MS})
    values = {
        "session_sha256": hash_of(session),
        "link_sha256": hashlib.sha256(link_id.encode()).hexdigest(),
        "org_id": who.org_id,
        "person": None if who.name == who.org_id else who.name,
        "now_ms": now_ms,
    }
    if SQL.run(connection, "insert", values).first() is None:
        if SQL.run(connection, "same", values).first() is not None:  # this is a retry after a lost response
            return
        raise UsedLink("this link was used before, and each link opens the page once. Request a new link")
    SQL.run(connection, "make_room", {"org_id": who.org_id, "most": MOST_SESSIONS, "now_ms": now_ms})
    by = By(now_ms, who.actor, "opened from the console" if who.is_staff else "opened with a link", VIA)
    record(connection, "my_enter", who.org_id, {"address": clean(address, MAX_ID_CHARS)}, by)


def find(connection: sa.Connection, session: str, now_ms: int) -> Visitor | None:
    """Return the visitor of a session; None if it has ended or does not exist."""
    if not LINK.fullmatch(session):
        return None
    values = {"session_sha256": hash_of(session), "life_ms": now_ms - LIFE_MS}
    row = SQL.run(connection, "find", values).one_or_none()
    return None if row is None else visitor(row.org_id, row.person)


def end(connection: sa.Connection, session: str, now_ms: int) -> None:
    """End a session. An ended session does not change."""
    SQL.run(connection, "end", {"session_sha256": hash_of(session), "now_ms": now_ms})
