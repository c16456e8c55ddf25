"""The month's first moment: what things cost, plans, who bills whom, the cells, and the credit to begin with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from drawdown.cli.demo.cast import HOSTILE, MEMBERS
from drawdown.cli.demo.services import DECLINED_CARD, PRICES_MICRO, feature_of
from drawdown.cli.demo.stage import Stage
from drawdown.guard.decide import BLOCK_ALL, WARN
from drawdown.schema.audit import By
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.executions import permission as run_blocks
from drawdown.worker.features import actions as features
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import ANY_PLAN, PlanLimit
from drawdown.worker.halts import cells
from drawdown.worker.orgs import assignments
from drawdown.worker.provider import actions, vendors
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.topup import actions as topups
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools, tiers

PLANS: Final[Mapping[str, tuple[int, Mapping[str, int]]]] = {
    "hobby": (5, {"included_micro": 5 * MICRO}),
    "starter": (10, {}),
    "team": (20, {"included_micro": 50 * MICRO, "rollover_min_micro": MICRO, "rollover_max_micro": 20 * MICRO}),
    "pro": (100, {"included_micro": 100 * MICRO}),
}
CREDIT: Final[Mapping[str, int]] = {
    "acme": 300,
    "globex": 150,
    "initech": 120,
    "hooli": 300,
    "umbrella": 1050,
    "vandelay": 245,
    "piedpiper": 6,
    HOSTILE: 70,
}
"""In credits, paid for by a first invoice."""
TOKENS, RENDERS = "tokens", "render_minutes"
BILLED_MB: Final = 4096
VM_HOUR_MICRO: Final = 310_000
"""What an hour of that size costs at the vendor, in millionths of a dollar."""
SUPPLIER: Final = "northwind-renders"


def open_business(stage: Stage, connection: sa.Connection, by: By) -> None:
    """All of it, in one transaction."""
    features.install_defaults(connection, by)
    _what_things_cost(connection, by)
    for plan, (at_once, gives) in PLANS.items():
        credit.set_plan_limit(connection, plan, at_once, by, gives=gives)
    for cell in stage.cells:
        cells.set_cell(connection, cell.cell_id, cell.url, by, new=True)
    for member in MEMBERS:
        if member.provider:
            assignments.assign(
                connection, [member.org_id], member.provider, by, customer_id=member.customer_id, from_ms=by.now_ms
            )
        if member.org_id in CREDIT:
            amount = CREDIT[member.org_id] * MICRO
            key = f"invoice-{member.org_id}-1"
            credit.grant(connection, member.org_id, amount, by, key=key, plan=member.plan)
        if not member.since:
            stage.start(connection, member)
    assignments.assign(connection, ["oldcorp"], "legacy", by, from_ms=by.now_ms)
    _who_sells(stage, connection, by)
    _what_is_allowed(connection, by)


def _what_things_cost(connection: sa.Connection, by: By) -> None:
    features.map_event(connection, "llm.completion", TOKENS, by, from_ms=by.now_ms)
    features.map_event(connection, "render.finished", RENDERS, by, from_ms=by.now_ms)
    credit.set_rate(connection, TOKENS, 2, 1, by, from_ms=None)
    credit.set_rate(connection, RENDERS, 40_000, 1, by, from_ms=None)
    for size, price in PRICES_MICRO.items():
        actions.set_rate(connection, "autumn", feature_of(size), (price, 1), by, from_ms=None)
    cost = vendors.Units("cloudhost", "vm", "vm-hour", 1, VM_HOUR_MICRO, 3_600, "USD")
    vendors.set_units(connection, feature_of(BILLED_MB), cost, by.now_ms - by.now_ms % DAY_MS, by, new=True)
    tiers.set_tier(connection, "plus", tiers.Change(at_once=60, price_micro=10 * MICRO), by)


def _who_sells(stage: Stage, connection: sa.Connection, by: By) -> None:
    terms = settlements.Change(share_ppm=300_000, hold_ms=7 * DAY_MS, threshold_micro=2 * MICRO, takes_clawbacks=True)
    settlements.set_supplier(connection, SUPPLIER, terms, by, new=True)
    pools.make(connection, "incubator", by)
    credit.grant(connection, "incubator", 200 * MICRO, by, key="incubator-1", plan=None)
    assert stage.app.card is not None
    can = stage.app.card.capabilities
    topups.set_terms(connection, "globex", _filled(20, 50, "cus_Globex77"), can, by)
    topups.set_terms(connection, "piedpiper", _filled(12, 25, DECLINED_CARD), can, by)


def _filled(below: int, by_credits: int, customer: str) -> topups.Terms:
    return topups.Terms(
        threshold_micro=below * MICRO,
        amount_micro=by_credits * MICRO,
        fill_to_micro=None,
        price_minor=80,
        currency="usd",
        service="stripe",
        service_customer=customer,
        most_minor=50_000,
    )


def _what_is_allowed(connection: sa.Connection, by: By) -> None:
    builds = guard_terms.Change(price_micro=50_000, per_units=1, phase=BLOCK_ALL)
    guard_terms.set_metric(connection, "builds", builds, by)
    guard_terms.set_metric(connection, "exports", guard_terms.Change(phase=WARN), by)
    for plan, amount in (("hobby", 12), ("team", 60), (ANY_PLAN, 30)):
        guard_terms.set_limit(connection, PlanLimit("builds", plan, "day", amount), by)
    guard_terms.set_limit(connection, PlanLimit("exports", ANY_PLAN, "day", 4), by)
    run_blocks.block(connection, "acme", "project", "sandbox-of-tom", by)
