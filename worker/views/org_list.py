"""Organisations as the console lists them: what runs, what is left, when it ends. Reads only.

Guarantee: a page costs the same however many organisations there are: it begins behind the last id of the page before,
and estimates for those on it alone, as the watch does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries, together
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.views.left_now import Left, left_of

SQL = queries(__file__)

PAGE_ROWS: Final = 50
MOST_AT_ONCE: Final = 4_000
"""Rows of a file that are read, and held, together."""
MOST_LOOKED_AT: Final = 10_000
"""Organisations among which plans of other providers are looked for."""
State: TypeAlias = Literal["active", "halted", "stopped", "unassigned"]
STATES: Final = ("", "active", "halted", "stopped", "unassigned")
"""By what a list may be narrowed; '': all."""
WITHIN: Final[Mapping[str, int]] = {
    "": 0, "1h": 60 * MINUTE_MS, "6h": 360 * MINUTE_MS, "24h": DAY_MS, "7d": 7 * DAY_MS,
}  # fmt: skip
"""Within what time their credit ends; '': whenever, or never."""


@dataclass(frozen=True)
class Chosen:
    """Which organisations; `search` is a part of the id, `within` a name of WITHIN: those that the watch last estimated
    to run out by then, the first of them first. Empty: any."""

    state: str = ""
    provider: str = ""
    plan: str = ""
    search: str = ""
    within: str = ""


class Found(NamedTuple):
    """A row of `page`. The driver's own take ten times as long to say what a column holds, and each is asked often: a
    file has a hundred thousand of them."""

    org_id: str
    billing_provider: str | None
    plan: str | None
    is_halted: bool
    halted_at: int | None
    halt_reason: str | None
    max_concurrent_sandboxes: int | None
    balance_micro: int | None
    balance_read_ms: int | None
    unseen_micro: int | None
    stopped_at_ms: int | None
    stopped_reason: str | None
    runs_out_ms: int | None
    running: int


class OrgLine(NamedTuple):
    """An organisation in the list. Money in micro-credits of its provider; None: unknown, or without an end.
    `left_now_micro` to `runs_out_ms`: as `left_now.Left`; `since_ms`: of a state that is not `active`."""

    org_id: str
    provider: str | None
    plan: str | None
    state: State
    since_ms: int | None
    why: str | None
    running: int
    limit: int | None
    left_now_micro: int | None
    used_a_minute_micro: int | None
    runs_out_ms: int | None


@dataclass(frozen=True)
class Place:
    """Behind which organisation a list goes on; where it is by their ends, and when that one's was."""

    org_id: str = ""
    ends_ms: int = 0


@dataclass(frozen=True)
class OrgLines:
    """`following`: where the next page begins; None where there is no more."""

    lines: list[OrgLine]
    following: Place | None


START: Final = Place()


def page(connection: sa.Connection, chosen: Chosen, now_ms: int, after: Place = START) -> OrgLines:
    """Those behind `after`, by id, or by when they run out. Errors: UsageError for a state there is not; UnknownId for
    a provider or a plan."""
    _require(connection, chosen)
    rows = _rows(connection, chosen, after, PAGE_ROWS + 1, now_ms)
    shown = rows[:PAGE_ROWS]
    return OrgLines(_lines(connection, shown, now_ms), _place(shown[-1]) if len(rows) > PAGE_ROWS else None)


def every(connection: sa.Connection, chosen: Chosen, now_ms: int) -> Iterator[OrgLine]:
    """All of them, in the same order, with the same figures. Errors: as `page`."""
    _require(connection, chosen)
    after = START
    while rows := _rows(connection, chosen, after, MOST_AT_ONCE, now_ms):
        yield from _lines(connection, rows, now_ms)
        after = _place(rows[-1])


@dataclass(frozen=True)
class RunningOut:
    """How many run out within a day, as the watch last estimated; the first of them, each with when it does."""

    orgs: int = 0
    first: Sequence[tuple[str, int]] = ()


def running_out(connection: sa.Connection, now_ms: int, most: int) -> RunningOut:
    """What a list of them holds: how many, and `most` of them at most, which is one or more."""
    rows = SQL.run(connection, "running_out", {"by_ms": now_ms + DAY_MS, "at_most": most}).all()
    first = [(str(row.org_id), int(row.runs_out_ms)) for row in rows]
    return RunningOut(int(rows[0].orgs) if rows else 0, first)


def providers_and_plans(connection: sa.Connection) -> tuple[list[str], list[str]]:
    """What may be chosen: providers that somebody was assigned to, plans that are here or were met."""
    plans = SQL.part("plans", {"looked_at": MOST_LOOKED_AT})
    found = together(connection, providers=SQL.part("providers"), plans=plans)
    return [str(row.provider) for row in found["providers"]], [str(row.plan) for row in found["plans"]]


def _place(row: Found) -> Place:
    """Where a list goes on behind a row."""
    return Place(row.org_id, row.runs_out_ms or 0)


def _rows(connection: sa.Connection, chosen: Chosen, after: Place, most: int, now_ms: int) -> list[Found]:
    for name, choices in (("state", STATES), ("within", tuple(WITHIN))):
        if getattr(chosen, name) not in choices:
            raise UsageError(f"{name}: there is {', '.join(filter(None, choices))}")
    part = chosen.search.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    values = {
        "provider": chosen.provider,
        "plan": chosen.plan,
        "search": chosen.search,
        "like": f"%{part}%",
        "after_org_id": after.org_id,
        "after_ms": after.ends_ms,
        "by_ms": now_ms + WITHIN[chosen.within],
        "at_most": most,
    }
    order = "end" if chosen.within else "id"
    slots = {"of_state": f"is_{chosen.state or 'any'}", "behind": f"behind_{order}", "order": f"by_{order}"}
    return list(map(Found._make, SQL.run(connection, "page", values, **slots)))


def _require(connection: sa.Connection, chosen: Chosen) -> None:
    """Errors: UnknownId."""
    for kind, name in ((ids.PROVIDER, chosen.provider), (ids.ANY_PLAN, chosen.plan)):
        if name:
            ids.require(connection, kind, name)


def _lines(connection: sa.Connection, rows: Sequence[Found], now_ms: int) -> list[OrgLine]:
    left = left_of(connection, rows, now_ms)
    return [_line(row, one) for row, one in zip(rows, left, strict=True)]


def _line(row: Found, left: Left) -> OrgLine:
    state: State = "unassigned" if row.billing_provider is None else "active"
    since_ms, why = None, None
    if row.stopped_at_ms is not None:
        state, since_ms, why = "stopped", row.stopped_at_ms, row.stopped_reason
    elif row.is_halted:
        state, since_ms, why = "halted", row.halted_at, row.halt_reason
    limit = row.max_concurrent_sandboxes
    return OrgLine(row.org_id, row.billing_provider, row.plan, state, since_ms, why, row.running, limit, *left)
