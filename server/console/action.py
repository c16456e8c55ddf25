"""Define the parts of an action of the console.

Each action is declared once, in the list of its area.

Guarantee: an action calls a function of `worker/` that the command line also calls. The action declares its fields, its
effect, the state that it changes, and the equivalent command. The form, the dry run and the action use only this
declaration.
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
from drawdown.schema.text import clean, quote_value
from drawdown.schema.typed.parsing import parse_credits, parse_time
from drawdown.server.console.frame.parts import Table
from drawdown.worker.access.people import Person
from drawdown.worker.engine.context import Context

MAX_REASON_CHARS: Final = 500
"""Characters of a reason that a person types in the console."""
MAX_EVIDENCE_CHARS: Final = 500
"""Characters of evidence that a person types in the console."""


@dataclass(frozen=True)
class Field:
    """A field of an action's form.

    `kind`: text (an id or a word), credits, number, time, choice, or fixed. A fixed value comes from the previous page,
    and a person cannot change it. `many`: True if each line is a value. `unless`: another field that replaces this
    field.
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
    """The result of an action.

    `effect`: what changed, in a sentence. `secret`: a secret that Drawdown does not store, and shows once on the next
    page.
    """

    effect: str
    secret: str = ""


@dataclass(frozen=True)
class Doing:
    """A form that a person sent, with the values of its fields.

    `key`: the form's idempotency key. `secret`: 43 new random characters, for an action that creates a secret.
    """

    person: Person
    by: By
    values: Mapping[str, str]
    key: str = ""
    secret: str = field(default="", repr=False)
    url: str = ""
    """The console's address."""
    declared: Mapping[str, Capabilities] = field(default_factory=dict)
    """The providers' declarations, from this server's settings."""

    def text(self, name: str) -> str:
        """Return the id in a field; '' if the field is empty.

        Errors: WrongField if the text is not a valid id.
        """
        found = self.values.get(name, "").strip()
        if found and not is_clean_id(found):
            raise WrongField(
                name, f"invalid id {quote_value(found)}: expected 1 to 200 characters without control characters"
            )
        return found

    def maybe(self, name: str) -> str | None:
        """Return the id in a field; None if the field is empty. Errors: WrongField."""
        return self.text(name) or None

    def texts(self, name: str) -> list[str]:
        """Return the ids in a field, without duplicates.

        The field has one id on each line. Errors: WrongField.
        """
        found = [line.strip() for line in self.values.get(name, "").splitlines() if line.strip()]
        if not all(is_clean_id(one) for one in found):
            raise WrongField(
                name,
                f"invalid id {quote_value(next(one for one in found if not is_clean_id(one)))}: expected 1 to 200 "
                "characters without control characters, one id on each line",
            )
        return list(dict.fromkeys(found))

    def credits(self, name: str) -> int | None:
        """Return micro-credits; None if the field is empty.

        Errors: WrongField if the text is not an amount of credits.
        """
        text = self.values.get(name, "").strip()
        try:
            return parse_credits(text) if text else None
        except UsageError as error:
            raise WrongField(name, str(error)) from None

    def number(self, name: str) -> int | None:
        """Return a whole number of 0 or more; None if the field is empty.

        Errors: WrongField.
        """
        text = self.values.get(name, "").strip()
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_NUMBER)) and int(text) <= MAX_NUMBER):
            raise WrongField(
                name, f"invalid number {quote_value(text)}: expected a whole number from 0 to {MAX_NUMBER:,}, in digits"
            )
        return int(text)

    def time(self, name: str) -> int | None:
        """Return a time in milliseconds; None if the field is empty.

        Errors: WrongField if the text is not a time.
        """
        text = self.values.get(name, "").strip()
        try:
            return parse_time(text, "this field", self.by.now_ms) if text else None
        except UsageError as error:
            raise WrongField(name, str(error)) from None


def evidence_of(doing: Doing) -> str:
    """Return the text of the form's field `evidence`.

    Errors: WrongField if it is empty, too long, or has control characters.
    """
    text = doing.values.get("evidence", "").strip()
    if not text or len(text) > MAX_EVIDENCE_CHARS or clean(text) != text:
        said = (
            f"invalid evidence {quote_value(text)}: expected 1 to {MAX_EVIDENCE_CHARS} characters without control "
            "characters"
        )
        raise WrongField("evidence", said)
    return text


Do = Callable[[sa.Connection, Doing], ActionResult]
Look = Callable[[sa.Connection, Doing], Sequence[Fact]]
Tell = Callable[[Transact, Context, Doing], Sequence[Table]]


def nothing_more(_transact: Transact, _context: Context, _doing: Doing) -> Sequence[Table]:
    """Return an empty list of tables, because the facts show the whole effect."""
    return ()


def one(_connection: sa.Connection, _doing: Doing) -> Size:
    """Return the size of an action that changes one row and does not grant credit."""
    return ONE


@dataclass(frozen=True)
class Action:
    """An action of the console.

    `name`: its name in the address. `do`: its function. `look`: a function that reads the present state. `command`: the
    equivalent command line, without `drawdown` and the reason. `place`: the page after the action. `effect`: its
    effect, in a sentence above the form. `size`: the number of changed rows, and the granted and the taken credit.
    `lost_hint`: the next step if a response with a secret was lost. `tell`: a function that returns further results of
    the dry run, each from a transaction that is rolled back.

    Drawdown requires a reason for every action.
    """

    name: str
    title: str
    fields: tuple[Field, ...]
    do: Do
    look: Look
    command: Callable[[Doing], Sequence[str]]
    place: Callable[[Doing], str]
    effect: str = ""
    role: str = "operator"
    size: Callable[[sa.Connection, Doing], Size] = one
    lost_hint: Callable[[Doing], str] | None = None
    tell: Tell = nothing_more


def way_back(action: Action, doing: Doing) -> str:
    """Return the page for a person who cancels the action.

    The page is the page of the action's object. For an action without an object, the page is the overview.
    """
    first = action.fields[0].name if action.fields else ""
    if not doing.values.get(first, "").strip():
        return "/console/"
    try:
        return action.place(doing)
    except (UsageError, KeyError):  # the page's address needs a valid value
        return "/console/"
