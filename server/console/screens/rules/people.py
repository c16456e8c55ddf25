"""People of the console, for admins: their roles, when each was last in, and whose link is open; never a password."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Shown, Table, Tile, act, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.rules.cells import number, said, time
from drawdown.worker.access.people import UserRow, list_users

PATH: Final = "/console/people"
PAGE_PEOPLE: Final = 100
STATES: Final = {
    "good": ("may come in", ""),
    "invited": ("link open", "warn"),
    "locked": ("link ran out", "warn"),
    "ended": ("ended", ""),
}


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    after, ended = ask.text("after"), ask.choice("ended", ("no", "yes")) == "yes"
    found = list_users(connection, ask.now_ms, PAGE_PEOPLE + 1, after=after, ended=ended)
    page = found[:PAGE_PEOPLE]
    next_ = ""
    if len(found) > len(page):
        next_ = url(PATH, after=page[-1].name, ended="yes" if page[-1].state == "ended" else "no")
    heads = (
        "Name",
        "To do",
        "Role",
        "State",
        "Last in, UTC",
        "#Signed in on",
        "#Grants at once",
        "Link until, UTC",
        "By",
    )
    none = "Nobody is here, or no more."
    first, command = PATH if after else "", "drawdown console user list"
    table = Table("Who may come in", heads, [_row(one) for one in page], none, command, next_, first=first)
    return shown(
        Shown(
            PATH,
            [table],
            _tiles(page),
            acts=(act("Add a person", "person-add", "admin"),),
            query={"after": after, "ended": "yes" if ended else None},
        )
    )


def _tiles(page: list[UserRow]) -> list[Tile]:
    counted = {state: sum(one.state == state for one in page) for state in STATES}
    return [
        Tile("May come in", figures.count(counted["good"]), "have a password"),
        Tile("Links open", figures.count(counted["invited"]), "for a day from when each was made"),
        Tile("Links ran out", figures.count(counted["locked"]), "reset makes another"),
        Tile("Signed in", figures.count(sum(one.sessions for one in page)), "browsers"),
    ]


def _acts(one: UserRow) -> Cell:
    if one.state == "ended":
        return Cell("")
    words = (("Role", "role"), ("Reset", "reset"), ("End", "end"))
    given = {"name": one.name, "role": one.role}
    return Cell("", links=tuple(act(text, f"person-{word}", "admin", **given) for text, word in words))


def _row(one: UserRow) -> tuple[Cell, ...]:
    word, tone = STATES[one.state]
    limit = one.grant_limit_micro
    return (
        said(one.name),
        _acts(one),
        Cell(one.role),
        Cell(word, "state", tone),
        time(one.signed_in_ms, "never"),
        number(one.sessions, wide=True),
        Cell(figures.credits(limit), "number", narrow=False),
        time(one.link_expires_ms, wide=True),
        said(one.actor, wide=True),
    )
