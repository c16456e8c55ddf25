"""Each function of the command line that opens transactions of its own checks the clock first (rule S9)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CLI = Path(__file__).resolve().parents[2] / "cli"
OWN_CLOCK = ("demo", "demo.py")
"""The demo has its own database and its own clock."""
WAYS = ("app.py",)
"""What the others call."""
CHECKS = {"require_clock", "write"}
"""Methods of `App` that refuse a wrong clock."""
EXEMPT = {
    "cluster.py:__post_init__": "the database's clock dates the book of members",
    "database.py:_roles": "roles have no date",
    "doctor.py:_sqlite": "it looks at the file",
    "doctor.py:_witness": "it reads the local checkpoint",
    "doctor.py:_written": "what it writes, to see whether it can, has no date",
    "providers.py:check_account": "it asks a provider and writes nothing",
    "replay.py:_run": "the command checks before it calls this",
    "scheduler.py:tick_once": "a tick checks the clock itself",
    "serve.py:_thread_kit": "a read of the server checks it, and so does a tick",
    "serve.py:context": "a read of the server checks it, and so does a tick",
    "serve.py:services_of": "the server's transactions check the clock",
    "status.py:status_": "it reads the local checkpoint",
    "tick.py:_tick_once": "a tick checks the clock itself",
    "tick.py:beat": "it calls a page and writes nothing",
    "tick.py:one": "a tick checks the clock itself",
    "tick.py:run_tick": "a tick checks the clock itself",
    "topups.py:_link": "it asks a payment service and writes nothing",
    "topups.py:_require_only_one": "it asks a payment service and writes nothing",
    "worker.py:_prepare": "it installs tables",
}


def unchecked(source: str, name: str) -> Iterator[str]:
    """Functions of a module that run steps, or open transactions on the engine, without a check of the clock."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes = list(ast.walk(function))
            called = {
                node.func.attr for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            }
            if not called & CHECKS and any(map(_opens, nodes)):
                yield f"{name}:{function.name}"


def _opens(node: ast.AST) -> bool:
    """Whether it gives away the engine, or a world in which steps run. What is given to `read` writes nothing."""
    match node:
        case ast.Call(func=ast.Name(id="read")):
            return False
        case ast.Call(args=args, keywords=keywords):
            return any(map(_is_way_in, (*args, *(one.value for one in keywords))))
        case ast.Assign(value=value) | ast.Return(value=value):
            return value is not None and _is_way_in(value)
    return False


def _is_way_in(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr="world" | "ready")) | ast.Attribute(attr="engine"):
            return True
    return False


def test_cli_functions_that_open_transactions_check_clock_or_are_exempt() -> None:
    found = {
        one for path in sorted(CLI.rglob("*.py")) if not {*path.relative_to(CLI).parts} & {*WAYS, *OWN_CLOCK}
        for one in unchecked(path.read_text(), path.name)
    }  # fmt: skip
    assert found == {*EXEMPT}


@pytest.mark.parametrize(
    ("body", "is_found"),
    [
        ("write(app.engine, work)", True),
        ("run(steps, app.world())", True),
        ("engine = app.ready()\n    keep(engine, found)", True),
        ("app.ready()\n    read(app.engine, work)", False),
        ("app.require_clock()\n    run(steps, app.world())", False),
        ("app.write(work)\n    run(steps, app.world())", False),
        ("app.read(work)", False),
    ],
)
def test_cli_function_without_clock_check_is_found(body: str, is_found: bool) -> None:
    assert list(unchecked(f"def act(app):\n    {body}\n", "m.py")) == (["m.py:act"] if is_found else [])
