"""The rooms of the worker import one another as this table says: no arrow runs back, and there is no circle."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

from tests.sources import tree_of

ROOT: Final = Path(__file__).resolve().parents[2]
WORKER: Final = ROOT / "worker"
ROOMS: Final = sorted(path.name for path in WORKER.iterdir() if (path / "__init__.py").exists())

MAY_IMPORT: Final[dict[str, set[str]]] = {
    "engine": set(),
    "catalog": {"engine"},
    "history": {"engine", "catalog"},
    "sources": set(),
    "cluster": set(),
    "verify": set(),
    "halts": {"engine"},
    "hooks": {"engine", "halts"},
    "verdict": {"engine", "catalog"},
    "seal": {"engine", "history", "catalog"},
    "push": {"engine", "history", "catalog", "verdict"},
    "topup": {"engine", "history", "catalog", "verdict"},
    "reconcile": {"engine", "history", "catalog", "verdict", "push"},
    "usage": {"engine", "history", "catalog", "sources", "verdict", "push"},
    "batches": {"engine", "history", "sources", "push", "usage"},
    "provider": {"engine", "history", "catalog", "sources", "verdict", "push"},
    "parity": {"engine", "sources"},
    "wallets": {"catalog", "verdict", "topup"},
    "settlements": {"history"},
    "orgs": {"engine", "catalog", "halts", "verdict", "seal"},
    "features": {"history", "catalog", "sources", "verdict", "wallets", "orgs"},
    "executions": {"catalog", "sources", "verdict"},
    "access": set(),
    "guard": {"catalog", "sources", "orgs", "executions", "access"},
    "status": {
        "engine",
        "history",
        "catalog",
        "sources",
        "cluster",
        "halts",
        "hooks",
        "verdict",
        "seal",
        "push",
        "topup",
        "reconcile",
        "batches",
        "usage",
        "provider",
    },
    "replay": {"engine", "history", "catalog", "verdict", "seal", "push", "status"},
    "jobs": {"engine", "history", "topup", "reconcile", "provider", "orgs", "replay"},
    "checks": {"verify", "seal", "provider", "wallets", "guard"},
    "watch": {"engine", "history", "halts", "hooks", "verdict", "seal", "topup"},
    "tick": {
        "engine",
        "history",
        "catalog",
        "halts",
        "hooks",
        "verdict",
        "seal",
        "push",
        "topup",
        "batches",
        "status",
        "jobs",
        "sources",
    },
}
"""Each room, the lowest first, and those below it that it may use. `tick` alone orders the steps."""

LEDGER: Final = {
    "catalog",
    "executions",
    "guard",
    "hooks",
    "push",
    "settlements",
    "status",
    "topup",
    "usage",
    "verdict",
    "wallets",
}
"""Rooms that may know of the ledger: others meet it as a provider."""


def room_of(path: Path) -> str:
    return path.relative_to(WORKER).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The modules a file imports, dotted, without `drawdown.`."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("drawdown."):
            found |= {f"{node.module}.{alias.name}".removeprefix("drawdown.") for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("drawdown.") for alias in node.names if alias.name.startswith("drawdown.")
            }
    return found


FILES: Final = sorted(path for path in WORKER.rglob("*.py") if path != WORKER / "__init__.py")


@pytest.fixture(scope="module")
def imported() -> dict[Path, set[str]]:
    """What each file imports, its own room's modules too."""
    return {path: imports(path) for path in FILES}


def arrows(path: Path, imported: dict[Path, set[str]]) -> set[str]:
    """The other rooms that a file uses."""
    return {name.split(".")[1] for name in imported[path] if name.startswith("worker.")} - {room_of(path)}


def test_package_table_lists_each_package_in_order() -> None:
    assert set(MAY_IMPORT) == {*ROOMS, "tick", "watch"}
    above: set[str] = set()
    for room, below in MAY_IMPORT.items():
        assert below <= above, f"{room} may import a room that stands above it: there would be a circle"
        above.add(room)


def test_file_imports_only_packages_the_table_allows(imported: dict[Path, set[str]]) -> None:
    above = {str(path.relative_to(ROOT)): arrows(path, imported) - MAY_IMPORT[room_of(path)] for path in FILES}
    assert {place: rooms for place, rooms in above.items() if rooms} == {}
    of_ledger = [path for path in FILES if any(name.startswith("ledger.") for name in imported[path])]
    assert [str(path.relative_to(ROOT)) for path in of_ledger if room_of(path) not in LEDGER] == []


def test_package_table_allows_only_used_imports(imported: dict[Path, set[str]]) -> None:
    used: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for path in FILES:
        used[room_of(path)] |= arrows(path, imported)
    assert {room: below - used[room] for room, below in MAY_IMPORT.items() if below - used[room]} == {}


def test_verify_package_imports_only_schema_and_worker(imported: dict[Path, set[str]]) -> None:
    used = {name.split(".")[0] for path in FILES if room_of(path) == "verify" for name in imported[path]}
    assert used <= {"schema", "worker"}
