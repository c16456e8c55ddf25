"""What suppliers are owed: terms, freezes, reversals, a payout, and a run that ends meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.draws import Cost
from drawdown.ledger.payouts import period_of
from drawdown.schema.audit import By
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS
from drawdown.server.api.declared import carry_out
from drawdown.server.api.programs import Caller
from drawdown.server.declarations import ACTIONS
from drawdown.worker.access.idempotency import Call
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements.actions import SCOPE, Change
from drawdown.worker.wallets import actions as credit
from tests.interleave.party import plain
from tests.interleave.stage import NOW, Stage

STUDIO: Final = "studio"
"""A customer whose runs are pixel's: one was released last month, two are eligible, one goes on; and one of
atelier's, which is eligible, too."""
MONTH: Final = period_of(NOW)


def begin(stage: Stage) -> None:
    """What every case finds."""
    before = By(NOW - 32 * DAY_MS, "somebody", "explored")

    def work(connection: sa.Connection) -> None:
        credit.grant(connection, STUDIO, 1_000, before, key=STUDIO, plan=None, new=True)
        change = Change(share_ppm=500_000, hold_ms=0, threshold_micro=0, takes_clawbacks=True)
        settlements.set_supplier(connection, "pixel", change, before, new=True)
        for key, by in (("paid", before), ("made-1", stage.by), ("made-2", stage.by), ("making", stage.by)):
            executions.accept(connection, key, Request(STUDIO, 20, supplier="pixel"), by)
            if key != "making":
                executions.settle(connection, key, Cost(20), by)
            if key == "paid":
                settlements.make_payout(connection, "pixel", period_of(before.now_ms), by)
        settlements.reverse(connection, "paid", "first", 1, before)
        settlements.set_supplier(connection, "atelier", change, before, new=True)
        executions.accept(connection, "sewn", Request(STUDIO, 20, supplier="atelier"), stage.by)
        executions.settle(connection, "sewn", Cost(20), stage.by)

    write(stage.engine, work)


def _called(stage: Stage, connection: sa.Connection) -> object:
    """As a program has it done, by one Idempotency-Key, whichever of two calls comes first."""
    said = Caller(ApiKey("finance", (SCOPE,), None), NOW)
    order = SimpleNamespace(reason="explored", dry_run=False)
    call = Call(said.key.actor, "t-3", "settlement reverse", "made-1")
    return carry_out(
        connection, ACTIONS["settlement reverse"], said, {"execution": "made-1", "amount_micro": 1}, order, call
    )


def _called_once(stage: Stage) -> Iterator[str]:
    for (times,) in stage.rows("SELECT COUNT(*) FROM settlement_reversals WHERE reversal = 't-3'"):
        if times > 1:
            yield f"one Idempotency-Key took {times} parts back"


SUPPLIERS: Final = (
    plain("cli.nouns.executions:settle pixel's", lambda s, c: executions.settle(c, "making", Cost(20), s.by)),
    plain(
        "cli.declared:run supplier set", lambda s, c: settlements.set_supplier(c, "pixel", Change(share_ppm=1), s.by)
    ),
    plain(
        "cli.declared:run supplier set new",
        lambda s, c: settlements.set_supplier(c, "another", Change(share_ppm=1), s.by, new=True),
    ),
    plain("cli.declared:run supplier freeze", lambda s, c: settlements.freeze_supplier(c, "pixel", s.by)),
    plain("cli.declared:run settlement freeze", lambda s, c: settlements.freeze(c, "made-1", s.by)),
    plain("cli.declared:run settlement reverse", lambda s, c: settlements.reverse(c, "made-1", "t-1", 3, s.by)),
    plain(
        "cli.declared:run settlement reverse another's under the same key",
        lambda s, c: settlements.reverse(c, "sewn", "t-1", 3, s.by),
    ),
    plain("cli.declared:run settlement reverse paid", lambda s, c: settlements.reverse(c, "paid", "t-2", None, s.by)),
    plain("server.api.declared:_acting settlement reverse", _called, _called_once),
    plain("cli.declared:run settlement payout", lambda s, c: settlements.make_payout(c, "pixel", MONTH, s.by)),
)
