"""Withdrawing a batch: what it put in no longer counts.

Guarantee: nothing is edited (S7). Each of its samples gets a withdrawal of its own, all in one transaction, and the
next tick gives back what was billed for them. What lies below a floor by then is closed for good, and stays. A
withdrawn batch is never taken again; its name is free for what is right: also for a file that was in conflict with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import Refused
from drawdown.schema.locks import lock_buckets, make_windows_dirty
from drawdown.schema.sql import queries
from drawdown.worker.batches.take import ids_of
from drawdown.worker.history.incarnation import require_whole
from drawdown.worker.history.losses import read_losses

SQL = queries(__file__)


@dataclass(frozen=True)
class WithdrawnBatch:
    """`samples` no longer count; `closed` are below their organisation's floor, and stay billed. `already`: it had been
    withdrawn before."""

    batch: str
    samples: int
    closed: int
    already: bool


def withdraw_batch(connection: sa.Connection, batch: str, by: By) -> WithdrawnBatch:
    """Declare all of a batch wrong.

    Errors: UnknownId; Refused for one of windows that were not sealed since history was lost; HistoryDoubted while the
    database stands still.
    """
    lock_buckets(connection)
    require_whole(connection)
    row = SQL.run(connection, "standing", {"batch": batch}).one_or_none()
    if row is None:
        ids.require(connection, ids.BATCH, batch)
        raise Refused(f"the batch {batch} appeared this moment: try again")
    if row.withdrawn_ms is not None:
        return WithdrawnBatch(batch, 0, 0, already=True)
    its = ids_of(batch)
    until = max((loss.until_ms for loss in read_losses(connection)), default=0)
    if until and SQL.run(connection, "unsealed", {**its, "until_ms": until}).first():
        # Without a push of ours its provider would never be asked, and may have billed it (R1).
        raise Refused(f"{batch} has usage in the time whose history was lost: withdraw it after the next tick")
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    samples = SQL.run(connection, "withdraw", {**its, **person}).rowcount
    closed = int(SQL.run(connection, "count_closed", its).scalar_one())
    SQL.run(connection, "mark_withdrawn", {"batch": batch, "now_ms": by.now_ms})
    SQL.run(connection, "look_again", {"batch": batch})  # after the mark: whoever notes a conflict holds the batch
    make_windows_dirty(connection, SQL, "windows_of_batch", its)
    record(connection, "batch_withdraw", batch, {"name": row.name, "samples": samples, "closed": closed}, by)
    return WithdrawnBatch(batch, samples, closed, already=False)
