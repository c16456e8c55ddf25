"""Define a page of the console.

Each page is declared once, in the list of its area.

Guarantee: a page declares every fact that the router, the menu and the tests need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.server.console.csv_lines import Form
from drawdown.server.console.request_params import Ask

Read = Callable[[sa.Connection, Ask], Mapping[str, object]]
Lines = Callable[[sa.Connection, Ask], Iterator[str]]
STATES: Final = ("live", "empty", "error", "demo")
"""States of every page.

`live`: figures with the time of their read. `empty`: the command that adds content. `error`: the part that could not be
read, and why. `demo`: a bar above the page.
"""


@dataclass(frozen=True)
class Page:
    """A page: its path, title, template, read function and role.

    `menu`: True if the menu shows the page. `lines`: a function that yields the rows of its file, at its path with .csv
    or .jsonl. `example`: an end of its path for tests, if the path needs an id. `also`: further ends that show another
    form of the page. `tabs`: the tabs, in order. A page of `list.html` reads the fields of `frame.parts.PageContent`.
    """

    path: str
    title: str
    template: str
    read: Read
    role: str = "viewer"
    menu: bool = True
    lines: Lines | None = None
    example: str = ""
    also: tuple[str, ...] = ()
    tabs: tuple[str, ...] = ()

    def file_path(self, form: Form) -> str:
        return f"{self.path}.{form}"
