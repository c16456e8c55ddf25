"""A person cancels wrong pushes at their provider, as `push cancel` does, and may die at any point of it.

Guarantee: what they leave behind is ended by the product's own lookups, by the command once more, or by reconcile.
"""

from __future__ import annotations

from functools import partial
from typing import cast

from drawdown.providers.protocol import Cancels
from drawdown.schema.units import DAY_MS
from drawdown.worker.push.actions import CANCELLING, conclude, intend
from tests.simulation.operators import attempt, said
from tests.simulation.world import World, run_coroutine

_WRONG = (
    "SELECT key, org_id, provider, feature FROM pushes WHERE provider IN ('stripe') AND (state = 'accepted' "
    "AND first_attempt_ms > :since OR state = 'in_doubt' AND last_error = :cancelling) ORDER BY key"
)
DIES = 0.4


def cancel_wrong(world: World) -> str | None:
    """Up to three pushes of the last day, or what an earlier command left."""
    can = {name: one.capabilities for name, one in world.providers.items() if one.capabilities.cancel_within_ms}
    rows = world.rows(_WRONG, since=world.time.now - DAY_MS, cancelling=CANCELLING) if can else []
    if not rows:
        return None
    chosen = world.rng.sample(rows, min(len(rows), world.rng.randint(1, 3)))
    keys = [str(row[0]) for row in chosen]
    intents = attempt(world, partial(intend, keys=keys, by=said(world), capabilities=can))
    if intents is None:
        return f"cancels {keys}: refused"
    if world.rng.random() < DIES:
        world.faults.note("cancel_died")
        return f"is to cancel {keys}, and dies"
    answers = [
        run_coroutine(cast(Cancels, world.providers[intent.provider]).cancel(intent.request)) for intent in intents
    ]
    if world.rng.random() < DIES:
        world.faults.note("cancel_died")
        return f"cancels {keys}, and dies: {answers}"
    done = attempt(world, partial(conclude, asked=intents, answers=answers, by=said(world)))
    if done is not None:
        world.voided |= {(org, provider, feature) for key, org, provider, feature in chosen if key in done.voided}
        world.faults.note("cancelled" if done.voided else "cancel_unconfirmed")
    return f"cancels {keys}: {done}"
