"""Whoever pushes were charged for is asked about: at once, where it matters, and within the hour, wherever it does not.

Guarantee: judged on raw tables against the provider's own balances; nothing of the worker's code is called.
"""

from __future__ import annotations

from collections.abc import Iterator

from drawdown.schema.units import WINDOW_MS
from tests.simulation.world import World

HOUR_MS = 3_600_000
_CLOCKS = ("clock_skew", "clock_hour", "clock_days")
_BILLED = """
SELECT o.org_id, a.provider, a.customer_id, o.is_halted, o.override_halted, o.projection_due_ms, o.refresh_deadline_ms,
    o.projection_read_ms, EXISTS (SELECT 1 FROM pushes p WHERE p.org_id = o.org_id AND p.provider = a.provider
        AND p.customer_id = a.customer_id AND p.state = 'accepted' AND p.settled_ms > o.projection_read_ms) AS pushed,
    EXISTS (SELECT 1 FROM pushes p WHERE p.org_id = o.org_id AND p.provider = a.provider
        AND p.customer_id = a.customer_id AND p.state NOT IN ('accepted', 'carried', 'voided')) AS is_open
FROM orgs o JOIN assignments a ON a.org_id = o.org_id AND a.start_ms <= :now AND (a.end_ms IS NULL OR :now < a.end_ms)
    AND a.customer_id <> '' AND a.provider NOT IN ('legacy', 'none')
WHERE o.projection_read_ms IS NOT NULL AND o.billing_provider = a.provider
"""


def asked(world: World) -> Iterator[str]:
    """8: no verdict rests on a read from before a push for longer than an hour; nor at all of whoever is halted, or has
    nothing left. Where clocks were wrong, or history was lost, what came first cannot be read from the tables; of a
    loss that no tick has seen yet they tell nothing."""
    lost = world.lost_at is not None or world.rows("SELECT 1 FROM losses")
    if lost or any(world.faults.counts[kind] for kind in _CLOCKS):
        return
    for org, provider, customer, halted, said, due, turn, read, pushed, is_open in world.rows(
        _BILLED, now=world.time.now
    ):
        if turn is not None and turn > read + HOUR_MS:
            yield f"8: the turn of {org} is {turn - read - HOUR_MS} ms later than an hour after its read"
        if not pushed or due is not None:
            continue
        if turn is None:
            yield f"8: pushes of {org} were charged at {provider} since it was read, and nobody is to ask"
        elif halted:
            yield f"8: {org} is halted, pushes of it were charged at {provider}, and it is left to its turn"
        elif (
            provider in world.memory and not is_open and said is None and world.memory[provider].balance(customer) <= 0
        ):
            yield f"8: {org} has nothing left at {provider}, and is left to its turn"


def _is_near(world: World, provider: str, customer: str) -> bool:
    """Whether so much as the last push took, in each window of an hour, would be more than there is."""
    memory = world.memory[provider]
    taken = [one.quantity for one in memory.charges.values() if one.customer_id == customer]
    return memory.balance(customer) <= (HOUR_MS // WINDOW_MS) * max(taken[-1], 0) if taken else False
