"""The files of watched folders that are left to people, and a tick's results. Reads only.

It imports nothing that reads files: `status` and each tick import this.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa

from drawdown.schema.sql import Part, queries, together

SQL = queries(__file__)


@dataclass(frozen=True)
class FilesLeft:
    """Files that were refused, or are in conflict, and lie there still; and those that each tick fails to read. Since
    when the oldest does."""

    refused: int
    conflicts: int
    failing: int
    since_ms: int | None


def files_part() -> Part:
    """Return the query of the files of all watched folders."""
    return SQL.part("files_left")


def files_left(connection: sa.Connection) -> FilesLeft:
    """The same, read alone."""
    (row,) = together(connection, files=files_part())["files"]
    return FilesLeft(**vars(row))


@dataclass
class BatchesDone:
    """Files that this tick took, and in words those that it could not; `wait`: some are left for the next one."""

    taken: int = 0
    wait: bool = False
    problems: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
