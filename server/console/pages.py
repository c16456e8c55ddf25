"""The pages, declared once: the router, the menu and the tests go by this list.

Guarantee: a page that is not here cannot be reached, and one that is here is tested in each of its states for each of
its roles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.server.console.asking import Ask
from drawdown.server.console.screens import org, orgs, overview

Read = Callable[[sa.Connection, Ask], Mapping[str, object]]
Lines = Callable[[sa.Connection, Ask], Iterator[str]]
STATES: Final = ("live", "empty", "error", "demo")
"""The same four everywhere. live: figures, with the moment they are of; empty: what will fill it, and the command that
does; error: what could not be read, and what still holds; demo: a bar over it."""


@dataclass(frozen=True)
class Page:
    """A page: its path, its name, what it reads for its template, and who may see it. `menu`: whether it stands in the
    menu; `lines`: what it hands out as a file, at its path with .csv behind; `example`: what stands behind its path
    where it needs that; `tabs`: its tabs, the first one first."""

    path: str
    title: str
    template: str
    read: Read
    role: str = "viewer"
    menu: bool = True
    lines: Lines | None = None
    example: str = ""
    tabs: tuple[str, ...] = ()

    @property
    def file_path(self) -> str:
        return f"{self.path}.csv"


PAGES: Final = (
    Page("/console/", "Overview", "overview.html", overview.read),
    Page("/console/orgs", "Organisations", "orgs.html", orgs.read, lines=orgs.lines),
    Page(
        "/console/org",
        "Organisation",
        "org.html",
        org.read,
        menu=False,
        lines=org.lines,
        example="?id=acme",
        tabs=tuple(org.TABS),
    ),
)
MENU: Final = tuple(page for page in PAGES if page.menu)
