"""What operators do, with the functions the command line calls, while workers tick.

Guarantee: a refusal changes nothing, in the database and in the oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.features.actions import map_size
from drawdown.worker.history.incarnation import HistoryDoubted, read_losses
from drawdown.worker.orgs.actions import end_override, halt, override
from drawdown.worker.orgs.assignments import assign, cancel
from drawdown.worker.push.actions import retry, void
from drawdown.worker.replay.plan import ReplayPlan, ReplayScope, plan
from drawdown.worker.seal.stops import resume_org, stop_org
from drawdown.worker.usage.withdrawals import withdraw
from drawdown.worker.wallets.actions import set_rate
from tests.simulation.actions import ORGS, STRANGERS, Action
from tests.simulation.invariants import is_closed
from tests.simulation.oracle import Assignment, Rule
from tests.simulation.providers import STRIPE
from tests.simulation.world import World

TOO_OLD: Final = "not sent: the provider takes nothing"
NOTHING_BACK: Final = "Autumn did not refund"


def said(world: World) -> By:
    return By(world.time.now, "sim", "simulated")


def attempt(world: World, work: Callable[[sa.Connection], Any]) -> Any:
    """Run an operator's command; None where a rule refused it."""
    try:
        return world.write(work)
    except (Refused, UsageError, HistoryDoubted):
        world.faults.note("operator_refused")
        return None


def _window(world: World, back_ms: int) -> int:
    moment = world.time.now - world.rng.randrange(back_ms)
    return moment - moment % WINDOW_MS


def assign_org(world: World) -> str | None:
    """A first assignment, from now on or from the past; or a flip to another provider, forward only."""
    org = world.rng.choice((*ORGS, *ORGS, *STRANGERS))
    never = [one for one in (*ORGS, *STRANGERS) if not world.oracle.assignments[one]]
    if never and world.rng.random() < 0.3:
        org = world.rng.choice(never)
    known = world.oracle.assignments[org]
    if not known and world.oracle.default is not None:
        return None  # the workers do it, and two of them could be first
    provider = world.rng.choice((*world.billing, *world.billing, "legacy", "none"))
    from_ms = _window(world, 2 * DAY_MS) if not known and world.rng.random() < 0.6 else None
    if known and world.rng.random() < 0.3:
        from_ms = _window(world, WINDOW_MS) + world.rng.randrange(1, 24) * WINDOW_MS
    customer = customer_at(world, provider, org)
    made = attempt(world, lambda c: assign(c, [org], provider, said(world), customer_id=customer, from_ms=from_ms))
    if made is None:
        return f"{org} to {provider}: refused"
    start = made[0].start_ms
    if customer and world.oracle.fill(org, provider, customer):
        world.decided(partial(_fill, org=org, provider=provider, customer=customer))
        world.faults.note("customer_filled")
        return f"{org} is {customer} at {provider} from {made[0].start_ms}"
    world.oracle.assignments[org].append(Assignment(start, provider, customer))
    world.decided(partial(_assign, org=org, provider=provider, customer=customer, start=start))
    world.faults.note("flip" if known else "first_assignment_in_the_past" if from_ms else "first_assignment")
    return f"{org} is assigned to {provider} as {customer} from {made[0].start_ms}"


def _assign(world: World, org: str, provider: str, customer: str, start: int) -> None:
    world.write(lambda c: assign(c, [org], provider, said(world), customer_id=customer, from_ms=start))
    world.oracle.assignments[org].append(Assignment(start, provider, customer))


def _fill(world: World, org: str, provider: str, customer: str) -> None:
    world.write(lambda c: assign(c, [org], provider, said(world), customer_id=customer))
    assert world.oracle.fill(org, provider, customer), "the assignment had no customer"


def _cancel(world: World, org: str, at: By) -> None:
    """At its own time (`--at`): it may have begun since."""
    latest = world.oracle.latest(org)
    assert latest is not None
    world.write(lambda c: cancel(c, org, at))
    world.oracle.assignments[org].remove(latest)


def _map(world: World, rule: Rule) -> None:
    more = {"kind": rule.kind, "memory_mb": rule.size, "unit": rule.unit, "from_ms": rule.start, "confirmed": True}
    world.write(lambda c: map_size(c, str(rule.feature), said(world), **more))  # type: ignore[arg-type]
    world.oracle.rules.append(rule)


def _withdraw(world: World, chosen: list[str]) -> None:
    world.write(lambda c: withdraw(c, chosen, said(world)))
    world.oracle.withdraw(*chosen)


def customer_at(world: World, provider: str, org: str) -> str:
    """Who an organisation is at a provider; where customers have ids of their own, perhaps nobody knows it yet."""
    if provider == STRIPE:
        return f"cus_{org}" if world.rng.random() < 0.85 else ""
    return org if world.rng.random() < 0.5 else f"c-{org}"


def fill_customer(world: World, org: str) -> str | None:
    """Give an organisation its customer where an assignment had none."""
    customer = f"cus_{org}"
    latest = world.oracle.latest(org)
    if latest is None or latest.provider != STRIPE or latest.customer:
        return None
    if not world.rows("SELECT 1 FROM assignments WHERE org_id = :org AND customer_id = '' AND end_ms IS NULL", org=org):
        return None  # not met yet by a worker
    if attempt(world, lambda c: assign(c, [org], STRIPE, said(world), customer_id=customer)) is None:
        return f"{org} is {customer}: refused"
    assert world.oracle.fill(org, STRIPE, customer), "the assignment had no customer"
    world.faults.note("customer_filled")
    return f"{org} is {customer} at {STRIPE}"


def cancel_flip(world: World) -> str | None:
    """Take back an assignment that has not begun."""
    org = world.rng.choice((*ORGS, *STRANGERS))
    latest = world.oracle.latest(org)
    scheduled = [one for one in world.oracle.assignments if world.oracle.begins_later(one, world.time.now)]
    if scheduled and world.rng.random() < 0.8:
        org = world.rng.choice(scheduled)
        latest = world.oracle.latest(org)
    if latest is None or (latest.start <= world.time.now and world.rng.random() < 0.9):
        return None
    if attempt(world, lambda c: cancel(c, org, said(world))) is None:
        return f"cancels the flip of {org}: refused"
    world.oracle.assignments[org].remove(latest)
    world.decided(partial(_cancel, org=org, at=said(world)))
    world.faults.note("flip_cancelled")
    return f"cancels the flip of {org} to {latest.provider}"


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
    # Of windows that may have been billed in lost history nobody thinks up something new.
    lost_to = max((loss.until_ms for loss in world.read(read_losses)), default=0)
    sure = from_ms is None or from_ms >= lost_to
    made = attempt(
        world,
        lambda c: map_size(
            c, feature, said(world), kind=kind, memory_mb=size, unit=unit, from_ms=from_ms, confirmed=sure
        ),
    )
    if made is None:
        return f"maps {kind} {size} to {feature} from {from_ms}: refused"
    rule = Rule(kind, size, feature, unit, made.start_ms)
    world.oracle.rules.append(rule)
    world.decided(partial(_map, rule=rule))
    world.faults.note("mapping_fills_hole" if from_ms else "mapping_forward")
    return f"maps {kind} {size} to {feature} ({unit}) from {made.start_ms}"


def withdraw_samples(world: World) -> str | None:
    good = [one.id for one in world.oracle.samples.values() if one.good]
    if not good:
        return None
    chosen = world.rng.sample(good, min(len(good), world.rng.randrange(1, 4)))
    if world.lost_keys and not is_closed(world, chosen):
        return None  # what was charged for them in a history that was lost is only asked for once they are sealed
    if attempt(world, lambda c: withdraw(c, chosen, said(world))) is not None:
        world.oracle.withdraw(*chosen)
        world.decided(partial(_withdraw, chosen=chosen), chosen)
        world.faults.note("withdrawal")
    return f"withdraws {chosen}"


def void_rejected(world: World) -> str | None:
    """Void pushes the provider rejected, with its rejection as evidence, as `push void` and `push retry` do."""
    rows = world.rows(
        "SELECT key, org_id, provider, feature, last_error FROM pushes WHERE state = 'rejected' ORDER BY key LIMIT 20"
    )
    for key, org, provider, feature, error in rows:
        if str(error).startswith(TOO_OLD):
            continue  # it would be rejected again, for good
        if str(error).startswith(NOTHING_BACK) and world.rng.random() < 0.5:
            continue  # it may be given back once more was drawn; else it is credited by hand
        work = partial(void, keys=[key], by=said(world), evidence=str(error), kind="rejected")
        again = partial(retry, keys=[key], by=said(world))
        done = attempt(world, again if world.rng.random() < 0.5 else work)
        if done is not None:
            world.voided.add((org, provider, feature))
            world.faults.note("void")
    return f"voids {[row[0] for row in rows]}" if rows else None


def stop_or_resume(world: World) -> str:
    org = world.rng.choice(ORGS)
    asked: dict[str, Any] = {"org_id": org, "reason": "simulated", "now_ms": world.time.now, "actor": "sim"}
    if world.rng.random() < 0.5:
        changed = world.write(lambda c: stop_org(c, **asked))
    else:
        changed = attempt(world, lambda c: resume_org(c, **asked)) is not None
    world.faults.note("stop_or_resume")
    return f"stops or resumes {org}: {changed}"


def halt_or_lift(world: World) -> str:
    org, lift = world.rng.choice(ORGS), world.rng.random() < 0.6
    answer = attempt(world, lambda c: halt(c, [org], said(world), undo=lift)[0].is_halted)
    world.decided(lambda w: attempt(w, lambda c: halt(c, [org], said(w), undo=lift)))
    world.faults.note("operator_halt")
    return f"{'lifts the halt of' if lift else 'halts'} {org}: {answer}"


def override_org(world: World) -> str:
    org = world.rng.choice(ORGS)
    halted, most = world.rng.choice(((True, None), (False, None), (None, 9), (None, None), (False, 3)))
    until = world.time.now + world.rng.randrange(1, 60 * MINUTE_MS) if world.rng.random() < 0.5 else None

    def say(w: World) -> object:
        if most is None and halted is None:
            return attempt(w, lambda c: end_override(c, org, said(w)))
        return attempt(w, lambda c: override(c, org, said(w), max_concurrent=most, halted=halted, until_ms=until))

    say(world)
    world.decided(say)
    world.faults.note("override")
    return f"overrides {org}: halted={halted} most={most} until={until}"


def plan_replay(world: World, now_ms: int) -> ReplayPlan | None:
    """On-call replays a range, of everybody, an organisation or a provider; None where that makes no sense now."""
    to_ms = _window(world, DAY_MS) + WINDOW_MS
    from_ms = to_ms - world.rng.choice((WINDOW_MS, 12 * WINDOW_MS, 7 * DAY_MS))
    scope = world.rng.choice(
        (ReplayScope(), ReplayScope(orgs=(world.rng.choice(ORGS),)), ReplayScope(provider=world.billing[0]))
    )
    try:
        return world.read(lambda c: plan(c, scope, from_ms, to_ms, now_ms))
    except (Refused, UsageError) as error:
        world.faults.note("replay_refused")
        world.say("world", f"asks for a replay of {scope}: {error}")
        return None


def add_rates(world: World) -> str:
    """The ledger gets the prices it lacks."""
    lacking = sa.text(
        "SELECT DISTINCT feature FROM mappings m WHERE feature IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM ledger_rates r WHERE r.feature = m.feature) ORDER BY 1"
    )

    def work(connection: sa.Connection) -> None:
        for feature in connection.execute(lacking).scalars().all():
            set_rate(connection, feature, 1, 3, said(world), from_ms=0)

    world.write(work)
    return "adds the missing rates"


OPERATORS: Final[tuple[tuple[Action, float], ...]] = (
    (assign_org, 1.3),
    (map_feature, 0.5),
    (withdraw_samples, 0.7),
    (void_rejected, 0.6),
    (stop_or_resume, 0.9),
    (halt_or_lift, 0.6),
    (override_org, 0.3),
    (add_rates, 0.3),
    (cancel_flip, 1.2),
)
