"""What must hold once everything has healed: nothing is left, and each provider's own total is what was used.

Guarantee: "billed exactly once" is judged at the provider, not in our tables.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator

from drawdown.worker.verdict.rules import USAGE_LIMIT
from tests.simulation.billed import billed
from tests.simulation.invariants import exempt
from tests.simulation.providers import OLDEST_READ
from tests.simulation.remote import Autumn
from tests.simulation.world import World

SETTLED = "pushes not settled"
LEFT = {
    SETTLED: "SELECT COUNT(*) FROM pushes WHERE state NOT IN ('accepted', 'carried', 'voided')",
    "dirty windows": "SELECT COUNT(*) FROM dirty_windows",
    "halts due": "SELECT COUNT(*) FROM halts h JOIN orgs o ON o.org_id = h.org_id AND o.is_halted "
    "AND o.halted_at = h.halted_at WHERE h.due_at_ms IS NOT NULL",
    "halted and still running": "SELECT COUNT(*) FROM sandboxes s JOIN orgs o ON o.org_id = s.org_id AND o.is_halted "
    "WHERE s.state = 'running'",
    "projections due": "SELECT COUNT(*) FROM orgs o WHERE o.projection_due_ms IS NOT NULL AND EXISTS (SELECT 1 "
    "FROM assignments a WHERE a.org_id = o.org_id AND a.end_ms IS NULL AND a.customer_id <> '' "
    "AND a.provider NOT IN ('legacy', 'none'))",
    "turns to come": "SELECT COUNT(*) FROM orgs o WHERE o.refresh_deadline_ms IS NOT NULL AND EXISTS (SELECT 1 "
    "FROM assignments a WHERE a.org_id = o.org_id AND a.end_ms IS NULL AND a.customer_id <> '' "
    "AND a.provider NOT IN ('legacy', 'none'))",
    "organisations stopped": "SELECT COUNT(*) FROM orgs WHERE stopped_at_ms IS NOT NULL",
    "jobs open": "SELECT COUNT(*) FROM jobs WHERE state IN ('waiting', 'under_way')",
    "held watermarks": "SELECT COUNT(*) FROM orgs WHERE held_watermark_ms IS NOT NULL",
}


def left(world: World) -> dict[str, int]:
    """What still waits, by kind."""
    found = {what: int(world.rows(text)[0][0]) for what, text in LEFT.items()}
    return {what: number for what, number in found.items() if number}


def settled(world: World) -> list[str]:
    """Every breach that shows once nothing is left to do."""
    expected = world.oracle.expected()
    return [
        *(f"not healed: {number} {what}" for what, number in left(world).items()),
        *billed(world, expected),
        *_verdicts(world),
        *_verified(world),
    ]


def _verdicts(world: World) -> Iterator[str]:
    """The flags agree with the provider and the operator."""
    rows = world.rows(
        "SELECT org_id, is_halted, operator_halt, override_halted, max_concurrent_sandboxes, "
        "override_max_concurrent, halt_reason FROM orgs WHERE bucket IS NOT NULL"  # without one: never seen by any tick
    )
    for org, halted, operator, override, most, override_most, reason in rows:
        biller = world.oracle.assigned(org, world.time.now)
        if biller is None or exempt(biller.provider):
            continue
        if not biller.customer:
            continue  # nobody to ask
        balance, limit = _asked(world, biller.provider, biller.customer)
        spent = balance is not None and balance <= 0
        limited = reason == USAGE_LIMIT and _refuses(world, biller.provider, biller.customer)
        want = True if operator else bool(override) if override is not None else spent or limited
        if bool(halted) != want:
            yield f"projection: {org} is_halted={bool(halted)}; {biller.provider} says {balance}, operator {operator}"
        want_most = limit if override_most is None else override_most
        counts_reads = max(most or 0, 0) > OLDEST_READ and max(want_most or 0, 0) > OLDEST_READ
        if most != want_most and not counts_reads:  # where the limit counts reads, any of them will do
            yield f"projection: {org} may run {most} sandboxes; {biller.provider} says {limit}"


def _refuses(world: World, provider: str, customer: str) -> bool:
    """Whether some features are refused, while others have credit."""
    remote = world.remote.get(provider)
    return isinstance(remote, Autumn) and remote.refuses(customer)


def _asked(world: World, provider: str, customer: str) -> tuple[int | None, int | None]:
    """What the provider truly says: a balance (None: unlimited) and a limit."""
    if provider in world.memory:
        return world.memory[provider].balance(customer), world.memory[provider].limit
    remote = world.remote.get(provider)
    if isinstance(remote, Autumn):
        return remote.balance(customer), None
    granted = "SELECT 1 FROM ledger_entries WHERE kind = 'grant' AND to_account = :id"
    if remote is not None and not world.rows(granted, id=f"wallet:{customer}"):
        return None, None  # Stripe stops nobody, but for who has a wallet in the ledger
    rows = world.rows(
        "SELECT COALESCE(SUM(amount_micro), 0) FROM ledger_lines WHERE account_id = :id", id=f"wallet:{customer}"
    )
    return int(rows[0][0]), world.limit_of(customer)


def _verified(world: World) -> list[str]:
    """`drawdown verify` has to agree, where this tree has it."""
    if importlib.util.find_spec("drawdown.worker.verify.verify") is None:
        return []
    verify = importlib.import_module("drawdown.worker.verify.verify").verify
    told = [f"verify: {breach}" for breach in world.read(verify).breaches]
    if any(world.faults.counts[kind] for kind in ("clock_skew", "clock_hour", "clock_days")):
        # It compares moments that different clocks wrote; where clocks were wrong, order cannot be read from them.
        order = ("after it was voided", "after it went in doubt", "but was first sent before that")
        told = [line for line in told if not any(one in line for one in order)]
    return told
