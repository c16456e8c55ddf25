"""Signing in to the console and out of it.

Guarantee: a session is new at each sign-in, and its SHA-256 alone is kept. It ends IDLE_MS after its last use, and
LIFE_MS after it began, whatever is done. A try is counted before its password is looked at, so that many at once are
counted, too: of one name from one address MOST_FAILURES are looked at in WITHIN_MS, and of one address
MOST_ADDRESS_FAILURES by names that do not exist. A sign-in that succeeds forgives its name.
A password that was changed, or a person who was ended, between the look and the session lets nobody in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import By, record
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.schema.text import clean
from drawdown.schema.units import DAY_MS, MAX_ID_CHARS, MINUTE_MS
from drawdown.worker.access.people import LINK, Person, hash_of

SQL = queries(__file__)

IDLE_MS: Final = 480 * MINUTE_MS
"""Time without use after which a session of the console ends."""
LIFE_MS: Final = DAY_MS
"""Life of a session of the console."""
SEEN_EVERY_MS: Final = MINUTE_MS
"""Interval between two writes of a session's last use."""
WITHIN_MS: Final = 15 * MINUTE_MS
"""Time for which failed sign-ins count."""
MOST_FAILURES: Final = 5
"""Failed sign-ins with one name from one address."""
MOST_ADDRESS_FAILURES: Final = 50
"""Failed sign-ins from one address with names that do not exist. This bounds their stored rows. Made-up names do not
lock out a person at the same address: MOST_FAILURES bounds a person's own tries."""
MOST_SESSIONS: Final = 20
"""Sessions of one person. A further one ends the oldest."""
NOTHING: Final[Mapping[str, str]] = {}


class TooManyFailures(Refused):
    """So many sign-ins failed that no password is looked at for a while."""

    code = "too_many_failures"


def count_try(connection: sa.Connection, name: str, address: str, now_ms: int) -> str | None:
    """Count a try of a name from an address; the password that is stored, None where there is none.

    Errors: TooManyFailures, after which nothing was counted.
    """
    given = {"name": clean(name, MAX_ID_CHARS), "address": clean(address, MAX_ID_CHARS)}
    SQL.run(connection, "forget_failures", {"since_ms": now_ms - WITHIN_MS})
    found = SQL.run(connection, "password", {"name": name}).scalar_one_or_none()
    # Made-up names use up the address's tries, and not those of the people behind it.
    of_address = [("", MOST_ADDRESS_FAILURES)] if found is None else []
    for whose, most in (*of_address, (given["name"], MOST_FAILURES)):
        values = {**given, "name": whose, "now_ms": now_ms}
        if int(SQL.run(connection, "count_failure", values).scalar_one()) > most:
            raise TooManyFailures("too many failed sign-ins. Try again in 15 minutes")
    return None if found is None else str(found)


def begin(
    connection: sa.Connection, name: str, password: str, session: str, address: str, now_ms: int, anew: str = ""
) -> Person | None:
    """Begin a session of a person with this stored password, which was verified before; None if it has changed since.

    If a new hash is given, of the same password at the present cost, it replaces the stored hash.
    """
    row = SQL.run(connection, "person", {"name": name, "password": password}).one_or_none()
    if row is None:
        return None
    if anew not in ("", password):
        SQL.run(connection, "rehash", {"name": name, "password": password, "anew": anew})
    person = Person(row.name, row.role, row.grant_limit_micro)
    SQL.run(connection, "forgive", {"name": name, "address": clean(address, MAX_ID_CHARS)})
    _begin(connection, person, session, address, now_ms)
    return person


def enter(connection: sa.Connection, link: str, session: str, address: str, now_ms: int) -> Person | None:
    """Begin a session by a link alone, which stays as it is: only where all in the database was made up. None
    elsewhere, and where there is no such link."""
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
    """Begin a session of a person that another service proved; None if the name has no person here.

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
    """Return the person of a session, and when it was last used.

    None if the session has ended, or its person was ended.
    """
    if not LINK.fullmatch(session):
        return None
    values = {"session_sha256": hash_of(session), "idle_ms": now_ms - IDLE_MS, "life_ms": now_ms - LIFE_MS}
    row = SQL.run(connection, "find", values).one_or_none()
    return None if row is None else (_person(row), int(row.seen_ms))


def note_use(connection: sa.Connection, session: str, now_ms: int) -> None:
    """Keep that a session is used now, unless that was kept within the minute."""
    values = {"session_sha256": hash_of(session), "now_ms": now_ms, "since_ms": now_ms - SEEN_EVERY_MS}
    SQL.run(connection, "note_use", values)


def end(connection: sa.Connection, session: str, now_ms: int) -> None:
    """Sign out. One that was over already ends silently."""
    row = SQL.run(connection, "end", {"session_sha256": hash_of(session)}).one_or_none()
    if row is not None:
        by = By(now_ms, f"console:{row.name}", "signed out", "console")
        record(connection, "console_sign_out", row.name, {}, by)


def person_named(connection: sa.Connection, name: str) -> Person | None:
    """Return the person that a trusted proxy names; None if no person of this name may come in."""
    row = SQL.run(connection, "named", {"name": name}).one_or_none()
    return None if row is None else _person(row)


def _person(row: sa.Row[Any]) -> Person:
    return Person(row.name, row.role, row.grant_limit_micro, bool(row.in_demo))
