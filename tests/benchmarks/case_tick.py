"""A whole tick: how its time divides among its steps, and how many pushes a second the ledger settles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import sqlalchemy as sa

from drawdown.providers.embedded import EmbeddedProvider
from drawdown.schema.clock import Clock
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.tick import tick
from drawdown.worker.views.tick_report import Report
from tests.benchmarks.databases import Databases, tidy
from tests.benchmarks.fleet import Fleet, clock, give_credit, place_sandboxes, settle_in, use
from tests.benchmarks.measure import Figure, Result
from tests.benchmarks.steps import STEPS, drive
from tests.world import Cells

IN_CREDIT = 0.95
"""The share of organisations with credit to spare; the others are halted by the first tick."""


def world_of(engine: sa.Engine, now: Clock) -> tuple[Context, runner.World]:
    """The embedded ledger, and cells that obey at once."""
    provider = EmbeddedProvider(engine, now)
    context = Context("bench", now, {"embedded": provider.capabilities})
    return context, runner.World(engine, {"embedded": provider}, Cells(), now)


def run_tick(engine: sa.Engine, number: int) -> tuple[Report, Counter[str]]:
    """One tick, at the first moment at which this window may be sealed."""
    context, world = world_of(engine, clock(number))
    return drive(tick(context), world)


def run(databases: Databases, kind: str, fleet: Fleet, runs: int) -> list[Result]:
    """One window after the other, each a tick of `fleet.pushes` pushes."""
    engine = databases.new(kind)
    settle_in(engine, fleet.orgs)
    give_credit(engine, int(fleet.orgs * IN_CREDIT))
    place_sandboxes(engine, fleet.orgs)
    spent: list[Mapping[str, float]] = []
    for number in range(runs):
        use(engine, fleet, number)
        tidy(engine)
        report, seconds = run_tick(engine, number)
        assert (report.sealed, report.accepted, report.left.due) == (fleet.pushes, fleet.pushes, 0), report
        spent.append(seconds)
    totals = _check(engine, fleet, runs)
    databases.drop(engine)
    return [_ledger(kind, fleet, spent, totals), _shares(kind, fleet, spent, totals)]


def _ledger(kind: str, fleet: Fleet, spent: list[Mapping[str, float]], totals: dict[str, int]) -> Result:
    return Result(
        case="ledger",
        database=kind,
        compares=f"pushes settled a second: claimed, charged and settled, each committed, {fleet.pushes:,} a tick",
        figures=[Figure("settled", "pushes/s", [fleet.pushes / one["push"] for one in spent])],
        totals=totals,
    )


def _shares(kind: str, fleet: Fleet, spent: list[Mapping[str, float]], totals: dict[str, int]) -> Result:
    whole = [sum(one.values()) for one in spent]
    shares = [
        Figure(
            f"{step}",
            "% of the tick",
            [100 * one.get(step, 0.0) / all_s for one, all_s in zip(spent, whole, strict=True)],
        )
        for step in STEPS
    ]
    return Result(
        case="tick",
        database=kind,
        compares=f"each step's share of a tick of {fleet.samples:,} samples and {fleet.pushes:,} pushes; in the first "
        f"of them {fleet.orgs - int(fleet.orgs * IN_CREDIT):,} organisations are halted",
        figures=[Figure("whole tick", "s", whole), *shares],
        totals=totals,
    )


def _check(engine: sa.Engine, fleet: Fleet, windows: int) -> dict[str, int]:
    """Everything that was used is charged, and whoever ran out is halted."""
    with engine.connect() as connection:
        charged, entries = connection.execute(
            sa.text("SELECT SUM(quantity), COUNT(*) FROM ledger_entries WHERE kind = 'usage'")
        ).one()
        halted = connection.execute(sa.text("SELECT COUNT(*) FROM orgs WHERE is_halted")).scalar_one()
        told = connection.execute(sa.text("SELECT COUNT(*) FROM halts WHERE acked_at_ms IS NOT NULL")).scalar_one()
    found = {"seconds": int(charged), "pushes": int(entries), "halted": int(halted), "halts_told": int(told)}
    out_of_credit = fleet.orgs - int(fleet.orgs * IN_CREDIT)
    expected = (fleet.seconds * windows, fleet.pushes * windows, out_of_credit, out_of_credit)
    assert tuple(found.values()) == expected, f"{found}, expected {expected}"
    return found
