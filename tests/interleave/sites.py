"""Where the product opens a transaction that may change something, found in its sources.

Guarantee: a `Transaction("name", …)` is found by its name; a call of `write` on an engine, an App or a server's
threads, and a `begin`, by its module and function. There is no other way to one (a test of the layers holds
where SQLAlchemy's engines are made).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from tests.sources import tree_of

ROOT: Final = Path(__file__).parents[2]
ROOMS: Final = ("schema", "ledger", "guard", "providers", "worker", "server", "cli")


@cache
def sites() -> dict[str, str]:
    """Each site and where it is."""
    return {site: where for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")) for site, where in _in(path)}


def _in(path: Path) -> Iterator[tuple[str, str]]:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    tree = tree_of(path)
    for function, call in _calls(tree):
        where = f"{path.relative_to(ROOT)}:{call.lineno}"
        if isinstance(call.func, ast.Name) and call.func.id == "Transaction":
            name = call.args[0]
            assert isinstance(name, ast.Constant), f"{where}: a transaction's name is a plain text"
            yield str(name.value), where
        elif _opens(call):
            yield f"{module}:{function}", where


def _calls(tree: ast.AST, function: str = "") -> Iterator[tuple[str, ast.Call]]:
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not function else function
        if isinstance(node, ast.Call):
            yield inside, node
        yield from _calls(node, inside)


def _opens(call: ast.Call) -> bool:
    """`write(engine, work)`, `transact(work)`, `app.write(work)`, `threads.write(work)`, `engine.begin()`; not a
    stream's `write`."""
    match call.func:
        case ast.Name(id="write"):
            return len(call.args) == 2 and ast.unparse(call.args[0]).endswith("engine")
        case ast.Name(id="transact"):
            return True
        case ast.Attribute(value=owner, attr="begin"):
            return ast.unparse(owner).split(".")[-1] in ("engine", "connection", "connect()")
        case ast.Attribute(value=owner, attr="write"):
            return ast.unparse(owner).split(".")[-1] in ("app", "threads", "_threads", "database")
    return False
