"""Imports point one way: cli -> server -> worker -> providers -> guard -> ledger -> events -> schema."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("cli", "server", "worker", "providers", "guard", "ledger", "events", "schema")
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The layers a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("drawdown.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_its_own_layer_and_those_below(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    allowed = set(LAYERS[LAYERS.index(layer) :])
    assert imported(path) <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_edges_read_the_clock_or_the_environment(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    edges = {"schema/clock.py", "cli/settings/settings.py", "cli/app.py"}
    text = path.read_text(encoding="utf-8")
    reads = [word for word in ("time.time", "datetime.now", "os.environ", "os.getenv", "utcnow") if word in text]
    assert name in edges or not reads


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_begins_by_saying_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_files_and_functions_stay_readable() -> None:
    long_files = [path.name for path in FILES if path.read_text(encoding="utf-8").count("\n") > 300]
    assert long_files == []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 45, f"{path.name}:{node.name} has {length} lines"


SCHEMA_ITSELF = {"schema/sql.py", "schema/migrate.py", "schema/roles.py"}
"""What puts statements together, and what makes tables, roles and grants."""
SQL_TEXT = re.compile(r"\b(SELECT\s.+\sFROM\s|INSERT INTO\s|UPDATE \w+ SET\s|DELETE FROM\s)", re.DOTALL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_statements_stand_in_sql_files(path: Path) -> None:
    """One way for SQL: named, described, put together and bound by one loader."""
    place = path.relative_to(ROOT).as_posix()
    if place in SCHEMA_ITSELF or place.startswith(("schema/tables/", "schema/migrations/")):
        return
    source = path.read_text(encoding="utf-8")
    assert "sa.text(" not in source
    texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    assert [text for text in texts if isinstance(text, str) and SQL_TEXT.search(text)] == []


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.relative_to(ROOT).parts[0] in ("cli", "server")], ids=lambda path: path.name
)
def test_cli_and_server_ask_the_database_nothing_themselves(path: Path) -> None:
    """Everybody's list and everybody's action is one function in views and commands."""
    assert "schema.sql" not in path.read_text(encoding="utf-8")


@pytest.mark.xdist_group("held together")
def test_groups_of_tests_are_held_together(request: pytest.FixtureRequest) -> None:
    """What is made once for a group is else made again in each process."""
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith("@held together")
