"""Show results: a table for people, one JSON object for programs.

Guarantee: the name of a host, provider or file cannot control a terminal or reverse its text. This module escapes
such characters in ids and messages. `startup` and `streams` do so in logs and errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Final

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from drawdown.cli.app import App
from drawdown.schema.text import clean
from drawdown.schema.typed.parsing import show_credits, show_time


def plain(value: object) -> object:
    """Return a dataclass as a dict for JSON; return another value unchanged."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value


def show(app: App, result: Mapping[str, object], lines: Iterable[str | Table]) -> None:
    """Print the result as one JSON object, or as lines and tables."""
    if app.json:
        print(json.dumps({name: plain(value) for name, value in result.items()}, default=plain, sort_keys=True))
        return
    for line in lines:
        app.out.print(line if isinstance(line, Table) else escape(clean(line)), highlight=False)


DRY: Final = "dry run: nothing was changed. The command would print:"


def show_change(app: App, result: Mapping[str, object], lines: Iterable[str | Table], *, dry_run: bool) -> None:
    """Print the changes of a command, done or planned."""
    head = [DRY] if dry_run else []
    show(app, {**result, "dry_run": dry_run}, [*head, *lines])


BLANKS: Final = re.compile("^ +| +$|(?<= ) +")
"""A pattern for spaces that a table would drop.

These are the spaces at the ends of a text, and all but the first of several successive spaces.
"""
MAX_WIDTH: Final = 10_000
"""Width at which Drawdown measures a table, in characters.

It is wider than any row.
"""


class Rows(Table):
    """A table that never breaks keys, ids and times, so that you can copy them.

    Guarantee: text wraps only at spaces. Spaces that would not be visible are escaped, so that two names never look
    alike. A table may be wider than the terminal. In a pipe, a file or cron it is plain: a line for each row, two
    spaces between columns, without borders and colours.
    """

    def __init__(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        super().__init__(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        self.pad_edge = False
        self.plain_title = title
        self.texts = [tuple(_text(value) for value in row) for row in rows]
        for number, name in enumerate(columns):
            words = [text.split() for text in (name.lstrip("#"), *(row[number] for row in self.texts))]
            self.add_column(
                name.lstrip("#"),
                justify="right" if name.startswith("#") else "left",
                min_width=max(cell_len(word) for parts in words for word in parts or [""]),
                no_wrap=all(len(parts) < 2 for parts in words),
            )
        for row in self.texts:
            self.add_row(*map(Text, row))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not console.is_terminal:
            yield Text("\n".join(self.plain_lines()))
            return
        needed = Measurement.get(console, options.update_width(MAX_WIDTH), self).minimum
        yield from super().__rich_console__(console, options.update_width(max(options.max_width, needed)))

    def plain_lines(self) -> Iterator[str]:
        """Yield the title, the columns' names, the rows and an empty line.

        The method omits an empty title, and omits the names if all are empty.
        """
        heads = tuple(str(column.header) for column in self.columns)
        lines = [list(row) for row in ([heads] if any(heads) else []) + self.texts]
        widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
        if self.plain_title:
            yield self.plain_title
        for line in lines:
            yield "  ".join(
                text.rjust(width) if column.justify == "right" else text.ljust(width)
                for text, width, column in zip(line, widths, self.columns, strict=True)
            ).rstrip()
        yield ""


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Rows:
    """Return a table.

    If the name of a column starts with `#`, the column holds numbers, and is aligned to the right.
    """
    return Rows(clean(title), columns, rows)


def format_value(name: str, value: object) -> object:
    """Return a value as people read it, such as a time in UTC or an amount in credits.

    The name of the column gives the unit.
    """
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    if isinstance(value, int) and name.endswith(("_ms", "halted_at")):
        return show_time(value)
    return show_credits(value) if isinstance(value, int) and name.endswith("_micro") else value


def facts(row: Mapping[str, object]) -> list[tuple[str, object]]:
    """Return the columns of one row for people.

    A name omits the unit, which the value shows. `-` stands for a missing value.
    """
    named = (
        (name.removesuffix("_ms").removesuffix("_micro"), format_value(name, value)) for name, value in row.items()
    )
    return [(name, "-" if value is None else value) for name, value in named]


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return BLANKS.sub(lambda found: "\\x20" * len(found[0]), clean(str(value)))
