"""Lists and sums of pushes, a page at a time. Reads only.

Guarantee: the cost of a page does not depend on the number of pushes. Each kind of question uses an index that holds
its order, and reads MOST_LOOKED_AT rows at most. If none of those rows matches, the page names the place to continue.
Sums read only open pushes, by their own index. Amounts are in credits by the provider's rates; quantities of different
features are never added up.
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
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS, WINDOW_MS, parse_push_key, push_key
from drawdown.worker.push.rows import find_push
from drawdown.worker.push.unresolved import AWAITING_CREDIT

SQL = queries(__file__)

PAGE_ROWS: Final = 50
RANKS: Final = {"in_doubt": -3, "rejected": -2}
"""Ranks in the place of the time, for pushes that no tick tries again: they come before the others."""
MOST_AT_ONCE: Final = 1_000
"""Rows of a download that Drawdown reads, and keeps in memory, at a time."""
MOST_LOOKED_AT: Final = 5_000
"""Pushes that one page reads."""
MOST_ORG_MS: Final = 31 * DAY_MS
"""Longest range in which a list of one organisation's pushes searches each window."""
Open: TypeAlias = Literal["due", "queued", "in_doubt", "rejected", "awaiting_credit"]
OPEN: Final[tuple[Open, ...]] = get_args(Open)
OpenState: TypeAlias = Literal["open", Open]
AnyState: TypeAlias = Literal[OpenState, "accepted", "voided", "carried", "shadow", "any"]
FOR_PEOPLE: Final = ("in_doubt", "rejected")
UNSENT: Final = (*FOR_PEOPLE, AWAITING_CREDIT)
"""States that no tick sends: by the index on what a person is needed for."""
NO_ERROR: Final = "no error on record"
STATES: Final[tuple[AnyState, ...]] = get_args(AnyState)
"""By what a list may be narrowed: `open` is what is not decided."""
FIRST: Final = -1
LAST: Final = 2**62
"""Windows before and behind each that there is."""


@dataclass(frozen=True)
class PushFilter:
    """A choice of pushes. Empty: any.

    `state`: one of STATES. Their windows are in [from_ms, to_ms). `why`: the first 160 characters of their last error,
    or NO_ERROR.
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
        """True if the filter selects some of the open pushes."""
        return self.state in ("open", *OPEN)

    @property
    def narrows(self) -> bool:
        """True if some rows in the order of the index may be left out. Open pushes for people are left out."""
        return self.state != "any" or bool(
            self.provider or self.feature or self.why or self.from_ms is not None or self.to_ms is not None
        )

    @property
    def values(self) -> dict[str, object]:
        """The values of the fragments `narrowed`, `of_org` and `customer_sums`."""
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
    """A push: base units of its feature that were sealed, and what is sent of them in its provider's terms."""

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
        """Where the next page begins behind it."""
        return _format_place(RANKS.get(self.state, self.due_at_ms or 0), vars(self))


@dataclass(frozen=True)
class PushPage:
    """A page of pushes.

    `next_after`: the start of the next page; None: this is the last. `is_cut`: it ended because it had read as many
    rows as a page may.
    """

    lines: list[PushLine]
    next_after: str | None
    is_cut: bool = False


def list_pushes(
    connection: sa.Connection, chosen: PushFilter, now_ms: int, after: str = "", most: int = PAGE_ROWS
) -> PushPage:
    """Return the page of pushes after `after`.

    Open ones: first those that need a person, in doubt before rejected, the oldest window first; then those that ticks
    try, by provider, the next to be tried first. All others, and those of one organisation: the latest window first.

    Errors: UsageError for an unknown state, an invalid place, or a first page of open ones if none waits for `why`;
    UnknownId. A provider that never billed a customer is no error: it may be known to the machine alone.
    """
    if chosen.state not in STATES:
        raise UsageError(f"invalid state {chosen.state!r}: expected {', '.join(STATES)}")
    if chosen.from_ms is not None and chosen.to_ms is not None and chosen.from_ms >= chosen.to_ms:
        raise UsageError("invalid range: `to` must be later than `from`")
    if chosen.feature:
        ids.require(connection, ids.FEATURE, chosen.feature)
    if chosen.org:
        require_org(connection, chosen.org)
    values = {**chosen.values, "at_most": most + 1, "looked_at": MOST_LOOKED_AT}
    if chosen.why and chosen.is_open and not after and SQL.run(connection, "one_that_waits", values).first() is None:
        raise UsageError("invalid why: no open push waits for this reason")
    if chosen.org:
        return _of_org(connection, chosen, {**values, **_place(after, LAST)}, now_ms, most)
    if chosen.state in UNSENT:
        return _for_people(connection, chosen, values, after, most)
    if chosen.is_open:
        return _open(connection, chosen, values, after, most)
    return _looked(connection, chosen, {**values, **_place(after, LAST)}, most, "latest", "down_to")


def every_push(connection: sa.Connection, chosen: PushFilter, now_ms: int) -> Iterator[PushLine]:
    """All of them, in the order of pages."""
    after: str | None = ""
    while after is not None:
        found = list_pushes(connection, chosen, now_ms, after, MOST_AT_ONCE)
        yield from found.lines
        after = found.next_after


def _open(
    connection: sa.Connection, chosen: PushFilter, values: Mapping[str, object], after: str, most: int
) -> PushPage:
    """Those that need a person, and behind the last of them those that ticks try."""
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
    """Return pushes that need a person: in doubt before rejected, the oldest window first."""
    stored = "rejected" if chosen.state == AWAITING_CREDIT else chosen.state
    first, last = (stored,) * 2 if stored in FOR_PEOPLE else FOR_PEOPLE
    place = _place(after, FIRST)
    begin = next((state for state, rank in RANKS.items() if rank == place["due_at_ms"]), first)
    return _paged(
        connection, "needing_person", {**values, **place, "state_after": max(begin, first), "last_state": last}, most
    )


def _is_tried(after: str) -> bool:
    """Return True if a page of open pushes begins behind a push that ticks try: behind all that need a person."""
    return int(_place(after, FIRST)["due_at_ms"]) >= 0


def _looked(
    connection: sa.Connection, chosen: PushFilter, values: Mapping[str, object], most: int, name: str, bound: str
) -> PushPage:
    """In the order of an index, of which some may be passed over: no further than MOST_LOOKED_AT rows."""
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
    """One organisation's, the latest first: a look for each window, those of MOST_ORG_MS at most."""
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
    """A place, as PushLine.place says it."""
    return f"{due_at_ms}:{push_key(row['org_id'], row['window_ms'], row['feature'], row['revision'])}"


def _place(after: str, begin: int) -> dict[str, Any]:
    """Behind which push a page begins. Errors: UsageError."""
    if not after:
        return {"due_at_ms": -1, "window_ms": begin, "org_id": "", "feature_after": "", "revision": -1}
    due, _, key = after.partition(":")
    push_id = parse_push_key(key)
    if push_id is None or not re.fullmatch("-?[0-9]{1,18}", due):
        raise UsageError("invalid after: expected the `next` of a page. Start at the first page")
    return {"due_at_ms": int(due), "feature_after": push_id.pop("feature"), **push_id}


def _due_place(connection: sa.Connection, after: str) -> dict[str, object]:
    """Return the place in lists that are sorted by provider. Errors: UsageError, UnknownId."""
    found = _place(after, FIRST)
    provider = str(find_push(connection, after.partition(":")[2]).provider) if after else ""
    return {**found, "provider_after": provider}


MOST_REASONS: Final = 20
"""Reasons that one sum distinguishes."""


@dataclass(frozen=True)
class OpenSum:
    """All open pushes of one provider, state and feature; since when the oldest of them is sealed."""

    provider: str
    state: str
    feature: str
    pushes: int
    quantity: int
    oldest_ms: int


@dataclass(frozen=True)
class PushSum:
    """All open pushes of one customer, feature and state; their quantity in their provider's terms, as it is sent."""

    provider: str
    customer_id: str
    feature: str
    state: str
    pushes: int
    quantity: int


@dataclass(frozen=True)
class WaitSum:
    """All open pushes of one provider and state with the same last error, or NO_ERROR: how many, their oldest
    window, and when one of them is tried next (None: no tick tries them)."""

    provider: str
    state: str
    error: str
    pushes: int
    oldest_ms: int
    next_ms: int | None


@dataclass(frozen=True)
class WaitSums:
    """MOST_REASONS of them at most; `more`: whether there are others."""

    sums: list[WaitSum]
    more: bool


def sum_pushes(connection: sa.Connection, chosen: PushFilter) -> list[PushSum]:
    """Those of a filter that are open, on whichever page: by provider, customer, feature and state."""
    return [PushSum(**row._mapping) for row in SQL.run(connection, "customer_sums", chosen.values)]


def open_sums(connection: sa.Connection) -> list[OpenSum]:
    """Return the sums of all open pushes, by provider, state and feature."""
    return [OpenSum(**row._mapping) for row in SQL.run(connection, "sums")]


def wait_sums(connection: sa.Connection) -> WaitSums:
    """Return the sums of open pushes by provider, state and reason: those for people first, then by number."""
    values = {"no_error": NO_ERROR, "at_most": MOST_REASONS + 1}
    found = [WaitSum(**row._mapping) for row in SQL.run(connection, "wait_sums", values)]
    return WaitSums(found[:MOST_REASONS], len(found) > MOST_REASONS)
