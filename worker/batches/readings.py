"""What is known of a watched folder's files before they are read.

Guarantee: a file that ends the process that reads it is read MAX_READINGS times, and then no more; so is one whose
reading takes too long. One that could not be read for another reason is tried again for ever, after all others. A file
that no longer lies there needs nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema.sql import queries
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.batches.files import FoundFile

SQL = queries(__file__)

MAX_READINGS: Final = 3
"""Of one file as it stands, that nobody saw end."""
READING_LEASE_MS: Final = 4 * MINUTE_MS
"""So long a file is left to the tick that began to read it; the next tick comes after it."""
MAX_OPEN_LOOKED_AT: Final = 10_000


def begin_reading(connection: sa.Connection, source: str, file: FoundFile, now_ms: int) -> int | None:
    """Note, before a file is read, that it will be. Returns how many readings of it have begun and not ended, this one
    included; None while another tick reads it."""
    values = {**_its(source, file), "size_bytes": file.size_bytes, "modified_ns": file.modified_ns}
    found = SQL.run(connection, "begin", {**values, "now_ms": now_ms, "lease_ms": READING_LEASE_MS}).scalar()
    return None if found is None else int(found)


def end_reading(
    connection: sa.Connection, source: str, file: FoundFile, said: str, now_ms: int, *, counts: bool = False
) -> None:
    """Note why a file could not be read. Of one of which something became, `take` and `note` say so. `counts`: this
    reading is one of the MAX_READINGS."""
    SQL.run(connection, "end", {**_its(source, file), "said": said, "now_ms": now_ms, "counts": counts})


def new_files(connection: sa.Connection, source: str, found: Sequence[FoundFile]) -> list[tuple[bool, FoundFile]]:
    """Those of a folder's that nothing became of yet, as they stand now; first whether one could not be read before."""
    asked = [{"name": file.name, "size_bytes": file.size_bytes, "modified_ns": file.modified_ns} for file in found]
    rows = SQL.run(connection, "unseen", {"source": source, "found": asked})
    failed = {str(row.name): bool(row.failed) for row in rows}
    return [(failed[file.name], file) for file in found if file.name in failed]


def forget_gone(connection: sa.Connection, source: str, there: Collection[str]) -> None:
    """Of files that a person was to look at, and that no longer lie there, say so: they were looked at."""
    if gone := [{"name": name} for name in left_open(connection, source) if name not in there]:
        SQL.run(connection, "gone", {"source": source, "gone": gone})


def left_open(connection: sa.Connection, source: str) -> list[str]:
    """Files of a source that wait for a person, or for another try: the first ones by name."""
    names = SQL.run(connection, "open", {"source": source, "at_most": MAX_OPEN_LOOKED_AT}).scalars()
    return [str(name) for name in names]


def _its(source: str, file: FoundFile) -> dict[str, object]:
    return {"source": source, "name": file.name, "path": file.place}
