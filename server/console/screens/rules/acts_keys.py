"""What is done to keys of programs. A key is shown once, and kept nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import Final

import sqlalchemy as sa

from drawdown.schema.errors import UsageError
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import parse_length
from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Field, WrongField
from drawdown.server.console.frame import figures
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import keys_named

NAME: Final = Field("name", "Name", hint="It stands as the actor on what is done by the key.")
PLACE: Final = "/console/keys"


def _key(doing: Doing) -> str:
    """A new one, of 256 random bits."""
    return api_keys.PREFIX + doing.secret


def _length(doing: Doing, name: str) -> int | None:
    text = doing.values.get(name, "").strip()
    try:
        return parse_length(text, "this") if text else None
    except UsageError as error:
        raise WrongField(name, str(error)) from None


def _create(connection: sa.Connection, doing: Doing) -> Done:
    key, name = _key(doing), doing.text("name")
    until = api_keys.create(
        connection,
        key,
        name,
        doing.texts("scopes"),
        doing.by,
        org_id=doing.maybe("org"),
        cell_id=doing.maybe("cell"),
        source=doing.maybe("source"),
        for_ms=_length(doing, "for"),
    )
    return Done(f"{name}: {'without an end' if until is None else f'until {figures.time(until)} UTC'}", key)


def _rotate(connection: sa.Connection, doing: Doing) -> Done:
    key, name = _key(doing), doing.text("name")
    overlap_ms = _length(doing, "overlap")
    kept = api_keys.OVERLAP_MS if overlap_ms is None else overlap_ms
    done = api_keys.rotate(connection, key, name, doing.by, overlap_ms=kept)
    return Done(f"{name}: the old key is taken until {figures.time(done.old_until_ms)} UTC", key)


def _end(connection: sa.Connection, doing: Doing) -> Done:
    name = doing.text("name")
    changed = api_keys.end(connection, name, doing.by)
    return Done(f"{name}: {'ended' if changed else 'was ended before'}")


def _lost(doing: Doing) -> str:
    name = quote(doing.text("name"))
    told = f"where Keys has a new key of {doing.text('name')}, nobody has it"
    return (
        f"{told}: `drawdown key rotate {typed(name)}` shows another, `drawdown key end {typed(name)}` ends all of them"
    )


def _keys(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    """Each of the name, by when it was made."""
    found = keys_named(connection, doing.text("name"), doing.by.now_ms)
    facts = [Fact(f"Made {figures.time(one.created_ms)}, number {at}", one.state) for at, one in enumerate(found, 1)]
    used = max((one.used_ms for one in found if one.used_ms is not None), default=None)
    return [Fact("Keys of this name", str(len(found))), *facts, Fact("Last used", figures.time(used), fixed=False)]


def _optional(doing: Doing, **names: str) -> list[str]:
    """Options of a command, of those that were given."""
    given = {option: doing.values.get(name, "").strip() for option, name in names.items()}
    return [word for option, value in given.items() if value for word in (f"--{option}", value)]


CREATE: Final = Action(
    "key-make",
    "Make a key",
    (
        NAME,
        Field("scopes", "What it may", hint=f"One a line, of: {', '.join(api_keys.SCOPES)}", many=True),
        Field("org", "For this organisation alone", optional=True),
        Field("cell", "For samples of this cell alone", optional=True),
        Field("source", "For events of this source alone", optional=True),
        Field("for", "Lives for", hint="90d, 12h; without an end where it is left empty.", optional=True),
    ),
    _create,
    _keys,
    lambda doing: [
        "key", "create", doing.text("name"), *(word for one in doing.texts("scopes") for word in ("--scope", one)),
        *_optional(doing, org="org", cell="cell", source="source", **{"for": "for"}),
    ],
    lambda _doing: PLACE,
    "A program that has it may do what it says. It is shown once, after this.",
    role="admin",
    lost=_lost,
)  # fmt: skip
ROTATE: Final = Action(
    "key-rotate",
    "Rotate a key",
    (
        NAME,
        Field("overlap", "The old one is taken for", hint="0s, 2h, 7d; a day where it is left empty.", optional=True),
    ),
    _rotate,
    _keys,
    lambda doing: ["key", "rotate", doing.text("name"), *_optional(doing, overlap="overlap")],
    lambda _doing: PLACE,
    "A new key takes its place. It is shown once, after this.",
    role="admin",
    lost=_lost,
)
END: Final = Action(
    "key-end",
    "End a key",
    (NAME,),
    _end,
    _keys,
    lambda doing: ["key", "end", doing.text("name")],
    lambda _doing: PLACE,
    "The program is let in no more, by any key of this name, for good.",
)
ACTIONS: Final = (CREATE, ROTATE, END)
