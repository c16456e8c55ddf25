"""Things that count once: forms of the console, calls of programs, and signed orders.

Guarantee: a form has a key of its own. If it is sent twice, by a double click, a reload or a lost answer, it is done
once, and both get the same answer. The key is kept in the transaction that does it, for as long as it counts: LIFE_MS
after the form was made, which its session does not outlive. The turn of a picture that deeds were decided by is a row
beside them, and is forgotten as they are. A call with an Idempotency-Key is kept as a form is, for a day at least; the
same key with other content is refused. A signature is used up in the transaction that does its order.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import sqlalchemy as sa

from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.schema.units import MAX_ID_CHARS, MINUTE_MS
from drawdown.worker.access.people import Person
from drawdown.worker.access.sessions import LIFE_MS

SQL = queries(__file__)

KEY: Final = re.compile(r"([0-9]{13})-[A-Za-z0-9_-]{43}")
"""When the form was made, and 256 random bits."""
SKEW_MS: Final = MINUTE_MS
"""Largest lead of the clock of another server, which made the form."""
OLD: Final = "this form has expired, or was not created here. Open the form again"


@dataclass(frozen=True)
class Acted:
    """The effect of a form, and the page that follows."""

    action: str
    at_ms: int
    said: str
    place: str


def new_key(now_ms: int, secret: str) -> str:
    """`secret`: 43 characters of base 64, new for each form."""
    return f"{now_ms:013}-{secret}"


def claim(connection: sa.Connection, key: str, person: Person, action: str, now_ms: int) -> Acted | None:
    """Take a form's key for this transaction; what it did, where it was carried out before.

    Errors: Refused for a key that counts no longer, or is of another form.
    """
    found = KEY.fullmatch(key)
    if found is None or not now_ms - LIFE_MS < int(found[1]) <= now_ms + SKEW_MS:
        raise Refused(OLD)
    SQL.run(connection, "forget", {"since_ms": now_ms - 2 * LIFE_MS})
    values = {"key": key, "name": person.name, "action": action, "now_ms": now_ms}
    if SQL.run(connection, "claim", values).first() is not None:
        return None
    done = read(connection, key, person)
    if done is None or done.action != action:
        raise Refused(OLD)
    return done


def take_turn(connection: sa.Connection, picture: str, person: Person, now_ms: int) -> None:
    """Let deeds decided by the same picture happen one after the other, for all actors and reasons.

    The next deed then looks again, and sees what the deed before it did. `picture`: the hash of the state that was
    shown.
    """
    SQL.run(connection, "in_turn", {"picture": picture, "name": person.name, "now_ms": now_ms})


def keep(connection: sa.Connection, key: str, said: str, place: str) -> None:
    """Keep the effect of a form, beside the key that was claimed."""
    SQL.run(connection, "keep", {"key": key, "said": said, "place": place})


def read(connection: sa.Connection, key: str, person: Person) -> Acted | None:
    """Return the effect of a person's form; None if there is no such form."""
    row = SQL.run(connection, "read", {"key": key}).one_or_none()
    return None if row is None or row.name != person.name else Acted(row.action, row.at_ms, row.answer, row.place)


class OtherContent(Refused):
    """A key that counts for another call already."""

    code = "other_content"


@dataclass(frozen=True)
class Call:
    """A program's call that counts once.

    `actor`: the owner of the key it came by. `idempotency_key`: its Idempotency-Key. `content`: its request, without
    values that equal their defaults.
    """

    actor: str
    idempotency_key: str
    action: str
    content: str

    @property
    def own(self) -> str:
        """The key that makes the deed itself harmless to repeat, for good.

        It begins with the program: if another program, or a person, sends the same key, that is another deed.
        """
        kind, _, name = self.actor.partition(":")
        # A name may hold a colon, and no other's begins with it.
        plain = f"{kind}:{quote(name, safe='')}:{self.idempotency_key}"
        return plain if len(plain) <= MAX_ID_CHARS else f"call:{_sha256(plain)}"

    @property
    def key(self) -> str:
        """Its place among the forms. Each program has keys of its own."""
        return "call:" + _sha256(f"{self.actor}\n{self.idempotency_key}")


def claim_call(connection: sa.Connection, call: Call, now_ms: int) -> str | None:
    """Take a call's key for this transaction; its answer, if the call was carried out before.

    Errors: OtherContent for a key that another call was sent with.
    """
    SQL.run(connection, "forget", {"since_ms": now_ms - 2 * LIFE_MS})
    values = {"key": call.key, "name": call.actor, "action": call.action, "now_ms": now_ms}
    if SQL.run(connection, "claim", values).first() is not None:
        return None
    row = SQL.run(connection, "read", {"key": call.key}).one()
    if row.action != call.action or row.place != _sha256(call.content):
        name = call.idempotency_key
        raise OtherContent(
            f"the Idempotency-Key {name} was used for another call. To repeat that call, send its "
            "first body. If this is another call, use a new key"
        )
    return str(row.answer)


def keep_call(connection: sa.Connection, call: Call, answer: str) -> None:
    """Keep its answer beside the key that was claimed."""
    SQL.run(connection, "keep", {"key": call.key, "said": answer, "place": _sha256(call.content)})


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def use_once(connection: sa.Connection, signature: str, now_ms: int, *, fresh_ms: int) -> bool:
    """Use up a signature, and return True if it was not used before.

    It is remembered for twice as long as it could be fresh.
    """
    SQL.run(connection, "forget_signatures", {"now_ms": now_ms})
    values = {"signature_sha256": _sha256(signature), "expires_ms": now_ms + 2 * fresh_ms}
    return SQL.run(connection, "use", values).first() is not None
