"""Showing results: a table for people, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from drawdown.cli.state import State
from drawdown.cli.times import show_credits, show_time


def plain(value: object) -> Any:
    """A value as JSON can hold it."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value


def show(state: State, result: Mapping[str, object], lines: Iterable[str | Table]) -> None:
    """Print the result as one JSON object, or as lines and tables."""
    if state.json:
        print(json.dumps({name: plain(value) for name, value in result.items()}, default=plain, sort_keys=True))
        return
    for line in lines:
        state.out.print(line if isinstance(line, Table) else escape(line), highlight=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table; columns that start with `#` hold numbers and are set to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column.lstrip("#"), justify="right" if column.startswith("#") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def shown(name: str, value: object) -> object:
    """A column's value for people: times as times, money in credits."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    if isinstance(value, int) and name.endswith(("_ms", "halted_at")):
        return show_time(value)
    return show_credits(value) if isinstance(value, int) and name.endswith("_micro") else value


def facts(row: Mapping[str, object]) -> list[tuple[str, object]]:
    """The columns of one row, a line each, for people: names without the unit that the value now shows."""
    return [(name.removesuffix("_ms").removesuffix("_micro"), shown(name, value)) for name, value in row.items()]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return escape(str(value))
