"""The parameters of a page: the person, the time, and the texts in the address.

Guarantee: an impossible value is refused in words, and never taken for another one. Every text of an address comes
through `said_by`, so that no text reaches a database that could not hold it. A number has the bounds of its unit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from starlette.requests import Request

from drawdown.schema.declare import MAX_KEY_CHARS as MAX_KEY_CHARS
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean, is_clean_id
from drawdown.schema.text import clean
from drawdown.schema.typed.parsing import LATEST_MS, parse_time
from drawdown.worker.access.people import Person

MAX_NAME_CHARS: Final = 40
"""Length of a parameter's name that an error quotes."""
MOST_PARAMETERS: Final = 20
"""Query parameters of one page of the console."""
MAX_TEXT_CHARS: Final = 12 * 1024
"""Characters of a text in an address of the console: a link's token, or the form of a person who was signed out."""


def said_by(request: Request) -> dict[str, str]:
    """Return the parameters of an address.

    Errors: UsageError for a repeated name, for too many, and for a text that no database can hold.
    """
    pairs = request.query_params.multi_items()
    found = dict(pairs)
    if len(pairs) > MOST_PARAMETERS or len(found) != len(pairs):
        raise UsageError("the address has a parameter twice, or too many. Begin at the overview")
    for name, text in pairs:
        if len(text) > MAX_TEXT_CHARS or "\0" in text:
            what = f"expected up to {MAX_TEXT_CHARS:,} characters, none of them NUL"
            raise UsageError(f"invalid {clean(name, MAX_NAME_CHARS)}: {what}. Begin at the overview")
    return found


@dataclass(frozen=True)
class Ask:
    """One read of a page.

    `query`: the parameters of the address, each name once; `form`: that of the requested file.
    """

    person: Person
    now_ms: int
    query: Mapping[str, str] = field(default_factory=dict)
    form: Literal["csv", "jsonl"] = "csv"

    @property
    def names_one(self) -> bool:
        """Return True if it is for one thing, by its id or key; otherwise an id in the address narrows a list."""
        return bool(self.query.get("id") or self.query.get("key"))

    def text(self, name: str) -> str:
        """Return an id or a part of one; '' if none is given. Errors: UsageError if no id can have this text."""
        found = self.query.get(name, "")
        if found and not is_clean_id(found):
            raise UsageError(f"invalid {name}: expected an id of 1 to 200 characters without control characters")
        return found

    def key(self, name: str) -> str:
        """Return a key that is made of several ids (an entry's, a top-up's); '' if none is given.

        Errors: UsageError if no key can have this text.
        """
        found = self.query.get(name, "")
        if found and not (is_clean(found) and len(found) <= MAX_KEY_CHARS):
            raise UsageError(
                f"invalid {name}: expected a key of 1 to {MAX_KEY_CHARS} characters without control characters"
            )
        return found

    def place_text(self, name: str) -> str:
        """Return the end of the page before, as it is in the database, if other programs write it.

        Errors: UsageError if it is too long.
        """
        found = self.query.get(name, "")
        if len(found) > MAX_KEY_CHARS:
            raise UsageError(f"invalid {name}: longer than {MAX_KEY_CHARS} characters. Begin at the first page")
        return found

    def required(self, name: str) -> str:
        """Return a text. Errors: UsageError if none is given."""
        if not self.query.get(name):
            raise UsageError(f"the address has no {name}. Add ?{name}=…")
        return self.text(name)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return one of several choices; the first if none is given. Errors: UsageError for any other."""
        found = self.query.get(name, "") or choices[0]
        if found not in choices:
            raise UsageError(f"invalid {name}: expected {', '.join(filter(None, choices))}")
        return found

    def whole(self, name: str) -> int | None:
        """Return a whole number of the address, which a database can store; None if none is given.

        Errors: UsageError for any other text.
        """
        found = self.query.get(name, "")
        if found and not (re.fullmatch(r"-?[0-9]{1,18}", found) and found.isascii()):
            raise UsageError(f"invalid {name}: expected a whole number. Begin at the first page")
        return int(found) if found else None

    def place(self, name: str) -> int:
        """The number of a row behind which a page continues; 0: it begins. Errors: UsageError for what none can be."""
        found = self.whole(name) or 0
        if found < 0:
            raise UsageError(f"invalid {name}: expected a number of 1 or more. Begin at the first page")
        return found

    def instant(self, name: str) -> int | None:
        """Return a time of the address, in milliseconds; None if none is given.

        Errors: UsageError if it is in no calendar.
        """
        found = self.whole(name)
        if found is not None and not 0 <= found <= LATEST_MS:
            raise UsageError(f"invalid {name}: expected a time in milliseconds. Begin at the first page")
        return found

    def moment(self, name: str) -> int | None:
        """Return a typed time (`2026-01-31`, `7d`), in milliseconds; None if none is given.

        Errors: UsageError if it is none.
        """
        found = self.text(name).strip()
        return parse_time(found, name, self.now_ms) if found else None

    def number(self, name: str, choices: tuple[int, ...]) -> int:
        """The same for numbers."""
        return int(self.choice(name, tuple(str(one) for one in choices)))
