"""The files of watched folders that wait for a person, and a tick's results.

Reads only.

This module does not import readers of files, because `status` and each tick import it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa

from drawdown.schema.sql import Part, queries, read_together

SQL = queries(__file__)


@dataclass(frozen=True)
class FilesLeft:
    """Numbers of files that wait in watched folders for a person or a retry.

    `refused`, `conflicts`: by outcome. `failing`: files that each tick fails to read. `since_ms`: the time of the
    oldest such outcome (None: the three numbers are 0).
    """

    refused: int
    conflicts: int
    failing: int
    since_ms: int | None


def files_part() -> Part:
    """Return the query of the files of all watched folders."""
    return SQL.part("files_left")


def files_left(connection: sa.Connection) -> FilesLeft:
    """Return the numbers of files that wait, in one read."""
    (row,) = read_together(connection, files=files_part())["files"]
    return FilesLeft(**vars(row))


@dataclass
class BatchesDone:
    """The result of one tick, with the number of files that it took.

    `problems`: texts about files that it did not take. `failures`: texts about sources that it could not read. `wait`:
    some files wait for the next tick.
    """

    taken: int = 0
    wait: bool = False
    problems: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
