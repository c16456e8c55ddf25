"""The bounds of the code: each constant that looks like one, with its value, its meaning and the test that holds it."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.sources import tree_of

ROOT: Final = Path(__file__).resolve().parents[1]
ROOMS: Final = ("schema", "events", "ledger", "guard", "providers", "worker", "server", "cli")
HELD: Final = ROOT / "tests" / "held_bounds.txt"
"""A line for each bound that a test holds: the constant, and the test."""
LOOK: Final = re.compile(
    r"(^|_)(MAX|MOST|LIMIT|TIMEOUT|AT_ONCE|BATCH|PATIENCE|WITHIN|BUDGET|TRIES|A_ROUND|THREADS|SLOTS|BACKLOG|CHUNK|PAGES"
    r"|GIVE_UP|NEWEST|REVISIONS)(_|$)|_(S|MS|BYTES|CHARS|LINES|PER_S)$"
)
"""What a constant is called that looks like a bound."""
NO_BOUND: Final = re.compile(r"(SECOND|MINUTE|HOUR|HALF_HOUR|DAY|MONTH|WINDOW|EVER|NEVER|FOREVER)_MS")
"""Units of time, and values that stand for a moment."""
NOT_SHIPPED: Final = ("cli.demo.", "cli.nouns.demo_cell.", "providers.conformance.")
"""The demo, and the suite that tests providers."""


class Bound(NamedTuple):
    name: str
    value: int | float
    meaning: str


def bounds() -> Iterator[Bound]:
    """Each number at the top of a module with the name of a bound."""
    for file in (file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        body = tree_of(file).body
        for node, following in zip(body, [*body[1:], None], strict=True):
            for target in _targets(node):
                name = f"{module}.{target}"
                if not LOOK.search(target) or NO_BOUND.fullmatch(target) or name.startswith(NOT_SHIPPED):
                    continue
                value = getattr(importlib.import_module(f"drawdown.{module}"), target)
                if type(value) in (int, float):
                    yield Bound(name, value, _text(following))


def held() -> dict[str, str]:
    """The test of each bound that has one."""
    return dict(line.split(" ", 1) for line in HELD.read_text(encoding="utf-8").splitlines())


def _targets(node: ast.stmt) -> list[str]:
    found = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [one.id for one in found if isinstance(one, ast.Name) and one.id.isupper()]


def _text(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""
