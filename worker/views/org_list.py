"""Organisations as the console lists them: what runs, what is left, when it ends. Reads only.

Guarantee: a page costs the same however many organisations there are: it begins behind the last id of the page before,
and estimates for those on it alone, as the watch does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa

from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries, together
from drawdown.schema.units import DAY_MS, EXEMPT_PROVIDERS, MINUTE_MS
from drawdown.worker.verdict.effective_balance import Used, since_read
from drawdown.worker.verdict.org_row import Row
from drawdown.worker.verdict.rules import end_ms
from drawdown.worker.verdict.watch_state import is_watched
from drawdown.worker.views.used_now import read_used_now

SQL = queries(__file__)

PAGE_ROWS: Final = 50
MOST_AT_ONCE: Final = 1_000
"""Rows of a file that are read, and held, together."""
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


@dataclass(frozen=True)
class OrgLine:
    """An organisation in the list. Money in micro-credits of its provider; None: unknown, or without an end.
    `runs_out_ms`: when the effective balance ends if it is used as in the last minutes; `since_ms`: of a state that is
    not `active`."""

    org_id: str
    provider: str | None
    plan: str | None
    state: Literal["active", "halted", "stopped", "unassigned"]
    since_ms: int | None
    why: str | None
    running: int
    limit: int | None
    balance_micro: int | None
    burn_micro: int | None
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
    """Those behind `after`, by id, or by when they run out. Errors: UsageError for a state there is not."""
    rows = _rows(connection, chosen, after, PAGE_ROWS + 1, now_ms)
    shown = rows[:PAGE_ROWS]
    used = _used(connection, shown, now_ms)
    # The watch's estimate, for this list, the one by ends and the count of those: another may lie on the other side.
    watched = bool(chosen.within) or is_watched(connection, now_ms)
    ends = {row.org_id: row.runs_out_ms for row in shown if watched and not row.is_halted}
    lines = [_line(row, used.get(row.org_id), now_ms, ends.get(row.org_id)) for row in shown]
    return OrgLines(lines, _place(shown[-1]) if len(rows) > PAGE_ROWS else None)


def every(connection: sa.Connection, chosen: Chosen, now_ms: int) -> Iterator[OrgLine]:
    """All of them, in the same order, with the watch's last estimate: to make others would take a read of each."""
    after = START
    while rows := _rows(connection, chosen, after, MOST_AT_ONCE, now_ms):
        yield from (_line(row, None, now_ms, row.runs_out_ms) for row in rows)
        after = _place(rows[-1])


def running_out(connection: sa.Connection, now_ms: int) -> int:
    """How many run out within a day, as the watch last estimated: what a list of them holds."""
    return int(SQL.run(connection, "running_out", {"by_ms": now_ms + DAY_MS}).scalar_one())


def providers_and_plans(connection: sa.Connection) -> tuple[list[str], list[str]]:
    """What may be chosen."""
    found = together(connection, providers=SQL.part("providers"), plans=SQL.part("plans"))
    return [str(row.provider) for row in found["providers"]], [str(row.plan) for row in found["plans"]]


def _place(row: Row) -> Place:
    """Where a list goes on behind a row."""
    return Place(str(row.org_id), row.runs_out_ms or 0)


def _rows(connection: sa.Connection, chosen: Chosen, after: Place, most: int, now_ms: int) -> Sequence[Row]:
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
    return SQL.run(connection, "page", values, **slots).all()


def _used(connection: sa.Connection, rows: Sequence[Row], now_ms: int) -> dict[str, Used]:
    by_provider: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.billing_provider is not None and row.billing_provider not in EXEMPT_PROVIDERS:
            by_provider[row.billing_provider].append(row)
    return read_used_now(connection, by_provider, now_ms)


def _line(row: Row, used: Used | None, now_ms: int, ends_ms: int | None) -> OrgLine:
    """`ends_ms`: what is known of its end; None: it is estimated by what it used."""
    state, since, why = _state(row)
    effective = None if used is None else since_read(row, used)
    burn = None if used is None or (used.unpriced and not used.burn_a_minute) else used.burn_a_minute
    return OrgLine(
        org_id=str(row.org_id),
        provider=row.billing_provider,
        plan=row.plan,
        state=state,
        since_ms=since,
        why=why,
        running=int(row.running),
        limit=row.max_concurrent_sandboxes,
        balance_micro=row.balance_micro if effective is None else effective.value,
        burn_micro=burn,
        runs_out_ms=end_ms(effective.value, burn, now_ms) if ends_ms is None and effective and burn else ends_ms,
    )


def _state(
    row: Row,
) -> tuple[Literal["active", "halted", "stopped", "unassigned"], int | None, str | None]:
    if row.stopped_at_ms is not None:
        return "stopped", int(row.stopped_at_ms), row.stopped_reason
    if row.is_halted:
        return "halted", row.halted_at, row.halt_reason
    return ("unassigned" if row.billing_provider is None else "active"), None, None
