"""Of wallets, plans and settlements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import sqlalchemy as sa

from drawdown.ledger.draws import Cost
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements.actions import Change
from drawdown.worker.topup import actions as topups
from drawdown.worker.topup.fill import begin
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import tiers
from tests.fake_payments import CAN
from tests.server.acts.example import Example
from tests.server.console_home import Home
from tests.world import T0

T = TypeVar("T")
TERMS: Final = topups.Terms(5 * MICRO, 20 * MICRO, None, 100, "usd", "stripe", "cus_1", 10_000)


def _do(home: Home, work: Callable[[sa.Connection], T]) -> T:
    return write(home.engine, work)


def _somebody_grants(home: Home) -> None:
    _do(home, lambda c: credit.grant(c, "acme", MICRO, home.fleet.by, key="meanwhile", plan=None))


def _somebody_takes(home: Home) -> None:
    _do(home, lambda c: credit.take_back(c, "k", home.fleet.by, whole=True))


def _plans(home: Home) -> None:
    """acme is on a plan, and there are another one and a tier."""
    _do(home, lambda c: credit.grant(c, "acme", 0, home.fleet.by, key="plan", plan="free"))
    _do(home, lambda c: credit.set_plan_limit(c, "team", 20, home.fleet.by))
    _do(home, lambda c: tiers.set_tier(c, "pro", tiers.Change(100, MICRO), home.fleet.by))


def _somebody_changes_the_plan(home: Home) -> None:
    _do(home, lambda c: credit.set_plan_limit(c, "free", 3, home.fleet.by))


def _somebody_rates(home: Home) -> None:
    """From later on: what is asked for still begins before it."""
    start = T0 + DAY_MS
    _do(home, lambda c: credit.set_rate(c, "compute_1gb", 7, 1, home.fleet.by, from_ms=start))


def _tops_up(home: Home) -> None:
    _do(home, lambda c: topups.set_terms(c, "acme", TERMS, CAN, home.fleet.by))


def _stops(home: Home) -> None:
    _tops_up(home)
    _do(home, lambda c: topups.set_mode(c, "acme", "stopped", home.fleet.by))


def _declined(home: Home) -> None:
    _tops_up(home)
    home.fleet.write("UPDATE topup_terms SET declines = 1, blocked_ms = 1, blocked_reason = 'stolen_card'")


def _somebody_arms(home: Home) -> None:
    _do(home, lambda c: topups.resume(c, "acme", home.fleet.by))
    home.fleet.write("UPDATE topup_terms SET declines = 1")  # and that card was declined, once


def _somebody_raises(home: Home) -> None:
    raised = topups.Terms(**{**vars(TERMS), "threshold_micro": 6 * MICRO, "mode": "stopped"})
    _do(home, lambda c: topups.set_terms(c, "acme", raised, CAN, home.fleet.by))


def _kills(home: Home) -> None:
    _do(home, lambda c: topups.switch(c, home.fleet.by, stopped=True))


def _revives(home: Home) -> None:
    _do(home, lambda c: topups.switch(c, home.fleet.by, stopped=False))


def in_doubt(home: Home) -> None:
    """A top-up of acme whose call had no answer."""
    _tops_up(home)
    _do(home, lambda c: credit.take_back(c, "k", home.fleet.by, whole=True))
    _do(home, lambda c: begin(c, ready={"stripe"}, now=home.now, witness=None))
    home.fleet.write("UPDATE topups SET state = 'in_doubt', attempts = 1")


def _somebody_knows(home: Home) -> None:
    home.fleet.write("UPDATE topups SET state = 'due'")


def owes(home: Home) -> None:
    """A supplier's two runs, held for no time at all."""
    terms = Change(share_ppm=500_000, hold_ms=0, threshold_micro=0, takes_clawbacks=True)
    _do(home, lambda c: settlements.set_supplier(c, "pixel", terms, home.fleet.by, new=True))
    for key in ("render-1", "render-2"):
        request = Request("acme", 2 * MICRO, supplier="pixel")
        _do(home, lambda c, key=key, request=request: executions.accept(c, key, request, home.fleet.by))  # type: ignore[misc]
        _do(home, lambda c, key=key: executions.settle(c, key, Cost(2 * MICRO), home.fleet.by))  # type: ignore[misc]


def _somebody_sets(home: Home) -> None:
    _do(home, lambda c: settlements.set_supplier(c, "pixel", Change(share_ppm=1), home.fleet.by))


def _somebody_reverses(home: Home) -> None:
    _do(home, lambda c: settlements.reverse(c, "render-1", "meanwhile", MICRO // 10, home.fleet.by))


def tells(home: Home) -> None:
    """A balance that was drawn on beside what was pushed."""
    home.fleet.write(
        "INSERT INTO balance_marks (provider, customer_id, feature, since_ms, apart_qty, at_ms, org_id, told_qty, "
        "told_ms) VALUES ('autumn', 'acme', 'compute_1gb', 0, 5, 1, 'acme', 5, 1)"
    )


def _tells_more(home: Home) -> None:
    home.fleet.write("UPDATE balance_marks SET told_qty = 9")


def compared(home: Home) -> None:
    home.fleet.write(
        "INSERT INTO reconciliations (day_ms, org_id, provider, customer_id, feature, ours_qty, theirs_qty, verdict, "
        "at_ms) VALUES (:day, 'acme', 'embedded', 'acme', 'compute_1gb', 60, 0, 'short', 1)",
        {"day": T0},
    )


def _compared_anew(home: Home) -> None:
    home.fleet.write("UPDATE reconciliations SET theirs_qty = 30")


_ACME: Final = {"id": "acme"}
_CUSTOMER: Final = {"customer": "acme"}
_STRANGER: Final = {"customer": "acmee"}
_NOBODY: Final = {"id": "acmee"}
EXAMPLES: Final = {
    "grant": Example(
        {"id": "acme", "amount": "25", "kind": "purchased", "expires": "+30d"},
        {"id": "acmee", "amount": "-1", "kind": "gold", "expires": "soon"},
        _somebody_grants,
    ),
    "ledger-take-back": Example({"lot": "k", "whole": "no"}, {"lot": "kk", "whole": "half"}, _somebody_takes),
    "plan-put": Example(
        {**_CUSTOMER, "plan": "team"}, {**_STRANGER, "plan": "tema"}, _somebody_changes_the_plan, prepare=_plans
    ),
    "tier-buy": Example(
        {**_CUSTOMER, "tier": "pro"}, {**_STRANGER, "tier": "pr"}, _somebody_changes_the_plan, prepare=_plans
    ),
    "ledger-rate": Example(
        {"feature": "compute_1gb", "micro_credits": "250", "per": "1"},
        {"feature": "compute_1g", "micro_credits": "-1", "per": "0", "from": "whenever"},
        _somebody_rates,
    ),
    "topup-stop": Example(_CUSTOMER, _STRANGER, _somebody_raises, prepare=_tops_up),
    "topup-shadow": Example(_ACME, _NOBODY, _somebody_raises, prepare=_stops),
    "topup-resume": Example(_ACME, _NOBODY, _somebody_arms, prepare=_declined),
    "topup-start": Example(_ACME, _NOBODY, _somebody_raises, prepare=_stops),
    "topup-stop-all": Example({}, {}, _kills),
    "topup-start-all": Example({}, {}, _revives, prepare=_kills),
    "topup-resolve": Example(
        {"topup": "topup:acme:1", "became": "absent", "evidence": "their dashboard, 10:15"},
        {"topup": "topup:acme:2", "became": "lost", "payment": "pi_1", "evidence": " "},
        None,
        prepare=in_doubt,
    ),
    "settlement-freeze": Example(
        {"execution": "render-1"}, {"execution": "render-11"}, _somebody_reverses, prepare=owes
    ),
    "supplier-freeze": Example({"supplier": "pixel"}, {"supplier": "pixle"}, _somebody_reverses, prepare=owes),
    "supplier-set": Example(
        {"supplier": "pixel", "share": "40"}, {"supplier": "pixle", "share": "101"}, _somebody_sets, prepare=owes
    ),
    "settlement-reverse": Example(
        {"execution": "render-1", "amount": "0.5"},
        {"execution": "render-11", "amount": "9"},
        _somebody_reverses,
        prepare=owes,
    ),
    "settlement-payout": Example(
        {"supplier": "pixel", "expect": "2"},
        {"supplier": "pixle", "expect": "3", "period": "2026-13"},
        None,
        prepare=owes,
    ),
    "reconcile-correct": Example(
        {"org": "acme", "provider": "embedded", "from": "2026-01-01", "to": "2026-01-02"},
        {"org": "acmee", "provider": "embeded", "from": "2026-01-01T00:10", "to": "2025-12-31"},
        _compared_anew,
        prepare=compared,
    ),
    "reconcile-acknowledge": Example({"org": "acme"}, {"org": "acmee"}, _tells_more, prepare=tells),
}
