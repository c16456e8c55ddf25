"""Organisations as the console lists them: what runs, what is left, when it ends. Reads only.

Guarantee: a page costs the same however many organisations there are: it begins behind the last id of the page before,
and estimates for those on it alone, as the watch does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import sqlalchemy as sa

from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.schema.units import EXEMPT_PROVIDERS, MINUTE_MS
from drawdown.worker.verdict.effective_balance import Used, read_used, since_read

SQL = queries(__file__)

PAGE_ROWS: Final = 50
MOST_AT_ONCE: Final = 1_000
"""Rows of a file that are read, and held, together."""
STATES: Final = ("", "active", "halted", "stopped", "unassigned")
"""By what a list may be narrowed; '': all."""
FURTHEST_MS: Final = 253_402_300_799_999
"""The last moment of the year 9999: an end beyond it is none."""


@dataclass(frozen=True)
class Chosen:
    """Which organisations; `search` is a part of the id. Empty: any."""

    state: str = ""
    provider: str = ""
    plan: str = ""
    search: str = ""


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
class OrgLines:
    """`next_after`: where the next page begins; None where there is no more."""

    lines: list[OrgLine]
    next_after: str | None


def page(connection: sa.Connection, chosen: Chosen, now_ms: int, after: str = "") -> OrgLines:
    """Those behind `after`, by id. Errors: UsageError for a state there is not."""
    rows = _rows(connection, chosen, after, PAGE_ROWS + 1)
    shown = rows[:PAGE_ROWS]
    used = _used(connection, shown, now_ms)
    lines = [_line(row, used.get(row.org_id), now_ms) for row in shown]
    return OrgLines(lines, str(shown[-1].org_id) if len(rows) > PAGE_ROWS else None)


def every(connection: sa.Connection, chosen: Chosen, now_ms: int) -> Iterator[OrgLine]:
    """All of them, by id, without estimates: those would be read for each."""
    after = ""
    while rows := _rows(connection, chosen, after, MOST_AT_ONCE):
        yield from (_line(row, None, now_ms) for row in rows)
        after = str(rows[-1].org_id)


def providers_and_plans(connection: sa.Connection) -> tuple[list[str], list[str]]:
    """What may be chosen."""
    found = [[str(name) for name in SQL.run(connection, what).scalars()] for what in ("providers", "plans")]
    return found[0], found[1]


def _rows(connection: sa.Connection, chosen: Chosen, after: str, most: int) -> Sequence[sa.Row[tuple[object, ...]]]:
    if chosen.state not in STATES:
        raise UsageError(f"state: there is {', '.join(filter(None, STATES))}")
    part = chosen.search.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    values = {
        "provider": chosen.provider,
        "plan": chosen.plan,
        "search": chosen.search,
        "like": f"%{part}%",
        "after_org_id": after,
        "at_most": most,
    }
    return SQL.run(connection, "page", values, of_state=f"is_{chosen.state or 'any'}").all()


def _used(connection: sa.Connection, rows: Sequence[sa.Row[tuple[object, ...]]], now_ms: int) -> dict[str, Used]:
    by_provider: dict[str, list[sa.Row[tuple[object, ...]]]] = defaultdict(list)
    for row in rows:
        if row.billing_provider is not None and row.billing_provider not in EXEMPT_PROVIDERS:
            by_provider[row.billing_provider].append(row)
    found: dict[str, Used] = {}
    for provider, those in by_provider.items():
        used = read_used(connection, provider, those, now_ms=now_ms, read_ms=now_ms, lag_ms=0)
        found |= {str(row.org_id): used[row.org_id] for row in those}
    return found


def _line(row: sa.Row[tuple[object, ...]], used: Used | None, now_ms: int) -> OrgLine:
    state, since, why = _state(row)
    effective = None if used is None else since_read(row, used)
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
        burn_micro=None if used is None else used.burn_a_minute,
        runs_out_ms=None if effective is None or used is None else _end(effective.value, used.burn_a_minute, now_ms),
    )


def _state(
    row: sa.Row[tuple[object, ...]],
) -> tuple[Literal["active", "halted", "stopped", "unassigned"], int | None, str | None]:
    if row.stopped_at_ms is not None:
        return "stopped", int(row.stopped_at_ms), row.stopped_reason
    if row.is_halted:
        return "halted", row.halted_at, row.halt_reason
    return ("unassigned" if row.billing_provider is None else "active"), None, None


def _end(left_micro: int, burn_micro: int, now_ms: int) -> int | None:
    if burn_micro <= 0 or left_micro <= 0:
        return now_ms if left_micro <= 0 < burn_micro else None
    ends = now_ms + left_micro * MINUTE_MS // burn_micro
    return ends if ends <= FURTHEST_MS else None
