"""The parts of pages: figures, tables, filters, and links to actions.

Guarantee: a list page declares its content only, and `list.html` shows every list the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drawdown.server.console.frame.templates import url


@dataclass(frozen=True)
class Link:
    """A link to an action or a page. Only people with the role see it."""

    text: str
    href: str
    role: str = "viewer"


def act(text: str, name: str, role: str = "operator", /, **values: object) -> Link:
    """Return a link to an action's form, with values for its fields.

    The link omits a value that is None or ''.
    """
    return Link(text, url(f"/console/act/{name}", **values), role)


@dataclass(frozen=True)
class Tile:
    """A figure with its name.

    `note`: the text below the figure. `tone`: the background colour, if the figure needs a person's attention. `href`:
    the page with the details.
    """

    name: str
    figure: str
    note: str = ""
    tone: str = ""
    href: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    `kind`: number, time, id, state, step (a command with its values), or empty. `tone`: the colour of a state, or `bad`
    for a number. `href`: the address of its link. `links`: the actions on the row. `under`: a second, lighter line.
    """

    text: str
    kind: str = ""
    tone: str = ""
    narrow: bool = True
    """True if a narrow screen shows the cell, too."""
    href: str = ""
    links: tuple[Link, ...] = ()
    under: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a page.

    `heads`: the heads of the columns; `#` begins the head of a column of numbers.

    `none`: the text of an empty table. `command`: the command that shows or fills the table. `next`: the address of the
    next page. `note`: a text above the table. `folded`: the text that opens the table; '' if it is open. `first`: the
    address of the first page; '' on the first page.
    """

    title: str
    heads: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    none: str
    command: str
    next: str = ""
    note: str = ""
    folded: str = ""
    first: str = ""

    @property
    def columns(self) -> list[tuple[str, bool, bool]]:
        """Return each head with two flags.

        The first is True above numbers, the second if a narrow screen shows the column.
        """
        first = self.rows[0] if self.rows else [Cell("")] * len(self.heads)
        return [
            (head.lstrip("#"), head.startswith("#"), cell.narrow) for head, cell in zip(self.heads, first, strict=True)
        ]


@dataclass(frozen=True)
class Filter:
    """A field of a page's filter.

    `name`: its name in the address. `value`: its present value. `choices`: the possible values with their labels; if
    empty, the person types a text. `wrong`: the error of the present value.
    """

    name: str
    label: str
    value: str = ""
    choices: Sequence[tuple[str, str]] = ()
    wrong: str = ""


@dataclass(frozen=True)
class PageContent:
    """The content of a list page for `list.html`, in the order of the page.

    `acts`, `filters`, `tiles` (they refresh on their own) and `tables` are its parts. `path`: the page's path. `query`:
    the parameters of its address. `file`: the address of the page's file; '' without a file. `note`: a sentence below
    the head. `above`: a link to its parent page. `heading`: an id, in place of the title. `wrong`: an error of the
    whole filter.
    """

    path: str
    tables: Sequence[Table]
    tiles: Sequence[Tile] = ()
    filters: Sequence[Filter] = ()
    acts: Sequence[Link] = ()
    query: Mapping[str, object] = field(default_factory=dict)
    file: str = ""
    note: str = ""
    above: Link | None = None
    heading: str = ""
    wrong: str = ""

    @property
    def narrowed(self) -> bool:
        """Return True if a filter has a value."""
        return any(one.value for one in self.filters)

    @property
    def kept_query(self) -> Mapping[str, object]:
        """Return the address's parameters without filters and `after`, such as the id."""
        names = {"after", *(one.name for one in self.filters)}
        return {name: value for name, value in self.query.items() if value and name not in names}

    @property
    def cleared(self) -> str:
        """Return the page's address without its filter."""
        return url(self.path, **self.kept_query)

    @property
    def here(self) -> str:
        """Return the page's present address."""
        return url(self.path, **self.query)


def to_context(page: PageContent) -> Mapping[str, object]:
    """Return the page for the template.

    `empty` is True if the first page has tables without rows, and no filter has a value.
    """
    nothing = bool(page.tables) and not any(table.rows or table.first for table in page.tables) and not page.narrowed
    return {"shown": page, "empty": nothing}
