"""What tests of reconcile share: a fleet at a fake provider, one comparison, and what is left afterwards."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from drawdown.providers.protocol import Drawn, Rejected
from drawdown.schema.database import read, write
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import CLOCKS_APART_MS
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.rows import find_pushes
from drawdown.worker.reconcile.reconcile import Reconciled, ReconcileScope, reconcile
from drawdown.worker.usage import withdrawals
from drawdown.worker.verify.verify import verify
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet

FEATURE = "compute_1gb"


KEY = f"usage:acme:{T0}:{FEATURE}"


LAG = MINUTE_MS


SHOWN = LAG + CLOCKS_APART_MS
"""After so long, whatever was settled is to be seen."""


TOTALS: dict[str, object] = {"lookup_lag_ms": LAG, "totals_lag_ms": LAG, "applied_within_ms": LAG}


def billed(engine: sa.Engine, *more: int, provider: FakeProvider | None = None, **changes: object) -> Any:
    """A minute used in the first window, and `more` seconds in each of the next: billed at a provider with totals, and
    its lag is over. Returns (fleet, provider)."""
    made = provider or FakeProvider(capabilities(**{**TOTALS, **changes}))
    fleet = Fleet(engine, extra={"fake": made})
    fleet.assign("acme", provider="fake")
    for number, seconds in enumerate((60, *more)):
        fleet.sample("acme", T0 + number * WINDOW_MS + 1, seconds)
    fleet.tick(T0 + (len(more) + 3) * WINDOW_MS)
    fleet.clock.at_ms += SHOWN
    return fleet, made


def compare(fleet: Fleet, **scope: Any) -> Reconciled:
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    given = {"provider": "fake", **scope}
    return runner.run(reconcile(fleet.context(), ReconcileScope(**given), fleet.by), world)


def states(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows(
        "SELECT revision, sealed_qty, sent_qty, state FROM pushes WHERE window_ms = :t ORDER BY revision", t=T0
    )


def told(found: Reconciled) -> list[tuple[object, ...]]:
    return [(one.verdict, one.ours, one.theirs, one.corrected) for one in found.differing]


def everything(fleet: Fleet) -> list[Any]:
    """What a run may change, but for the comparison it keeps."""
    tables = ("pushes", "voids", "adoptions", "dirty_windows", "operator_actions", "carries")
    return [sorted(map(repr, fleet.rows(f"SELECT * FROM {table}"))) for table in tables]


def settle(fleet: Fleet) -> None:
    """A tick, and the provider's lag goes by."""
    fleet.tick_windows(1)
    fleet.clock.at_ms += SHOWN


def void_lost(fleet: Fleet, evidence: str, key: str = KEY) -> None:
    """As the command does of a push that its provider cannot look up."""

    def work(connection: sa.Connection) -> list[str]:
        lost = list(find_pushes(connection, [key]).values())
        return pushes.void(connection, [key], fleet.by, evidence, lost=lost)

    write(fleet.engine, work)


def credit_by_hand(fleet: Fleet, provider: FakeProvider, why: str) -> None:
    """The first sample is withdrawn; giving it back is refused, and a person credits it."""
    again = f"{KEY}:r1"
    provider.answers[again] = Rejected(why)
    write(fleet.engine, lambda c: withdrawals.withdraw(c, ["s1"], fleet.by))
    settle(fleet)
    write(fleet.engine, lambda c: pushes.resolve_accepted(c, [again], fleet.by, "credit note cn_1"))


def clean(fleet: Fleet) -> None:
    assert read(fleet.engine, verify).breaches == []


def charged(provider: FakeProvider) -> int:
    return sum(one.quantity for one in provider.charged.values()) + sum(provider.over.values())


def drawn(provider: FakeProvider, quantity: int, since_ms: int | None = None) -> None:
    provider.drawn_says = {"acme": {FEATURE: Drawn(quantity, since_ms), "of_others": Drawn(9, None)}}
