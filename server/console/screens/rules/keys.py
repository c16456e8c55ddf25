"""Keys: which programs may do what, until when, and when each was last used; and what is done to them. A key is shown
once, and kept nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from shlex import quote
from typing import Final

import sqlalchemy as sa

from drawdown.schema.declare import Fact, WrongField
from drawdown.schema.errors import UsageError
from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import parse_length
from drawdown.schema.units import DAY_MS
from drawdown.server.console.action import Action, Doing, Done, Field
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Shown, Table, act, shown
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.rules.cells import org, said, time
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import KeyRow, keys_named, page_of_keys

PATH: Final = "/console/keys"
PAGE_KEYS: Final = 100
SOON_MS: Final = 14 * DAY_MS
"""Before a key's end somebody is to see that it comes."""


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    after = ask.text("after")
    found = page_of_keys(connection, ask.now_ms, after=after, most=PAGE_KEYS)
    rows = [_row(one, ask.now_ms) for one in found.keys]
    heads = ("Key", "To do", "Scopes", "Bound to", "State", "Last used, UTC", "Until, UTC", "Made by", "Why")
    none = "No program has a key. One is made, and shown once, by the command, or by the button above."
    command = (
        "drawdown key list" if rows else "drawdown key create shop --scope events:write --reason 'the shop sends usage'"
    )
    next_ = url(PATH, after=found.next_after) if found.next_after else ""
    note = (
        "Of each the one that goes on, and those that are taken beside it still. Of a key its hash alone is kept."
        if rows
        else ""
    )
    first = PATH if after else ""
    table = Table("Keys of programs", heads, rows, none, command, next_, note, first=first)
    return shown(Shown(PATH, [table], acts=(act("Make a key", "key-make", "admin"),), query={"after": after}))


def _row(one: KeyRow, now_ms: int) -> tuple[Cell, ...]:
    until = one.ended_ms if one.ended_ms is not None else one.expires_ms
    return (
        said(one.name),
        _acts(one),
        Cell(" ".join(one.scopes)),
        _bound(one),
        Cell(*_state(one, now_ms)),
        time(one.used_ms, "never"),
        time(until, "without an end"),
        said(f"{one.actor}, ended" if one.maker_ended else one.actor, wide=True),
        said(one.reason, wide=True),
    )


def _acts(one: KeyRow) -> Cell:
    """Of a name as a whole, at the key that goes on."""
    if one.state in ("rotated", "ended"):
        return Cell("")
    return Cell("", links=(act("Rotate", "key-rotate", "admin", name=one.name), act("End", "key-end", name=one.name)))


def _bound(one: KeyRow) -> Cell:
    also = [f"{what} {name}" for what, name in (("cell", one.cell_id), ("source", one.source)) if name is not None]
    if one.org_id is not None:
        return replace(org(one.org_id), under=", ".join(also))
    return said(", ".join(also)) if also else Cell("any")


def _state(one: KeyRow, now_ms: int) -> tuple[str, str, str]:
    """A word, and a colour where somebody has to look."""
    ends = one.expires_ms
    if one.state == "good" and ends is not None and ends <= now_ms + SOON_MS:
        return f"ends {figures.ago(ends, now_ms)}", "state", "warn"
    if one.state == "rotated":
        return "taken still", "state", ""
    return one.state, "state", "warn" if one.state == "expired" else ""


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
