"""What admins do to people of the console. A link is shown once, and kept nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import type_credits
from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Field
from drawdown.server.console.frame import figures
from drawdown.worker.access import people as console_users
from drawdown.worker.access.people import user_named

NAME: Final = Field("name", "Name", hint="It stands as the actor on what the person does.")
ROLE: Final = Field("role", "Role", "choice", choices=[(one, one) for one in console_users.ROLES])
LIMIT: Final = Field(
    "limit", "Grants at once", "credits", "Credits; an operator of whom nothing is said gives none.", optional=True
)
PLACE: Final = "/console/people"


def _link(doing: Doing) -> str:
    return f"{doing.url}/console/link?token={doing.secret}"


def _add(connection: sa.Connection, doing: Doing) -> Done:
    name, role = doing.text("name"), doing.values["role"]
    until = console_users.add(connection, name, role, doing.secret, doing.by, grant_limit_micro=doing.credits("limit"))
    return Done(f"{name} is {role}, and sets a password by the link until {figures.time(until)} UTC", _link(doing))


def _role(connection: sa.Connection, doing: Doing) -> Done:
    name, role = doing.text("name"), doing.values["role"]
    changed = console_users.set_role(connection, name, role, doing.by, grant_limit_micro=doing.credits("limit"))
    return Done(f"{name}: {'now' if changed else 'was already'} {role}, from the next click on")


def _reset(connection: sa.Connection, doing: Doing) -> Done:
    name = doing.text("name")
    until = console_users.reset(connection, name, doing.secret, doing.by)
    return Done(f"{name} is signed out, and sets a password by the link until {figures.time(until)} UTC", _link(doing))


def _end(connection: sa.Connection, doing: Doing) -> Done:
    name = doing.text("name")
    changed = console_users.end(connection, name, doing.by)
    return Done(f"{name}: {'ended, and signed out' if changed else 'was ended before'}")


def _person(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    """Sessions come and go by themselves."""
    found = user_named(connection, doing.text("name"), doing.by.now_ms)
    if found is None:
        return [Fact("Person", "")]
    limit = figures.credits(found.grant_limit_micro)
    return [
        Fact("Person", found.name),
        Fact("Role", found.role),
        Fact("Grants at once", limit),
        Fact("State", found.state),
        Fact("Signed in on", f"{found.sessions:,} browsers", fixed=False),
    ]


def _lost(doing: Doing) -> str:
    name = doing.text("name")
    return f"where People has {name}, `drawdown console user reset {typed(name)}` shows a link that opens"


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
    "They set a password by a link, within a day. It is shown once, after this.",
    role="admin",
    lost=_lost,
)
SET_ROLE: Final = Action(
    "person-role",
    "Give another role",
    (NAME, ROLE, LIMIT),
    _role,
    _person,
    lambda doing: [*_named("role", doing), *_limited(doing)],
    lambda _doing: PLACE,
    "It counts from their next click on. What they may grant at once is what is said here, or nothing.",
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
    "They are signed out everywhere, and set another one by a link, within a day. It is shown once, after this.",
    role="admin",
    lost=_lost,
)
END: Final = Action(
    "person-end",
    "End a person",
    (NAME,),
    _end,
    _person,
    lambda doing: _named("end", doing),
    lambda _doing: PLACE,
    "They are let in no more, and signed out everywhere. The name stays theirs in the audit.",
    role="admin",
)
ACTIONS: Final = (ADD, SET_ROLE, RESET, END)
