"""Runs as people go through them: who holds how much until when, a page at a time. Reads only.

Guarantee: a page costs the same however many runs there were: it goes by the index on what is held, on an
organisation's, or on time, and looks at MOST_LOOKED_AT rows at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from drawdown.providers.protocol import HOUR_MS
from drawdown.schema import ids
from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.sql import queries
from drawdown.schema.units import DAY_MS

SQL = queries(__file__)

EVER: Final = 2**62
PAGE_ROWS: Final = 50
MOST_AT_ONCE: Final = 1_000
"""Rows of a file that are read, and held, together."""
MOST_LOOKED_AT: Final = 10_000
"""Runs that one page goes through, and of what is held those that its sums are of."""
MOST_HOLDERS: Final = 10
STATES: Final = ("held", "settled", "released", "expired", "any")
PHASES: Final = {"": "any_phase", "waiting": "waiting", "drawing": "drawing", "over": "over"}
"""Of runs that are held: nothing drawn yet; drawing; over, and nothing has looked at it since."""
HELD_OF: Final = {"settled": "no_phase", "released": "no_phase", "expired": "over"}
"""What of the rows that hold something is in another state than held."""
OLDER: Final[Mapping[str, int]] = {"": 0, "1h": HOUR_MS, "6h": 6 * HOUR_MS, "24h": DAY_MS, "7d": 7 * DAY_MS}
"""How long ago they were accepted, at least; '': whenever."""


@dataclass(frozen=True)
class Chosen:
    """Which runs; `older` is a name of OLDER. Empty: any."""

    state: str = "held"
    phase: str = ""
    org: str = ""
    payer: str = ""
    project: str = ""
    older: str = ""


@dataclass(frozen=True)
class RunLine:
    """A run; micro-credits and milliseconds."""

    reservation: str
    org_id: str
    customer_id: str
    project: str | None
    subject: str | None
    action: str | None
    amount_micro: int
    drawn_micro: int
    state: str
    accepted_ms: int
    expires_ms: int
    ended_ms: int | None
    ended_by: str | None
    hold: str
    settled_by: str

    @property
    def left_micro(self) -> int:
        """What it still holds."""
        return max(self.amount_micro - self.drawn_micro, 0) if self.state == "held" else 0

    @property
    def phase(self) -> str:
        """How far it has come."""
        if self.state != "held":
            return self.state
        return "drawing" if self.drawn_micro else "waiting"


@dataclass(frozen=True)
class RunPage:
    """`next_after`: where the next page begins; None where there is no more. `is_cut`: it ended there for having gone
    through MOST_LOOKED_AT."""

    lines: list[RunLine]
    next_after: str | None
    is_cut: bool = False


@dataclass(frozen=True)
class HeldFigures:
    """Of what is held and chosen: how many runs, of those waiting and over; and what they hold. `is_cut`: more may be
    held, and the MOST_LOOKED_AT that end first were looked through."""

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


def page(connection: sa.Connection, chosen: Chosen, now_ms: int, after: str = "", most: int = PAGE_ROWS) -> RunPage:
    """Those behind `after`: of what is held, what ends first; else the newest first. Errors: UsageError, UnknownId."""
    for name, choices in (("state", STATES), ("phase", tuple(PHASES)), ("older", tuple(OLDER))):
        if getattr(chosen, name) not in choices:
            raise UsageError(f"{name}: there is {', '.join(filter(None, choices))}")
    if chosen.phase and chosen.state != "held":
        raise UsageError("phase: it is of runs that are held alone")
    for kind, name in ((ids.ORG, chosen.org), (ids.CUSTOMER, chosen.payer), (ids.PROJECT, chosen.project)):
        if name:
            ids.require(connection, kind, name)
    phase = PHASES[chosen.phase]
    upwards = chosen.state == "held" and not chosen.org
    values: dict[str, Any] = {
        **_narrowed(chosen, now_ms),
        "state": "" if chosen.state == "any" else chosen.state,
        "at_most": most + 1,
        "looked_at": MOST_LOOKED_AT,
        **_place(after, upwards),
    }
    if not upwards:  # they begin with the newest that are old enough
        place = (values["at_ms"], values["key"])
        values["at_ms"], values["key"] = min(place, (values["accepted_by_ms"] + 1, ""))
    if upwards:
        return _paged(connection, "held", values, most, of_phase=phase)
    if chosen.org:
        if chosen.state == "held" and not chosen.phase:
            values["state"] = "held"
        return _paged(connection, "of_org", values, most, of_phase=phase)
    return _looked(connection, chosen, values, most)


def every(connection: sa.Connection, chosen: Chosen, now_ms: int) -> Iterator[RunLine]:
    """All of them, in the order of pages."""
    after: str | None = ""
    while after is not None:
        found = page(connection, chosen, now_ms, after, MOST_AT_ONCE)
        yield from found.lines
        after = found.next_after


def held_figures(connection: sa.Connection, chosen: Chosen, now_ms: int) -> HeldFigures:
    """What is held now by those runs that are chosen."""
    values = {**_narrowed(chosen, now_ms), "at_most": MOST_LOOKED_AT}
    of_phase = HELD_OF.get(chosen.state) or PHASES[chosen.phase]
    row = SQL.run(connection, "figures", values, of_phase=of_phase).one()
    looked, runs, over, waiting, held = (int(row[number] or 0) for number in range(5))
    return HeldFigures(looked == MOST_LOOKED_AT, runs, over, waiting, held, row.oldest_ms)


def _narrowed(chosen: Chosen, now_ms: int) -> dict[str, object]:
    return {
        "org_id": chosen.org,
        "payer": chosen.payer,
        "project": chosen.project,
        "now_ms": now_ms,
        "accepted_by_ms": now_ms - OLDER[chosen.older] if chosen.older else EVER,
    }


def holders(connection: sa.Connection, now_ms: int) -> list[Holder]:
    """The wallets of which most is held."""
    values = {"now_ms": now_ms, "at_most": MOST_LOOKED_AT, "named": MOST_HOLDERS}
    return [Holder(**row._mapping) for row in SQL.run(connection, "holders", values)]


def _looked(connection: sa.Connection, chosen: Chosen, values: Mapping[str, object], most: int) -> RunPage:
    """By time: no further than MOST_LOOKED_AT runs where some are passed over."""
    if chosen.state == "any" and not (chosen.payer or chosen.project):
        return _paged(connection, "latest", values, most, of_phase="any_phase", down_to="")
    last = SQL.run(connection, "latest_last", values).one_or_none()
    if last is None:
        return RunPage([], None)
    bounds = {"last_ms": last.accepted_ms, "last_key": last.reservation}
    found = _paged(connection, "latest", {**values, **bounds}, most, of_phase="any_phase", down_to="down_to")
    if found.next_after is not None or int(last.looked) < MOST_LOOKED_AT:
        return found
    return RunPage(found.lines, f"{last.accepted_ms}:{last.reservation}", is_cut=True)


def _paged(connection: sa.Connection, name: str, values: Mapping[str, object], most: int, **slots: str) -> RunPage:
    rows = [RunLine(**row._mapping) for row in SQL.run(connection, name, values, **slots)]
    if len(rows) <= most:
        return RunPage(rows, None)
    last = rows[most - 1]
    return RunPage(rows[:most], f"{last.expires_ms if name == 'held' else last.accepted_ms}:{last.reservation}")


def _place(after: str, upwards: bool) -> dict[str, object]:
    """Behind which run a page begins. Errors: UsageError."""
    if not after:
        return {"at_ms": -1 if upwards else EVER, "key": ""}
    at_ms, _, key = after.partition(":")
    if not (at_ms.isascii() and at_ms.isdigit() and len(at_ms) < 17 and is_clean_id(key)):
        raise UsageError("after: no page begins there: begin at the first one")
    return {"at_ms": int(at_ms), "key": key}
