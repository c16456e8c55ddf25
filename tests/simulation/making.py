"""A new world, as the seed wants it: its providers, cells, workers, organisations, and how much goes wrong.

Guarantee: every choice comes from the seed.
"""

from __future__ import annotations

import random

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS
from drawdown.server.settings import ServerSettings
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import CLOCKS_APART_MS
from drawdown.worker.engine.shard import NewOrgs, Shard
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.provider.actions import set_rate, set_when_down
from drawdown.worker.push.outcome import safe_retention_ms
from drawdown.worker.verdict.rates import POLICIES
from tests.simulation.actions import CELLS, ORGS, STRANGERS
from tests.simulation.faults import INTENSITIES, Faults
from tests.simulation.operators import customer_at, said
from tests.simulation.oracle import Assignment, Rule
from tests.simulation.providers import AUTUMN, DEPLOYED, MEMORY, STRIPE, WHOLE
from tests.simulation.remote import FEATURES
from tests.simulation.server import new_server
from tests.simulation.stepping import Worker, WorkerClock
from tests.simulation.world import START, World

SPLITS = (
    (Shard(),),
    (Shard(), Shard()),
    (Shard(), Shard(0, 127), Shard(128, 255)),
    (Shard(0, 127), Shard(128, 255)),
    (Shard(), Shard(0, 127), Shard(0, 200)),
    (Shard(), Shard(0, 90), Shard(60, 255), Shard(100, 140)),
)


def new_world(
    seed: int, intensity: float | None = None, billing: tuple[str, ...] | None = None, *, show: bool = False
) -> World:
    rng = random.Random(seed)
    of_seed = rng.choice(INTENSITIES)
    faults = Faults(rng, of_seed if intensity is None else intensity)
    of_world = rng.choice(DEPLOYED)
    world = World(rng, faults, billing=of_world if billing is None else billing)
    _set_limits(world)
    for org, remote in ((org, remote) for org in (*ORGS, *STRANGERS) for remote in world.remote.values()):
        remote.meet(org, faults)
    world.trace.show = show
    world.net = rng.random() < 0.3
    write(world.engine, lambda c: install_defaults(c, said(world)))
    world.cells.names = CELLS
    for size in (1, 4, 8, 16, 32, 64):
        world.oracle.rules.append(Rule("exact", size * 1024, f"compute_{size}gb", "s", 0))
    for cell in CELLS[:2]:
        world.execute("INSERT INTO cells (cell_id, url) VALUES (:cell, 'http://127.0.0.1:1')", cell=cell)
    for org in ORGS:
        if rng.random() < 0.7:
            _assign_first(world, org, rng.choice((*world.billing, *world.remote)))
    new_orgs = NewOrgs(rng.choice(world.billing), START - 60 * DAY_MS) if rng.random() < 0.3 else None
    if new_orgs is not None and new_orgs.start_ms is not None:
        world.oracle.default = Assignment(new_orgs.start_ms, new_orgs.provider, "")
    for number, shard in enumerate(rng.choice(SPLITS)):
        clock = WorkerClock(world.time)
        context = Context(f"w{number}.1", clock, world.capabilities, shard=shard, new_orgs=new_orgs)
        world.workers.append(Worker(f"w{number}", shard, clock, context))
    _watch(world)
    _serve(world)
    return world


def _watch(world: World) -> None:
    """Who goes round between ticks, and what estimates rest on: prices that may be wrong, and a policy for outages."""
    rng = world.rng
    for worker in world.workers:
        worker.watches = rng.random() < 0.6
    for provider in [one for one in world.billing if one in (MEMORY, WHOLE, AUTUMN)]:
        right = 1_000_000 if provider == AUTUMN else 1
        price = rng.choice((0, right, right, 4 * right))
        for feature in FEATURES if price else ():
            world.write(lambda c, at=provider, of=feature, micro=price: _rate(c, world, at, of, micro))  # type: ignore[misc]
    for provider, plan in ((provider, plan) for provider in world.billing for plan in ("", "plan")):
        policy = rng.choice((None, *POLICIES))
        if policy is not None:
            world.write(lambda c, at=provider, of=plan, then=policy: set_when_down(c, at, of, then, said(world)))  # type: ignore[misc]


def _rate(connection: sa.Connection, world: World, provider: str, feature: str, micro: int) -> None:
    set_rate(connection, provider, feature, (micro, 1), said(world), from_ms=None)


def _serve(world: World) -> None:
    """Two processes of the server, with the same settings."""
    rng = world.rng
    unknown = rng.choice(("not_found", "deny", "allow"))
    settings = ServerSettings(gate_unknown_org=unknown, gate_open_when_in_doubt=rng.random() < 0.4)  # type: ignore[arg-type]
    unasked = {name: remote.unasked for name, remote in world.remote.items()}
    for name in ("s0", "s1"):
        context = Context(f"{name}.1", WorkerClock(world.time), world.capabilities)
        made = new_server(name, world.time, context, settings, providers=world.providers, unasked=unasked)
        world.servers.append(made)


def _assign_first(world: World, org: str, provider: str) -> None:
    start, customer = START - 60 * DAY_MS, org if provider != STRIPE else customer_at(world, provider, org)
    write(world.engine, lambda c: assign(c, [org], provider, said(world), customer_id=customer, from_ms=start))
    world.oracle.assignments[org].append(Assignment(start, provider, customer))
    if provider in world.memory:
        world.memory[provider].granted[org] = world.rng.choice((0, 4_000, 10_000_000))


def _set_limits(world: World) -> None:
    """How wrong clocks may be, and how long a key may be sent again, where a provider forgets it."""
    for name, remote in world.remote.items():
        declared = remote.provider.capabilities
        within_ms, kept = declared.applied_within_ms, safe_retention_ms(declared)
        assert within_ms is not None and kept is not None
        world.wire.applied_within_ms[name] = within_ms
        world.skew_ms = min(world.skew_ms, CLOCKS_APART_MS // 2, (remote.retention_ms - kept) // 6)
        world.wire.may_send_ms[name] = kept + LEASE_MS
    for name in world.remote:
        world.wire.may_send_ms[name] += 2 * world.skew_ms
