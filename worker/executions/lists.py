"""List executions, show one with its charges, and sum the reserved credit.

This module only reads.

Guarantee: a page reads at most MOST_LOOKED_AT rows of an index. The next page begins after its last row, so new rows do
not shift other rows, and a row is not shown twice. If a list is sorted by ends, an execution that is extended meanwhile
may be shown again.
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
from drawdown.schema.text import quote_value

SQL = queries(__file__)

EVER: Final = 2**62
PAGE_ROWS: Final = 50
MOST_AT_ONCE: Final = 1_000
"""Rows of a download that Drawdown reads into memory at a time."""
MOST_LOOKED_AT: Final = 10_000
"""Executions that one page reads.

The sums of reserved credit include at most this number.
"""
MOST_HOLDERS: Final = 10
"""Wallets with the most reserved credit that a page lists."""
STATES: Final[tuple[State, ...]] = get_args(State)


@dataclass(frozen=True)
class RunFilter:
    """A filter of executions. An empty field matches any execution.

    `accepted_by_ms`: the latest time of acceptance. `phase`: a part of the executions in the state `held`, which must
    then be the only state. It is `waiting` (not charged yet), `drawing` (charged at least once), or `over` (past its
    end, but not marked as expired yet).
    """

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
        """Return True if the filter matches only executions in the state `held`."""
        return set(self.states) == {"held"}

    @property
    def ends_first(self) -> bool:
        """Return True if the list is sorted by end, and not newest first."""
        return self.is_of_held and not self.org


@dataclass(frozen=True)
class RunPage:
    """A page of executions.

    `next_after`: the start of the next page (None: this is the last page). `is_cut`: the page ended because it had read
    MOST_LOOKED_AT rows, so it may have few rows or be empty.
    """

    runs: list[Reservation]
    next_after: str | None
    is_cut: bool = False


@dataclass(frozen=True)
class RunEntry:
    """A charge of an execution, in micro-credits.

    `quantity`: base units of `feature` (both None: the caller did not send quantities).
    """

    key: str
    at_ms: int
    amount_micro: int
    feature: str | None
    quantity: int | None
    actor: str
    reason: str


@dataclass(frozen=True)
class HeldFigures:
    """Figures of the chosen executions in the state `held`.

    `runs`: the number of executions before their end. `over`: the number of executions past their end. `waiting`: the
    number of the `runs` without a charge. `held_micro`: the reserved credit of the `runs`, in micro-credits.
    `oldest_ms`: the time when the oldest of the `runs` was accepted (None: `runs` is 0). `is_cut`: more executions may
    exist, because only the MOST_LOOKED_AT that end first were read.
    """

    is_cut: bool
    runs: int
    over: int
    waiting: int
    held_micro: int
    oldest_ms: int | None


@dataclass(frozen=True)
class Holder:
    """A wallet and its reserved credit.

    `runs`: the number of executions with this credit. `held_micro`: the credit in micro-credits. `until_ms`: the latest
    end of these reservations.
    """

    customer_id: str
    runs: int
    held_micro: int
    until_ms: int


def list_runs(
    connection: sa.Connection, chosen: RunFilter, now_ms: int, after: str = "", most: int = PAGE_ROWS
) -> RunPage:
    """Return a page of executions after `after`.

    Executions in the state `held` are sorted by their ends. Other lists, and the list of one organisation, have the
    newest first. `most`: at most MOST_LOOKED_AT.

    Errors: UsageError for an invalid `after`, or for a phase without the state `held`. UnknownId for an unknown
    organisation or payer, and for a label without executions. If the caller may not learn names, the function returns
    an empty page instead of UnknownId. The caller then cannot find out whether another organisation has the label.
    """
    if chosen.phase and not chosen.is_of_held:
        raise UsageError(
            f"cannot filter by phase {quote_value(chosen.phase)}: a phase applies only to the state 'held'. Choose "
            "that state, or omit the phase"
        )
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
    """Yield all chosen executions, in the order of pages. Errors: as `list_runs`."""
    after: str | None = ""
    while after is not None:
        found = list_runs(connection, chosen, now_ms, after, MOST_AT_ONCE)
        yield from found.runs
        after = found.next_after


def org_of_run(connection: sa.Connection, key: str) -> str | None:
    """Return the organisation of an execution; None if the execution does not exist."""
    org: str | None = SQL.run(connection, "org", {"reservation": key}).scalar_one_or_none()
    return org


def show_run(connection: sa.Connection, key: str, now_ms: int, most: int) -> tuple[Reservation, list[RunEntry]]:
    """Return an execution and at most `most` of its charges. Errors: UnknownId."""
    ids.require(connection, ids.RUN, key)
    row = SQL.run(connection, "one", {"reservation": key, "now_ms": now_ms}).mappings().one()
    entries = SQL.run(connection, "entries", {"reservation": key, "at_most": most})
    return Reservation(**row), [RunEntry(**entry._mapping) for entry in entries]


def held_figures(connection: sa.Connection, chosen: RunFilter, now_ms: int) -> HeldFigures:
    """Return the figures of the chosen executions in the state `held`."""
    values = {**_values(chosen, now_ms), "at_most": MOST_LOOKED_AT}
    condition = "any" if chosen.is_of_held and not chosen.phase else _condition(chosen)
    row = SQL.run(connection, "figures", values, condition=condition).one()
    looked, runs, over, waiting, held = (int(row[number] or 0) for number in range(5))
    return HeldFigures(looked == MOST_LOOKED_AT, runs, over, waiting, held, row.oldest_ms)


def holders(connection: sa.Connection, now_ms: int) -> list[Holder]:
    """Return the wallets with the most reserved credit.

    The amounts include only the MOST_LOOKED_AT executions that end first.
    """
    values = {"now_ms": now_ms, "at_most": MOST_LOOKED_AT, "named": MOST_HOLDERS}
    return [Holder(**row._mapping) for row in SQL.run(connection, "holders", values)]


def _require(connection: sa.Connection, chosen: RunFilter) -> None:
    """Refuse a filter with unknown names, unless the caller may not learn names.

    Errors: UnknownId.
    """
    if not ids.tells_names(connection):
        return
    labels = ((ids.PROJECT, chosen.project), (ids.SUBJECT, chosen.subject), (ids.ACT, chosen.action))
    for kind, name in ((ids.ASKING, chosen.org), (ids.CUSTOMER, chosen.payer), *labels):
        if name:
            ids.require(connection, kind, name)


def _values(chosen: RunFilter, now_ms: int) -> dict[str, object]:
    return {**vars(chosen), "states": sorted(set(chosen.states)), "now_ms": now_ms}


def _condition(chosen: RunFilter) -> str:
    """Return the name of the query fragment for the chosen states or phase."""
    if chosen.phase:
        return chosen.phase
    if chosen.ends_first:  # the index has only rows of this state
        return "any"
    return "in_states" if 0 < len(set(chosen.states)) < len(STATES) else "any"


def _slots(chosen: RunFilter) -> tuple[dict[str, str], bool]:
    """Return the query fragments for the index of a list, and a flag.

    The flag is True if the list skips rows of that index.
    """
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
    """Return the parameters of the place after which a page begins.

    Errors: UsageError.
    """
    at_ms, key = -1 if chosen.ends_first else EVER, ""
    if after:
        text, _, key = after.partition(":")
        if not (text.isascii() and text.isdigit() and len(text) < 17 and is_clean_id(key)):
            raise UsageError(
                f"invalid `after` {quote_value(after)}: expected the `next` of a page. Start at the first page"
            )
        at_ms = int(text)
    if not chosen.ends_first:  # begin at the newest execution that was accepted by that time
        at_ms, key = min((at_ms, key), (chosen.accepted_by_ms + 1, ""))
    return {"at_ms": at_ms, "key": key}
