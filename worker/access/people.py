"""Add, list and end users of the console, and check their passwords.

A user sets a password by a link.

Guarantee: neither a password nor a link is stored, logged or recorded. A link has 256 random bits, so its SHA-256 is
stored. A person chooses a password, so each guess must cost memory and time. Drawdown therefore stores its Argon2id
hash, with version and cost. It still verifies an older hash, and replaces that hash at the next sign-in. A name belongs
to one person for good, because it is the actor of that person's actions. If a person's access ends, or the person gets
another link, the same transaction signs the person out.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final, Literal

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import Refused, UsageError, explain_race
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value, typed
from drawdown.schema.units import DAY_MS, as_credits

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SQL = queries(__file__)

ROLES: Final = ("viewer", "operator", "admin")
"""The roles, in ascending order. Each includes the rights of the roles before it."""
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")
LINK: Final = re.compile(r"[A-Za-z0-9_-]{43}")
"""The form of the secret of a link or a session.

Any other text is refused without a read of the database.
"""
LINK_MS: Final = DAY_MS
"""Lifetime of a link with which a person sets a password, in milliseconds."""
LEAST_PASSWORD_CHARS: Final = 12
"""Fewest characters of a password."""
MAX_PASSWORD_CHARS: Final = 200
"""Most characters of a password."""
_NOBODY: Final = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$gL0iVLWaBgvLNRmgzOJfMXwh02Ty6GjPvPhiy6MhjM8"
"""The hash that is checked for a name without a password.

The check then takes the same time as for a name with a password.
"""
_SCRYPT: Final = {"n": 2**15, "r": 8, "p": 3}
"""The cost of scrypt hashes, which earlier versions stored.

Such a hash is stored as `salt:hash` in hexadecimal.
"""
_SCRYPT_STORED: Final = re.compile(r"([0-9a-f]{32}):([0-9a-f]{128})")
_SCRYPT_MEMORY: Final = 64 * 1024 * 1024


@dataclass(frozen=True)
class Person:
    """A user of the console.

    `grant_limit_micro`: the maximum of one grant, in micro-credits (None: they cannot grant credit). `in_demo`: the
    database has only demo data.
    """

    name: str
    role: str
    grant_limit_micro: int | None = None
    in_demo: bool = field(default=False, compare=False)

    @property
    def via(self) -> str:
        """Return the channel that the audit records for their actions."""
        return "console"

    @property
    def actor(self) -> str:
        """Return the actor that the audit records for their actions.

        The actor differs from that of an operating system user with the same name.
        """
        return f"console:{self.name}"

    def may(self, role: str) -> bool:
        """Return True if this person has the role or a higher one."""
        return ROLES.index(self.role) >= ROLES.index(role)


def hash_of(secret: str) -> str:
    """Return the SHA-256 of a link or session in hexadecimal, which Drawdown stores."""
    return hashlib.sha256(secret.encode()).hexdigest()


@cache
def _hasher() -> PasswordHasher:
    """Return the hasher: Argon2id with 19 MiB.

    OWASP's password storage cheat sheet recommends it. A hash contains its version and cost.
    """
    from argon2 import PasswordHasher  # imported here, because few commands need it and the import is slow

    return PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, hash_len=32, salt_len=16)


def hash_password(password: str) -> str:
    """Return the text to store for a password: scheme, version, cost, salt and hash.

    The hash takes about 40 ms and 19 MiB.

    Errors: UsageError if the password is too short or too long.
    """
    if not LEAST_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        raise UsageError(f"invalid password: expected {LEAST_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters")
    return _hasher().hash(_bytes(password))


def is_password(password: str, stored: str | None) -> bool:
    """Return True if a password matches the stored hash.

    The check takes the same time if `stored` is None, so that an attacker cannot find out which names exist. The check
    of an older hash takes longer. Until that person signs in again, the time reveals that the name exists.
    """
    given, fits = _bytes(password[:MAX_PASSWORD_CHARS]), len(password) <= MAX_PASSWORD_CHARS
    older = _SCRYPT_STORED.fullmatch(stored or "")
    if older is not None:
        found = hashlib.scrypt(given, salt=bytes.fromhex(older[1]), maxmem=_SCRYPT_MEMORY, **_SCRYPT).hex()
        return hmac.compare_digest(found, older[2]) and fits
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return _hasher().verify(stored or _NOBODY, given) and fits and stored is not None
    except (VerificationError, InvalidHashError):
        return False


def rehashed(password: str, stored: str) -> str:
    """Return the text to store for a verified password.

    The result is the stored text if its cost is the present cost, or else a new hash.
    """
    current = not _SCRYPT_STORED.fullmatch(stored) and not _hasher().check_needs_rehash(stored)
    return stored if current else _hasher().hash(_bytes(password))


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "replace")


def add(
    connection: sa.Connection, name: str, role: str, link: str, by: By, *, grant_limit_micro: int | None = None
) -> int:
    """Add a person, who sets a password with `link`.

    Return the time when the link expires, in milliseconds.

    Errors: UsageError for an invalid name, grant limit or link. UnknownId for an unknown role. Refused if another
    person has the name.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"invalid name {quote_value(name)}: expected 1 to 64 characters of a-z, 0-9 and . _ @ + -, with a "
            "letter or digit first"
        )
    _require_role(role, grant_limit_micro)
    values = {
        "name": name,
        "role": role,
        "grant_limit_micro": grant_limit_micro,
        **_link(link, by.now_ms),
        "created_ms": by.now_ms,
        "actor": by.actor,
        "reason": by.reason,
    }
    if SQL.run(connection, "insert", values).first() is None:
        raise Refused(
            f"the name {name} belongs to an active or ended person. Use another name. To send an active person a new "
            f"link, run `drawdown console user reset {typed(name)}`"
        )
    record(connection, "console_user_add", name, {"role": role, "grant_limit_micro": grant_limit_micro}, by)
    return by.now_ms + LINK_MS


def set_role(connection: sa.Connection, name: str, role: str, by: By, *, grant_limit_micro: int | None = None) -> bool:
    """Set a person's role and grant limit, from their next request on.

    Return True if it changed.

    Errors: UsageError for an invalid grant limit. UnknownId for an unknown person or role. Refused for an ended person.
    """
    was = _hold(connection, name)
    _require_role(role, grant_limit_micro)
    if (was.role, was.grant_limit_micro) == (role, grant_limit_micro):
        return False
    SQL.run(connection, "set_role", {"name": name, "role": role, "grant_limit_micro": grant_limit_micro})
    before = {"role": was.role, "grant_limit_micro": was.grant_limit_micro}
    record(
        connection, "console_user_role", name, {"role": role, "grant_limit_micro": grant_limit_micro, "was": before}, by
    )
    return True


def reset(connection: sa.Connection, name: str, link: str, by: By) -> int:
    """Delete a person's password, and sign them out everywhere.

    The person sets a new password with `link`. Return the time when the link expires, in milliseconds. Errors:
    UsageError for an invalid link. UnknownId. Refused for an ended person.
    """
    _hold(connection, name)
    SQL.run(connection, "reset", {"name": name, **_link(link, by.now_ms)})
    SQL.run(connection, "sign_out", {"name": name})
    record(connection, "console_user_reset", name, {}, by)
    return by.now_ms + LINK_MS


def end(connection: sa.Connection, name: str, by: By) -> bool:
    """End a person's access, and sign them out everywhere.

    Return True if they had access. Errors: UnknownId.
    """
    if _row(connection, name).ended_ms is not None:
        return False
    SQL.run(connection, "end", {"name": name, "now_ms": by.now_ms})
    SQL.run(connection, "sign_out", {"name": name})
    record(connection, "console_user_end", name, {}, by)
    return True


def set_password(connection: sa.Connection, link: str, password: str, now_ms: int) -> Person | None:
    """Set a person's password by a link, and sign the person out everywhere.

    The link is then used up.

    Return the person; None if the link does not exist or has expired. `password`: the result of `hash_password`.
    """
    if not LINK.fullmatch(link):
        return None
    values = {"link_sha256": hash_of(link), "password": password, "now_ms": now_ms}
    row = SQL.run(connection, "set_password", values).one_or_none()
    if row is None:
        return None
    SQL.run(connection, "sign_out", {"name": row.name})
    person = Person(row.name, row.role, row.grant_limit_micro)
    by = By(now_ms, person.actor, "set a password with the link", "console")
    record(connection, "console_password", row.name, {}, by)
    return person


def linked(connection: sa.Connection, link: str, now_ms: int) -> str | None:
    """Return the name of the person with this link; None if the link is not valid."""
    if not LINK.fullmatch(link):
        return None
    name: str | None = SQL.run(
        connection, "linked", {"link_sha256": hash_of(link), "now_ms": now_ms}
    ).scalar_one_or_none()
    return name


def mark_demo(connection: sa.Connection, now_ms: int) -> None:
    """Mark this database for good as a database with only demo data.

    The console shows this mark on each page.
    """
    SQL.run(connection, "mark_demo", {"now_ms": now_ms})


def _require_role(role: str, grant_limit_micro: int | None) -> None:
    ids.require_among(ids.ROLE, role, ROLES)
    if grant_limit_micro is not None and grant_limit_micro < 0:
        raise UsageError(f"invalid grant limit {as_credits(grant_limit_micro)}: expected 0 or more credits")
    if grant_limit_micro is not None and role == "viewer":
        raise UsageError("a viewer cannot grant credit. Omit the limit, or choose another role")


def _link(link: str, now_ms: int) -> dict[str, object]:
    if not LINK.fullmatch(link):
        raise UsageError("invalid link: expected 43 random characters of A-Z, a-z, 0-9, - and _")
    return {"link_sha256": hash_of(link), "link_expires_ms": now_ms + LINK_MS}


def _row(connection: sa.Connection, name: str) -> sa.Row[tuple[object, ...]]:
    """Return the person, locked until this transaction ends. Errors: UnknownId."""
    row = SQL.run(connection, "hold", {"name": name}).one_or_none()
    if row is None:
        ids.require(connection, ids.CONSOLE_USER, name)
        raise Refused(explain_race("person", name))
    return row


def _hold(connection: sa.Connection, name: str) -> sa.Row[tuple[object, ...]]:
    row = _row(connection, name)
    if row.ended_ms is not None:
        raise Refused(
            f"the access of {name} has ended. Add the person with another name (`drawdown console user add NAME "
            "--role ROLE`)"
        )
    return row


@dataclass(frozen=True)
class UserRow:
    """A user in a list. Times are in milliseconds.

    `state`: `invited` if their link is valid until `link_expires_ms`, and `locked` if the link expired before use.
    `sessions`: the number of their stored sessions. Expired sessions count until the next sign-in of any user.
    `grant_limit_micro` None: they cannot grant credit. `link_expires_ms` None: they do not have a link. `signed_in_ms`
    None: they never signed in. `ended_ms` None: their access has not ended.
    """

    name: str
    role: str
    grant_limit_micro: int | None
    state: Literal["good", "invited", "locked", "ended"]
    created_ms: int
    link_expires_ms: int | None
    signed_in_ms: int | None
    ended_ms: int | None
    sessions: int
    actor: str
    reason: str


def list_users(
    connection: sa.Connection, now_ms: int, most: int, *, after: str = "", ended: bool = False
) -> list[UserRow]:
    """Return users, sorted by name, with ended users last.

    `after`: the name after which the page begins. `ended`: True if the access of the user with that name has ended.
    """
    values = {"at_most": most, "after": after, "ended": int(ended)}
    return [_listed(row._mapping, now_ms) for row in SQL.run(connection, "list", values)]


def user_named(connection: sa.Connection, name: str, now_ms: int) -> UserRow | None:
    """Return a user by name; None if the name is unknown."""
    row = SQL.run(connection, "named", {"name": name}).one_or_none()
    return None if row is None else _listed(row._mapping, now_ms)


def is_demo(connection: sa.Connection) -> bool:
    """Return True if this database has only demo data."""
    return SQL.run(connection, "is_demo").first() is not None


def _listed(row: sa.RowMapping, now_ms: int) -> UserRow:
    found = dict(row)
    has_password = bool(found.pop("has_password"))
    state: Literal["good", "invited", "locked", "ended"] = "good" if has_password else "locked"
    if not has_password and found["link_expires_ms"] is not None and now_ms < found["link_expires_ms"]:
        state = "invited"
    return UserRow(**found, state="ended" if found["ended_ms"] is not None else state)
