"""What operators do, with the functions the command line calls, while workers tick.

Guarantee: a refusal changes nothing, in the database and in the oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS, horizon
from drawdown.worker.corrections import void, withdraw
from drawdown.worker.features import map_size
from drawdown.worker.orgs import Said, assign, halt, override
from drawdown.worker.seal import seal_range
from drawdown.worker.seal_statements import SealRequest
from drawdown.worker.stops import release_org, stop_org
from tests.simulation.actions import ORGS, STRANGERS, Action
from tests.simulation.oracle import EXEMPT, Assignment, Rule
from tests.simulation.providers import BILLING
from tests.simulation.world import World


def said(world: World) -> Said:
    return Said(world.time.now, "sim", "simulated")


def attempt(world: World, work: Callable[[sa.Connection], Any]) -> Any:
    """Run an operator's command; None where a rule refused it."""
    try:
        return world.write(work)
    except (Refused, UsageError):
        world.faults.note("operator_refused")
        return None


def _window(world: World, back_ms: int) -> int:
    moment = world.time.now - world.rng.randrange(back_ms)
    return moment - moment % WINDOW_MS


def assign_org(world: World) -> str | None:
    """A first assignment, from now on or from the past; or a flip to another provider, forward only."""
    org = world.rng.choice((*ORGS, *ORGS, *STRANGERS))
    known = world.oracle.assignments[org]
    if not known and world.oracle.default is not None:
        return None  # the workers do it, and two of them could be first
    provider = world.rng.choice((*BILLING, *BILLING, "legacy", "none"))
    from_ms = _window(world, 2 * DAY_MS) if not known and world.rng.random() < 0.6 else None
    customer = org if world.rng.random() < 0.5 else f"c-{org}"
    made = attempt(world, lambda c: assign(c, [org], provider, said(world), customer_id=customer, from_ms=from_ms))
    if made is None:
        return f"{org} to {provider}: refused"
    world.oracle.assignments[org].append(Assignment(made[0].start_ms, provider, customer))
    world.faults.note("flip" if known else "first_assignment_in_the_past" if from_ms else "first_assignment")
    return f"{org} is assigned to {provider} as {customer} from {made[0].start_ms}"


def map_feature(world: World) -> str:
    """A size gets a feature: from the next window on, or back in time where it had none."""
    kind, size, feature, unit = world.rng.choice(
        (
            ("exact", 3000, "compute_3gb", "s"),
            ("exact", 2048, "compute_2gb", "s"),
            ("exact", 2048, "compute", "mb_s"),
            ("exact", 1024, "compute", "mb_s"),
            ("up_to", 2500, "compute_4gb", "s"),
            ("up_to", None, "compute", "mb_s"),
        )
    )
    from_ms = _window(world, 40 * DAY_MS) if world.rng.random() < 0.6 else None
    made = attempt(
        world,
        lambda c: map_size(
            c, feature, said(world), kind=kind, memory_mb=size, unit=unit, from_ms=from_ms, confirmed=True
        ),
    )
    if made is None:
        return f"maps {kind} {size} to {feature} from {from_ms}: refused"
    world.oracle.rules.append(Rule(kind, size, feature, unit, made.start_ms))
    world.faults.note("mapping_fills_hole" if from_ms else "mapping_forward")
    return f"maps {kind} {size} to {feature} ({unit}) from {made.start_ms}"


def withdraw_samples(world: World) -> str | None:
    good = [one.id for one in world.oracle.samples.values() if one.good]
    if not good:
        return None
    chosen = world.rng.sample(good, min(len(good), world.rng.randrange(1, 4)))
    if attempt(world, lambda c: withdraw(c, chosen, said(world))) is not None:
        world.oracle.withdrawn.update(chosen)
        world.faults.note("withdrawal")
    return f"withdraws {chosen}"


def void_rejected(world: World) -> str | None:
    """Void pushes the provider rejected, with its rejection as evidence."""
    rows = world.rows(
        "SELECT key, org_id, provider, feature, last_error FROM pushes WHERE state = 'rejected' ORDER BY key LIMIT 20"
    )
    for key, org, provider, feature, error in rows:
        done = attempt(world, partial(void, keys=[key], said=said(world), evidence=str(error), kind="rejected"))
        if done is not None:
            world.voided.add((org, provider, feature))
            world.faults.note("void")
    return f"voids {[row[0] for row in rows]}" if rows else None


def stop_or_release(world: World) -> str:
    org = world.rng.choice(ORGS)
    asked: dict[str, Any] = {"org_id": org, "reason": "simulated", "now_ms": world.time.now, "actor": "sim"}
    if world.rng.random() < 0.5:
        changed = world.write(lambda c: stop_org(c, **asked))
    else:
        changed = attempt(world, lambda c: release_org(c, **asked)) is not None
    world.faults.note("stop_or_release")
    return f"stops or releases {org}: {changed}"


def halt_or_lift(world: World) -> str:
    org, lift = world.rng.choice(ORGS), world.rng.random() < 0.6
    answer = attempt(world, lambda c: halt(c, org, said(world), lift=lift))
    world.faults.note("operator_halt")
    return f"{'lifts the halt of' if lift else 'halts'} {org}: {answer}"


def override_org(world: World) -> str:
    org = world.rng.choice(ORGS)
    halted, most = world.rng.choice(((True, None), (False, None), (None, 9), (None, None), (False, 3)))
    until = world.time.now + world.rng.randrange(1, 60 * MINUTE_MS) if world.rng.random() < 0.5 else None
    attempt(world, lambda c: override(c, org, said(world), max_concurrent=most, halted=halted, until_ms=until))
    world.faults.note("override")
    return f"overrides {org}: halted={halted} most={most} until={until}"


def replay(world: World) -> str:
    """On-call replays a range: what was billed is not billed again."""
    to_ms = _window(world, DAY_MS) + WINDOW_MS
    from_ms = to_ms - world.rng.choice((WINDOW_MS, 12 * WINDOW_MS, 7 * DAY_MS))
    capabilities = {name: one.capabilities for name, one in world.providers.items()}
    request = SealRequest(world.workers[0].shard, horizon(world.time.now), world.time.now, capabilities)
    sealed = world.write(lambda c: seal_range(c, request, from_ms, to_ms))
    world.faults.note("replay")
    return f"replays {from_ms}..{to_ms}: {sealed.pushes} pushes"


def add_rates(world: World) -> str:
    """The ledger gets the prices it lacks."""
    world.execute(
        "INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, reason) "
        "SELECT DISTINCT feature, 0, 1, 3, :now, 'sim', 'missing' FROM mappings m WHERE feature IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM ledger_rates r WHERE r.feature = m.feature)",
        now=world.time.now,
    )
    return "adds the missing rates"


def is_exempt(world: World, org: str) -> bool:
    found = world.oracle.assigned(org, world.time.now)
    return found is None or found.provider in EXEMPT


OPERATORS: Final[tuple[tuple[Action, float], ...]] = (
    (assign_org, 1.3),
    (map_feature, 0.5),
    (withdraw_samples, 0.7),
    (void_rejected, 0.6),
    (stop_or_release, 0.9),
    (halt_or_lift, 0.3),
    (override_org, 0.3),
    (replay, 0.3),
    (add_rates, 0.3),
)
