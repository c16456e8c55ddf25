"""What the rest of the world does while workers tick: samples arrive, hosts move sandboxes, customers pay.

Guarantee: the oracle is told of what was committed, and of nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.verdict.refresh_requests import mark_for_projection
from drawdown.worker.wallets import actions as credit
from tests.simulation.oracle import Sample
from tests.simulation.providers import CELL_TROUBLES, MEMORY, WHOLE
from tests.simulation.remote import FEATURES, Autumn
from tests.simulation.world import START, World

ORGS: Final = (*(f"org{n}" for n in range(5)), f"org5-{'long-' * 20}")
"""One has an id so long that its keys are sent as a hash where a provider takes no more than a hundred characters."""
STRANGERS: Final = ("stranger0", "stranger1", "stranger2")
CELLS: Final = ("cell-a", "cell-b", "cell-c")
BOXES: Final = 12
SIZES: Final = (1024, 1024, 4096, 2048, 3000)
MAX_LATE_MS: Final = 40 * DAY_MS

_INSERT: Final = sa.text(
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
    "VALUES (:id, :org, :box, 'cell-a', :memory_mb, :seconds, :ts, :now) ON CONFLICT (id) DO NOTHING"
)


def _lateness(world: World) -> int:
    """How old a sample is when it arrives: mostly fresh, sometimes anything up to forty days."""
    kind = world.rng.random()
    if kind < 0.6:
        return world.rng.randrange(2 * MINUTE_MS)
    if kind < 0.65:
        return -world.rng.randrange(4 * MINUTE_MS)  # a host whose clock is ahead, within bounds
    if kind < 0.9:
        world.faults.note("late_sample")
        return int(10 ** world.rng.uniform(0, 8))
    world.faults.note("very_late_sample")
    return world.rng.randrange(MAX_LATE_MS)


def _moment(world: World) -> int:
    """A sample's ts; now and then exactly on a window's edge."""
    ts = world.time.now - _lateness(world)
    if world.rng.random() < 0.15:
        ts = ts - ts % WINDOW_MS + world.rng.choice((-1, 0, 1))
    return min(ts, world.time.now + 4 * MINUTE_MS)


def _who(world: World) -> str:
    return world.rng.choice(STRANGERS if world.rng.random() < 0.13 else ORGS)


RESERVED_IDS = ("event:", "run:", "batch:")


def samples(world: World) -> str:
    """A host inserts a few samples in one transaction; a lost answer makes it insert them again."""
    made = []
    for _ in range(world.rng.randrange(1, 10)):
        world.samples_made += 1
        seconds = world.rng.choice((0, 1, 7, 30, 59, 60, 60, 60, 300, 86_400))
        name = f"s{world.samples_made}"
        made.append(Sample(name, _who(world), _moment(world), world.rng.choice(SIZES), seconds, good=True))
    insert(world, made)
    if world.rng.random() < 0.1:
        world.faults.note("samples_inserted_twice")
        insert(world, made)
    return "inserts " + " ".join(f"{one.id}:{one.org}@{(one.ts - START) // 1000}s={one.seconds}" for one in made)


def insert(world: World, made: list[Sample], box: str | None = None) -> None:
    made = [one for one in made if not one.id.startswith(RESERVED_IDS)]  # the database refuses a host's (S7)
    if not made:
        return
    # A box's number says nothing of whose it is: of those that are the organisation's own, more is expected to come.
    name = f"box{len(world.written) % BOXES}" if box is None else box
    rows = [{**one._asdict(), "box": name, "now": world.time.now} for one in made]
    world.write(lambda c: c.execute(_INSERT, rows))
    for one, row in zip(made, rows, strict=True):
        world.oracle.took(one)
        world.written.setdefault(one.id, (one, row))


def insert_again(world: World, names: Sequence[str]) -> None:
    """Hosts write what was lost with the database."""
    found = [world.written[name] for name in names]
    if found:
        world.write(lambda c: c.execute(_INSERT, [{**row, "now": world.time.now} for _, row in found]))
        world.faults.note("written_again")
    for sample, _ in found:
        world.oracle.took(sample)
    gone = set(names)
    world.unwritten = [name for name in world.unwritten if name not in gone]


_BAD: Final[tuple[dict[str, Any], ...]] = (
    {"seconds": -1},
    {"seconds": 12.5},
    {"seconds": 86_401},
    {"seconds": None},
    {"ts": START - 40 * 366 * DAY_MS},
    {"ts": None},
    {"ts": START + 400 * DAY_MS},
    {"org": ""},
    {"org": "o" * 201},
    {"org": "new\nline"},
    {"memory_mb": None},
    {"memory_mb": -1},
)


def bad_sample(world: World) -> str:
    """Another program inserts what must be quarantined, without looking; or 32.0, which is fine."""
    world.samples_made += 1
    change = world.rng.choice((*_BAD, {"seconds": 32.0}))
    name = f"b{world.samples_made}"
    row = {"org": _who(world), "ts": world.time.now, "memory_mb": 1024, "seconds": 60, "id": name, "box": "box"}
    row.update(change)
    world.write(lambda c: c.execute(_INSERT, {**row, "now": world.time.now}))
    good = change == {"seconds": 32.0}
    world.faults.note("whole_float" if good else "bad_sample")
    sample = Sample(name, str(row["org"]), world.time.now, 1024, 32, good=True)
    sample = sample if good else Sample(name, "", 0, 0, 0, good=False)
    world.oracle.took(sample)
    world.written[name] = (sample, row)
    return f"inserts the odd sample {name}: {change}"


def same_id(world: World) -> str | None:
    """The same id again, with other content: the first one counts."""
    if not world.oracle.samples:
        return None
    old = world.rng.choice(list(world.oracle.samples.values()))
    if not old.good:
        return None
    insert(world, [old._replace(seconds=old.seconds + 1)])
    world.faults.note("same_id_other_content")
    return f"inserts {old.id} again with other content"


def org_row(world: World) -> str:
    """The product's own program adds an organisation, without a bucket."""
    org = world.rng.choice(STRANGERS)
    world.execute("INSERT INTO orgs (org_id) VALUES (:org) ON CONFLICT DO NOTHING", org=org)
    return f"adds the organisation {org}"


_PLACED: Final = (
    "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state, memory_mb, since_ms) "
    "VALUES (:name, :org, :cell, :state, :mb, :since) ON CONFLICT (sandbox_id) DO UPDATE SET "
    "cell_id = excluded.cell_id, state = excluded.state, memory_mb = excluded.memory_mb, since_ms = excluded.since_ms"
)


def _begun(world: World, name: str) -> dict[str, int | None]:
    """What its host keeps of it, in half of the lives; nothing is drawn for that, so that lives stay as they were."""
    if not world.keeps_sizes:
        return {"mb": None, "since": None}
    return {"mb": SIZES[zlib.crc32(name.encode()) % len(SIZES)], "since": world.time.now}


def sandbox(world: World) -> str:
    """A sandbox starts, moves to another cell, hibernates, stops."""
    name, org = f"box{world.rng.randrange(BOXES)}", world.rng.choice(ORGS)
    cell = world.rng.choice(CELLS)
    state = world.rng.choice(("running", "running", "hibernated", "migrating", "stopped"))
    world.execute(_PLACED, name=name, org=org, cell=cell, state=state, **_begun(world, name))
    world.faults.note("sandbox_moved")
    return f"{name} of {org} on {cell} is {state}"


def flood(world: World) -> str | None:
    """Sandboxes of all halted organisations run on every cell, and one of the cells is in trouble."""
    halted = world.rows("SELECT org_id FROM orgs WHERE is_halted ORDER BY org_id")
    if not halted or not world.faults.intensity:
        return None
    for org, cell in ((org, cell) for (org,) in halted for cell in CELLS):
        name = f"{cell}-{org}"[:60]
        world.execute(_PLACED, name=name, org=org, cell=cell, state="running", **_begun(world, name))
    world.cells.heal()
    trouble, cell = world.rng.choice(CELL_TROUBLES), world.rng.choice(CELLS[:2])
    world.cells.troubles[trouble].add(cell)
    return f"{len(halted)} halted organisations run on every cell, and {cell} is {trouble}"


def grant(world: World) -> str | None:
    """A customer pays, or is paid back; the provider's webhook names the customer, and he is read again."""
    org = world.rng.choice(ORGS)
    biller = world.oracle.assigned(org, world.time.now)
    if biller is None or biller.provider not in world.billing or not biller.customer:
        return None
    amount = world.rng.choice((60, 3_000, 500_000, -2_000, -400_000))
    autumn = world.remote.get(biller.provider)
    if isinstance(autumn, Autumn):
        if biller.customer not in autumn.emulator.account.customers:
            return None
        amount, feature = abs(amount), world.rng.choice(FEATURES)
        if autumn.pooled is not None:
            autumn.pooled.pay(biller.customer, amount, world.time.now)
            autumn.tell(biller.customer)
            world.faults.note("grant")
            return f"{biller.customer} gets {amount} for credits"
        if feature not in autumn.emulator.account.customers[biller.customer].grants:
            return None
        autumn.emulator.account.grant(biller.customer, feature, amount, world.time.now)
        autumn.tell(biller.customer)
    elif biller.provider in world.memory:
        world.memory[biller.provider].granted[biller.customer] += amount
        if amount > 0 and world.rows("SELECT 1 FROM orgs WHERE org_id = :org AND is_halted", org=org):
            world.faults.note("grant_untold")  # a watch has to find it
        else:
            world.write(lambda c: mark_for_projection(c, [org], world.time.now))
    else:
        key = f"grant{world.effects}:{world.rng.randrange(1 << 30)}"

        now = world.time.now

        def pay(connection: sa.Connection) -> None:
            credit.grant(connection, biller.customer, amount, By(now, "sim", "paid"), key=key, plan=None)
            mark_for_projection(connection, [org], world.time.now)

        world.write(pay)
        world.decided(lambda w: w.write(pay))
    world.faults.note("grant")
    return f"{biller.customer} at {biller.provider} gets {amount}"


def provider_trouble(world: World) -> str:
    """A provider goes down or comes back."""
    if world.down and world.rng.random() < 0.7:
        name = world.rng.choice(sorted(world.down))
    else:
        name = world.rng.choice(world.billing)
    world.down ^= {name}
    return f"{name} is {'down' if name in world.down else 'up'}"


def price_trouble(world: World) -> str | None:
    """A memory provider loses or gets a price: pushes of that feature are rejected meanwhile."""
    provider = world.memory.get(world.rng.choice((MEMORY, WHOLE)))
    if provider is None:
        return None
    provider.refused_features ^= {world.rng.choice(("compute_1gb", "compute_4gb"))}
    world.faults.note("price_missing")
    return f"{provider.name} refuses {sorted(provider.refused_features)}"


def cell_trouble(world: World) -> str:
    """A cell goes down, lies, answers nonsense or too late, or is well again."""
    cell = world.rng.choice(CELLS)
    kind = world.rng.choice((*CELL_TROUBLES, "well"))
    for name, which in world.cells.troubles.items():
        which.discard(cell)
        if kind == name:
            which.add(cell)
    return f"{cell} is {kind}"


def clock_trouble(world: World) -> str:
    """A worker's clock is set: a little wrong, an hour back or forth, or days away."""
    worker = world.rng.choice(world.workers)
    kind = world.rng.choices(("skew", "hour", "days", "right"), (5, 3, 8, 2))[0]
    if kind == "days" and world.remote:
        kind = "hour"  # whether a provider has forgotten a key, or may still apply one, is told by a clock alone
    reach = {"skew": 30_000, "hour": world.skew_ms, "days": 3 * DAY_MS, "right": 0}[kind]
    worker.clock.offset_ms = world.rng.randint(-reach, reach)
    worker.clock.trusted = kind == "days" and world.rng.random() < 0.5
    world.faults.note(f"clock_{kind}")
    return (
        f"{worker.name}'s clock is off by {worker.clock.offset_ms / 1000} s{' by --at' if worker.clock.trusted else ''}"
    )


Action = Callable[[World], str | None]
ACTIONS: Final[tuple[tuple[Action, float], ...]] = (
    (samples, 10.0),
    (bad_sample, 0.8),
    (same_id, 0.4),
    (org_row, 0.2),
    (sandbox, 3.0),
    (grant, 2.0),
    (provider_trouble, 0.4),
    (price_trouble, 0.4),
    (cell_trouble, 1.5),
    (clock_trouble, 1.0),
)
