"""The dry run of an action, and the deed.

Guarantee: the dry run is the deed itself, in a transaction that its caller undoes. The deed is done only by somebody
who may give so much, where the number was typed if it is large, and where all that the dry run showed still stands.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

import sqlalchemy as sa

from drawdown.schema.errors import Refused
from drawdown.schema.units import MICRO, as_credits
from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Size
from drawdown.server.http.errors import ApiError
from drawdown.worker.access import once as console_acts
from drawdown.worker.access.people import Person

MOST_FACTS: Final = 40
"""Of those that a dry run shows, what changes first; by all of them the deed knows whether it is still the same."""
TYPED_ROWS: Final = 100
TYPED_MICRO: Final = 1_000 * MICRO
"""Above so many rows, or so much credit, their number is typed before it is done."""
SEEN: Final = re.compile(r"[0-9a-f]{64}")
"""What a dry run showed, as its form carries it."""
CHANGED: Final = "this changed since you looked: see how it stands now, and decide again"


class LookAgain(Refused):
    """It was not done: what the dry run showed is so no longer (409), or the number was not typed (400)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Tried:
    """A dry run: how things stand, and would stand; what would be said; how much it is; the hash of what was seen."""

    person: Person
    facts: Sequence[tuple[str, str, str]]
    more: int
    said: str
    size: Size
    seen: str


def rehearse(connection: sa.Connection, action: Action, doing: Doing) -> Tried:
    """The deed itself, in a transaction that is undone."""
    size = _allowed(connection, action, doing)
    before = list(action.look(connection, doing))
    done = action.do(connection, doing)
    after = {fact.name: fact.value for fact in action.look(connection, doing)}
    stood = {fact.name: fact.value for fact in before}
    names = dict.fromkeys([*stood, *after])
    facts = [(name, stood.get(name, ""), after.get(name, "")) for name in names]
    facts.sort(key=lambda fact: fact[1] == fact[2])
    return Tried(
        doing.person, facts[:MOST_FACTS], max(len(facts) - MOST_FACTS, 0), done.said, size, _seen(before, size, doing)
    )


def carry_out(connection: sa.Connection, action: Action, doing: Doing, form: Mapping[str, str]) -> Done:
    """Do it, unless this very form was carried out before: then what that said, and no secret again.

    Errors: those of `perform`; Refused for a form that counts no longer.
    """
    key = form.get("key", "")
    before = console_acts.claim(connection, key, doing.person, action.name, doing.by.now_ms)
    if before is not None:
        return Done(before.said)
    done = perform(connection, action, doing, form)
    console_acts.keep(connection, key, done.said, action.place(doing))
    return done


def perform(connection: sa.Connection, action: Action, doing: Doing, form: Mapping[str, str]) -> Done:
    """Do what the dry run showed.

    Errors: LookAgain; ApiError 403; those of the command."""
    seen = form.get("seen", "")
    if not SEEN.fullmatch(seen):
        raise LookAgain(409, CHANGED)
    picture = _hash(_stands(action.look(connection, doing)))
    console_acts.take_turn(connection, picture, doing.person, doing.by.now_ms)
    size = _look_again(connection, action, doing, seen)
    wanted = to_type(size)
    if wanted is not None and not _is_number(form.get("typed", ""), wanted):
        raise LookAgain(400, f"to do it, type the number {as_plain(wanted)}")
    return action.do(connection, doing)


def _look_again(connection: sa.Connection, action: Action, doing: Doing, seen: str) -> Size:
    """Errors: LookAgain where it is not as the dry run showed it; ApiError 403."""
    size = _allowed(connection, action, doing)
    if seen != _seen(action.look(connection, doing), size, doing):
        raise LookAgain(409, CHANGED)
    return size


def _allowed(connection: sa.Connection, action: Action, doing: Doing) -> Size:
    """How much it is. Errors: ApiError 403 for more credit than somebody may give at once."""
    size = action.size(connection, doing)
    person = doing.person
    most = None if person.role == "admin" else person.grant_limit_micro or 0
    if most is not None and size.unbounded:
        why = f"{action.title}: nothing bounds the credits that this gives"
        raise ApiError(403, "grant_limit", f"{why}, so that {person.name} may not do it: an admin may")
    if most is not None and size.micro > most:
        why = f"{person.name} may give {as_credits(most)} credits at once, and this is {as_credits(size.micro)}"
        raise ApiError(403, "grant_limit", f"{why}: an admin may do it, or raise the limit")
    return size


def to_type(size: Size) -> Decimal | None:
    """The number that is typed before so much is done; None where it is little."""
    if size.rows > TYPED_ROWS:
        return Decimal(size.rows)
    largest = max(size.micro, size.taken_micro)
    return Decimal(largest) / MICRO if largest > TYPED_MICRO else None


def as_plain(number: Decimal) -> str:
    return f"{number:f}"


def _is_number(text: str, wanted: Decimal) -> bool:
    try:
        return Decimal(text.strip().replace(",", "")) == wanted
    except InvalidOperation:
        return False


def _seen(facts: Sequence[Fact], size: Size, doing: Doing) -> str:
    """What a dry run showed, as a hash that the form carries."""
    return _hash((_stands(facts), size, sorted(doing.values.items())))


def _stands(facts: Sequence[Fact]) -> list[tuple[str, str]]:
    return [(fact.name, fact.value) for fact in facts if fact.fixed]


def _hash(said: object) -> str:
    return hashlib.sha256(repr(said).encode()).hexdigest()
