"""The content of a migrated, empty SQLite database, kept from one run of tests to the next: to migrate takes a second.

Guarantee: it is what the present migrations make. The file is named by a digest of all that `schema/` holds.
"""

from __future__ import annotations

import os
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from drawdown.schema.database import connect
from drawdown.schema.migrate import upgrade

ROOT: Final = Path(__file__).resolve().parents[1]
KEPT: Final = ROOT / "build" / "tests"
SOURCES: Final = (".py", ".sql", ".mako")


@cache
def content() -> bytes:
    """Read it, or make it first."""
    file = KEPT / f"{_digest()}.sqlite"
    if not file.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}")
        new.write_bytes(_migrated())
        new.replace(file)  # whole, whoever else makes it now
    return file.read_bytes()


def _migrated() -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "drawdown.db"
        engine = connect(f"sqlite:///{file}")
        upgrade(engine)
        engine.dispose()
        return file.read_bytes()


def _digest() -> str:
    found = sha256(Path(__file__).read_bytes())
    for path in sorted((ROOT / "schema").rglob("*")):
        if path.suffix in SOURCES:
            found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:20]
