"""A life in which a shop's people and products act beside the workers, and months turn; then all ends, and heals.

Guarantee: what the shop does is drawn from a stream of its own, and worlds without a shop are what they were.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Final

from drawdown.ledger.lots import Terms
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.provider.actions import set_rate
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools, tiers
from tests.simulation import actions
from tests.simulation.commerce import buyers, payees, products
from tests.simulation.commerce.books import (
    BEYOND,
    CLUBS,
    FAR,
    FEATURE,
    MODELLED,
    PLANS,
    POOL,
    RUNNERS,
    TIERS,
    month_of,
    turn_after,
)
from tests.simulation.commerce.calling import Shop, hear
from tests.simulation.commerce.judge import judged
from tests.simulation.healing import heal
from tests.simulation.making import new_world
from tests.simulation.operators import said, void_rejected
from tests.simulation.oracle import Assignment
from tests.simulation.people import decide
from tests.simulation.providers import MEMORY, STRIPE
from tests.simulation.remote import Stripe
from tests.simulation.restore import Restores
from tests.simulation.scheduler import Run
from tests.simulation.shortcut import texts_kept
from tests.simulation.webhooks import webhooks
from tests.simulation.world import START, World
from tests.stateful.pools import EVER, Lot

BILLING: Final = (EMBEDDED, MEMORY, STRIPE)
BEGIN: Final = {CLUBS[0]: 10**10, CLUBS[1]: 300_000}
"""What customers begin with; others with `ENOUGH`."""
ENOUGH: Final = 5_000_000
LEAPS: Final = 0.15
"""How often, where nothing happens for a while, that while is days or weeks."""
SKEW_MS: Final = 5_000
BUSY: Final = 6
"""Acts of the shop's, at most, for each moment in which the world acts."""
Act = Callable[[Shop], str | None]
ACTS: Final[tuple[tuple[Act, float], ...]] = (
    (buyers.give, 8.0),
    (buyers.pay_provider, 2.0),
    (buyers.take_back, 1.5),
    (buyers.come_onto, 1.5),
    (buyers.buy, 3.0),
    (buyers.let_end, 1.0),
    (buyers.change_terms, 1.5),
    (buyers.flip, 0.7),
    (buyers.allot, 5.0),
    (buyers.name_payer, 2.0),
    (products.accept, 12.0),
    (products.accept_metered, 6.0),
    (products.accept_remote, 6.0),
    (products.go_on, 26.0),
    (products.use, 9.0),
    (payees.set_terms, 0.7),
    (payees.freeze, 3.0),
    (payees.reverse, 4.0),
    (payees.release, 7.0),
    (hear, 5.0),
)


def skew(world: World) -> str:
    """A worker's clock is some seconds wrong."""
    worker = world.rng.choice(world.workers)
    worker.clock.offset_ms = world.rng.randint(-SKEW_MS, SKEW_MS)
    world.faults.note("clock_skew")
    return f"{worker.name}'s clock is off by {worker.clock.offset_ms / 1000} s"


HOSTS: Final = ((skew, 1.0), (actions.samples, 3.0), (actions.sandbox, 1.0), (actions.provider_trouble, 0.3),
                (actions.cell_trouble, 0.5), (webhooks, 1.0), (void_rejected, 0.3), (decide, 0.5))  # fmt: skip


class Life(Run):
    """The seeded scheduler, with a shop."""

    def __init__(self, world: World, ticks: int, seed: int) -> None:
        super().__init__(world, ticks, Restores(world, seed, False))
        self.shop, self.month = Shop(world, random.Random(f"{seed}-commerce")), month_of(START)
        _open(self.shop)
        world.limit_of = partial(limit_of, self.shop)

    def _act(self) -> None:
        host, _ = zip(*HOSTS, strict=True)
        what = self.shop.rng.choices(host, [weight for _, weight in HOSTS])[0](self.world)
        if what is not None:
            self.world.say("world", what)
        if self.month != month_of(self.world.time.now):
            self.month = month_of(self.world.time.now)
            for supplier in payees.TERMS:
                self.world.say("shop", payees.release_of(self.shop, supplier))
        for _ in range(self.shop.rng.randint(1, BUSY)):
            act = self.shop.rng.choices([act for act, _ in ACTS], [weight for _, weight in ACTS])[0]
            done = act(self.shop)
            if done is not None:
                self.world.say("shop", done)

    def _while(self) -> int:
        """Now and then a month turns: just not yet, just now, or long ago."""
        rng, now = self.shop.rng, self.world.time.now
        asked = any(one.task for one in self.world.servers)  # a request takes no days
        if asked or rng.random() >= LEAPS:
            return super()._while()
        turn = turn_after(now) - now
        choices = (DAY_MS, 3 * DAY_MS, 9 * DAY_MS, turn - MINUTE_MS, turn + MINUTE_MS, turn + 13 * MINUTE_MS)
        leap = rng.choice((*choices, turn, turn + rng.randrange(9 * DAY_MS)))
        if turn <= leap:
            self.shop.note("month_turned")
        return max(leap, 0)

    def end(self) -> None:
        """All that goes on ends; what suppliers wait for is due; nothing fails any more; all is released."""
        shop, world = self.shop, self.world
        products.end_all(shop)
        for supplier in sorted(shop.books.frozen):
            payees.freeze_supplier(shop, supplier, undo=True)
        for key in [key for key, one in shop.books.owed.items() if one.frozen]:
            payees.freeze_one(shop, key, undo=True)
        for _ in range(2):
            world.time.now = turn_after(world.time.now)
        world.time.advance(6 * DAY_MS)
        heal(self)
        for supplier in payees.TERMS:
            world.say("shop", payees.release_of(shop, supplier))
        while shop.unheard:
            hear(shop)


def lived(seed: int, ticks: int, *, intensity: float | None = None, show: bool = False) -> tuple[Life, list[str]]:
    """One seed's life, and what is wrong with it, a line each; its world is left open."""
    with texts_kept():
        life = Life(new_world(seed, intensity, BILLING, show=show), ticks, seed)
        life.safety()
        if life.world.breaches:
            return life, life.world.breaches
        life.end()
        return life, [*life.world.breaches, *judged(life.shop)]


def _open(shop: Shop) -> None:
    """Plans, tiers, suppliers, a pool; who is billed where; and what everybody begins with."""
    world, by = shop.world, said(shop.world)
    first = START - 60 * DAY_MS
    for name, plan in PLANS.items():
        gives = {"included_micro": plan.included, "rollover_min_micro": plan.rolls[0],
                 "rollover_max_micro": plan.rolls[1], "first_micro": plan.first}  # fmt: skip
        world.write(partial(credit.set_plan_limit, plan=name, max_concurrent=plan.at_once, by=by, gives=gives))
        shop.books.included[name] = [(START, plan.included)]
    for name, (at_once, price) in TIERS.items():
        world.write(partial(tiers.set_tier, tier=name, change=tiers.Change(at_once, price), by=by))
    for name, change in payees.TERMS.items():
        world.write(partial(settlements.set_supplier, supplier=name, change=change, by=by, new=True))
        shop.books.terms[name] = change
    for org, provider in (*((one, EMBEDDED) for one in RUNNERS), (FAR, MEMORY), (BEYOND, STRIPE)):
        customer = f"cus_{org}" if provider == STRIPE else org
        world.write(partial(assign, org_ids=[org], provider=provider, by=by, customer_id=customer, from_ms=first))
        world.oracle.assignments[org].append(Assignment(first, provider, customer))
    world.write(partial(set_rate, provider=MEMORY, feature=FEATURE, rate=(1, 1), by=by, from_ms=None, new=True))
    world.memory[MEMORY].granted[FAR] = buyers.AMOUNTS[1]
    stripe = world.remote[STRIPE]
    assert isinstance(stripe, Stripe)
    stripe.emulator.add_customer(f"cus_{BEYOND}", f"cus_{FAR}")
    world.write(partial(pools.make, pool=POOL, by=by))
    for customer in (*CLUBS, *MODELLED):
        _begin(shop, customer)


def _begin(shop: Shop, customer: str) -> None:
    amount, key = BEGIN.get(customer, ENOUGH), f"begin-{customer}"
    plan = "basic" if customer in CLUBS else None
    shop.write(lambda c, by: credit.grant(c, customer, amount, by, key=key, plan=plan, terms=Terms()))
    if customer in CLUBS:
        shop.books.given[customer] = {key: amount}
        shop.books.stays[customer].append(("basic", shop.now))
    else:
        shop.books.lots[customer].lots.append(Lot(f"grant:{key}", amount, shop.now, EVER, 50, pooled=False))


def limit_of(shop: Shop, customer: str) -> int | None:
    """By its plan, and the tiers that it was charged for this month."""
    if customer not in CLUBS:
        return None
    month = month_of(shop.now)
    paid = {key for (key,) in shop.world.rows("SELECT key FROM ledger_entries WHERE kind = 'tier'")}
    more = [at_once for tier, (at_once, _) in TIERS.items() if f"tier:{customer}:{tier}:{month}" in paid]
    return max(PLANS[shop.books.on_plan(customer)].at_once, *more, 0)
