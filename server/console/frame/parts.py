"""The parts of pages: figures, tables, filters, and links to actions.

Guarantee: a page that is a list declares its content, and nothing of its looks; `list.html` shows each the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drawdown.server.console.frame.templates import url


@dataclass(frozen=True)
class Link:
    """A link to an action or a page; it is hidden from people without the role."""

    text: str
    href: str
    role: str = "viewer"


def act(text: str, name: str, role: str = "operator", /, **values: object) -> Link:
    """To an action's form, filled in with what is known; a value that is None or '' is left out."""
    return Link(text, url(f"/console/act/{name}", **values), role)


@dataclass(frozen=True)
class Tile:
    """A figure with its name. `tone`: of its ground, if a person has to see it; `href`: the page with the details."""

    name: str
    figure: str
    said: str = ""
    tone: str = ""
    href: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    `kind`: number, time, id, state, step (a command with its values), or empty; `tone`: of a state, or bad of a number;
    `href`: its link; `links`: the actions on the row; `under`: a second line, of less weight.
    """

    text: str
    kind: str = ""
    tone: str = ""
    narrow: bool = True
    """True if it is shown on a narrow screen, too."""
    href: str = ""
    links: tuple[Link, ...] = ()
    under: str = ""


@dataclass(frozen=True)
class Table:
    """A table. A head that begins with # is over numbers.

    `none`: the text if there are no rows, and `command`, which shows or fills the table. `next`: the address of its
    next page. `folded`: the text to open it ('': it is open). `first`: the start of the list, on a later page ('': this
    is the first).
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
        """Each head, whether it is over numbers, and whether it is shown on a narrow screen."""
        first = self.rows[0] if self.rows else [Cell("")] * len(self.heads)
        return [
            (head.lstrip("#"), head.startswith("#"), cell.narrow) for head, cell in zip(self.heads, first, strict=True)
        ]


@dataclass(frozen=True)
class Filter:
    """A field of a page's filter: its name in the address, its label, its present value.

    `choices`: the possible values, each with its words (none: text is typed); `wrong`: the fault of the present value.
    """

    name: str
    label: str
    value: str = ""
    choices: Sequence[tuple[str, str]] = ()
    wrong: str = ""


@dataclass(frozen=True)
class PageContent:
    """What `list.html` shows, from above: acts, filters, tiles (they refresh by themselves), tables. `path`: the page's
    own; `query`: what its filter says now; `file`: where its lines are taken as a file ('': nowhere); `said`: a
    sentence under its head; `above`: where it belongs to, and `heading` what it is called where its title does not say
    it (an id); `wrong`: what is wrong with its filter as a whole."""

    path: str
    tables: Sequence[Table]
    tiles: Sequence[Tile] = ()
    filters: Sequence[Filter] = ()
    acts: Sequence[Link] = ()
    query: Mapping[str, object] = field(default_factory=dict)
    file: str = ""
    said: str = ""
    above: Link | None = None
    heading: str = ""
    wrong: str = ""

    @property
    def narrowed(self) -> bool:
        """True if the filter leaves anything out."""
        return any(one.value for one in self.filters)

    @property
    def kept_query(self) -> Mapping[str, object]:
        """Return the parameters of the address that no filter sets, such as the id of the page."""
        names = {"after", *(one.name for one in self.filters)}
        return {name: value for name, value in self.query.items() if value and name not in names}

    @property
    def cleared(self) -> str:
        """The page's address without its filter."""
        return url(self.path, **self.kept_query)

    @property
    def here(self) -> str:
        """The page's address as it is now."""
        return url(self.path, **self.query)


def to_context(page: PageContent) -> Mapping[str, object]:
    """For the template; empty where nothing is there without a filter."""
    nothing = bool(page.tables) and not any(table.rows or table.first for table in page.tables) and not page.narrowed
    return {"shown": page, "empty": nothing}
