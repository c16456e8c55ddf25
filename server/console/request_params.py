"""Read a page's parameters: the person, the time, and the texts in its address.

Guarantee: Drawdown rejects an invalid value, and never reads it as another value. `said_by` checks every text of an
address, so that a database gets only texts that it can store. A number has the bounds of its unit.
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
from drawdown.schema.text import clean, quote_value
from drawdown.schema.typed.parsing import LATEST_MS, parse_time
from drawdown.worker.access.people import Person

MAX_NAME_CHARS: Final = 40
"""Characters of a parameter's name that an error quotes."""
MOST_PARAMETERS: Final = 20
"""Query parameters of one page of the console."""
MAX_TEXT_CHARS: Final = 12 * 1024
"""Characters of a text in a URL of the console.

Such a text is a link's token, or the form of a signed-out person.
"""


def said_by(request: Request) -> dict[str, str]:
    """Return the parameters of an address.

    Errors: UsageError for a repeated name, too many parameters, or a text that is too long or has NUL.
    """
    pairs = request.query_params.multi_items()
    found = dict(pairs)
    if len(pairs) > MOST_PARAMETERS or len(found) != len(pairs):
        raise UsageError("the address repeats a parameter, or has too many parameters. Begin at the overview")
    for name, text in pairs:
        if len(text) > MAX_TEXT_CHARS or "\0" in text:
            what = f"expected at most {MAX_TEXT_CHARS:,} characters, without NUL"
            raise UsageError(f"invalid {clean(name, MAX_NAME_CHARS)}: {what}. Begin at the overview")
    return found


@dataclass(frozen=True)
class Ask:
    """A request for a page.

    `query`: the parameters of the address, each name once. `form`: the format of the requested file.
    """

    person: Person
    now_ms: int
    query: Mapping[str, str] = field(default_factory=dict)
    form: Literal["csv", "jsonl"] = "csv"

    @property
    def names_one(self) -> bool:
        """Return True if the id or key in the address names the page's only object.

        Otherwise an id in the address filters a list.
        """
        return bool(self.query.get("id") or self.query.get("key"))

    def text(self, name: str) -> str:
        """Return an id or a part of an id; '' if the parameter is missing.

        Errors: UsageError if an id cannot have this text.
        """
        found = self.query.get(name, "")
        if found and not is_clean_id(found):
            raise UsageError(
                f"invalid {name} {quote_value(found)}: expected an id of 1 to 200 characters without control characters"
            )
        return found

    def key(self, name: str) -> str:
        """Return a key of several ids, such as an entry's; '' if it is missing.

        Errors: UsageError if a key cannot have this text.
        """
        found = self.query.get(name, "")
        if found and not (is_clean(found) and len(found) <= MAX_KEY_CHARS):
            raise UsageError(
                f"invalid {name} {quote_value(found)}: expected a key of 1 to {MAX_KEY_CHARS} characters without "
                "control characters"
            )
        return found

    def place_text(self, name: str) -> str:
        """Return the parameter that names the last row of the previous page.

        Other programs may have written this text into the database. Errors: UsageError if the text is too long.
        """
        found = self.query.get(name, "")
        if len(found) > MAX_KEY_CHARS:
            raise UsageError(
                f"invalid {name} {quote_value(found)}: longer than {MAX_KEY_CHARS} characters. Begin at the first page"
            )
        return found

    def required(self, name: str) -> str:
        """Return the id in a required parameter.

        Errors: UsageError if the parameter is missing or invalid.
        """
        if not self.query.get(name):
            raise UsageError(f"missing {name} in the address. Add ?{name}=…")
        return self.text(name)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return one of several choices; the first if the parameter is missing.

        Errors: UsageError for any other text.
        """
        found = self.query.get(name, "") or choices[0]
        if found not in choices:
            raise UsageError(f"invalid {name} {quote_value(found)}: expected {', '.join(filter(None, choices))}")
        return found

    def whole(self, name: str) -> int | None:
        """Return a whole number that a database can store; None if it is missing.

        Errors: UsageError for any other text.
        """
        found = self.query.get(name, "")
        if found and not (re.fullmatch(r"-?[0-9]{1,18}", found) and found.isascii()):
            raise UsageError(f"invalid {name} {quote_value(found)}: expected a whole number. Begin at the first page")
        return int(found) if found else None

    def place(self, name: str) -> int:
        """Return the number of the row after which a page continues; 0 for the first page.

        Errors: UsageError for a negative number, or another text.
        """
        found = self.whole(name) or 0
        if found < 0:
            raise UsageError(
                f"invalid {name} {quote_value(found)}: expected a number of 0 or more. Begin at the first page"
            )
        return found

    def instant(self, name: str) -> int | None:
        """Return a time in milliseconds; None if the parameter is missing.

        Errors: UsageError for another text, or a time before 1970 or after the year 9999.
        """
        found = self.whole(name)
        if found is not None and not 0 <= found <= LATEST_MS:
            raise UsageError(
                f"invalid {name} {quote_value(found)}: expected milliseconds since 1970. Begin at the first page"
            )
        return found

    def moment(self, name: str) -> int | None:
        """Return a typed time such as `2026-01-31` or `7d`, in milliseconds.

        Return None if the parameter is missing. Errors: UsageError for any other text.
        """
        found = self.text(name).strip()
        return parse_time(found, name, self.now_ms) if found else None

    def number(self, name: str, choices: tuple[int, ...]) -> int:
        """Return one of several numbers; the first if the parameter is missing.

        Errors: UsageError for any other number.
        """
        return int(self.choice(name, tuple(str(one) for one in choices)))
