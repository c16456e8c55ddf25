"""What the pages of money show: a supplier's run, a top-up in doubt, a pool, a payer, tiers, what was compared."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from drawdown.ledger.draws import Cost
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.checks import checks
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.provider.vendors import BillFile, BillLine, Units, import_bills, set_units
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements.actions import Change
from drawdown.worker.topup import actions as topups
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools, tiers
from tests.fake_payments import CAN
from tests.world import T0, Fleet

ROWS: Final = (
    "INSERT INTO payers (payer, org_id, number, allowed, limit_micro, since_ms, at_ms, actor, reason) "
    "VALUES (:other, 'acme', 1, TRUE, 7000000, 0, 0, 'a', :other)",
    "INSERT INTO topups (topup, customer_id, episode, credits_micro, money_minor, price_minor, currency, service, "
    "service_customer, max_day, max_month, at_ms, begun_ms, state, due_at_ms, attempts, answer, evidence) "
    "VALUES ('topup:acme:1', 'acme', 1, 20000000, 2000, 100, 'usd', 'stripe', 'cus_1', 3, 20, :now, :now, 'in_doubt', "
    ":now, 1, 'unknown', :other)",
    "INSERT INTO topup_attempts (topup, attempt, started_ms, owner) VALUES ('topup:acme:1', 1, :now, 'w')",
    "INSERT INTO reconciliations (day_ms, org_id, provider, customer_id, feature, ours_qty, theirs_qty, verdict, "
    "at_ms) VALUES (:day, 'acme', 'embedded', 'acme', 'compute_1gb', 5, 5, 'equal', :now), "
    "(:day, :other, 'embedded', :other, 'compute_1gb', 5, 3, 'short', :now)",
    "INSERT INTO balance_marks (provider, customer_id, feature, since_ms, apart_qty, at_ms, org_id, told_qty, told_ms) "
    "VALUES ('autumn', 'acme', 'compute_1gb', 0, 5, :now, 'acme', 5, :now)",
    "INSERT INTO parity_checks (day_ms, cell_id, org_id, ours_s, theirs_s, withdrawn_s, off_s, ppm, verdict, at_ms) "
    "VALUES (:day, 'cell-1', '', 9, 8, 0, 1, 111112, 'compared', :now), "
    "(:day, 'cell-1', :other, 9, NULL, 0, NULL, NULL, 'only_here', :now)",
)


def fill(fleet: Fleet, other: str) -> None:
    """`other`: the hostile id of a customer there is."""
    by, now = fleet.by, fleet.clock.at_ms
    supplier = Change(share_ppm=500_000, hold_ms=0, threshold_micro=0, takes_clawbacks=True)
    terms = topups.Terms(5 * MICRO, 20 * MICRO, None, 100, "usd", "stripe", "cus_1", 10_000)
    units = Units("aws", "vm", "hour", 1, MICRO, 1, "USD")
    bills = BillFile("f" * 64, [BillLine("aws", "vm", now - now % DAY_MS - DAY_MS, "USD", 9 * MICRO, False)])

    def work(c: sa.Connection) -> None:
        settlements.set_supplier(c, "pixel", supplier, by, new=True)
        executions.accept(c, "run-2", Request("acme", 2 * MICRO, supplier="pixel"), by)
        executions.settle(c, "run-2", Cost(2 * MICRO), by)
        settlements.freeze(c, "run-2", by)
        pools.make(c, "pool", by)
        credit.grant(c, "pool", 9 * MICRO, by, key="p", plan=None)
        pools.allot(c, "pool", "acme", MICRO, now + 30 * DAY_MS, by, key="a")
        tiers.set_tier(c, "pro", tiers.Change(100, MICRO), by)
        topups.set_terms(c, "acme", terms, CAN, by)
        set_units(c, "compute_1gb", units, T0, by, new=False)
        import_bills(c, bills, by)
        checks.check_spenders(c, now)
        for row in ROWS:
            found = sa.text(row)
            c.execute(found, {"other": other, "now": now, "day": now - now % DAY_MS - DAY_MS})

    write(fleet.engine, work)
