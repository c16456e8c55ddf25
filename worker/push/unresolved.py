"""Sum pushes that ticks do not send: in doubt, rejected, waiting for credit.

There is one sum for each provider and state.

Guarantee: this module reads only these pushes, by the index on pushes that need a person. Amounts are in credits by the
provider's rates. Quantities of different features are never added up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.sql import Part, queries
from drawdown.schema.text import counted, typed
from drawdown.worker.verdict.rates import Prices, Quantity, Worth

SQL = queries(__file__)

AWAITING_CREDIT: Final = "awaiting_credit"
"""The state of a rejected push that Drawdown bills again once the provider shows credit."""
UNTIL_CREDIT: Final = "billed when the provider shows credit"


@dataclass(frozen=True)
class Unresolved:
    """All pushes of one provider and state: `in_doubt`, `rejected` or AWAITING_CREDIT.

    `oldest_window_ms`: the start of the oldest window. `oldest_ms`: when the oldest push was sealed. `looked_up_ms`:
    the latest due time of the pushes' next lookups. None: the pushes are not in doubt, or Drawdown has never looked
    them up.
    """

    provider: str
    state: str
    pushes: int
    orgs: int
    oldest_window_ms: int
    oldest_ms: int
    worth: Worth
    looked_up_ms: int | None = None

    @property
    def size(self) -> str:
        """Return the numbers of pushes and organisations, for people."""
        return f"{counted(self.pushes, 'push', 'pushes')} of {counted(self.orgs, 'organisation')}"

    @property
    def waits(self) -> str:
        """Return the verb that follows `size`."""
        return "waits" if self.pushes == 1 else "wait"

    @property
    def command(self) -> str:
        """Return the command: `resolve-all` if the pushes are in doubt, else the list."""
        if self.state == "in_doubt":
            return resolve_all(self.provider)
        return typed("drawdown", "push", "list", "--state", self.state, "--provider", self.provider)


def resolve_all(provider: str) -> str:
    """Return the command of a dry run for all pushes in doubt at a provider."""
    return typed("drawdown", "push", "resolve-all", "--provider", provider, "--dry-run")


def unresolved_parts() -> dict[str, Part]:
    """Return the queries of the rows for `unresolved_of`.

    One statement can run these queries together with others.
    """
    return {"unresolved": SQL.part("sums"), "unresolved_orgs": SQL.part("orgs")}


def unresolved_of(connection: sa.Connection, sums: Iterable[Any], orgs: Iterable[Any]) -> list[Unresolved]:
    """Return the sums by provider and state, from rows that were read."""
    groups: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in sums:
        groups[row.provider, row.state].append(row)
    concerned = {(row.provider, row.state): int(row.orgs) for row in orgs}
    prices = Prices(connection)
    return [_unresolved(where, rows, concerned[where], prices) for where, rows in sorted(groups.items())]


def _unresolved(where: tuple[str, str], rows: Sequence[Any], orgs: int, prices: Prices) -> Unresolved:
    provider, state = where
    due = [int(row.due_ms) for row in rows if row.due_ms is not None]
    return Unresolved(
        provider,
        state,
        pushes=sum(int(row.pushes) for row in rows),
        orgs=orgs,
        oldest_window_ms=min(int(row.window_ms) for row in rows),
        oldest_ms=min(int(row.oldest_ms) for row in rows),
        worth=prices.worth(Quantity(provider, row.feature, row.window_ms, int(row.quantity)) for row in rows),
        looked_up_ms=max(due) if due and state == "in_doubt" else None,
    )
