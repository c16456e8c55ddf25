"""Verify: prove the nine invariants on any database, from its raw tables (`drawdown verify`).

Guarantee: it only reads, in one snapshot, with statements that share nothing with those of the tick; no sample comes
into Python, only breaches do. A breach names the organisation, window and feature with the numbers; all are counted,
and the first thousand listed. What is known and not settled yet (windows to be sealed again, samples that arrived after
the cursor) is no breach, and is told as open.

Not claimed: which of several rates that had begun by a push's window was known when it was charged; when an entry of
the ledger was written (`at_ms`; its `ts` is claimed); that a wallet was drawn on for what was accepted within a day of
its first credit or of its feature's first rate; which plan a wallet is on; the figures that an organisation's row keeps
of its last read (`balance_micro` and the like); that what a provider keeps agrees (`drawdown reconcile` compares); what
a newcomer's assignment by the tick was before it was altered; the order of attempts and voids written before schema
0010; that withdrawals, rates, mappings, overrides, plans' limits, cells and what holds while a provider is down have an
action each, and say what it says.
Whoever may write to all tables alike, with every guard off, can make another history that is whole in itself: compare
with a backup, and the newest action's hash with what was told before.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema import audit_chain
from drawdown.schema.sql import rows_sql
from drawdown.worker.verify.state_queries import COUNTS, FINDINGS, NEWEST, OPEN, SAID, STATEMENTS
from drawdown.worker.verify.usage_queries import IN_FLIGHT

LISTED: Final = 1_000
"""How many breaches are listed; all are counted."""


@dataclass(frozen=True)
class Breach:
    """One broken invariant (1 to 9). `org_id` is None where it is no single organisation's, as with the ledger's sum;
    `window_ms` and `feature` are None where it is about no window or feature."""

    invariant: int
    org_id: str | None
    window_ms: int | None
    feature: str | None
    text: str


@dataclass
class Verification:
    """What was found. `checked` and `open` are counts by name; `first` is the first breach of each organisation."""

    breaches: list[Breach] = field(default_factory=list)
    by_invariant: Counter[int] = field(default_factory=Counter)
    first: dict[str, Breach] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    newest_action: str = ""
    """The hash of the newest action on record: kept elsewhere, it shows a record that was written anew."""

    @property
    def clean(self) -> bool:
        return not self.by_invariant

    @property
    def count(self) -> int:
        """All breaches, those not listed included."""
        return self.by_invariant.total()

    def add(self, breach: Breach) -> None:
        self.by_invariant[breach.invariant] += 1
        if len(self.breaches) < LISTED:
            self.breaches.append(breach)
        if breach.org_id is not None:
            self.first.setdefault(breach.org_id, breach)


def verify(connection: sa.Connection, *, orgs: Sequence[str] | None = None) -> Verification:
    """Check all nine invariants, for some organisations only where they are given.

    On PostgreSQL it must come first in its transaction: all statements have to see the same moment.
    """
    _take_snapshot(connection)
    found = Verification()
    ask = _Asking(connection, orgs)
    for statement in STATEMENTS:
        for row in ask.rows(statement):
            if row["what"] == "counted":
                found.checked.update(samples=int(row["n1"]), windows=int(row["n3"]))
                found.open.update(samples_after_cursor=int(row["n2"]))
            else:
                found.add(_breach(row))
    for text in audit_chain.broken(connection):
        found.add(Breach(6, None, None, None, text))
    found.newest_action = audit_chain.newest(connection)
    found.checked.update({name: ask.count(statement) for name, statement in COUNTS.items()})
    found.open.update({name: ask.count(statement) for name, statement in OPEN.items()})
    return found


def _take_snapshot(connection: sa.Connection) -> None:
    """One moment for all statements. A SQLite transaction has one by itself; PostgreSQL is asked for it."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        # Answers are fetched in parts, and planned as if read to the end, which they are.
        connection.execute(sa.text("SET LOCAL cursor_tuple_fraction = 1"))


class _Asking:
    """Runs the statements on one database, for the organisations that are asked about."""

    def __init__(self, connection: sa.Connection, orgs: Sequence[str] | None) -> None:
        self._connection = connection
        self._values = {} if orgs is None else {"rows": json.dumps([{"org_id": org} for org in orgs])}
        self._chosen = f"(SELECT org_id FROM ({rows_sql(connection, {'org_id': 'text'})}) chosen)"

    def rows(self, statement: str) -> Iterator[Mapping[str, Any]]:
        text = self._prepared(statement)
        if self._values:
            text = f"SELECT found.* FROM ({text}) found WHERE found.what = 'counted' OR found.org_id IN {self._chosen}"
        answer = self._connection.execute(sa.text(text), self._values, execution_options={"yield_per": LISTED})
        for row in answer.mappings():
            yield {str(name): value for name, value in row.items()}

    def count(self, statement: str) -> int:
        text = self._prepared(statement)
        values = self._values if ":rows" in text else {}
        return int(self._connection.execute(sa.text(text), values).scalar_one())

    def _prepared(self, statement: str) -> str:
        """Fill in the notation of `verify_sql`."""
        chosen = rf"\1 IN {self._chosen}" if self._values else "1 = 1"
        # SQLite's SUM fails where it overflows, as one bad organisation's may; parts of a sum do not.
        dialect = self._connection.dialect.name
        wide = r"(SUM(\1 / 1000000) * 1000000 + SUM(\1 % 1000000))" if dialect == "sqlite" else r"SUM(\1)"
        for name, text in {"{newest}": NEWEST[dialect], **IN_FLIGHT[dialect]}.items():
            statement = statement.replace(name, text)
        statement = re.sub(r"SAID\((\w+)\.(\w+)\)", SAID[dialect], statement)
        return re.sub(r"WIDE\((\w+)\)", wide, re.sub(r"\[(\w+\.org_id)\]", chosen, statement))


def _breach(row: Mapping[str, Any]) -> Breach:
    invariant, text = FINDINGS[row["what"]]
    numbers = {name: _plain(value) for name, value in row.items()}
    window = row["window_ms"]
    return Breach(
        invariant=invariant,
        org_id=row["org_id"] or None,
        window_ms=None if window is None else int(window),
        feature=row["feature"] or None,
        text=text.format_map(numbers),
    )


def _plain(value: object) -> object:
    """PostgreSQL's sums are decimals; all of ours are whole."""
    if isinstance(value, Decimal | float):
        return int(value)
    return "nothing" if value in (None, "") else value
