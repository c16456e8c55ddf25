"""The templates. Guarantee: each value is escaped where it is shown, and a name that is not there is an error."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from drawdown.schema.text import clean
from drawdown.server.console.frame import charts, figures

FOLDER: Final = Path(__file__).resolve().parents[1] / "templates"
WORDS: Final[Mapping[str, str]] = {
    "settled": "Settled", "behind": "Behind", "person_needed": "A person is needed", "in_doubt": "in doubt",
}  # fmt: skip
"""What stands for a state where it has another name in the database."""


@cache
def environment() -> Environment:
    """With what templates may use besides what their page gives them. One for all consoles of a process: each template
    is compiled once."""
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("credits", "exact", "moved", "signed", "count", "time", "day", "iso", "lasting", "ago"):
        made.filters[name] = getattr(figures, name)
    made.filters["id"] = bdi
    made.filters["words"] = lambda state: WORDS.get(state, str(state).replace("_", " "))
    made.filters["shell"] = shlex.join
    made.filters["quote"] = shlex.quote
    made.filters["plain_number"] = lambda number: f"{number:f}"
    made.globals.update(url=url, stacked=charts.stacked, strip=charts.strip)
    return made


def bdi(text: object) -> Markup:
    """An id, or another text that others chose: escaped, shown as it is, and turning nothing around it."""
    if text is None:
        return escape(figures.UNKNOWN)
    return Markup("<bdi>{}</bdi>").format(clean(str(text)))


def url(path: str, **values: object) -> str:
    """A path with its query; what is None or empty is left out."""
    given = {name: str(value) for name, value in values.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path
