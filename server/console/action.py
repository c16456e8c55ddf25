"""Actions of the console: each is declared once, in the list of its area.

Guarantee: an action is a function of a room of `worker/`, which the command line calls, too. It declares its fields,
its effect, the state that it changes, and the command line that does the same: the form, the dry run and the deed are
made of that alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities
from drawdown.schema.audit import By
from drawdown.schema.database import Transact
from drawdown.schema.declare import MAX_NUMBER, ONE, Fact, Size, WrongField
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import clean
from drawdown.schema.typed.parsing import parse_credits, parse_time
from drawdown.server.console.frame.parts import Table
from drawdown.worker.access.people import Person
from drawdown.worker.engine.context import Context

MAX_REASON_CHARS: Final = 500
"""Length of a reason that a person types in the console."""
MAX_EVIDENCE_CHARS: Final = 500
"""Length of evidence that a person types in the console."""


@dataclass(frozen=True)
class Field:
    """A value of an action's form.

    `kind`: text (an id, or a word), credits, number, time, choice, or fixed: chosen by the page before, shown and not
    changed. `many`: one a line; `unless`: another field that replaces it.
    """

    name: str
    label: str
    kind: str = "text"
    hint: str = ""
    choices: Sequence[tuple[str, str]] = ()
    optional: bool = False
    many: bool = False
    unless: str = ""


REASON: Final = Field("reason", "Reason", hint="Drawdown records it in the audit log with your name.")


@dataclass(frozen=True)
class ActionResult:
    """What an action did, in a sentence; `secret`: what is shown once, and kept nowhere."""

    said: str
    secret: str = ""


@dataclass(frozen=True)
class Doing:
    """A form as it was filled in. `key`: the form's own, which makes a repetition harmless; `secret`: 43 new random
    characters, for an action that hands one out."""

    person: Person
    by: By
    values: Mapping[str, str]
    key: str = ""
    secret: str = field(default="", repr=False)
    url: str = ""
    """The console's address."""
    declared: Mapping[str, Capabilities] = field(default_factory=dict)
    """The providers' declarations by this server's settings."""

    def text(self, name: str) -> str:
        """Return an id; '' if none is given. Errors: WrongField if no id can have this text."""
        found = self.values.get(name, "").strip()
        if found and not is_clean_id(found):
            raise WrongField(name, "1 to 200 characters without control characters")
        return found

    def maybe(self, name: str) -> str | None:
        """Return an id; None if none is given."""
        return self.text(name) or None

    def texts(self, name: str) -> list[str]:
        """Ids, one a line, each once. Errors: WrongField."""
        found = [line.strip() for line in self.values.get(name, "").splitlines() if line.strip()]
        if not all(is_clean_id(one) for one in found):
            raise WrongField(name, "one a line, each of 1 to 200 characters without control characters")
        return list(dict.fromkeys(found))

    def credits(self, name: str) -> int | None:
        """Return micro-credits; None if nothing is given. Errors: WrongField if it is no amount of credits."""
        text = self.values.get(name, "").strip()
        try:
            return parse_credits(text) if text else None
        except UsageError as error:
            raise WrongField(name, str(error)) from None

    def number(self, name: str) -> int | None:
        """Return a whole number of 0 or more; None if nothing is given. Errors: WrongField."""
        text = self.values.get(name, "").strip()
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_NUMBER)) and int(text) <= MAX_NUMBER):
            raise WrongField(name, "a whole number of 0 or more")
        return int(text)

    def time(self, name: str) -> int | None:
        """Return milliseconds; None if nothing is given. Errors: WrongField if it is no time."""
        text = self.values.get(name, "").strip()
        try:
            return parse_time(text, "this", self.by.now_ms) if text else None
        except UsageError as error:
            raise WrongField(name, str(error)) from None


def evidence_of(doing: Doing) -> str:
    """Return the evidence from a form with a field of that name. Errors: WrongField."""
    text = doing.values.get("evidence", "").strip()
    if not text or len(text) > MAX_EVIDENCE_CHARS or clean(text) != text:
        said = f"expected 1 to {MAX_EVIDENCE_CHARS} characters without control characters"
        raise WrongField("evidence", said)
    return text


Do = Callable[[sa.Connection, Doing], ActionResult]
Look = Callable[[sa.Connection, Doing], Sequence[Fact]]
Tell = Callable[[Transact, Context, Doing], Sequence[Table]]


def nothing_more(_transact: Transact, _context: Context, _doing: Doing) -> Sequence[Table]:
    """Most are notified of by their facts alone."""
    return ()


def one(_connection: sa.Connection, _doing: Doing) -> Size:
    """Most change one thing, and give nothing."""
    return ONE


@dataclass(frozen=True)
class Action:
    """An action: its name in the address, its title, its fields, its function and the page that follows.

    A reason is always required. `look`: the present state. `command`: the command line that does the same, without
    `drawdown` and the reason. `place`: the page that follows. `size`: how many it changes, and how much it gives.
    `said`: its effect, in a sentence, over its form. `lost_hint`: of an action that hands out a secret, the next
    step if the answer was lost. `tell`: further results of the dry run, found in transactions of its own, each of them
    undone.
    """

    name: str
    title: str
    fields: tuple[Field, ...]
    do: Do
    look: Look
    command: Callable[[Doing], Sequence[str]]
    place: Callable[[Doing], str]
    said: str = ""
    role: str = "operator"
    size: Callable[[sa.Connection, Doing], Size] = one
    lost_hint: Callable[[Doing], str] | None = None
    tell: Tell = nothing_more


def way_back(action: Action, doing: Doing) -> str:
    """Return the page for a person who cancels the action: that of its object, or the overview if it has none."""
    first = action.fields[0].name if action.fields else ""
    if not doing.values.get(first, "").strip():
        return "/console/"
    try:
        return action.place(doing)
    except (UsageError, KeyError):  # a value that makes no sense
        return "/console/"
