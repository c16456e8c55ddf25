"""A rate for the past, which a person sets while revisions of one window are charged."""

from __future__ import annotations

from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import read, write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.engine.shard import Shard
from drawdown.worker.history.incarnation import present
from drawdown.worker.push.push import charge_due
from drawdown.worker.tick import tick
from drawdown.worker.wallets import actions as credit
from tests.interleave.of_steps import WITHOUT
from tests.interleave.party import Act, Party
from tests.interleave.stage import NOW, Stage

WINDOW: Final = NOW - 2 * WINDOW_MS
AGAIN: Final = "acme-again"


def _sealed_twice(stage: Stage) -> None:
    """Two revisions of a window are due at the embedded ledger, the second a moment later; one for both."""
    if stage.rows("SELECT 1 FROM usage_samples WHERE id = :again", again=AGAIN):
        return
    for sample in ("", AGAIN):
        if sample:
            stage.sample(sample, "acme", WINDOW + 3)
        stage.walk(tick(stage.context(WITHOUT))).until("sweep", stage.engine)
    due = "UPDATE pushes SET due_at_ms = CASE WHEN org_id <> 'acme' OR window_ms <> :window THEN :later "
    due += "ELSE :now - 1 + revision END WHERE provider = 'embedded' AND state = 'due'"
    stage.write(due, window=WINDOW, later=NOW + WINDOW_MS, now=NOW)


def _charge(engine: sa.Engine, now_ms: int) -> None:
    witness = read(engine, present)
    write(engine, partial(charge_due, claim="w0/1", now=now_ms, shard=Shard(), witness=witness))


def _charges_first(stage: Stage) -> Act:
    _sealed_twice(stage)
    return Act(lambda engine: _charge(engine, NOW - 1))


def _sets_rate_and_charges(stage: Stage) -> Act:
    """Another worker charges the second revision at once."""
    _sealed_twice(stage)

    def work(engine: sa.Engine) -> None:
        rate = partial(credit.set_rate, feature="compute_1gb", micro_credits=7, per_quantity=1, by=stage.by)
        write(engine, partial(rate, from_ms=WINDOW))
        _charge(engine, NOW)

    return Act(work)


RATES: Final = (
    Party("charge the first revision", _charges_first),
    Party("cli.declared:run ledger rate for the past, and charge", _sets_rate_and_charges),
)
