"""Set up the templates of the console.

Guarantee: each template escapes each value, including its unprintable characters. Only the values that a form sends
back keep these characters. An unknown name is an error.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from drawdown.schema.text import clean, typed
from drawdown.server.console.frame import charts, figures

FOLDER: Final = Path(__file__).resolve().parents[1] / "templates"
WORDS: Final[Mapping[str, str]] = {
    "settled": "Settled", "behind": "Behind", "person_needed": "A person is needed", "in_doubt": "in doubt",
    "awaiting_credit": "awaiting credit",
}  # fmt: skip
"""Words for states that have another name in the database."""
HALTED_FOR: Final[Mapping[str, str]] = {
    "credits_exhausted": "no credit is left", "reserved": "open executions have reserved all credit that is left",
    "estimate": "no credit is left, by an estimate", "unreadable": "the balance cannot be read",
    "usage_limit": "a usage limit is reached", "operator": "an operator halted the organisation",
}  # fmt: skip
"""Reasons of a halt, in words for the organisation's people.

Only operators see other reasons.
"""


@cache
def environment() -> Environment:
    """Return the environment of the templates, with their filters and functions.

    All consoles of a process share it, so each template is compiled once.
    """
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean_value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("credits", "exact", "moved", "signed", "count", "time", "day", "iso", "lasting", "ago"):
        made.filters[name] = getattr(figures, name)
    made.filters["asis"] = escape
    made.filters["id"] = bdi
    made.filters["mark_commands"] = mark_commands
    made.filters["step"] = step
    made.filters["running"] = running
    made.filters["halted_for"] = lambda reason: HALTED_FOR.get(f"{reason}", "")
    made.filters["words"] = lambda state: WORDS.get(state, str(state).replace("_", " "))
    made.filters["shell"] = lambda words: typed(*words)
    made.filters["quote"] = shlex.quote
    made.filters["plain_number"] = lambda number: f"{number:f}"
    made.globals.update(url=url, stacked=charts.stacked, strip=charts.strip, high=charts.HIGH)
    return made


def _clean_value(value: object) -> object:
    """Return a text with its unprintable characters escaped.

    Return markup, and a value that is not text, unchanged. A text that others wrote then cannot reverse the direction
    of the text around it, as in the title of a tab.
    """
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def running(entries: Iterable[Any], closing_micro: int) -> Iterator[tuple[Any, int]]:
    """Yield each entry with the balance after it.

    The latest entry is first. `closing_micro`: the balance after the latest entry.
    """
    for entry in entries:
        yield entry, closing_micro
        closing_micro -= entry.moved_micro


LONG: Final = re.compile(r"[^\s-]{17}")
"""Matches a word that is too long for a table.

A browser may break only such words.
"""


def bdi(text: object) -> Markup:
    """Return an id, or another text that others chose, as escaped HTML.

    Characters of this text cannot reverse the direction of the text around it.
    """
    if text is None:
        return escape(figures.UNKNOWN)
    shown = clean(str(text))
    kind = Markup(' class="long"') if LONG.search(shown) else ""
    return Markup("<bdi{}>{}</bdi>").format(kind, shown)


COMMANDS: Final = re.compile(r"(`[^`]+`|(?<![\w-])--[a-z][a-z-]+)")
"""Matches commands in a text: text in backticks, and options."""


def mark_commands(text: object) -> Markup:
    """Return a text as HTML, with its commands in the font of code."""
    pieces = enumerate(COMMANDS.split(clean(str(text))))
    shown = [Markup("<code>{}</code>").format(one.strip("`")) if number % 2 else escape(one) for number, one in pieces]
    return Markup("<bdi>{}</bdi>").format(Markup("").join(shown))


FIRST: Final = re.compile(r"drawdown (?:'[^']*'|[^,;'])+")
"""Matches the command at the start of a step, without the words after the command."""


def step(text: object) -> Markup:
    """Return a step as HTML: the command at its start, if any, and the rest."""
    said = clean(str(text))
    found = FIRST.match(said)
    if found is None:
        return bdi(said)
    rest = said[found.end() :]
    return Markup("<code>{}</code>").format(bdi(found[0])) + (Markup("<bdi>{}</bdi>").format(rest) if rest else "")


def url(path: str, **values: object) -> str:
    """Return a path with its query, without values that are None or ''."""
    given = {name: str(value) for name, value in values.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def command(*words: str) -> str:
    """Return the command line of these words, quoted for a shell."""
    return f"drawdown {typed(*words)}"
