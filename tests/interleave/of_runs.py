"""Runs: reserved, drawn on, grown, settled, released and expired, all of one small wallet (and one of acme's, which
pushes are charged to meanwhile); and of one small balance that a provider keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from drawdown.ledger.draws import Cost
from drawdown.ledger.lots import Terms
from drawdown.providers.protocol import CustomerState
from drawdown.schema.audit import By
from drawdown.schema.database import write
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions import permission as run_blocks
from drawdown.worker.executions.request import Request
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.provider import actions
from drawdown.worker.verdict.holds import expire_holds, shrink_holds
from drawdown.worker.wallets import actions as credit
from tests.interleave.party import Party, plain, step
from tests.interleave.stage import FLIP, NOW, Stage

LAB: Final = "lab"
"""A customer with ten micro-credits, of which all but one are held: six by a run that is over and not expired yet. Two
more ended, and one began, neither booked yet; of what ended five minutes ago, nothing is booked or reserved."""
METERED: Final = Request("acme", 10**6, for_ms=360 * MINUTE_MS, settled_by="metering", sandboxes=("box",))
"""What all samples of acme are of: its hold has not shrunk by any of them yet."""

FAR: Final = "far"
"""An organisation with eleven micro-units at `fake`, of which seven are held: three by a run that is over."""
FEATURE: Final = "compute_1gb"


def begin(stage: Stage) -> None:
    """What every case finds."""
    _begin_far(stage)
    hour_ago = By(NOW - 60 * MINUTE_MS, "somebody", "explored")
    grant = partial(credit.grant, customer_id=LAB, amount_micro=10, by=hour_ago, key=LAB, plan=None, new=True)
    write(stage.engine, grant)
    for key, amount, terms in (
        ("lab-over", 2, Terms("included", expires_ms=NOW - 30 * MINUTE_MS)),
        ("lab-ended", 5, Terms("bonus", priority=90, expires_ms=NOW - 5 * MINUTE_MS)),
        ("lab-begun", 1, Terms("bonus", begins_ms=NOW - MINUTE_MS, expires_ms=NOW + MINUTE_MS)),
    ):
        lot = partial(credit.grant, customer_id=LAB, amount_micro=amount, by=hour_ago, key=key, plan=None, terms=terms)
        write(stage.engine, lot)
    two_hours = 120 * MINUTE_MS
    for key, request, by in (  # all of lab's an hour ago: whoever accepts now makes true what is due by now
        ("over", Request(LAB, 6), hour_ago),
        ("going", Request(LAB, 3, for_ms=two_hours), hour_ago),
        ("acme-going", Request("acme", 9), stage.by),
        ("acme-metered", METERED, By(FLIP, "somebody", "explored")),
    ):
        write(stage.engine, partial(executions.accept, key=key, request=request, by=by))


def _begin_far(stage: Stage) -> None:
    hour_ago = By(NOW - 60 * MINUTE_MS, "somebody", "explored")
    write(stage.engine, lambda c: assign(c, [FAR], "fake", hour_ago, from_ms=FLIP))
    write(stage.engine, lambda c: actions.set_rate(c, "fake", FEATURE, (1, 1), hour_ago, from_ms=FLIP, new=True))
    stage.fake.states[FAR] = CustomerState(11, None, None)
    stage.write("UPDATE orgs SET balance_micro = 11, balance_read_ms = :at WHERE org_id = 'far'", at=hour_ago.now_ms)
    for key, quantity, life_ms in (("far-over", 3, 60 * MINUTE_MS), ("far-going", 4, 120 * MINUTE_MS)):
        request = Request(FAR, quantities={FEATURE: quantity}, for_ms=life_ms)
        write(stage.engine, partial(executions.accept, key=key, request=request, by=hour_ago))


def _far_within_its_means(stage: Stage) -> Iterator[str]:
    """What is held and what was used of it never come to more than there was, as no run used more than it held."""
    ((held, used),) = stage.rows(
        "SELECT (SELECT COALESCE(SUM(amount_micro - drawn_micro), 0) FROM reservations WHERE org_id = 'far' "
        "AND state = 'held'), (SELECT COALESCE(SUM(quantity), 0) FROM run_usage)"
    )
    if held + used > 11:
        yield f"far has promised {held}, and used {used}, of 11"


def _within_its_means(stage: Stage) -> Iterator[str]:
    """No run here costs more than it holds, so nobody comes to owe anything; and none began on what was over by then
    (on the micro-credit of `lab-begun`, which ends later, it may have). What is to be looked at again is not judged."""
    for account, left in stage.rows(
        "SELECT account_id, balance_micro - held_micro - CASE WHEN over_micro > 1 THEN over_micro - 1 ELSE 0 END "
        "FROM ledger_accounts "
        "WHERE account_id = 'wallet:lab' "
        "AND (next_due_ms IS NULL OR next_due_ms > 0)"
    ):
        if left < 0:
            yield f"{account} has promised {-left} more than it has"


def _run(name: str, act: str, *values: object, **more: object) -> Party:
    """A command on runs, by its name there."""
    work = getattr(executions, act)
    return plain(f"cli.nouns.executions:{name}", lambda s, c: work(c, *values, **more, by=s.by), _within_its_means)


def _far(name: str, act: str, *values: object, **more: object) -> Party:
    work = getattr(executions, act)
    return plain(f"cli.nouns.executions:{name}", lambda s, c: work(c, *values, **more, by=s.by), _far_within_its_means)


RUNS: Final = (
    _far("accept far", "accept", "far-new", Request(FAR, quantities={FEATURE: 5})),
    _far("accept far more than there is", "accept", "far-beyond", Request(FAR, quantities={FEATURE: 50})),
    _far("accept another far", "accept", "far-another", Request(FAR, quantities={FEATURE: 5})),
    plain(
        "assign far, to another customer by now",
        lambda s, c: assign(c, [FAR], "fake", s.by, customer_id="far-2", from_ms=NOW - NOW % WINDOW_MS),
    ),
    _far("draw far", "draw", "far-going", 1, Cost(quantities={FEATURE: 2})),
    _far("extend far", "extend", "far-going", 5, None),
    _far("extend far beyond what there is", "extend", "far-going", 50, None),
    _far("settle far", "settle", "far-going", Cost(quantities={FEATURE: 3})),
    _far("settle far late", "settle", "far-over", Cost(quantities={FEATURE: 1})),
    _far("release far", "release", "far-going", Cost(quantities={FEATURE: 2})),
    step("expire_holds_elsewhere", lambda s: expire_holds(s.context("other"))),
    _run("accept", "accept", "new", Request(LAB, 4)),
    _run("accept another", "accept", "another", Request(LAB, 5)),
    _run("draw", "draw", "going", 1, Cost(2)),
    _run("draw again", "draw", "going", 2, Cost(1)),
    _run("extend", "extend", "going", 6, None),
    _run("settle", "settle", "going", Cost(3)),
    _run("settle late", "settle", "over", Cost(1)),
    _run("settle acme", "settle", "acme-going", Cost(5)),
    _run("release", "release", "going", None),
    plain(
        "cli.declared:run ledger take-back",
        lambda s, c: credit.take_back(c, LAB, s.by, whole=False),
        _within_its_means,
    ),
    plain(
        "cli.declared:run execution block",
        lambda s, c: run_blocks.block(c, "acme", "project", "site", s.by),
    ),
    _run("accept metering", "accept", "new-metered", replace(METERED, sandboxes=("box-acme", "box-new"))),
    _run("accept the same sandbox", "accept", "same-box", replace(METERED, sandboxes=("box-acme",))),
    _run("accept the sandbox of another", "accept", "its-box", METERED),
    _run("extend metered", "extend", "acme-metered", 2 * 10**6, None),
    _run("settle metered", "settle", "acme-metered", None),
    step("shrink_holds", lambda s: shrink_holds(s.context("other"))),
    step("expire_holds", lambda s: expire_holds(s.context("other"))),
)
