"""What a page is asked: by whom, when, and with which words in the address.

Guarantee: a value that makes no sense is refused in words, and never taken for another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.worker.commands.console_users import Person

MAX_NUMBER_DIGITS: Final = 12


@dataclass(frozen=True)
class Ask:
    """One look at a page. `query` is what stands in the address, each name once."""

    person: Person
    now_ms: int
    query: Mapping[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """An id or a part of one; '' where none is given. Errors: UsageError for what no id can be."""
        found = self.query.get(name, "")
        if found and not is_clean_id(found):
            raise UsageError(f"{name}: this is no id: 1 to 200 characters, none of them control characters")
        return found

    def required(self, name: str) -> str:
        """Errors: UsageError where none is given."""
        if not self.query.get(name):
            raise UsageError(f"the address names no {name}: it ends with ?{name}=…")
        return self.text(name)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of several; the first where none is given. Errors: UsageError for any other."""
        found = self.query.get(name, "") or choices[0]
        if found not in choices:
            raise UsageError(f"{name}: there is {', '.join(filter(None, choices))}")
        return found

    def number(self, name: str, choices: tuple[int, ...]) -> int:
        """The same for numbers."""
        return int(self.choice(name, tuple(str(one) for one in choices)))
