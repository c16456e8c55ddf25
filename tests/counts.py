"""`python -m tests.counts`: how large the house is, by room; what its size is judged by.

Files, lines of Python, those of them that are code (neither blank, nor of a comment or docstring), lines of SQL, files
that one other file alone imports, pieces of SQL with their slots, and the arrows between rooms (how many imports lead
from one room into another).
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
ROOMS: Final = ("cli", "server", "worker", "providers", "guard", "ledger", "events", "schema", "client", "tests")
SLOT: Final = re.compile(r"\{[a-z_]+(?: [^}]*)?\}")
PIECE: Final = re.compile(r"^-- name: ", re.MULTILINE)


def files(room: str, kind: str) -> list[Path]:
    """The files of a room, without what is generated or compiled."""
    return sorted(path for path in (ROOT / room).rglob(f"*.{kind}") if "__pycache__" not in path.parts)


def lines(paths: list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def code_lines(source: str) -> int:
    """Lines of a file without its docstrings, comments and blank lines."""
    texts = {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    numbered = enumerate(source.splitlines(), 1)
    return sum(line.strip()[:1] not in ("", "#") for number, line in numbered if number not in texts)


def module_of(path: Path) -> str:
    return ".".join(("drawdown", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """The names that a file imports from the program: a module, or something in one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("drawdown"):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("drawdown"))


def report() -> Iterator[str]:
    """The counts, a line each."""
    program = {module_of(path): path for room in ROOMS[:-2] for path in files(room, "py")}
    importers: dict[str, set[str]] = defaultdict(set)
    arrows: Counter[tuple[str, str]] = Counter()
    for name, path in program.items():
        for found in {one for one in imports(path) if one in program} - {name}:
            importers[found].add(name)
            arrows[name.split(".")[1], found.split(".")[1]] += name.split(".")[1] != found.split(".")[1]
    single = {name for name, by in importers.items() if len(by) == 1}
    yield _aligned("room", "files", "Python", "code", "SQL", "one importer", "pieces", "slots")
    totals: Counter[str] = Counter()
    for room in ROOMS:
        python, sql = files(room, "py"), files(room, "sql")
        text = "\n".join(path.read_text(encoding="utf-8") for path in sql)
        row = {
            "files": len(python), "python": lines(python),
            "code": sum(code_lines(path.read_text(encoding="utf-8")) for path in python), "sql": lines(sql),
            "single": sum(name.split(".")[1] == room for name in single),
            "pieces": len(PIECE.findall(text)), "slots": len(SLOT.findall(text)),
        }  # fmt: skip
        if room not in ("client", "tests"):
            totals.update(row)
        yield _row(room, row)
    yield _row("program", totals)
    yield "imports from one room into another:"
    for (there, here), count in sorted(arrows.items()):
        if count:
            yield f"  {there} -> {here}: {count:,}"


def _row(name: str, row: dict[str, int] | Counter[str]) -> str:
    return _aligned(name, *(f"{row[key]:,}" for key in ("files", "python", "code", "sql", "single", "pieces", "slots")))


def _aligned(name: str, *cells: str) -> str:
    widths = (6, 8, 8, 7, 13, 7, 6)
    return " ".join([f"{name:10}", *(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))])


if __name__ == "__main__":
    print(*report(), sep="\n")
