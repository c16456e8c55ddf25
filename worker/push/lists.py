"""List pushes page by page, and sum open pushes. This module only reads.

Guarantee: the cost of a page does not depend on the number of settled pushes. Each list uses an index in its order. A
list of one organisation reads the windows of at most MOST_ORG_MS. A list of pushes that need a person reads only such
pushes. Any other list reads at most MOST_LOOKED_AT rows. If a limit ends a page before it is full, the page names the
place to continue. Sums read only open pushes, by the index on open pushes. Quantities of different features are never
added up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import require_org
from drawdown.schema.errors import UsageError
from drawdown.schema.push_states import OPEN, Open, Settled
from drawdown.schema.sql import queries
from drawdown.schema.text import quote_value
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS, WINDOW_MS, parse_push_key, push_key
from drawdown.worker.push.rows import find_push
from drawdown.worker.push.unresolved import AWAITING_CREDIT

SQL = queries(__file__)

PAGE_ROWS: Final = 50
RANKS: Final = {"in_doubt": -3, "rejected": -2}
"""Ranks in place of the due time, for pushes that ticks do not send.

These pushes then come first.
"""
MOST_AT_ONCE: Final = 1_000
"""Most rows of a download that Drawdown reads into memory at a time."""
MOST_LOOKED_AT: Final = 5_000
"""Most pushes that a page reads.

Pages of one organisation, and of pushes that need a person, do not have this limit.
"""
MOST_ORG_MS: Final = 31 * DAY_MS
"""Longest range in which a list of one organisation's pushes searches each window."""
OpenState: TypeAlias = Literal["open", Open]
AnyState: TypeAlias = Literal[OpenState, Settled, "any"]
FOR_PEOPLE: Final = ("in_doubt", "rejected")
UNSENT: Final = (*FOR_PEOPLE, AWAITING_CREDIT)
"""States in which ticks do not send a push.

Lists read them by the index on pushes that need a person.
"""
NO_ERROR: Final = "no error on record"
STATES: Final[tuple[AnyState, ...]] = get_args(AnyState)
"""The states that a list accepts.

`open` stands for all states that are not settled.
"""
FIRST: Final = -1
LAST: Final = 2**62
"""A time after every window."""


@dataclass(frozen=True)
class PushFilter:
    """A filter of pushes. An empty field matches all.

    `state`: a state of STATES. `from_ms`, `to_ms`: windows in [from_ms, to_ms) (None: without this bound). `why`: the
    first 160 characters of the last error, or NO_ERROR.
    """

    state: str = "open"
    provider: str = ""
    org: str = ""
    feature: str = ""
    from_ms: int | None = None
    to_ms: int | None = None
    why: str = ""

    @property
    def is_open(self) -> bool:
        """Return True if the filter selects only open pushes."""
        return self.state in ("open", *OPEN)

    @property
    def narrows(self) -> bool:
        """Return True if the filter may skip rows of the index that a list reads."""
        return self.state != "any" or bool(
            self.provider or self.feature or self.why or self.from_ms is not None or self.to_ms is not None
        )

    @property
    def values(self) -> dict[str, object]:
        """Return the parameters of the fragments `narrowed`, `of_org`, `customer_sums`."""
        return {
            "state": "" if self.state == "any" else self.state,
            "provider": self.provider,
            "org": self.org,
            "feature": self.feature,
            "from_ms": self.from_ms or 0,
            "to_ms": LAST if self.to_ms is None else self.to_ms,
            "why": self.why,
            "no_error": NO_ERROR,
        }


@dataclass(frozen=True)
class PushLine:
    """A push in a list.

    `sealed_qty`: the sealed base units. `sent_qty`: the whole units of the provider that are sent, in base units.
    `due_at_ms`: the next attempt or lookup, if ticks settle the push.
    """

    key: str
    window_ms: int
    org_id: str
    feature: str
    revision: int
    provider: str
    customer_id: str
    sealed_qty: int
    sent_qty: int
    state: str
    attempts: int
    due_at_ms: int | None
    sealed_at_ms: int
    last_error: str | None

    @property
    def place(self) -> str:
        """Return the `after` of the page that begins after this push."""
        return _format_place(RANKS.get(self.state, self.due_at_ms or 0), vars(self))


@dataclass(frozen=True)
class PushPage:
    """A page of pushes.

    `next_after`: the start of the next page; None: this is the last. `is_cut`: True if the page ended before it was
    full: after MOST_LOOKED_AT rows, or after MOST_ORG_MS for one organisation.
    """

    lines: list[PushLine]
    next_after: str | None
    is_cut: bool = False


def list_pushes(
    connection: sa.Connection, chosen: PushFilter, now_ms: int, after: str = "", most: int = PAGE_ROWS
) -> PushPage:
    """Return the page of pushes that follows `after`.

    Open pushes that need a person come first, in doubt before rejected, with the oldest window first. Open pushes that
    ticks send follow, by provider, in the order of their due time. Other lists, and lists of one organisation, have the
    latest window first.

    Errors: UsageError for an unknown state, an invalid range or `after`, or a `why` that open pushes do not have.
    UnknownId for an unknown feature or organisation. UnknownId, too, if an open list continues after a due or queued
    push that does not exist. A provider without pushes is valid, because the database may not know a new provider yet.
    """
    if chosen.state not in STATES:
        raise UsageError(f"invalid state {quote_value(chosen.state)}: expected {', '.join(STATES)}")
    if chosen.from_ms is not None and chosen.to_ms is not None and chosen.from_ms >= chosen.to_ms:
        raise UsageError(
            f"invalid range: `to` ({show_time(chosen.to_ms)}) must be later than `from` ({show_time(chosen.from_ms)})"
        )
    if chosen.feature:
        ids.require(connection, ids.FEATURE, chosen.feature)
    if chosen.org:
        require_org(connection, chosen.org)
    values = {**chosen.values, "at_most": most + 1, "looked_at": MOST_LOOKED_AT}
    if chosen.why and chosen.is_open and not after and SQL.run(connection, "one_that_waits", values).first() is None:
        raise UsageError(
            f"invalid why {quote_value(chosen.why)}: open pushes do not wait for this reason. To list the reasons, "
            "run `drawdown push sums`"
        )
    if chosen.org:
        return _of_org(connection, chosen, {**values, **_place(after, LAST)}, now_ms, most)
    if chosen.state in UNSENT:
        return _for_people(connection, chosen, values, after, most)
    if chosen.is_open:
        return _open(connection, chosen, values, after, most)
    return _looked(connection, chosen, {**values, **_place(after, LAST)}, most, "latest", "down_to")


def every_push(connection: sa.Connection, chosen: PushFilter, now_ms: int) -> Iterator[PushLine]:
    """Yield all pushes that a filter finds, in the order of pages.

    Errors: those of `list_pushes`.
    """
    after: str | None = ""
    while after is not None:
        found = list_pushes(connection, chosen, now_ms, after, MOST_AT_ONCE)
        yield from found.lines
        after = found.next_after


def _open(
    connection: sa.Connection, chosen: PushFilter, values: Mapping[str, object], after: str, most: int
) -> PushPage:
    """Return pushes that need a person, then pushes that ticks send."""
    people = PushPage([], None)
    if chosen.state == "open" and not _is_tried(after):
        people, after = _for_people(connection, chosen, values, after, most), ""
    room = most - len(people.lines)
    if people.next_after is not None:
        return people
    values = {**values, **_due_place(connection, after), "at_most": max(room, 1) + 1}
    rest = _looked(connection, chosen, values, max(room, 1), "open", "due_to")
    if not room:
        return PushPage(people.lines, people.lines[-1].place if rest.lines or rest.is_cut else None)
    return PushPage(people.lines + rest.lines, rest.next_after, rest.is_cut)


def _for_people(
    connection: sa.Connection, chosen: PushFilter, values: Mapping[str, object], after: str, most: int
) -> PushPage:
    """Return pushes that need a person, in doubt before rejected.

    The oldest window comes first.
    """
    stored = "rejected" if chosen.state == AWAITING_CREDIT else chosen.state
    first, last = (stored,) * 2 if stored in FOR_PEOPLE else FOR_PEOPLE
    place = _place(after, FIRST)
    begin = next((state for state, rank in RANKS.items() if rank == place["due_at_ms"]), first)
    return _paged(
        connection, "needing_person", {**values, **place, "state_after": max(begin, first), "last_state": last}, most
    )


def _is_tried(after: str) -> bool:
    """Return True if a page begins after a push that ticks send.

    Such a page does not have pushes that need a person.
    """
    return int(_place(after, FIRST)["due_at_ms"]) >= 0


def _looked(
    connection: sa.Connection, chosen: PushFilter, values: Mapping[str, object], most: int, name: str, bound: str
) -> PushPage:
    """Return a page in the order of an index.

    If the filter skips rows, the page reads at most MOST_LOOKED_AT of them.
    """
    if not chosen.narrows:
        return _paged(connection, name, values, most, **{bound: ""})
    last = SQL.run(connection, f"{name}_last", values).mappings().one_or_none()
    if last is None:
        return PushPage([], None)
    bounds = {f"last_{part}": value for part, value in last.items()}
    found = _paged(connection, name, {**values, **bounds}, most, **{bound: bound})
    if found.next_after is not None or int(last["looked"]) < MOST_LOOKED_AT:
        return found
    return PushPage(found.lines, _format_place(int(last.get("due_at_ms", 0)), dict(last)), is_cut=True)


def _of_org(
    connection: sa.Connection, chosen: PushFilter, values: Mapping[str, Any], now_ms: int, most: int
) -> PushPage:
    """Return pushes of one organisation, newest first.

    Each window takes one lookup of the index. A page covers at most MOST_ORG_MS.
    """
    first = SQL.run(connection, "first_window").scalar()
    to_ms = min(values["to_ms"], now_ms + WINDOW_MS, values["window_ms"] + WINDOW_MS)
    asked_ms = -(-max(values["from_ms"], first or 0) // WINDOW_MS) * WINDOW_MS
    from_ms = max(asked_ms, to_ms - MOST_ORG_MS) // WINDOW_MS * WINDOW_MS
    if first is None or from_ms >= to_ms:
        return PushPage([], None)
    found = _paged(connection, "of_org", {**values, "from_ms": from_ms, "to_ms": to_ms}, most)
    if found.next_after is not None or from_ms <= asked_ms:
        return found
    begin = {"org_id": chosen.org, "window_ms": from_ms, "feature": "", "revision": 0}
    return PushPage(found.lines, _format_place(0, begin), is_cut=True)


def _paged(connection: sa.Connection, name: str, values: Mapping[str, object], most: int, **slots: str) -> PushPage:
    rows = [PushLine(**row._mapping) for row in SQL.run(connection, name, values, **slots)]
    return PushPage(rows[:most], rows[most - 1].place if len(rows) > most else None)


def _format_place(due_at_ms: int, row: Mapping[str, Any]) -> str:
    """Return a place in the format of `PushLine.place`."""
    return f"{due_at_ms}:{push_key(row['org_id'], row['window_ms'], row['feature'], row['revision'])}"


def _place(after: str, begin: int) -> dict[str, Any]:
    """Return the push after which a page begins, as parameters.

    `begin`: the window for a first page. Errors: UsageError for an invalid place.
    """
    if not after:
        return {"due_at_ms": -1, "window_ms": begin, "org_id": "", "feature_after": "", "revision": -1}
    due, _, key = after.partition(":")
    push_id = parse_push_key(key)
    if push_id is None or not re.fullmatch("-?[0-9]{1,18}", due):
        raise UsageError(
            f"invalid `after` {quote_value(after)}: expected the `next` of a page. Start at the first page"
        )
    return {"due_at_ms": int(due), "feature_after": push_id.pop("feature"), **push_id}


def _due_place(connection: sa.Connection, after: str) -> dict[str, object]:
    """Return the place in lists that are sorted by provider, as parameters.

    Errors: UsageError for an invalid place; UnknownId if its push does not exist.
    """
    found = _place(after, FIRST)
    provider = str(find_push(connection, after.partition(":")[2]).provider) if after else ""
    return {**found, "provider_after": provider}


MOST_REASONS: Final = 20
"""Most sums of open pushes that `wait_sums` returns."""


@dataclass(frozen=True)
class OpenSum:
    """All open pushes of a provider, state and feature.

    `quantity`: base units. `oldest_ms`: when the oldest push was sealed.
    """

    provider: str
    state: str
    feature: str
    pushes: int
    quantity: int
    oldest_ms: int


@dataclass(frozen=True)
class PushSum:
    """All open pushes of a customer, feature and state.

    `quantity`: the base units that are sent.
    """

    provider: str
    customer_id: str
    feature: str
    state: str
    pushes: int
    quantity: int


@dataclass(frozen=True)
class WaitSum:
    """All open pushes of a provider and state with the same last error, or NO_ERROR.

    `error`: the first 160 characters of the error. `oldest_ms`: the start of their oldest window. `next_ms`: when a
    tick sends or looks up the first of these pushes; None: the state is neither `due` nor `queued`.
    """

    provider: str
    state: str
    error: str
    pushes: int
    oldest_ms: int
    next_ms: int | None


@dataclass(frozen=True)
class WaitSums:
    """At most MOST_REASONS sums by reason.

    `more`: True if there are further sums.
    """

    sums: list[WaitSum]
    more: bool


def sum_pushes(connection: sa.Connection, chosen: PushFilter) -> list[PushSum]:
    """Return sums of the open pushes that a filter finds.

    Each sum is of a provider, customer, feature and state.
    """
    return [PushSum(**row._mapping) for row in SQL.run(connection, "customer_sums", chosen.values)]


def open_sums(connection: sa.Connection) -> list[OpenSum]:
    """Return the sums of all open pushes, by provider, state and feature."""
    return [OpenSum(**row._mapping) for row in SQL.run(connection, "sums")]


def wait_sums(connection: sa.Connection) -> WaitSums:
    """Return the sums of open pushes by provider, state and reason.

    Pushes that need a person come first, then the largest sums.
    """
    values = {"no_error": NO_ERROR, "at_most": MOST_REASONS + 1}
    found = [WaitSum(**row._mapping) for row in SQL.run(connection, "wait_sums", values)]
    return WaitSums(found[:MOST_REASONS], len(found) > MOST_REASONS)
