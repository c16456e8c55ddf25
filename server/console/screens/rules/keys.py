"""Show the keys of programs: scopes, bounds, expiry, last use and actions.

Drawdown shows a key once, and stores only its hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import DAY_MS
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, PageContent, Table, act, to_context
from drawdown.server.console.frame.templates import url
from drawdown.server.console.request_params import Ask
from drawdown.server.console.screens.rules.cells import org, text_cell, time
from drawdown.worker.access.keys import KeyRow, page_of_keys

PATH: Final = "/console/keys"
PAGE_KEYS: Final = 100
SOON_MS: Final = 14 * DAY_MS
"""Time before a key's expiry from which the page warns of the expiry."""


def read(connection: sa.Connection, ask: Ask) -> Mapping[str, object]:
    after = ask.text("after")
    found = page_of_keys(connection, ask.now_ms, after=after, most=PAGE_KEYS)
    rows = [_row(one, ask.now_ms) for one in found.keys]
    heads = ("Key", "Actions", "Scopes", "Bound to", "State", "Last used, UTC", "Until, UTC", "Created by", "Reason")
    none = "No key exists yet. The command, or the button above, creates a key and shows it once."
    command = (
        "drawdown key list" if rows else "drawdown key create shop --scope events:write --reason 'the shop sends usage'"
    )
    next_ = url(PATH, after=found.next_after) if found.next_after else ""
    note = (
        "Rotated keys stay in the table while Drawdown accepts them. Drawdown stores only the hash of a key."
        if rows
        else ""
    )
    first = PATH if after else ""
    table = Table("Keys of programs", heads, rows, none, command, next_, note, first=first)
    return to_context(
        PageContent(PATH, [table], acts=(act("Create key", "key-create", "admin"),), query={"after": after})
    )


def _row(one: KeyRow, now_ms: int) -> tuple[Cell, ...]:
    until = one.ended_ms if one.ended_ms is not None else one.expires_ms
    return (
        text_cell(one.name),
        _acts(one),
        Cell(" ".join(one.scopes)),
        _bound(one),
        Cell(*_state(one, now_ms)),
        time(one.used_ms, "never"),
        time(until, "no expiry"),
        text_cell(f"{one.actor}, ended" if one.maker_ended else one.actor, wide=True),
        text_cell(one.reason, wide=True),
    )


def _acts(one: KeyRow) -> Cell:
    """Return the actions on all keys of a name, for the row of its valid key."""
    if one.state in ("rotated", "ended"):
        return Cell("")
    return Cell("", links=(act("Rotate", "key-rotate", "admin", name=one.name), act("End", "key-end", name=one.name)))


def _bound(one: KeyRow) -> Cell:
    also = [f"{what} {name}" for what, name in (("cell", one.cell_id), ("source", one.source)) if name is not None]
    if one.org_id is not None:
        return replace(org(one.org_id), under=", ".join(also))
    return text_cell(", ".join(also)) if also else Cell("any")


def _state(one: KeyRow, now_ms: int) -> tuple[str, str, str]:
    """Return the state of a key, with a colour if a person must look at it."""
    ends = one.expires_ms
    if one.state == "good" and ends is not None and ends <= now_ms + SOON_MS:
        return f"ends {figures.ago(ends, now_ms)}", "state", "warn"
    if one.state == "rotated":
        return "still accepted", "state", ""
    return one.state, "state", "warn" if one.state == "expired" else ""
