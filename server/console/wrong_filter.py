"""A page whose filter makes no sense: it stays, with the filter as it was filled in, and says what is wrong, and where.

Guarantee: no row, no figure and nothing to do is shown: all of them would be of another filter than the one that was
asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.schema.errors import UnknownId, UsageError
from drawdown.server.console.asking import Ask
from drawdown.server.console.frame.parts import Filter, Shown
from drawdown.server.console.page import Page

WHOSE: Final = ("id", "key", "tab")
"""What of an address says whose page it is, and narrows nothing."""


@contextmanager
def in_words(ask: Ask) -> Iterator[None]:
    """A thing that is asked for may not be there (UnknownId, 404); a filter that names none makes no sense.

    Errors: UsageError."""
    try:
        yield
    except UnknownId as error:
        if ask.names_one:
            raise
        raise UsageError(str(error)) from error


def read_page(connection: sa.Connection, page: Page, ask: Ask) -> tuple[Mapping[str, object], int]:
    """What a page shows, and its status: 400 where its filter makes no sense. Errors: those of what it reads."""
    try:
        with in_words(ask):
            return page.read(connection, ask), 200
    except UsageError as error:
        return _asked_again(connection, page, ask, error), 400


def _asked_again(connection: sa.Connection, page: Page, ask: Ask, error: UsageError) -> Mapping[str, object]:
    """What the page shows of a filter that it refused with `error`.

    Errors: `error`, where it is about one thing that is not there, or nothing that the page filters by.
    """
    whose = {name: value for name, value in ask.query.items() if name in WHOSE}
    if (isinstance(error, UnknownId) and ask.names_one) or whose == ask.query:
        raise error
    found = page.read(connection, replace(ask, query=whose))
    whole = found.get("shown")
    if isinstance(whole, Shown) and whole.filters:
        filters, above = _told(whole.filters, ask, str(error))
        kept = {name: value for name, value in whole.query.items() if name in WHOSE}
        bare = replace(whole, tables=(), tiles=(), acts=(), file="", filters=filters, query=kept, wrong=above)
        return {**found, "shown": bare, "empty": False}
    if isinstance(fields := found.get("filters"), tuple):
        filters, above = _told(fields, ask, str(error))
        return {**found, "tables": [], "file": "", "filters": filters, "wrong": above}
    raise error


def _told(fields: Sequence[Filter], ask: Ask, error: str) -> tuple[tuple[Filter, ...], str]:
    """The fields as they were filled in, what is wrong at the one that it is about; else it is said above them."""
    filled = [replace(one, value=ask.query.get(one.name, "")) for one in fields]
    named, _, about = error.partition(": ")
    at = next((one.name for one in filled if one.name == named), "")
    said = about if at else error
    at = at or next((one.name for one in filled if one.value and _names(error, one.value)), "")
    sentence = f"{said[:1].upper()}{said[1:]}."
    return tuple(replace(one, wrong=sentence if one.name == at else "") for one in filled), "" if at else sentence


def _names(error: str, value: str) -> bool:
    """Whether it is this id that is not there, as `ids.unknown` says it."""
    return f" {value}" in error.partition(";")[0]
