"""Verify: prove the invariants on any database, from its raw tables (`drawdown verify`).

Guarantee: it only reads, in one snapshot, with statements that share nothing with those of the tick. No sample comes
into Python, only breaches do. A breach names the organisation, window and feature with the numbers. All are counted,
and the first thousand listed. Known and unsettled usage (windows to be sealed again, samples that arrived after the
cursor) is no breach, and is reported as open.

These are not claimed:

- which of several rates that had begun by a push's window was known when it was charged
- when an entry of a push was written (`at_ms`; its `ts` is claimed), but to the minute or, where more than one may have
  sent it, to the day; when one of a tier was, and when one of a run was, but that it is not a day before the run
- that a wallet was drawn on for a push accepted within a day of its first credit or of its feature's first rate
- which of a plan's terms were the newest as a month began (that those were of it which a lot says is claimed)
- what a tier cost as a month of it was charged
- that what expired of a lot is what nobody used of it in time
- which of a supplier's terms were the newest as a run of it ended (those that were copied are claimed)
- the figures that an organisation's row keeps of its last read (`balance_micro` and the like)
- that a provider's own figures agree (`drawdown reconcile` compares)
- a newcomer's assignment by the tick as it was before it was altered
- the order of attempts and voids written before schema 0010
- that what happened was told to each endpoint that wanted to know then
- what a hold of the guard's counted for before it ended, and what was refused
- by which id a usage event came (its sample's name is made of it), and which line of a bill is of which day or service
- that withdrawals, overrides of organisations, cells and the policies for a provider that is down have an action each,
  and agree with it; the limits of a plan of which no action tells, and the first rates of an `init` that recorded none

A login that may write to all tables alike, with every guard off, can make another history that is whole in itself.
Compare with a backup, and the newest action's hash with the one told before.
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
"""Breaches that are listed; all are counted."""


@dataclass(frozen=True)
class Breach:
    """One broken invariant (1 to 15). `org_id` is None where it is no single organisation's, as with the ledger's sum;
    `window_ms` and `feature` are None where it is about no window or feature."""

    invariant: int
    org_id: str | None
    window_ms: int | None
    feature: str | None
    text: str


@dataclass
class Verification:
    """The result of a run.

    `checked` and `open` are counts by name; `first` is the first breach of each organisation.
    """

    breaches: list[Breach] = field(default_factory=list)
    by_invariant: Counter[int] = field(default_factory=Counter)
    first: dict[str, Breach] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    newest_action: str = ""
    """The hash of the newest action on record: kept elsewhere, it shows a record that was written again."""
    before: Before = field(default_factory=Before)
    """The records that existed before: the run did not see later ones."""
    mark: Mark | None = None
    """The progress of the run, so that a later run may continue from it."""
    point: Point | None = None
    """Where it began, if it continued from a run that held; None: all of it was looked at."""

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


def verify(
    connection: sa.Connection,
    *,
    orgs: Sequence[str] | None = None,
    now_ms: int | None = None,
    held: ProvenRun | None = None,
) -> Verification:
    """Check all invariants, for some organisations only where they are given. `now_ms`: what wallets take to be over is
    claimed to be over by then; None: that is not claimed. `held`: the run that this one continues from (`since`).

    It is to be `read` (`schema.database`): all of its statements have to see one moment.
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
    """Runs the statements on one database, for the organisations that are asked about."""

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
        """The answer, where it is short enough to be fetched at once. On PostgreSQL a cursor for each question would
        take longer than most answers."""
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
    """Answers are fetched in parts, however long they are."""
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
    """PostgreSQL's sums are decimals; all of ours are whole."""
    if isinstance(value, Decimal | float):
        return int(value)
    return "none" if value in (None, "") else value
