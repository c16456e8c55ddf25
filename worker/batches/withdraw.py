"""Withdrawing a batch: what it put in no longer counts.

Guarantee: nothing is edited (S7). Each of its samples gets a withdrawal of its own, and the next tick gives back what
was billed for them. It goes portion by portion, for each holds S1's lock; the batch stands until the last one is done,
so that its content and its name are taken by nobody meanwhile, and whoever was cut off begins again. What lies below a
floor by then is closed for good, and stays. A withdrawn batch is never taken again; its name is free for what is right,
also for a file that was in conflict with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.audit import By, record
from drawdown.schema.errors import Refused
from drawdown.schema.locks import lock_buckets, make_windows_dirty
from drawdown.schema.sql import queries
from drawdown.worker.batches.take import ids_of
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.incarnation import present, require_same
from drawdown.worker.history.losses import read_losses
from drawdown.worker.push.void import void_rejected

SQL = queries(__file__)

WITHDRAWN_AT_ONCE: Final = 5_000


@dataclass(frozen=True)
class WithdrawnBatch:
    """`samples` no longer count; `closed` are below their organisation's floor: what was billed of them stays billed.
    `already`: it had been withdrawn before."""

    batch: str
    samples: int
    closed: int
    already: bool


def withdraw_some(
    connection: sa.Connection,
    batch: str,
    by: By,
    after: str,
    at_most: int = WITHDRAWN_AT_ONCE,
    judged: Witness | None = None,
) -> str | WithdrawnBatch:
    """Withdraw a portion of a batch, those behind the sample `after` (at first ''). Returns the last of them, or what
    became of the batch once no more are left. `judged`: by `judge_batch`, before the first portion.

    Errors: UnknownId; Refused for one of windows that were not sealed since history was lost; HistoryDoubted while the
    database stands still, or where it is not the one that was judged.
    """
    lock_buckets(connection)
    require_same(connection, judged)
    row = SQL.run(connection, "standing", {"batch": batch}).one_or_none()
    if row is None:
        ids.require(connection, ids.BATCH, batch)
        raise Refused(f"the batch {batch} appeared this moment: try again")
    if row.withdrawn_ms is not None:
        return WithdrawnBatch(batch, 0, 0, already=True)
    its = ids_of(batch)
    after = max(after, its["first_id"])
    portion = SQL.run(connection, "portion", {**its, "after": after, "at_most": at_most}).one()
    if portion.samples:
        its_own = {"after": after, "last": str(portion.last)}
        if judged is None:
            _require_sealed(connection, batch, its_own)
        _withdraw(connection, its_own, by)
    if portion.samples == at_most:
        return str(portion.last)
    samples = int(SQL.run(connection, "count_withdrawn", its).scalar_one())
    done = WithdrawnBatch(batch, samples, int(row.samples) - samples, already=False)
    SQL.run(connection, "mark_withdrawn", {"batch": batch, "now_ms": by.now_ms})
    SQL.run(connection, "look_again", {"batch": batch})  # after the mark: whoever notes a conflict holds the batch
    record(connection, "batch_withdraw", batch, {"name": row.name, "samples": samples, "closed": done.closed}, by)
    return done


def judge_batch(connection: sa.Connection, batch: str) -> Witness:
    """See to it that all of a batch was sealed since history was lost, before its first portion is withdrawn: each
    portion makes its windows dirty, by which the next one could not be told from what was not sealed.

    Errors: Refused where some of it was not; HistoryDoubted while the database stands still.
    """
    found, its = present(connection), ids_of(batch)
    _require_sealed(connection, batch, {"after": its["first_id"], "last": its["beyond_id"]})
    return found


def _require_sealed(connection: sa.Connection, batch: str, portion: dict[str, str]) -> None:
    until = max((loss.until_ms for loss in read_losses(connection)), default=0)
    if until and SQL.run(connection, "unsealed", {**portion, "until_ms": until}).first():
        # Without a push of ours its provider would never be asked, and may have billed it (R1).
        went = int(SQL.run(connection, "count_withdrawn", ids_of(batch)).scalar_one())
        raise Refused(
            f"{batch} has usage in the time whose history was lost, and it was not sealed since: {went:,} samples are "
            "withdrawn; give the same command after the next tick, or once what waits of its windows is "
            "settled"
        )


def _withdraw(connection: sa.Connection, portion: dict[str, str], by: By) -> None:
    person = {"at_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    SQL.run(connection, "withdraw", {**portion, **person})
    void_rejected(connection, SQL.run(connection, "windows", portion).all(), by)
    make_windows_dirty(connection, SQL, "windows_of_portion", portion)
