"""Runs: reserved, drawn on, grown, settled, released and expired, all of one small wallet (and one of acme's, which
pushes are charged to meanwhile)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from drawdown.ledger.lots import Terms
from drawdown.ledger.runs.draws import Cost
from drawdown.schema.audit import By
from drawdown.schema.database import write
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.commands import credit, executions
from drawdown.worker.commands.run_permission import Request
from drawdown.worker.verdict.holds import expire_holds, shrink_holds
from tests.interleave.party import Party, plain, step
from tests.interleave.stage import FLIP, NOW, Stage

LAB: Final = "lab"
"""A customer with ten micro-credits, of which all but one are held: six by a run that is over and not expired yet. Two
more ended, and one began, neither booked yet; of what ended five minutes ago, nothing is booked or reserved."""
METERED: Final = Request("acme", 10**6, for_ms=360 * MINUTE_MS, settled_by="metering", sandboxes=("box",))
"""What all samples of acme are of: its hold has not shrunk by any of them yet."""


def begin(stage: Stage) -> None:
    """What every case finds."""
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


def _within_its_means(stage: Stage) -> Iterator[str]:
    """No run here costs more than it holds, so nobody comes to owe anything; and none began on what was over by then.
    What is to be looked at again is not judged."""
    for account, left in stage.rows(
        "SELECT account_id, balance_micro - held_micro - over_micro FROM ledger_accounts "
        "WHERE account_id = 'wallet:lab' "
        "AND (next_due_ms IS NULL OR next_due_ms > 0)"
    ):
        if left < 0:
            yield f"{account} has promised {-left} more than it has"


def _run(name: str, act: str, *values: object, **more: object) -> Party:
    """A command on runs, by its name there."""
    work = getattr(executions, act)
    return plain(f"cli.nouns.executions:{name}", lambda s, c: work(c, *values, **more, by=s.by), _within_its_means)


RUNS: Final = (
    _run("accept", "accept", "new", Request(LAB, 4)),
    _run("accept another", "accept", "another", Request(LAB, 5)),
    _run("draw", "draw", "going", 1, Cost(2)),
    _run("draw again", "draw", "going", 2, Cost(1)),
    _run("extend", "extend", "going", 6, None),
    _run("settle", "settle", "going", Cost(3)),
    _run("settle late", "settle", "over", Cost(1)),
    _run("settle acme", "settle", "acme-going", Cost(5)),
    _run("release", "release", "going", None),
    plain("cli.nouns.ledger:take_back", lambda s, c: credit.take_back(c, LAB, s.by, whole=False), _within_its_means),
    plain(
        "cli.nouns.executions:block",
        lambda s, c: executions.block(c, "acme", "project", "site", s.by),
    ),
    _run("accept metering", "accept", "new-metered", replace(METERED, sandboxes=("box-acme", "box-new"))),
    _run("accept the same sandbox", "accept", "same-box", replace(METERED, sandboxes=("box-acme",))),
    _run("accept the sandbox of another", "accept", "its-box", METERED),
    _run("extend metered", "extend", "acme-metered", 2 * 10**6, None),
    _run("settle metered", "settle", "acme-metered", None),
    step("shrink_holds", lambda s: shrink_holds(s.context("other"))),
    step("expire_holds", lambda s: expire_holds(s.context("other"))),
)
