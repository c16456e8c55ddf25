"""Wallets that fill themselves in the simulated world: cards, terms, lots for a while, and the judge of their books.

Guarantee: all of it is drawn from a stream of its own, so that what a seed lives otherwise stays what it is. Who was
charged is asked at the payment service; what a wallet was given is worked out from what people said.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.providers.payments.protocol import Payment
from drawdown.schema.errors import Refused
from drawdown.worker.topup import actions as topups
from drawdown.worker.topup.fill import fill
from tests.fake_payments import CAN
from tests.integration.topping import TERMS
from tests.simulation import scheduler
from tests.simulation.actions import ORGS
from tests.simulation.making import new_world
from tests.simulation.operators import said
from tests.simulation.stepping import Task
from tests.simulation.world import World

MANNERS: Final = ("good", "good", "good", "declined", "stolen", "action", "none")
RATE, HOUR_MS, SETTLING = 1 / 3, 3_600_000, 120
OPEN: Final = "SELECT topup, state FROM topups WHERE state IN ('due', 'sending', 'in_doubt')"
CREDITED: Final = (
    r"SELECT key, to_account, amount_micro FROM ledger_entries WHERE kind = 'grant' AND key LIKE 'topup\:%'"
)
BEGUN: Final = "SELECT topup, customer_id, credits_micro, money_minor, state FROM topups"


class Filled:
    """A maker of worlds in which customers of the embedded ledger have cards; the worlds outlive their runs."""

    def __init__(self, changes: dict[str, Any] | None = None) -> None:
        self.made: list[World] = []
        self.close: list[Callable[[], None]] = []
        self.changes = changes or {}

    def __call__(self, seed: int, *given: Any, **more: Any) -> World:
        world = new_world(seed, *given, **more)
        rng = random.Random(f"{seed}-credit")
        world.payments.rng, world.payments.rate = random.Random(f"{seed}-card"), RATE
        # A small price and large credits: nobody's usage here costs more than a few credits a day.
        terms = replace(TERMS, threshold_micro=2_000_000, amount_micro=3_000_000, **self.changes)
        for org in ORGS:
            world.payments.cards[f"cus_{org}"] = rng.choice(MANNERS)
            one = replace(terms, service_customer=f"cus_{org}")
            with suppress(Refused):  # whoever is billed elsewhere is filled there
                world.write(partial(topups.set_terms, customer_id=org, terms=one, can=CAN, by=said(world), new=True))
        for worker in world.workers:
            worker.context.payments = {"fake": world.payments.capabilities}
        self.made.append(world)
        self.close.append(world.close)
        world.close = lambda: None  # type: ignore[method-assign]
        return world

    def end(self) -> None:
        for close in self.close:
            close()


def settle(world: World) -> None:
    """Nothing fails any more: what is open is looked up until it has ended; nothing more is begun."""
    world.faults.intensity = world.payments.rate = 0.0
    for (customer,) in world.rows("SELECT customer_id FROM topup_terms"):
        world.write(partial(topups.set_mode, customer_id=customer, mode="stopped", by=said(world)))
    for _ in range(SETTLING):
        if not world.rows(OPEN):
            return
        world.time.advance(HOUR_MS)
        task = Task(fill(world.workers[0].watch_context()))
        while not task.done:
            leaf = next(task.leaves())
            assert leaf.asked is not None
            leaf.hold(world.do(leaf.asked), None)
            leaf.tell()
            task.join()
    raise AssertionError(f"still open: {world.rows(OPEN)}")


def judged(world: World) -> list[str]:
    """What is wrong, a line each: the service's own books beside the ledger."""
    pay = world.payments
    lines = [f"{name} was charged twice" for name in pay.doubles()]
    begun = {row[0]: row[1:] for row in world.rows(BEGUN)}
    credited = {key: (account, micro) for key, account, micro in world.rows(CREDITED)}
    for one in pay.taken:
        customer, micro, money, state = begun.get(one.charge_id, ("", 0, 0, "unknown"))
        if credited.pop(one.charge_id, None) != (f"wallet:{customer}", micro):
            lines.append(f"{one.charge_id} was paid, and not credited as it should be")
        if (one.customer_id, one.amount, state) != (f"cus_{customer}", money, "credited"):
            lines.append(f"{one} is {state}, of {customer}, {money}")
    lines += [f"{name} was credited, and not paid" for name in credited]
    twice = [name for name, made in pay.known.items() if sum(isinstance(one.result, Payment) for one in made) > 1]
    return lines + [f"{name} was paid twice under one id" for name in twice]


def simulated(
    seed: int, ticks: int, monkeypatch: Any, orders: bool | None = None, **more: Any
) -> tuple[Any, World, Filled]:
    """One seed in such a world; its outcome."""
    filled = Filled(more)
    monkeypatch.setattr(scheduler, "new_world", filled)
    outcome = scheduler.simulate(seed, ticks, restores=False, orders=orders)
    (world,) = filled.made
    assert world.rows("SELECT COUNT(*) FROM topup_terms")[0][0], f"nobody is billed at {EMBEDDED}"
    return outcome, world, filled
