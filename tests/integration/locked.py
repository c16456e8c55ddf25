"""Who writes what a seal reads, and whether rule S1's lock was held.

Guarantee: PostgreSQL itself is asked, on the writing connection right before the statement: a row locked for update, or
written, by the present transaction bears its number.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final

import sqlalchemy as sa

from drawdown import worker
from drawdown.schema.sql import _pieces
from tests.sources import tree_of

ROOT: Final = Path(__file__).resolve().parents[2]
LAYERS: Final = ("ledger", "providers", "worker", "server", "cli")
WORKER: Final = str(Path(str(worker.__file__)).parent)
TABLES: Final = (
    "dirty_windows",
    "pending_usage",
    "assignments",
    "mappings",
    "withdrawals",
    "voids",
    "carries",
    "pools",
)
"""What a seal adds up, or goes by, apart from samples and new pushes."""
ORGS: Final = ("stopped_at_ms", "held_watermark_ms", "floor_ms")
TERMS: Final = "terms"

_WRITES: Final = re.compile(
    rf"\b(?:INSERT INTO|UPDATE|DELETE FROM) ({'|'.join(TABLES)})\b|\bINSERT INTO (pushes)\b"
    rf"|\bUPDATE (orgs) SET (?:(?! WHERE ).)*?\b(?:{'|'.join(ORGS)}) ="
    rf"|\b(?:INSERT INTO|UPDATE) (provider_states)\b[^)]*?\b{TERMS}\b"
)
LOCKED: Final = """
SELECT COUNT(*) FROM buckets, (SELECT pg_current_xact_id()::text::bigint % 4294967296 AS number) mine
WHERE mine.number IN (buckets.xmin::text::bigint, buckets.xmax::text::bigint)
"""


def written(text: str) -> set[str]:
    """The guarded tables that a statement writes."""
    return {name for found in _WRITES.findall(" ".join(text.split())) for name in found if name}


def require_lock(engine: sa.Engine) -> None:
    """From now on, whatever Drawdown writes to a guarded table on PostgreSQL, it writes under the lock. SQLite has one
    writer at a time; what a test writes by itself is its own affair."""

    def look(_c: object, cursor: Any, text: str, _values: object, _x: object, _many: bool) -> None:
        if written(text) and _by_drawdown():
            held = cursor.connection.cursor().execute(LOCKED).fetchone()[0]
            assert held, f"written without the lock of a bucket: {' '.join(text.split())[:200]}"

    if engine.dialect.name == "postgresql":
        sa.event.listen(engine, "before_cursor_execute", look)


def _by_drawdown() -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(WORKER):
        frame = frame.f_back
    return frame is not None


def writers() -> dict[str, set[str]]:
    """Each piece of a `.sql` file, and each function or constant of a module, that holds such a statement:
    `room.file.name`, and what it writes."""
    found: dict[str, set[str]] = {}
    pieces = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.sql"))]
    own = [path for path in (ROOT / "schema").glob("*.sql") if not path.name.startswith("by_hand")]
    for path in (*pieces, *own):
        for (name, _), text in _pieces(path).items():
            if tables := written(text):
                found.setdefault(f"{path.parent.name}.{path.stem}.{name}", set()).update(tables)
    files = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
    for path in (*files, ROOT / "schema" / "locks.py"):
        for node in tree_of(path).body:
            tables = _written_in(node)
            if tables:
                found[f"{path.parent.name}.{path.stem}.{_name(node)}"] = tables
    return found


def _written_in(node: ast.AST) -> set[str]:
    tables: set[str] = set()
    for one in ast.walk(node):
        match one:
            case ast.Constant(value=str(text)):
                tables |= written(text)
            case ast.JoinedStr():
                tables |= written(ast.unparse(one))
            case ast.Call(func=ast.Attribute(value=ast.Name(id=table), attr="insert" | "update" | "delete")):
                tables |= {table} & {*TABLES, "pushes"}
    return tables


def _name(node: ast.AST) -> str:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name), *_]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return "?"
