"""Imports point one way: cli -> server -> worker -> providers -> guard -> ledger -> events -> schema."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.sources import nodes_of, text_of, tree_of

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("cli", "server", "worker", "providers", "guard", "ledger", "events", "schema")
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


@dataclass(frozen=True)
class Module:
    """One file, read and parsed once for all tests of it; each test names all that break its rule."""

    place: str
    text: str
    tree: ast.Module
    nodes: list[ast.AST]

    @property
    def layer(self) -> str:
        return self.place.partition("/")[0]


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    return [Module(path.relative_to(ROOT).as_posix(), text_of(path), tree_of(path), nodes_of(path)) for path in FILES]


def imported(nodes: list[ast.AST]) -> set[str]:
    """The layers a module imports."""
    found = set()
    for node in nodes:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("drawdown.")}
    return found


def test_module_imports_only_its_layer_and_lower_layers(modules: list[Module]) -> None:
    above = {one.place: imported(one.nodes) - set(LAYERS[LAYERS.index(one.layer) :]) for one in modules}
    assert {place: layers for place, layers in above.items() if layers} == {}


def test_clock_and_environment_are_read_only_in_edge_modules(modules: list[Module]) -> None:
    edges = {"schema/clock.py", "cli/settings.py", "cli/app.py"}
    words = ("time.time", "datetime.now", "os.environ", "os.getenv", "utcnow")
    reads = [(one.place, word) for one in modules for word in words if word in one.text and one.place not in edges]
    assert reads == []


def test_modules_have_docstrings(modules: list[Module]) -> None:
    assert [one.place for one in modules if not ast.get_docstring(one.tree)] == []


SCHEMA_ITSELF = {"schema/sql.py", "schema/migrate.py", "schema/create.py", "schema/guards.py", "schema/roles.py"}
"""What puts statements together, and what makes tables, roles and grants."""
ASKS_OTHERS = {"worker/batches/query_source.py"}
"""What asks other databases what their operator wrote."""
SQL_TEXT = re.compile(r"\b(SELECT\s.+\sFROM\s|INSERT INTO\s|UPDATE \w+ SET\s|DELETE FROM\s)", re.DOTALL)


def test_sql_statements_are_in_sql_files(modules: list[Module]) -> None:
    """One way for SQL: named, described, put together and bound by one loader."""
    found: list[tuple[str, str]] = []
    for one in modules:
        if one.place in SCHEMA_ITSELF or one.place.startswith(("schema/tables/", "schema/migrations/")):
            continue
        texts = [node.value for node in one.nodes if isinstance(node, ast.Constant)]
        found += [(one.place, text) for text in texts if isinstance(text, str) and SQL_TEXT.search(text)]
        found += [(one.place, "sa.text(")] * ("sa.text(" in one.text and one.place not in ASKS_OTHERS)
    assert found == []


def test_cli_and_server_do_not_query_database_directly(modules: list[Module]) -> None:
    """Everybody's list and everybody's action is one function in views and commands."""
    assert [one.place for one in modules if one.layer in ("cli", "server") and "schema.sql" in one.text] == []


@pytest.mark.xdist_group("held together")
def test_tests_of_xdist_group_are_run_together(request: pytest.FixtureRequest) -> None:
    """What is made once for a group is else made again in each process."""
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith("@held together")
