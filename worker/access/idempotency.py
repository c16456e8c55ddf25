"""Let each request take effect once, even if it is sent again.

The requests are forms of the console, calls of programs, and signed requests.

Guarantee: each form has its own key. If a double click, a reload or a lost response sends a form twice, the form takes
effect once, and each request gets the same response. The transaction of the change stores the key. The key is valid
until LIFE_MS after the form was created, which is also the longest session. The same table has the rows that serialise
changes decided by the same shown state. Drawdown deletes these rows as it deletes keys. A call with an Idempotency-Key
is stored like a form, for at least a day. If a call sends the same key with different content, the call fails. A
signature is used up in the transaction of its request.
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
from drawdown.schema.text import quote_value
from drawdown.schema.units import MAX_ID_CHARS, MINUTE_MS
from drawdown.worker.access.people import Person
from drawdown.worker.access.sessions import LIFE_MS

SQL = queries(__file__)

KEY: Final = re.compile(r"([0-9]{13})-[A-Za-z0-9_-]{43}")
"""The form of a key: its time of creation (milliseconds) and 256 random bits."""
SKEW_MS: Final = MINUTE_MS
"""Milliseconds by which the clock of the server that made a form may be ahead."""
OLD: Final = "this form has expired, was not created here, or belongs to another person. Open the form again"


@dataclass(frozen=True)
class Acted:
    """The effect of a form.

    `at_ms`: the time when the form took effect. `effect`: the message for the person. `place`: the page to show.
    """

    action: str
    at_ms: int
    effect: str
    place: str


def new_key(now_ms: int, secret: str) -> str:
    """Return the key of a new form.

    `secret`: 43 random characters of base 64, new for each form.
    """
    return f"{now_ms:013}-{secret}"


def claim(connection: sa.Connection, key: str, person: Person, action: str, now_ms: int) -> Acted | None:
    """Claim a form's key for this transaction.

    Return the form's effect if it was sent before; None if it is new.

    Errors: Refused for a key that has expired, or belongs to another form or person.
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
    """Serialise changes that people decided by the same shown state.

    The changes wait for each other, even if their actors or reasons differ. Each change reads the state again, and sees
    the effect of the earlier change. `picture`: the hash of the shown state.
    """
    SQL.run(connection, "in_turn", {"picture": picture, "name": person.name, "now_ms": now_ms})


def keep(connection: sa.Connection, key: str, said: str, place: str) -> None:
    """Store the effect of a form with its claimed key."""
    SQL.run(connection, "keep", {"key": key, "said": said, "place": place})


def read(connection: sa.Connection, key: str, person: Person) -> Acted | None:
    """Return the effect of a person's form; None if the person did not send it."""
    row = SQL.run(connection, "read", {"key": key}).one_or_none()
    return None if row is None or row.name != person.name else Acted(row.action, row.at_ms, row.answer, row.place)


class OtherContent(Refused):
    """Raised if the Idempotency-Key was used for another call."""

    code = "other_content"


@dataclass(frozen=True)
class Call:
    """A program's call that takes effect once.

    `actor`: the actor of the API key (`key:NAME`). `idempotency_key`: the header Idempotency-Key. `content`: the
    request, without values that equal their defaults.
    """

    actor: str
    idempotency_key: str
    action: str
    content: str

    @property
    def own(self) -> str:
        """Return the key that makes the change itself idempotent, without an expiry.

        The key begins with the program, or is a hash that covers the program if it would be too long. So the same key
        from another program or a person belongs to another change.
        """
        kind, _, name = self.actor.partition(":")
        # Quote the name, because it may contain a colon. Otherwise, different names could make the same key.
        plain = f"{kind}:{quote(name, safe='')}:{self.idempotency_key}"
        return plain if len(plain) <= MAX_ID_CHARS else f"call:{_sha256(plain)}"

    @property
    def key(self) -> str:
        """Return the key under which the call is stored.

        Keys of different programs differ.
        """
        return "call:" + _sha256(f"{self.actor}\n{self.idempotency_key}")


def claim_call(connection: sa.Connection, call: Call, now_ms: int) -> str | None:
    """Claim a call's key for this transaction.

    Return its response if the call was done before; None if it is new.

    Errors: OtherContent for a key of another call.
    """
    SQL.run(connection, "forget", {"since_ms": now_ms - 2 * LIFE_MS})
    values = {"key": call.key, "name": call.actor, "action": call.action, "now_ms": now_ms}
    if SQL.run(connection, "claim", values).first() is not None:
        return None
    row = SQL.run(connection, "read", {"key": call.key}).one()
    if row.action != call.action or row.place != _sha256(call.content):
        name = call.idempotency_key
        raise OtherContent(
            f"the Idempotency-Key {quote_value(name)} was used for another call. To repeat that call, send its "
            "first body. If this is another call, use a new key"
        )
    return str(row.answer)


def keep_call(connection: sa.Connection, call: Call, answer: str) -> None:
    """Store the response of a call with its claimed key."""
    SQL.run(connection, "keep", {"key": call.key, "said": answer, "place": _sha256(call.content)})


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def use_once(connection: sa.Connection, signature: str, now_ms: int, *, fresh_ms: int) -> bool:
    """Use up a signature. Return True if it was not used before.

    `fresh_ms`: the most by which the time of a valid signature may differ from now. Drawdown stores the signature for
    twice `fresh_ms`, because its time may be ahead.
    """
    SQL.run(connection, "forget_signatures", {"now_ms": now_ms})
    values = {"signature_sha256": _sha256(signature), "expires_ms": now_ms + 2 * fresh_ms}
    return SQL.run(connection, "use", values).first() is not None
