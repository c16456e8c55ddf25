"""Show people with access, for admins: roles, last sign-ins, links and actions.

Drawdown shows a link once and does not store it. It never shows a password.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.declare import Fact
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import type_credits
from drawdown.server.console.action import Action, ActionResult, Doing, Field
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, PageContent, Table, Tile, act, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.rules.cells import number, text_cell, time
from drawdown.worker.access import people as console_users
from drawdown.worker.access.people import UserRow, list_users, user_named

PATH: Final = "/console/people"
PAGE_PEOPLE: Final = 100
STATES: Final = {
    "good": ("active", ""),
    "invited": ("link open", "warn"),
    "locked": ("link expired", "warn"),
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
        "Actions",
        "Role",
        "State",
        "Last sign-in, UTC",
        "#Sessions",
        "#Grant limit",
        "Link until, UTC",
        "Actor",
    )
    none = "No person has access."
    first, command = PATH if after else "", "drawdown console user list"
    table = Table("People with access", heads, [_row(one) for one in page], none, command, next_, first=first)
    return to_context(
        PageContent(
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
        Tile("People with access", figures.count(counted["good"]), "have a password"),
        Tile("Open links", figures.count(counted["invited"]), "each valid for one day"),
        Tile("Expired links", figures.count(counted["locked"]), "reset to create a new link"),
        Tile(
            "Stored sessions", figures.count(sum(one.sessions for one in page)), "browsers, including expired sessions"
        ),
    ]


def _acts(one: UserRow) -> Cell:
    if one.state == "ended":
        return Cell("")
    words = (("Change role", "role"), ("Reset", "reset"), ("Revoke", "end"))
    given = {"name": one.name, "role": one.role}
    return Cell("", links=tuple(act(text, f"person-{word}", "admin", **given) for text, word in words))


def _row(one: UserRow) -> tuple[Cell, ...]:
    word, tone = STATES[one.state]
    limit = one.grant_limit_micro
    return (
        text_cell(one.name),
        _acts(one),
        Cell(one.role),
        Cell(word, "state", tone),
        time(one.signed_in_ms, "never"),
        number(one.sessions, wide=True),
        Cell(figures.credits(limit), "number", narrow=False),
        time(one.link_expires_ms, wide=True),
        text_cell(one.actor, wide=True),
    )


NAME: Final = Field("name", "Name", hint="Name of the person as actor in the audit log.")
ROLE: Final = Field("role", "Role", "choice", choices=[(one, one) for one in console_users.ROLES])
LIMIT: Final = Field(
    "limit",
    "Maximum grant",
    "credits",
    "Credits in one grant. If left empty, an operator cannot grant credit.",
    optional=True,
)
PLACE: Final = "/console/people"


def _link(doing: Doing) -> str:
    return f"{doing.url}/console/link?token={doing.secret}"


def _add(connection: sa.Connection, doing: Doing) -> ActionResult:
    name, role = doing.text("name"), doing.values["role"]
    until = console_users.add(connection, name, role, doing.secret, doing.by, grant_limit_micro=doing.credits("limit"))
    return ActionResult(
        f"{name} is {role}, and must set a password with the link by {figures.time(until)} UTC", _link(doing)
    )


def _role(connection: sa.Connection, doing: Doing) -> ActionResult:
    name, role = doing.text("name"), doing.values["role"]
    changed = console_users.set_role(connection, name, role, doing.by, grant_limit_micro=doing.credits("limit"))
    return ActionResult(f"{name}: {'now' if changed else 'already'} {role}, from the next request on")


def _reset(connection: sa.Connection, doing: Doing) -> ActionResult:
    name = doing.text("name")
    until = console_users.reset(connection, name, doing.secret, doing.by)
    return ActionResult(
        f"{name} is signed out, and must set a password with the link by {figures.time(until)} UTC", _link(doing)
    )


def _end(connection: sa.Connection, doing: Doing) -> ActionResult:
    name = doing.text("name")
    changed = console_users.end(connection, name, doing.by)
    return ActionResult(f"{name}: {'ended, and signed out' if changed else 'was ended before'}")


def _person(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    """Return the facts of a person.

    The number of sessions may change without an action.
    """
    found = user_named(connection, doing.text("name"), doing.by.now_ms)
    if found is None:
        return [Fact("Person", "")]
    limit = figures.credits(found.grant_limit_micro)
    return [
        Fact("Person", found.name),
        Fact("Role", found.role),
        Fact("Grant limit", limit),
        Fact("State", found.state),
        Fact("Sessions", f"{found.sessions:,}", fixed=False),
    ]


def _recovery_hint(doing: Doing) -> str:
    name = doing.text("name")
    return f"if People lists {name}, `drawdown console user reset {typed(name)}` shows a new link"


def _limited(doing: Doing) -> list[str]:
    limit = doing.credits("limit")
    return ["--role", doing.values["role"], *([] if limit is None else ["--grant-limit", type_credits(limit)])]


def _named(verb: str, doing: Doing) -> list[str]:
    return ["console", "user", verb, doing.text("name")]


ADD: Final = Action(
    "person-add",
    "Add a person",
    (NAME, ROLE, LIMIT),
    _add,
    _person,
    lambda doing: [*_named("add", doing), *_limited(doing)],
    lambda _doing: PLACE,
    "The next page shows a link once. The person must set a password with the link within a day.",
    role="admin",
    lost_hint=_recovery_hint,
)
SET_ROLE: Final = Action(
    "person-role",
    "Change role",
    (NAME, ROLE, LIMIT),
    _role,
    _person,
    lambda doing: [*_named("role", doing), *_limited(doing)],
    lambda _doing: PLACE,
    "The role takes effect with the next request. The amount is the maximum grant. Without an amount, the person "
    "cannot grant credit.",
    role="admin",
)
RESET: Final = Action(
    "person-reset",
    "Reset a password",
    (NAME,),
    _reset,
    _person,
    lambda doing: _named("reset", doing),
    lambda _doing: PLACE,
    "Drawdown signs the person out. The next page shows a link once. The person must set a password with the link "
    "within a day.",
    role="admin",
    lost_hint=_recovery_hint,
)
END: Final = Action(
    "person-end",
    "Revoke a person's access",
    (NAME,),
    _end,
    _person,
    lambda doing: _named("end", doing),
    lambda _doing: PLACE,
    "Drawdown signs the person out and revokes access. You cannot use the name again.",
    role="admin",
)
ACTIONS: Final = (ADD, SET_ROLE, RESET, END)
