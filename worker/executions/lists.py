"""Runs: lists of them, a single run with its draws, and what is held now. Reads only.

Guarantee: a page reads MOST_LOOKED_AT rows of an index at most, however many runs exist. It continues behind the last
row of the page before it: rows that come meanwhile are neither shown twice nor shift the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, get_args

import sqlalchemy as sa

from drawdown.ledger.reservations import Reservation, State
from drawdown.schema import ids
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries

SQL = queries(__file__)

EVER: Final = 2**62
PAGE_ROWS: Final = 50
MOST_AT_ONCE: Final = 1_000
"""Rows of a download that Drawdown reads, and keeps in memory, at a time."""
MOST_LOOKED_AT: Final = 10_000
"""Executions that one page reads, and held executions that its sums include."""
MOST_HOLDERS: Final = 10
"""Wallets with the most reserved credit, on a page."""
STATES: Final[tuple[State, ...]] = get_args(State)


@dataclass(frozen=True)
class RunFilter:
    """Which runs: in these states; of an organisation, a project, a subject, an action; paid for by a customer;
    accepted at that time or before. Empty: any. `phase`, where `states` is held alone: waiting (nothing drawn yet),
    drawing, or over (expired, and nothing has looked at it since: no other list of what is held has it)."""

    states: tuple[str, ...] = ()
    org: str = ""
    payer: str = ""
    project: str = ""
    subject: str = ""
    action: str = ""
    accepted_by_ms: int = EVER
    phase: str = ""

    @property
    def is_of_held(self) -> bool:
        """True if the filter is for held runs alone."""
        return set(self.states) == {"held"}

    @property
    def ends_first(self) -> bool:
        """True if the first to end comes first; otherwise the newest does."""
        return self.is_of_held and not self.org


@dataclass(frozen=True)
class RunPage:
    """`next_after`: where the next page begins; None where there is no more. `is_cut`: it ended there for having gone
    through MOST_LOOKED_AT, and may have fewer rows than were asked for, or none."""

    runs: list[Reservation]
    next_after: str | None
    is_cut: bool = False


@dataclass(frozen=True)
class RunEntry:
    """An amount that a run drew at a time: micro-credits, and a feature's quantity if it was given."""

    key: str
    at_ms: int
    amount_micro: int
    feature: str | None
    quantity: int | None
    actor: str
    reason: str


@dataclass(frozen=True)
class HeldFigures:
    """Figures of chosen runs that are held: their number, those that wait and that are over, and the held credit.

    `is_cut`: more may be held; only the MOST_LOOKED_AT that end first were read.
    """

    is_cut: bool
    runs: int
    over: int
    waiting: int
    held_micro: int
    oldest_ms: int | None


@dataclass(frozen=True)
class Holder:
    """A wallet, how many runs hold of it, how much, and until when the last of them does."""

    customer_id: str
    runs: int
    held_micro: int
    until_ms: int


def list_runs(
    connection: sa.Connection, chosen: RunFilter, now_ms: int, after: str = "", most: int = PAGE_ROWS
) -> RunPage:
    """Return the runs behind `after`.

    Held runs are in the order of their ends. Other runs, and those of one organisation, are newest first. `most` is
    MOST_LOOKED_AT at most.

    Errors: UsageError; UnknownId for an organisation, a payer or a label that no run has. If the caller may not learn
    names, the page is just empty: it must not learn if another organisation has that label.
    """
    if chosen.phase and not chosen.is_of_held:
        raise UsageError("phase: applies only to held executions")
    _require(connection, chosen)
    values = {**_values(chosen, now_ms), **_place(chosen, after)}
    slots, is_narrowed = _slots(chosen)
    far, no_further = None, ""
    if is_narrowed:
        far = SQL.run(connection, "far", {**values, "passed": MOST_LOOKED_AT - 1}, **slots).one_or_none()
    if far is not None:
        values |= {"far_ms": far.at_ms, "far_key": far.reservation}
        no_further = "rising_to" if chosen.ends_first else "falling_to"
    kept = {"condition": _condition(chosen), "no_further": no_further}
    rows = SQL.run(connection, "list", {**values, "at_most": most + 1}, **slots, **kept)
    runs = [Reservation(**row._mapping) for row in rows]
    if len(runs) > most:
        last = runs[most - 1]
        at_ms = last.expires_ms if chosen.ends_first else last.accepted_ms
        return RunPage(runs[:most], f"{at_ms}:{last.reservation}")
    if far is not None:
        return RunPage(runs, f"{far.at_ms}:{far.reservation}", is_cut=True)
    return RunPage(runs, None)


def every_run(connection: sa.Connection, chosen: RunFilter, now_ms: int) -> Iterator[Reservation]:
    """All of them, in the order of pages. Errors: as `list_runs`."""
    after: str | None = ""
    while after is not None:
        found = list_runs(connection, chosen, now_ms, after, MOST_AT_ONCE)
        yield from found.runs
        after = found.next_after


def org_of_run(connection: sa.Connection, key: str) -> str | None:
    """Return the organisation of a run, which never changes; None if there is no such run."""
    org: str | None = SQL.run(connection, "org", {"reservation": key}).scalar_one_or_none()
    return org


def show_run(connection: sa.Connection, key: str, now_ms: int, most: int) -> tuple[Reservation, list[RunEntry]]:
    """A run and what it drew. Errors: UnknownId."""
    ids.require(connection, ids.RUN, key)
    row = SQL.run(connection, "one", {"reservation": key, "now_ms": now_ms}).mappings().one()
    entries = SQL.run(connection, "entries", {"reservation": key, "at_most": most})
    return Reservation(**row), [RunEntry(**entry._mapping) for entry in entries]


def held_figures(connection: sa.Connection, chosen: RunFilter, now_ms: int) -> HeldFigures:
    """Return the figures of chosen runs that are held now. Those that are over are counted, and hold nothing."""
    values = {**_values(chosen, now_ms), "at_most": MOST_LOOKED_AT}
    condition = "any" if chosen.is_of_held and not chosen.phase else _condition(chosen)
    row = SQL.run(connection, "figures", values, condition=condition).one()
    looked, runs, over, waiting, held = (int(row[number] or 0) for number in range(5))
    return HeldFigures(looked == MOST_LOOKED_AT, runs, over, waiting, held, row.oldest_ms)


def holders(connection: sa.Connection, now_ms: int) -> list[Holder]:
    """The wallets of which most is held."""
    values = {"now_ms": now_ms, "at_most": MOST_LOOKED_AT, "named": MOST_HOLDERS}
    return [Holder(**row._mapping) for row in SQL.run(connection, "holders", values)]


def _require(connection: sa.Connection, chosen: RunFilter) -> None:
    """Errors: UnknownId."""
    if not ids.tells_names(connection):
        return
    labels = ((ids.PROJECT, chosen.project), (ids.SUBJECT, chosen.subject), (ids.ACT, chosen.action))
    for kind, name in ((ids.ASKING, chosen.org), (ids.CUSTOMER, chosen.payer), *labels):
        if name:
            ids.require(connection, kind, name)


def _values(chosen: RunFilter, now_ms: int) -> dict[str, object]:
    return {**vars(chosen), "states": sorted(set(chosen.states)), "now_ms": now_ms}


def _condition(chosen: RunFilter) -> str:
    """The piece that says in which state or phase they are."""
    if chosen.phase:
        return chosen.phase
    if chosen.ends_first:  # the index that it goes by has no others
        return "any"
    return "in_states" if 0 < len(set(chosen.states)) < len(STATES) else "any"


def _slots(chosen: RunFilter) -> tuple[dict[str, str], bool]:
    """The pieces that say by which index a list goes; and whether it passes over rows of that one."""
    labels = bool(chosen.payer or chosen.project or chosen.subject or chosen.action)
    if chosen.ends_first:
        among = "over" if chosen.phase == "over" else "going_on"
        slots = {"among": among, "time": "ends", "behind": "rising_from", "order": "rising"}
        return slots, labels or chosen.accepted_by_ms < EVER or chosen.phase in ("waiting", "drawing")
    slots = {
        "among": "of_org" if chosen.org else "any",
        "time": "accepted",
        "behind": "falling_from",
        "order": "falling",
    }
    return slots, labels or _condition(chosen) != "any"


def _place(chosen: RunFilter, after: str) -> dict[str, object]:
    """Behind which run a page begins. Errors: UsageError."""
    at_ms, key = -1 if chosen.ends_first else EVER, ""
    if after:
        text, _, key = after.partition(":")
        if not (text.isascii() and text.isdigit() and len(text) < 17 and is_clean_id(key)):
            raise UsageError("invalid after: expected the `next` of a page. Start at the first page")
        at_ms = int(text)
    if not chosen.ends_first:  # they begin with the newest that are old enough
        at_ms, key = min((at_ms, key), (chosen.accepted_by_ms + 1, ""))
    return {"at_ms": at_ms, "key": key}
