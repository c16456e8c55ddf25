"""Sessions of an organisation's own people: they come in by a link, and see that organisation alone.

Guarantee: a link lets in once, however often and by however many callers it is tried. A session belongs to one
organisation, and ends LIFE_MS after it began. Only the SHA-256 of links and sessions is kept. A link is remembered as
long as its session would last, which is longer than any link counts.
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
"""Life of a session at `/my`."""
LINK_MS: Final = 15 * MINUTE_MS
"""Longest life of a link."""
MOST_SESSIONS: Final = 200
"""Sessions of one organisation at `/my`. A further one ends the oldest."""
VIA: Final = "my"
STAFF: Final = "console:"
"""Prefix of the names of the console's own people, who look in; no link has such a name."""


class UsedLink(Refused):
    """Somebody came in by this link before."""

    code = "used_link"


@dataclass(frozen=True)
class Visitor(Person):
    """A person of an organisation, as the operator's product states it.

    `name`: the person, if the product named one, otherwise the organisation. They may see none of the console's own
    pages. `is_staff`: instead, it is a person of the console, who looks at the pages of the organisation.
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
    """Begin a session by a link that was proven. Errors: UsedLink."""
    SQL.run(connection, "forget", {"life_ms": now_ms - LIFE_MS})
    values = {
        "session_sha256": hash_of(session),
        "link_sha256": hashlib.sha256(link_id.encode()).hexdigest(),
        "org_id": who.org_id,
        "person": None if who.name == who.org_id else who.name,
        "now_ms": now_ms,
    }
    if SQL.run(connection, "insert", values).first() is None:
        if SQL.run(connection, "same", values).first() is not None:  # the answer of its commit was lost
            return
        raise UsedLink("this link was used before. Each link opens the page once")
    SQL.run(connection, "make_room", {"org_id": who.org_id, "most": MOST_SESSIONS, "now_ms": now_ms})
    by = By(now_ms, who.actor, "opened from the console" if who.is_staff else "opened with a link", VIA)
    record(connection, "my_enter", who.org_id, {"address": clean(address, MAX_ID_CHARS)}, by)


def find(connection: sa.Connection, session: str, now_ms: int) -> Visitor | None:
    """Return the visitor of a session; None if it has ended, or does not exist."""
    if not LINK.fullmatch(session):
        return None
    values = {"session_sha256": hash_of(session), "life_ms": now_ms - LIFE_MS}
    row = SQL.run(connection, "find", values).one_or_none()
    return None if row is None else visitor(row.org_id, row.person)


def end(connection: sa.Connection, session: str, now_ms: int) -> None:
    """End a session. If it has ended already, nothing happens."""
    SQL.run(connection, "end", {"session_sha256": hash_of(session), "now_ms": now_ms})
