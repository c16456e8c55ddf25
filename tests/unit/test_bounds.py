"""ops/bounds.md and the code agree: each bound has a row, and each row a bound, its value and a test it names."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Final

from tests.sources import tree_of

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("schema", "events", "ledger", "guard", "providers", "worker", "server", "cli")
BOUND: Final = re.compile(
    r"(^|_)(MAX|MOST|LIMIT|TIMEOUT|AT_ONCE|BATCH|PATIENCE|WITHIN|BUDGET|TRIES|A_ROUND|THREADS|SLOTS|BACKLOG|CHUNK|PAGES"
    r"|GIVE_UP|NEWEST|REVISIONS)(_|$)|_(S|MS|BYTES|CHARS|LINES|PER_S)$"
)
"""What a constant is called that looks like a bound."""
NAME: Final = re.compile(r"`([a-z_.]+\.[A-Z_0-9]+)`")


def tables() -> list[list[list[str]]]:
    """The rows of the three tables: held by a test, by the code alone, no bounds."""
    parts = (ROOT / "ops" / "bounds.md").read_text(encoding="utf-8").split("\n## ")[1:]
    lines = [[line for line in part.splitlines() if line.startswith("| ")][1:] for part in parts]
    return [[[cell.strip() for cell in line.strip("|").split(" | ")] for line in part] for part in lines]


HELD, BARE, NONE = tables()


def name_in(row: list[str]) -> str:
    (name,) = (found[1] for cell in row if (found := NAME.fullmatch(cell)))
    return name


def value_of(name: str) -> int | float:
    module, _, constant = name.rpartition(".")
    value = getattr(importlib.import_module(f"drawdown.{module}"), constant)
    assert isinstance(value, int | float)
    return value


@cache
def constants() -> set[str]:
    """Each number at the top of a module whose name looks like a bound."""
    found = set()
    for file in (file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        for node in tree_of(file).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in [node.target] if isinstance(node, ast.AnnAssign) else targets:
                if isinstance(target, ast.Name) and target.id.isupper() and BOUND.search(target.id):
                    module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                    value = getattr(importlib.import_module(f"drawdown.{module}"), target.id)
                    if type(value) in (int, float):
                        found.add(f"{module}.{target.id}")
    return found


def test_a_row_names_a_constant_with_its_value() -> None:
    said = {name_in(row): row[1].split(" ")[0] for row in HELD + BARE}
    assert said == {name: f"{value_of(name):,}" for name in said}


def test_the_test_that_a_row_names_is_there() -> None:
    named = [row[3].strip("`").partition("::")[::2] for row in HELD]
    texts = {file: (ROOT / file).read_text(encoding="utf-8") for file in dict(named)}
    assert [name for file, name in named if not re.search(rf"def {name}\(", texts[file])] == []


def test_each_bound_of_the_code_has_one_row() -> None:
    named = [name_in(row) for row in HELD + BARE + NONE]
    assert len(named) == len(set(named)), "none stands there twice"
    assert constants() - set(named) == set(), "name these in ops/bounds.md"
    assert set(named) - constants() == set(), "these are in ops/bounds.md, and no longer in the code"


def test_what_is_no_bound_has_its_reason() -> None:
    assert all(len(row) == 2 and len(row[1]) > 5 for row in NONE) and len(HELD) > 50
