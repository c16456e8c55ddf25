"""A whole tick: how its time divides among its steps, and how many pushes a second the ledger settles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Final

import sqlalchemy as sa

from drawdown.providers.embedded import EmbeddedProvider
from drawdown.schema.clock import Clock
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.push import push
from drawdown.worker.status.ticks import Report
from drawdown.worker.tick import tick
from tests.benchmarks.databases import Databases, tidy
from tests.benchmarks.fleet import Fleet, clock, give_credit, place_sandboxes, settle_in, use
from tests.benchmarks.measure import Figure, Result
from tests.benchmarks.steps import STEPS, drive
from tests.sent import nothing_in_place
from tests.world import Cells

IN_CREDIT = 0.95
"""The share of organisations with credit to spare; the others are halted by the first tick."""
TIMES_SENT: Final = 2.5


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
    sent: list[Mapping[str, float]] = []
    for number in range(2 * runs):
        use(engine, fleet, number)
        tidy(engine)
        in_place = number % 2 == 0
        with nullcontext() if in_place else _all_sent():
            report, seconds = run_tick(engine, number)
        assert (report.sealed, report.accepted, report.left.due) == (fleet.pushes, fleet.pushes, 0), report
        (spent if in_place else sent).append(seconds)
    totals = _check(engine, fleet, 2 * runs)
    databases.drop(engine)
    return [_ledger(kind, fleet, spent, sent, totals), _shares(kind, fleet, spent, totals)]


@contextmanager
def _all_sent() -> Iterator[None]:
    """Pushes at the ledger are claimed, charged and settled in a transaction each, as where a provider is called."""
    kept = vars(push)["charge_in_place"]
    vars(push)["charge_in_place"] = nothing_in_place
    try:
        yield
    finally:
        vars(push)["charge_in_place"] = kept


def _ledger(
    kind: str,
    fleet: Fleet,
    spent: list[Mapping[str, float]],
    sent: list[Mapping[str, float]],
    totals: dict[str, int],
) -> Result:
    ratios = [other["push"] / one["push"] for one, other in zip(spent, sent, strict=True)]
    return Result(
        case="ledger",
        database=kind,
        compares=f"{fleet.pushes:,} pushes of a tick that are charged and settled in place, each portion committed; "
        "over as many that are claimed, charged and settled in a transaction each, as where a provider is called",
        figures=[
            Figure("times those that are sent", "", ratios, at_least=TIMES_SENT),
            Figure("in place", "pushes/s", [fleet.pushes / one["push"] for one in spent]),
            Figure("sent", "pushes/s", [fleet.pushes / one["push"] for one in sent]),
        ],
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
