"""A life in which products ask the guard beside the workers, and hours, days and months turn; then all ends and heals.

Guarantee: what the products do is drawn from a stream of its own, and worlds without a guard are what they were. In
every other life the database is restored from an image, and forgets what was used since.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Final

from drawdown.ledger.lots import Terms as LotTerms
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.topup import actions as topups
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools
from tests.fake_payments import CAN
from tests.integration.topping import TERMS
from tests.simulation.credit import settle as settle_top_ups
from tests.simulation.guarding import people, product
from tests.simulation.guarding.books import Books, BooksOracle, Metric
from tests.simulation.guarding.calling import Product
from tests.simulation.guarding.judge import judged
from tests.simulation.healing import heal
from tests.simulation.making import new_world
from tests.simulation.operators import said
from tests.simulation.oracle import Assignment, Oracle
from tests.simulation.providers import MEMORY, STRIPE
from tests.simulation.restore import Restores
from tests.simulation.scheduler import Run
from tests.simulation.shortcut import texts_kept
from tests.simulation.world import START, World

BUSY: Final = 14
"""Acts, at most, for each moment in which the world acts."""
LEAPS: Final = 0.3
AT_ONCE: Final = 5
HOUR_MS: Final = 60 * MINUTE_MS
METRICS: Final = {
    "idea": Metric(MICRO, 1), "byte": Metric(MICRO, 25), "look": Metric(), "mail": Metric(MICRO // 10, 1, "platform"),
    "entry": Metric(MICRO // 7, 2, fails_open=True),
}  # fmt: skip
LIMITS: Final = (("idea", "*", "day", 15), ("idea", "gold", "month", 300), ("byte", "*", "month", None),
                 ("look", "*", "hour", 6), ("look", "basic", "day", 15), ("mail", "*", "day", 40))  # fmt: skip
EMBEDDED_ORGS: Final = ("ann", "bob", people.METERED)
BEGIN: Final = {**dict.fromkeys(product.ASKERS, 12), "platform": 3, product.PATRON: 10}
PLANS: Final = {"ann": "basic", "bob": "gold", people.METERED: "basic"}
Act = Callable[[Product], str | None]
ACTS: Final[tuple[tuple[Act, float], ...]] = (
    (product.ask, 30.0), (product.go_on, 14.0), (product.hear, 3.0), (product.misuse, 1.0), (people.limit, 2.0),
    (people.terms, 2.0), (people.override, 4.0), (people.judge, 3.0), (people.give, 4.0), (people.halt, 0.5),
    (people.use, 2.0),
)  # fmt: skip


class Life(Run):
    """The seeded scheduler, with a guard."""

    def __init__(self, world: World, ticks: int, seed: int, *, restores: bool) -> None:
        super().__init__(world, ticks, Restores(world, seed, restores))
        self.product = Product(world, random.Random(f"{seed}-guard"))
        world.limit_of = lambda customer: AT_ONCE if customer in self.product.books.plans else None
        self.tops_up = not restores
        _open(self.product, tops_up=self.tops_up)
        for worker in world.workers if self.tops_up else ():
            worker.context.payments = {"fake": world.payments.capabilities}

    def _act(self) -> None:
        for _ in range(self.product.rng.randint(1, BUSY)):
            act = self.product.rng.choices([act for act, _ in ACTS], [weight for _, weight in ACTS])[0]
            done = act(self.product)
            if done is not None:
                self.world.say("guard", done)

    def _while(self) -> int:
        """Now and then a period turns: just not yet, or just now."""
        rng, now = self.product.rng, self.world.time.now
        if rng.random() >= LEAPS:
            return super()._while()
        if rng.random() < 0.3:  # some holds are over, and others are not
            return 11 * MINUTE_MS
        length = rng.choice((HOUR_MS, HOUR_MS, DAY_MS, 31 * DAY_MS))
        turn = length - now % length if length != 31 * DAY_MS else 31 * DAY_MS
        return max(0, turn + rng.choice((-1, 0, 1, -10 * MINUTE_MS, 10 * MINUTE_MS)))

    def end(self) -> None:
        """All that goes on ends, and nothing fails any more."""
        self.world.faults.intensity = 0.0
        heal(self)
        product.end_all(self.product)
        if self.tops_up:
            settle_top_ups(self.world)


def lived(seed: int, ticks: int, *, show: bool = False) -> tuple[Life, list[str]]:
    """One seed's life, and what is wrong with it, a line each; its world is left open."""
    restores = seed % 2 == 1
    billing = (EMBEDDED, MEMORY, STRIPE) if restores else (EMBEDDED, MEMORY)
    with texts_kept():
        life = Life(new_world(seed, None, billing, show=show), ticks, seed, restores=restores)
        life.safety()
        if not life.world.breaches:
            life.end()
        wrong = life.world.breaches
        return life, [*wrong, *(judged(life.product) if not wrong else ())]


def _open(made: Product, *, tops_up: bool) -> None:
    """Metrics, limits, plans, wallets, a sponsor, and who is billed where."""
    world = made.world
    plain = world.oracle
    world.oracle = BooksOracle(**{name: getattr(plain, name) for name in Oracle.__dataclass_fields__})
    world.oracle.books = books = Books()
    by, first = said(world), START - 60 * DAY_MS
    for name in people.PLANS:
        world.write(partial(credit.set_plan_limit, plan=name, max_concurrent=AT_ONCE, by=by))
    for org, provider in (*((one, EMBEDDED) for one in EMBEDDED_ORGS), (product.FAR, MEMORY)):
        world.write(partial(assign, org_ids=[org], provider=provider, by=by, customer_id=org, from_ms=first))
        world.oracle.assignments[org].append(Assignment(first, provider, org))
    world.memory[MEMORY].granted[product.FAR] = 10**9
    for customer, credits in BEGIN.items():
        if customer != product.FAR:
            _begin(made, customer, credits * MICRO)
    for org in ("ann", product.FAR):
        world.write(partial(pools.allow, payer=product.PATRON, org_id=org, by=by))
        books.sponsors.add((product.PATRON, org))
    for name, metric in METRICS.items():
        _metric(made, name, metric)
    for what, plan, period, amount in LIMITS:
        one = PlanLimit(what, plan, period, amount)  # type: ignore[arg-type]
        world.write(partial(guard_terms.set_limit, limit=one, by=by))
        books.limits[(what, plan, period)] = (amount, None)
    if tops_up:
        world.payments.cards["cus_bob"] = "good"
        terms = replace(TERMS, threshold_micro=2 * MICRO, amount_micro=5 * MICRO, service_customer="cus_bob")
        world.write(partial(topups.set_terms, customer_id="bob", terms=terms, can=CAN, by=by))


def _begin(made: Product, customer: str, amount: int) -> None:
    plan, lot = PLANS.get(customer), LotTerms(kind="bonus")
    made.write(lambda c, by: credit.grant(c, customer, amount, by, key=f"begin-{customer}", plan=plan, terms=lot))
    made.books.given[customer] += amount
    if plan is not None:
        made.books.plans[customer] = plan


def _metric(made: Product, name: str, terms: Metric) -> None:
    little = int(terms.little * Fraction(1_000_000))
    change = Change(terms.micro, terms.per, terms.payer, terms.phase, little, terms.fails_open)
    made.write(lambda c, by: guard_terms.set_metric(c, name, change, by))
    made.books.metrics[name] = terms
