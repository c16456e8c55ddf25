"""The table cells that link to an organisation, a push or a cell's halts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drawdown.schema.push_states import OPEN
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell
from drawdown.server.console.frame.templates import url

TONES: Final[Mapping[str, str]] = {
    **{name: one.tone for name, one in OPEN.items()},
    "ignored": "bad", "halted": "bad", "stopped": "bad", "paused": "warn",
    "open": "warn", "over": "warn", "not met": "warn", "failing": "warn",
    "may be open": "warn", "no response": "warn",
}  # fmt: skip
"""Colour of each state: red if a person is needed, amber if work waits.

Other states are without a colour.
"""
MOST_TEXT: Final = 160
"""Characters of an error in a table. The page of its object has the whole error."""


def state(name: str) -> Cell:
    return Cell(name, "state", TONES.get(name, ""))


def org(org_id: str | None, tab: str | None = None, *, narrow: bool = True) -> Cell:
    """Return a cell that links to the organisation."""
    if not org_id:
        return Cell(figures.UNKNOWN, narrow=narrow)
    return Cell(org_id, "id", narrow=narrow, href=url("/console/org", id=org_id, tab=tab))


def push(key: str, text: str = "", *, narrow: bool = True) -> Cell:
    """Return a cell that links to the push."""
    return Cell(text or key, "id", narrow=narrow, href=url("/console/push", key=key))


def cell(cell_id: str, *, narrow: bool = True) -> Cell:
    """Return a table cell that links to the halts of a cell."""
    return Cell(cell_id, "id", narrow=narrow, href=url("/console/halts", state="any", cell=cell_id))


def number(count: int | None, *, narrow: bool = True) -> Cell:
    return Cell(figures.count(count), "number", narrow=narrow)


def amount(micro: int | None, *, narrow: bool = True) -> Cell:
    return Cell(figures.credits(micro), "number", narrow=narrow)


def time(ms: int | None, *, narrow: bool = True) -> Cell:
    return Cell(figures.time(ms), "time", narrow=narrow)


def answer_cell(halted_ms: int, acked_ms: int | None, due_ms: int | None) -> Cell:
    """Return a cell's response to a halt, and the delay of that response.

    `due_ms`: the time of the next call; None: no call is due. If a cell ignored a halt that it acknowledged, the halt
    is due again.
    """
    if acked_ms is None or due_ms is not None:
        return Cell("due", "state", TONES["due"])
    return Cell(f"acknowledged {figures.time(acked_ms)}", under=f"after {figures.lasting(acked_ms - halted_ms)}")


def text_cell(text: str | None, *, narrow: bool = False) -> Cell:
    """Return a cell with a text that others wrote, cut to MOST_TEXT characters."""
    if not text:
        return Cell(figures.UNKNOWN, narrow=narrow)
    return Cell(text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…", "id", narrow=narrow)
