"""What one effect changed, judged at once: verdicts of ticks, watches and the server's reads.

Guarantee: everything is read from raw tables, before and after the effect, and from what the provider truly answered;
nothing here calls the worker's code. Whether the answer was lost on the way does not matter: what is committed counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.providers.protocol import CustomerState
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Effect, Push, ReadCustomers, SendHalts, Transaction
from drawdown.worker.verdict.rules import USAGE_LIMIT
from tests.simulation.oracle import WINDOW
from tests.simulation.server import Asked, Reading
from tests.simulation.stepping import Task, Worker
from tests.simulation.world import World

DECIDES: Final = "project"
JUDGED: Final = frozenset({DECIDES, "watch", "gate", "webhook"})
WATCHES: Final = JUDGED | {
    "expire_holds",
    "expire_holds_elsewhere",
    "shrink_holds",
    "projections_due",
    "due_halts",
    "claim_halts",
    "settle_halts",
    "due_hooks",
    "claim_hooks",
    "settle_hooks",
    "known_costs",
    "learn_costs",
    "topup_begin",
    "topup_claim",
    "topup_settle",
    "topup_claim_lookups",
    "topup_settle_lookups",
}
_STATE: Final = (
    "SELECT (SELECT MAX(projection_id) FROM projections), (SELECT SUM(is_halted) FROM orgs), "
    "(SELECT SUM(refresh_requests) FROM orgs), (SELECT COUNT(*) FROM pushes), (SELECT SUM(attempts) FROM pushes)"
)
_NEW: Final = """
SELECT p.org_id, p.is_halted, p.reason, o.operator_halt, o.override_halted, o.override_until_ms, o.plan,
    (SELECT b.is_halted FROM projections b WHERE b.org_id = p.org_id AND b.projection_id < p.projection_id
        ORDER BY b.projection_id DESC LIMIT 1) AS before, a.provider
FROM projections p JOIN orgs o ON o.org_id = p.org_id LEFT JOIN assignments a ON a.org_id = p.org_id
    AND a.start_ms <= :now AND (a.end_ms IS NULL OR :now < a.end_ms)
WHERE p.projection_id > :last ORDER BY p.projection_id
"""
_RESERVED: Final = """
SELECT COALESCE(SUM(r.amount_micro - r.drawn_micro), 0), COUNT(CASE WHEN r.settled_by = 'metering' THEN 1 END)
FROM reservations r JOIN assignments a
ON a.customer_id = r.customer_id AND a.org_id = :org AND a.provider = 'embedded' AND a.start_ms <= :now
    AND (a.end_ms IS NULL OR :now < a.end_ms)
WHERE r.state = 'held' AND r.expires_ms > :now AND r.drawn_micro < r.amount_micro
"""
_POLICY: Final = """
SELECT COALESCE((SELECT policy FROM provider_when_down WHERE provider = :provider AND plan = :plan),
    (SELECT policy FROM provider_when_down WHERE provider = :provider AND plan = ''), 'estimate')
"""
_DUE: Final = """
SELECT h.org_id, h.cell_id, h.halted_at, h.attempts FROM halts h JOIN cells c ON c.cell_id = h.cell_id
JOIN orgs o ON o.org_id = h.org_id AND o.is_halted AND o.halted_at = h.halted_at
WHERE o.bucket BETWEEN :lo AND :hi AND (h.due_at_ms <= :now OR (h.due_at_ms IS NULL AND h.acked_at_ms <= :now - 60000
    AND EXISTS (SELECT 1 FROM sandboxes s WHERE s.org_id = h.org_id AND s.cell_id = h.cell_id AND s.state = 'running')))
"""


class App(NamedTuple):
    """What is compared."""

    projection: int
    halted: int
    asks: int
    pushes: int
    attempts: int


class Decided(NamedTuple):
    """A verdict that was written, and what stands beside it."""

    org: str
    halted: bool
    reason: str | None
    operator_halt: bool
    override: bool | None
    until_ms: int | None
    plan: str | None
    before: bool | None
    provider: str | None


def state_of(world: World) -> App:
    return App(*(one or 0 for one in world.rows(_STATE)[0]))


@contextmanager
def judged(world: World, worker: Worker, leaf: Task, effect: Effect | Reading) -> Iterator[None]:
    """Judge what the block did."""
    watches = worker.watching is not None and worker.doing == "watch"
    name = effect.name if isinstance(effect, Transaction) else ""
    if watches and (isinstance(effect, Push) or (name and name not in WATCHES)):
        world.breaches.append(f"watch: it asked for {name or 'a push'}, and must bill nothing")
    if name not in JUDGED:
        yield
        return
    before, now = state_of(world), worker.clock.now_ms()
    if isinstance(leaf, Asked):
        leaf.request.begins()
    try:
        yield
    finally:
        after = state_of(world)
        if name != DECIDES:
            if (before.projection, before.halted) != (after.projection, after.halted):
                world.breaches.append(f"{name}: a verdict changed without a read of the provider")
        elif after.projection > before.projection:
            rows = world.rows(_NEW, last=before.projection, now=now)
            for one in (Decided(*row) for row in rows):
                world.breaches += _verdict(world, one, _told(leaf, effect, one.org), now)
        if (before.pushes, before.attempts) != (after.pushes, after.attempts):
            world.breaches.append(f"{name}: it sealed or sent something")
        if isinstance(leaf, Asked):
            leaf.request.changed(world, before.asks, after.asks)


def heard(leaf: Task, effect: Effect | Reading, answer: Any, error: Exception | None) -> None:
    """Remember what a provider answered until it is written down."""
    if isinstance(leaf, Asked) and isinstance(effect, Reading):
        leaf.request.saw(error)
    if isinstance(effect, ReadCustomers):
        leaf.read = dict(answer) if isinstance(answer, Mapping) else {}
    elif isinstance(effect, Transaction):
        leaf.read = {}


def _told(leaf: Task, effect: Any, org: str) -> Any:
    """What was said of who was asked about: he may be billed elsewhere by now, and is asked about there next."""
    customers = {one.org_id: one.customer_id for one in effect.work.keywords["due"]}
    return leaf.read.get(customers.get(org, ""))


def _verdict(world: World, one: Decided, state: Any, now: int) -> Iterator[str]:
    """One transition: the operator's word first, then what was read, then the policy for a provider that is down."""
    world.faults.counts[f"verdict_{one.reason or 'go_on'}"] += 1
    told = f"verdict: {one.org} is_halted={bool(one.halted)} ({one.reason})"
    in_force = one.override is not None and (one.until_ms is None or now < one.until_ms)
    if one.operator_halt or in_force:
        if bool(one.halted) != (bool(one.operator_halt) or bool(one.override)):
            yield f"{told}, though an operator said otherwise"
        return
    if one.reason == "operator":
        yield f"{told}, and no operator said so"
    if isinstance(state, CustomerState) and type(state.balance_micro) in (int, type(None)):
        reserved, of_metering = _reserved(world, one, now)
        balance = state.balance_micro
        if of_metering and one.halted and one.reason == "estimate" and 0 < (balance or 0) <= reserved:
            return  # what its sandboxes have used by now is reserved no longer: only the watch has seen how much
        if one.reason == USAGE_LIMIT:
            yield from _by_limit(world, told, one, state)
            return
        yield from _by_read(told, one, balance, reserved)
    elif not one.halted and one.before:
        yield f"{told}: resumed without a fresh read ({state})"
    elif one.halted:
        ((policy,),) = world.rows(_POLICY, provider=one.provider, plan=one.plan or "")
        if {"estimate": "estimate", "unreadable": "stop"}.get(str(one.reason)) != policy:
            yield f"{told}: not read ({state}), and the policy is {policy}"


def _by_limit(world: World, told: str, one: Decided, state: CustomerState) -> Iterator[str]:
    """Halted though others of its features have credit: for one that is refused, and that it uses."""
    uses = _used(world, one.org)
    if not one.halted or not (state.refused if one.before else state.refused & uses):
        yield f"{told}: {sorted(state.refused)} are refused, and it uses {sorted(uses)}"
    if state.balance_micro is not None and state.balance_micro <= 0:
        yield f"{told}: the provider says {state.balance_micro}"


def _used(world: World, org: str) -> set[str]:
    """The features of all that an organisation ever ran."""
    oracle = world.oracle
    spots = {(one.memory_mb, one.ts // WINDOW * WINDOW) for one in oracle.samples.values() if one.org == org}
    placed = world.rows("SELECT DISTINCT memory_mb FROM sandboxes WHERE org_id = :org AND memory_mb > 0", org=org)
    spots |= {(size, world.time.now // WINDOW * WINDOW) for (size,) in placed}
    rules = (oracle.rule(size, window) for size, window in spots)
    return {rule.feature for rule in rules if rule is not None and rule.feature is not None}


def _reserved(world: World, one: Decided, now: int) -> tuple[int, int]:
    """What runs have reserved of its wallet, and hold by this clock; how many of them metering settles."""
    if one.provider != EMBEDDED:
        return 0, 0
    ((left, of_metering),) = world.rows(_RESERVED, org=one.org, now=now)
    return int(left), int(of_metering)


def _by_read(told: str, one: Decided, balance: int | None, reserved: int) -> Iterator[str]:
    spent = balance is not None and balance <= 0
    if (balance is not None and 0 < balance <= reserved) != (bool(one.halted) and one.reason == "reserved"):
        yield f"{told}: the provider says {balance}, and {reserved} of it are reserved"
        return
    if one.reason == "reserved":
        return
    if spent != (bool(one.halted) and one.reason == "credits_exhausted"):
        yield f"{told}: the provider says {balance}"
    elif one.halted and not spent and (one.reason != "estimate" or balance is None):
        yield f"{told}: the provider says {balance}, and it is no estimate"


class Round:
    """A tick or round of a watch that nothing comes in between: one dead cell delays no other (7)."""

    def __init__(self, world: World, worker: Worker, context: Context) -> None:
        self.world, self.worker = world, worker
        self.now_ms = now = worker.clock.now_ms()
        shard = worker.shard
        self.due = {tuple(row) for row in world.rows(_DUE, now=now, lo=shard.lo, hi=shard.hi)}
        self.excused = {cell for cell, one in context.cell_breakers.items() if one.failures}
        self.tried: set[tuple[str, str]] = set()
        """A delivered halt can be due again, if its row is deleted and a sandbox moves to its cell after that."""
        self.troubled = False
        self.offset_ms, self.life = worker.clock.offset_ms, worker.life

    def saw(self, effect: Effect | Reading, answer: Any, error: Exception | None) -> None:
        """Whose answers failed in this round is excused."""
        if isinstance(effect, SendHalts):
            bad = [True] * len(effect.halts) if error is not None else [one is not None for one in answer]
            self.excused |= {halt.cell_id for halt, failed in zip(effect.halts, bad, strict=True) if failed}
            self.tried |= {(halt.org_id, halt.cell_id) for halt in effect.halts}
        elif isinstance(effect, Transaction) and error is not None:
            self.troubled = True

    def ended(self) -> Iterator[str]:
        """What was due as it began, and is so all the same."""
        worker, shard = self.worker, self.worker.shard
        if self.troubled or worker.life != self.life or worker.clock.offset_ms != self.offset_ms:
            return
        still = {tuple(row) for row in self.world.rows(_DUE, now=self.now_ms, lo=shard.lo, hi=shard.hi)}
        for org, cell, at, _ in sorted(self.due & still):
            if cell not in self.excused and (org, cell) not in self.tried:
                yield f"7: the halt of {org} at {at} was due at {cell}, which answers; nobody tried in a whole round"
        self.world.faults.counts["cells_judged"] += len({one[1] for one in self.due} & self.excused) > 0
