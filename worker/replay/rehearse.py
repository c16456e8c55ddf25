"""A replay's dry run for somebody who waits for a page.

Guarantee: it is the dry run of `drawdown replay`, transaction by transaction, each of them undone; it ends between two
of them once the time of its context is up, and then says that it came to no end.
"""

from __future__ import annotations

from typing import Any

from drawdown.schema.audit import By
from drawdown.schema.database import Transact
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Transaction
from drawdown.worker.replay.plan import ReplayPlan
from drawdown.worker.replay.replay import SHOWN, Replayed, replay


def rehearse(transact: Transact, context: Context, plan: ReplayPlan, by: By) -> Replayed:
    """What a replay would find; nothing but transactions is asked for by a dry run. Errors: those of the database."""
    steps = replay(context, plan, by, dry_run=True, most=SHOWN)
    answer: Any = None
    failure: Exception | None = None
    while True:
        try:
            effect = steps.send(answer) if failure is None else steps.throw(failure)
        except StopIteration as stop:
            found: Replayed = stop.value
            return found
        assert isinstance(effect, Transaction), effect
        answer, failure = None, None
        try:
            answer = transact(effect.work, rollback=True)
        except Exception as error:  # handed to the replay, which decides
            failure = error
