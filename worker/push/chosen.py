"""The pushes that a command is about: named by their keys, or all that a filter finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema.audit import require_org
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.sql import queries

SQL = queries(__file__)
AWAITING_CREDIT: Final = "awaiting_credit"
"""Pushes that are billed again by themselves: chosen by their keys or by this state alone."""


@dataclass(frozen=True)
class Chosen:
    """Which pushes a command is about: by their keys, or all that a filter finds."""

    keys: list[str] | None
    states: list[str] | None
    org: str
    provider: str
    error: str
    expect: int | None = None

    def find(self, connection: sa.Connection, possible: Sequence[str]) -> list[str]:
        """Keys, in the order of their windows; a filter finds only states for which the command is meant.

        Errors: UsageError for neither keys nor filter, or a state it is not meant for.
        """
        filtered = bool(self.states or self.org or self.provider or self.error)
        if bool(self.keys) == filtered:
            raise UsageError("name pushes by their keys, or choose them by --state, --org, --provider, --error")
        if self.keys:
            self._require_expected(len(self.keys))
            return list(self.keys)
        also = {AWAITING_CREDIT} if "rejected" in possible else set()
        if wrong := set(self.states or ()) - {*possible, *also}:
            raise UsageError(f"--state {sorted(wrong)[0]}: this is for pushes that are {' or '.join(possible)}")
        if self.org:
            require_org(connection, self.org)
        if self.provider and not SQL.run(connection, "was_assigned", {"provider": self.provider}).first():
            raise Refused(f"nothing was ever assigned to a provider {self.provider!r}; `drawdown provider list`")
        values = {"states": self.states or list(possible), "org_id": self.org, "provider": self.provider}
        found = list(SQL.run(connection, "by_filter", {**values, "error": self.error}).scalars())
        self._require_expected(len(found))
        return found

    def _require_expected(self, found: int) -> None:
        if self.expect not in (None, found):
            raise Refused(f"they are {found:,} by now, and not {self.expect:,}: look again with --dry-run")
