"""Prove the invariants on any database, from its raw tables (`drawdown verify`).

Guarantee: this module only reads, in one snapshot, with statements that are separate from those of the tick. Python
receives only breaches, never samples. A breach names the organisation, window and feature with the numbers. All
breaches are counted, and the first LISTED are listed. Known and unsettled usage (dirty windows, samples that arrived
after the cursor) does not count as a breach, and is reported as open.

`verify` does not prove these facts:

- which of several rates that had begun by a push's window was on record when the push was charged
- the exact time at which an entry was written (`at_ms`), although it proves `ts`. For a push, `at_ms` is proven to the
  minute, or to the day if several workers may have sent the push. For an execution, it is only proven that `at_ms` is
  not a day before the execution. For a tier, `at_ms` is not proven
- that a wallet was drawn on for a push accepted within a day of its first credit or of its feature's first rate
- which of a plan's terms were the newest when a month began (it proves that the terms in a lot are the plan's)
- the price of a tier when a month of it was charged
- that the expired credit of a lot is the part that was not used in time
- which of a supplier's terms were the newest when an execution ended (the copied terms are proven)
- the figures of the last read in an organisation's row (such as `balance_micro`)
- that a provider's own figures agree (`drawdown reconcile` compares)
- the original values of a tick's assignment of a new organisation that was changed later
- that each event was sent to all endpoints that subscribed to it at that time
- the amounts that the guard's reserved uses counted for before they ended, and refused uses
- the id of a usage event, from which its sample's id is made, and the day and service of a line of a bill
- that each withdrawal, org override, cell and policy for an unavailable provider agrees with an action
- the limits of a plan without an action

A login that can write to all tables, with all guards off, can make another consistent history. To find such a history,
compare the database with a backup, and the newest action's hash with the last hash that you stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

import sqlalchemy as sa

from drawdown.schema import audit
from drawdown.schema.sql import Queries, Values
from drawdown.worker.verify.findings import FINDINGS
from drawdown.worker.verify.incremental import BY_WINDOW, COUNTED, Before, Mark, Point, ProvenRun, before, mark, point
from drawdown.worker.verify.questions import CHECKED, OPEN, STATE, STATEMENTS, USAGE

LISTED: Final = 1_000
"""Breaches that a run lists. The run counts all breaches."""


@dataclass(frozen=True)
class Breach:
    """A breach of an invariant (1 to 15).

    `org_id`: None if the breach concerns more than one organisation, such as the ledger's sum. `window_ms` and
    `feature`: None if the breach does not concern a window or feature.
    """

    invariant: int
    org_id: str | None
    window_ms: int | None
    feature: str | None
    text: str


@dataclass
class Verification:
    """The result of a run.

    `breaches`: the first LISTED breaches. `by_invariant`: the number of all breaches by invariant. `first`: the first
    breach of each organisation. `checked`, `open`: counts by name.
    """

    breaches: list[Breach] = field(default_factory=list)
    by_invariant: Counter[int] = field(default_factory=Counter)
    first: dict[str, Breach] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    newest_action: str = ""
    """The hash of the newest action on record. If you store it elsewhere, it shows whether the record was rewritten."""
    before: Before = field(default_factory=Before)
    """The newest run and action when the run began. It may not have seen later rows."""
    mark: Mark | None = None
    """The progress of the run, so that a later run may continue from it."""
    point: Point | None = None
    """The point from which it continued another run; None: it was a full run."""

    @property
    def clean(self) -> bool:
        return not self.by_invariant

    @property
    def count(self) -> int:
        """Return the number of all breaches, listed or not."""
        return self.by_invariant.total()

    def add(self, breach: Breach) -> None:
        self.by_invariant[breach.invariant] += 1
        if len(self.breaches) < LISTED:
            self.breaches.append(breach)
        if breach.org_id is not None:
            self.first.setdefault(breach.org_id, breach)


def verify(
    connection: sa.Connection,
    *,
    orgs: Sequence[str] | None = None,
    now_ms: int | None = None,
    held: ProvenRun | None = None,
) -> Verification:
    """Check all invariants, and return the result.

    `orgs`: only these organisations; None: all. `now_ms`: prove that credit which wallets count as over has ended by
    then; None: do not prove that. `held`: the run that this one continues; None: a full run.

    Call this through `schema.database.read`, because all statements must see one snapshot.
    """
    if connection.dialect.name == "postgresql":
        STATE.run(connection, "in_parts")
    found = Verification(mark=mark(connection), point=None if held is None else point(connection, held))
    found.before = before(connection)
    ask = _Asking(connection, orgs, now_ms, found.point)
    for row in ask.rows():
        if row["what"] == "counted":
            found.checked.update(samples=int(row["n1"]), windows=int(row["n3"]))
            found.open.update(samples_after_cursor=int(row["n2"]))
        else:
            found.add(_breach(row))
    for text in audit.broken(connection):
        found.add(Breach(6, None, None, None, text))
    found.newest_action = audit.newest(connection)
    found.checked.update({name: ask.count(name, of_orgs=of_orgs) for name, of_orgs in CHECKED.items()})
    found.open.update({name: ask.count(name) for name in OPEN})
    return found


class _Asking:
    """A runner of the statements on one database, for the chosen organisations."""

    def __init__(
        self, connection: sa.Connection, orgs: Sequence[str] | None, now_ms: int | None, begins: Point | None
    ) -> None:
        self._connection = connection
        self._every = orgs is None
        self._begins = begins
        since_ms = None if begins is None else begins.window_ms
        self._values: Values = {"orgs": [{"org_id": org} for org in orgs or ()], "now_ms": now_ms, "since_ms": since_ms}

    def rows(self) -> Iterator[sa.RowMapping]:
        for sql, names in STATEMENTS:
            every = dict.fromkeys(("of_orgs", "of_samples", "of_pushes"), "every_org") if sql is USAGE else {}
            for name in names:
                piece, slots = ("of_chosen", {"finding": name}) if not self._every else (name, every)
                slots = {**slots, **self._from_point(BY_WINDOW, name)}
                few = self._few(sql, piece, slots)
                yield from self._all(sql, piece, slots) if few is None else few

    def _few(self, sql: Queries, piece: str, slots: dict[str, str]) -> Sequence[sa.RowMapping] | None:
        """Return the rows of a statement if they are few, else None.

        On PostgreSQL, a cursor for each statement would take longer than most statements.
        """
        if self._connection.dialect.name != "postgresql":
            return None
        values = {**self._values, "most": LISTED + 1}
        found = sql.run(self._connection, "beginning_of", values, asked=piece, **slots).mappings().all()
        return found if len(found) <= LISTED else None

    def _all(self, sql: Queries, piece: str, slots: dict[str, str]) -> Iterator[sa.RowMapping]:
        with _in_parts(self._connection):
            yield from sql.run(self._connection, piece, self._values, **slots).mappings()

    def _from_point(self, asked: Mapping[str, Mapping[str, str]], name: str) -> Mapping[str, str]:
        return {} if self._begins is None else asked.get(name, {})

    def count(self, name: str, *, of_orgs: bool = True) -> int:
        slots = {"which": "every_org"} if of_orgs and self._every else {}
        slots |= self._from_point(COUNTED, name)
        return int(STATE.run(self._connection, name, self._values, **slots).scalar_one())


@contextmanager
def _in_parts(connection: sa.Connection) -> Iterator[None]:
    """Fetch rows in parts of LISTED."""
    connection.execution_options(yield_per=LISTED)
    try:
        yield
    finally:
        connection.execution_options(yield_per=None)


def _breach(row: sa.RowMapping) -> Breach:
    invariant, text = FINDINGS[row["what"]]
    numbers = {str(name): _plain(value) for name, value in row.items()}
    window = row["window_ms"]
    return Breach(
        invariant=invariant,
        org_id=row["org_id"] or None,
        window_ms=None if window is None else int(window),
        feature=row["feature"] or None,
        text=text.format_map(numbers),
    )


def _plain(value: object) -> object:
    """Return a value for a text.

    Decimals become integers, because PostgreSQL's sums are decimals, but all our sums are whole.
    """
    if isinstance(value, Decimal | float):
        return int(value)
    return "none" if value in (None, "") else value
