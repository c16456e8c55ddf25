"""The client is a distribution of its own: what it needs, and that it is as readable as the rest."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from pathlib import Path
from typing import Final

import drawdown_client
from drawdown_client import calls
from tests.cases import cases

ROOT: Final = Path(__file__).resolve().parents[2]
FILES: Final = sorted((ROOT / "client" / "drawdown_client").rglob("*.py"))
MAY_IMPORT: Final = {"drawdown_client", "httpx", "httpx2", "tenacity"}
PROJECT: Final = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGE: Final = (ROOT / "docs" / "reference" / "client.md").read_text(encoding="utf-8")
BOUND: Final = re.compile(r"_(S|MS|BYTES|CHARS|CALLS|ITEMS|TRIES|QUANTITY)$|^MOST_|^EXTENDS")


def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def test_client_imports_only_httpx_and_tenacity() -> None:
    found = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            found |= {name.split(".")[0] for name in names}
    assert found - sys.stdlib_module_names == MAY_IMPORT
    assert {re.split(r"[><=]", one)[0] for one in PROJECT["dependencies"]} == MAY_IMPORT - {"drawdown_client", "httpx2"}


def test_client_version_equals_package_version() -> None:
    assert PROJECT["version"] == calls.VERSION


def test_client_exported_names_exist_and_package_is_typed() -> None:
    assert all(hasattr(drawdown_client, name) for name in drawdown_client.__all__)
    assert (ROOT / "client" / "drawdown_client" / "py.typed").exists()


@cases("path", FILES)
def test_client_modules_have_docstrings(path: Path) -> None:
    assert ast.get_docstring(trees()[path])


def test_client_clock_module_alone_reads_time_and_makes_ids() -> None:
    words = ("time.time", "time.monotonic", "datetime.now", "uuid", "secrets", "os.environ", "os.getenv", "utcnow")
    for path in FILES:
        text = re.sub(r'"[^"\n]*"', "", path.read_text(encoding="utf-8"))
        assert path.name == "clock.py" or [word for word in words if word in text] == [], path.name


def test_client_bounds_are_documented_with_values() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+\.[A-Z_]+)` \| ([0-9,.]+)", PAGE, re.MULTILINE))
    found = {}
    for path, tree in trees().items():
        module = importlib.import_module(f"drawdown_client.{path.stem}")
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and BOUND.search(node.target.id):
                value = getattr(module, node.target.id)
                if node.target.id.isupper() and not node.target.id.startswith("_"):
                    found[f"{path.stem}.{node.target.id}"] = f"{value:,}".removesuffix(".0")
    assert rows == found
