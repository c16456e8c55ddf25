"""What a file has in common with batches that were taken before.

Guarantee: rows are known by their content, however their file is written. A file of the same rows is the same batch.
A file that shares rows with another batch waits until a person accepts it: rows without ids do not say whether they are
the same use. Up to MAX_ROWS_KEPT rows of each batch are kept, by their hashes; of a larger one, those
with the smallest hashes, and what a file shares with it is at least what is found.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import Refused
from drawdown.schema.sql import queries
from drawdown.schema.text import clean
from drawdown.worker.batches.reading import MAX_ROWS_KEPT, MAX_SAID_CHARS, Shared, Sums

SQL = queries(__file__)

MAX_BATCHES_COMPARED: Final = 500
"""With one file: the newest of its time."""
_SHOWN: Final = 3


@dataclass(frozen=True)
class Overlap:
    """`rows` of a file are in other batches, too; `said`: in which, and what they come to."""

    rows: int
    said: str


@dataclass(frozen=True)
class SameRows:
    """The batch that has the same rows."""

    batch: str
    name: str
    is_withdrawn: bool


def same_rows(connection: sa.Connection, sums: Sums) -> SameRows | None:
    """The batch of another content that has the same rows as a file."""
    if sums.rows_hash is None:
        return None
    found = SQL.run(connection, "same_rows", {"rows_hash": sums.rows_hash}).one_or_none()
    return None if found is None else SameRows(found.batch, found.name, found.withdrawn_ms is not None)


def is_accepted(connection: sa.Connection, batch: str) -> bool:
    """Whether a person had it billed, whatever it shares with others."""
    return SQL.run(connection, "accepted", {"batch": batch}).first() is not None


def overlap(connection: sa.Connection, sums: Sums, seen: set[str]) -> Overlap | None:
    """What a file shares with batches that stand, but for those that were `seen`, which gains them."""
    if sums.rows_hash is None:
        return None
    its = {"batch": sums.batch, "from_ms": sums.from_ms, "to_ms": sums.to_ms, "row_count": sums.rows}
    more = {"samples": sums.samples, "total": sums.total, "at_most": MAX_BATCHES_COMPARED}
    near = [row for row in SQL.run(connection, "near", {**its, **more}) if row.batch not in seen]
    seen.update(str(row.batch) for row in near)
    names = {str(row.batch): str(row.name) for row in near}
    for row in near:
        if row.is_unknown:
            said = f"it has the total of {row.name}, and no record of the rows of {row.name} was kept"
            return Overlap(sums.rows, said)
    found = sums.shared([(str(row.batch), str(row.row_labels), str(row.rows_kept)) for row in near])
    is_exact = sums.is_whole and all(row.row_count <= MAX_ROWS_KEPT for row in near)
    return _said(sums, found, names, is_exact=is_exact)


def _said(sums: Sums, found: Collection[Shared], names: dict[str, str], *, is_exact: bool) -> Overlap | None:
    if not found:
        return None
    by_use: dict[tuple[str, str], int] = {}
    by_batch: dict[str, int] = {}
    for batch, org_id, kind, rows, quantity in found:
        by_use[org_id, kind] = by_use.get((org_id, kind), 0) + quantity
        by_batch[batch] = by_batch.get(batch, 0) + rows
    first, *others = sorted(by_batch, key=lambda batch: (-by_batch[batch], batch))
    uses = sorted(by_use, key=lambda use: (-by_use[use], use))
    shown = [_amount(sums, *use, by_use[use]) for use in uses[:_SHOWN]]
    if len(uses) > _SHOWN:
        shown.append(f"and {len(uses) - _SHOWN:,} more")
    rows = sum(by_batch.values())
    about = "" if is_exact else "at least "
    where = names[first] + (f" and {len(others):,} more batches" if others else "")
    return Overlap(rows, f"{about}{rows:,} of its {sums.rows:,} rows were taken before, in {where}: {', '.join(shown)}")


def _amount(sums: Sums, org_id: str, kind: str, quantity: int) -> str:
    of = f"units of {kind}" if sums.of_events else f"s of {kind} MB"
    return clean(f"{quantity:,} {of} for {org_id}")[:MAX_SAID_CHARS]


def accept(connection: sa.Connection, batch: str, by: By) -> int:
    """Have a file billed whole that shares rows with others; the next tick takes it, or `batch take`. Returns how many
    places it lies at. Errors: UnknownId; Refused where none waits for it."""
    ids.require(connection, ids.SHARING_BATCH, batch)
    files = SQL.run(connection, "accept", {"batch": batch, "now_ms": by.now_ms}).rowcount
    if not files:
        raise Refused(f"no file of the content {batch!r} waits to be accepted. List what waits: `drawdown batch list`")
    record(connection, "batch_accept", batch, {"files": files}, by)
    return files
