"""Sign in to the console, and sign out.

Guarantee: each sign-in creates a new session, and only its SHA-256 is stored. A session ends IDLE_MS after its last
use, and at the latest LIFE_MS after its start. Drawdown counts a try before it checks the password, so concurrent tries
count, too. For WITHIN_MS from an address's first try on, it checks at most MOST_FAILURES tries of one name from that
address. Then all counts of the address begin again. A successful sign-in resets the count of its name at its address.
The counts do not reveal whether a name exists.

If the password changes or the person's access ends after the check and before the session begins, the sign-in fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import By, record
from drawdown.schema.sql import queries
from drawdown.schema.text import clean
from drawdown.schema.units import DAY_MS, MAX_ID_CHARS, MINUTE_MS
from drawdown.worker.access.people import LINK, Person, hash_of

SQL = queries(__file__)

IDLE_MS: Final = 480 * MINUTE_MS
"""Time without use after which a session of the console ends, in milliseconds."""
LIFE_MS: Final = DAY_MS
"""Longest lifetime of a session of the console, in milliseconds."""
SEEN_EVERY_MS: Final = MINUTE_MS
"""Interval between two writes of a session's last use, in milliseconds."""
WITHIN_MS: Final = 15 * MINUTE_MS
"""Time for which failed sign-ins count, in milliseconds."""
MOST_FAILURES: Final = 5
"""Failed sign-ins with one name from one address within WITHIN_MS."""
MOST_ADDRESS_FAILURES: Final = 50
"""Tries to sign in from one address within WITHIN_MS.

Above the limit, Drawdown does not store further unknown names. A person with the correct password still signs in.
"""
MOST_SESSIONS: Final = 20
"""Sessions of one person.

A further session ends the session with the earliest last use.
"""
NOTHING: Final[Mapping[str, str]] = {}


@dataclass(frozen=True)
class Try:
    """A counted try to sign in.

    `stored`: the hash of the person's password; None if no password may sign in. `too_many`: a wrong password is one
    too many, whether the name exists or not.
    """

    stored: str | None
    too_many: bool


def count_try(connection: sa.Connection, name: str, address: str, now_ms: int) -> Try:
    """Count a try of a name ('': an invalid name) from an address."""
    SQL.run(connection, "forget_failures", {"since_ms": now_ms - WITHIN_MS})
    found: str | None = SQL.run(connection, "password", {"name": name}).scalar_one_or_none()
    given = {"name": "", "address": clean(address, MAX_ID_CHARS), "since_ms": now_ms}
    of_address = SQL.run(connection, "count_failure", given).one()
    too_many = of_address.failures > MOST_ADDRESS_FAILURES
    if name == "" or (found is None and too_many):
        return Try(None, too_many)
    # All counts of an address end together. Otherwise, they would show which names Drawdown still counted above the
    # address's limit.
    given = {**given, "name": clean(name, MAX_ID_CHARS), "since_ms": of_address.since_ms}
    if SQL.run(connection, "count_failure", given).one().failures > MOST_FAILURES:
        return Try(None, True)
    return Try(found, too_many)


def begin(
    connection: sa.Connection, name: str, password: str, session: str, address: str, now_ms: int, rehashed: str = ""
) -> Person | None:
    """Begin a session of a person after the stored hash `password` was verified.

    Return None if the hash has changed, or the person's access has ended.

    `rehashed`: a hash of the same password with the present cost, which replaces the stored hash ('': keep it).
    """
    row = SQL.run(connection, "person", {"name": name, "password": password}).one_or_none()
    if row is None:
        return None
    if rehashed not in ("", password):
        SQL.run(connection, "rehash", {"name": name, "password": password, "rehashed": rehashed})
    person = Person(row.name, row.role, row.grant_limit_micro)
    SQL.run(connection, "forgive", {"name": name, "address": clean(address, MAX_ID_CHARS)})
    _begin(connection, person, session, address, now_ms)
    return person


def enter(connection: sa.Connection, link: str, session: str, address: str, now_ms: int) -> Person | None:
    """Begin a session by a link without a password, in a database with only demo data.

    The link stays valid.

    Return None in any other database, or if the link does not exist or has expired.
    """
    if not LINK.fullmatch(link):
        return None
    row = SQL.run(connection, "linked_in_demo", {"link_sha256": hash_of(link), "now_ms": now_ms}).one_or_none()
    if row is None:
        return None
    person = Person(row.name, row.role, row.grant_limit_micro)
    _begin(connection, person, session, address, now_ms)
    return person


def begin_proven(
    connection: sa.Connection, name: str, session: str, address: str, now_ms: int, through: str
) -> Person | None:
    """Begin a session of a person after another service authenticated them.

    Return None for an unknown or ended name.

    `through`: the address of that service.
    """
    row = SQL.run(connection, "proven", {"name": name}).one_or_none()
    if row is None:
        return None
    person = Person(row.name, row.role, row.grant_limit_micro)
    _begin(connection, person, session, address, now_ms, {"through": clean(through, MAX_ID_CHARS)})
    return person


def _begin(
    connection: sa.Connection,
    person: Person,
    session: str,
    address: str,
    now_ms: int,
    more: Mapping[str, str] = NOTHING,
) -> None:
    SQL.run(connection, "forget_sessions", {"idle_ms": now_ms - IDLE_MS, "life_ms": now_ms - LIFE_MS})
    SQL.run(connection, "make_room", {"name": person.name, "most": MOST_SESSIONS - 1})
    SQL.run(connection, "insert", {"session_sha256": hash_of(session), "name": person.name, "now_ms": now_ms})
    SQL.run(connection, "signed_in", {"name": person.name, "now_ms": now_ms})
    by = By(now_ms, person.actor, "signed in", "console")
    record(connection, "console_sign_in", person.name, {"address": clean(address, MAX_ID_CHARS), **more}, by)


def find(connection: sa.Connection, session: str, now_ms: int) -> tuple[Person, int] | None:
    """Return the person of a session, and the time of its last use in milliseconds.

    Return None if the session or the person's access has ended.
    """
    if not LINK.fullmatch(session):
        return None
    values = {"session_sha256": hash_of(session), "idle_ms": now_ms - IDLE_MS, "life_ms": now_ms - LIFE_MS}
    row = SQL.run(connection, "find", values).one_or_none()
    return None if row is None else (_person(row), int(row.seen_ms))


def note_use(connection: sa.Connection, session: str, now_ms: int) -> None:
    """Record that a session is used now, at most once a minute."""
    values = {"session_sha256": hash_of(session), "now_ms": now_ms, "since_ms": now_ms - SEEN_EVERY_MS}
    SQL.run(connection, "note_use", values)


def end(connection: sa.Connection, session: str, now_ms: int) -> None:
    """End a session and record it. An ended session does not change."""
    row = SQL.run(connection, "end", {"session_sha256": hash_of(session)}).one_or_none()
    if row is not None:
        by = By(now_ms, f"console:{row.name}", "signed out", "console")
        record(connection, "console_sign_out", row.name, {}, by)


def person_named(connection: sa.Connection, name: str) -> Person | None:
    """Return the person that a trusted proxy names; None without access."""
    row = SQL.run(connection, "named", {"name": name}).one_or_none()
    return None if row is None else _person(row)


def _person(row: sa.Row[Any]) -> Person:
    return Person(row.name, row.role, row.grant_limit_micro, bool(row.in_demo))
