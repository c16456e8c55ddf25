"""People who give, take back, change plans, buy tiers, allot, and say who pays."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, Final

from drawdown.ledger.lots import Terms
from drawdown.ledger.reservations import Denied
from drawdown.schema.errors import UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.verdict.refresh_requests import mark_for_projection
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools, tiers
from tests.simulation.commerce.books import (
    CLUBS,
    FAR,
    MEMBERS,
    MODELLED,
    PLANS,
    POOL,
    TIERS,
    Tier,
    month_of,
    turn_after,
)
from tests.simulation.commerce.calling import Shop
from tests.simulation.operators import attempt, said
from tests.simulation.oracle import Assignment
from tests.simulation.providers import MEMORY, STRIPE
from tests.stateful.pools import EVER, Lot

AMOUNTS: Final = (10_000, 80_000, 400_000, 2_000_000)
LASTS: Final = (30 * MINUTE_MS, DAY_MS, 9 * DAY_MS, 40 * DAY_MS)
PRICES: Final = (0, 45_000, 120_000, 300_000)
INCLUDED: Final = (0, 60_000, 300_000, 900_000)
BOUGHT_MS: Final = 12 * MINUTE_MS
"""So long after a month began a tier is charged for it."""


def give(shop: Shop) -> str:
    """Somebody pays, for now or for later; for good, or for a while."""
    customer = shop.rng.choice((*CLUBS, *MODELLED, POOL))
    amount, key = shop.rng.choice(AMOUNTS[:2] if customer == CLUBS[1] else AMOUNTS), shop.name("gift")
    begins = shop.rng.choice((None, None, None, None, shop.now + 2 * DAY_MS, shop.now - 3 * DAY_MS))
    ends = shop.rng.choice((None, None, max(begins or 0, shop.now) + shop.rng.choice(LASTS)))
    priority = shop.rng.choice((50, 50, 10, 90))
    terms = Terms("bonus" if ends else "purchased", priority, begins, ends)

    def work(connection: Any, by: Any) -> Any:
        return credit.grant(connection, customer, amount, by, key=key, plan=None, terms=terms)

    # Whoever says by now that it is to end in the past is told that this makes no sense.
    shop.call(f"grant {key}", work, lambda answer: bool(answer.repeated), later=ends is None)
    if customer in CLUBS:
        shop.books.given.setdefault(customer, {})[key] = amount
    else:
        until = EVER if ends is None else ends
        lot = Lot(f"grant:{key}", amount, begins or shop.now, until, priority, pooled=False)
        shop.books.lots[customer].lots.append(lot)
    shop.note("lot_that_ends" if ends else "lot_for_later" if begins else "lot")
    return f"gives {customer} {amount} from {begins} to {ends}"


def pay_provider(shop: Shop) -> str:
    """Who is billed elsewhere pays there."""
    amount = shop.rng.choice(AMOUNTS[:3])
    shop.world.memory[MEMORY].granted[FAR] += amount
    shop.write(lambda c, by: mark_for_projection(c, [FAR], by.now_ms))
    return f"{FAR} pays {amount} at its provider"


def flip(shop: Shop) -> str:
    """Who is billed elsewhere is billed by another provider from its next window on; what runs goes on."""
    biller = shop.world.oracle.latest(FAR)
    assert biller is not None
    provider = MEMORY if biller.provider == STRIPE else STRIPE
    customer = f"cus_{FAR}" if provider == STRIPE else FAR
    made = attempt(shop.world, lambda c: assign(c, [FAR], provider, said(shop.world), customer_id=customer))
    if made is None:
        return f"{FAR} to {provider}: refused"
    shop.world.oracle.assignments[FAR].append(Assignment(made[0].start_ms, provider, customer))
    shop.note("flipped")
    return f"{FAR} is billed by {provider} from {made[0].start_ms}"


def take_back(shop: Shop) -> str | None:
    """What is left of a lot, or all of it."""
    customer = shop.rng.choice(MODELLED)
    lots = [one for one in shop.books.lots[customer].lots if one.begins <= shop.now]
    if not lots:
        return None
    lot, whole = shop.rng.choice(lots), shop.rng.random() < 0.3
    work = partial(_take_back, lot=lot.key, whole=whole)
    told = shop.call(f"take back {lot.key}", work, lambda answer: answer.taken_back_micro == 0, later=False)
    lot.taken += told.taken_back_micro
    if lot.pooled:
        shop.books.lots[POOL].uses.append((lot.begins, -told.taken_back_micro))
    shop.note("taken_back")
    return f"takes {told.taken_back_micro} of {lot.key} back"


def _take_back(connection: Any, by: Any, lot: str, whole: bool) -> Any:
    return credit.take_back(connection, lot, by, whole=whole)


def come_onto(shop: Shop) -> str:
    """A customer changes its plan, or comes back."""
    customer, plan, key = shop.rng.choice(CLUBS), shop.rng.choice(sorted(PLANS)), shop.name("onto")
    onto = partial(_onto, customer=customer, plan=plan, key=key)
    shop.call(f"{customer} onto {plan}", onto, lambda answer: bool(answer.repeated), later=False)
    shop.books.given.setdefault(customer, {})[key] = 1
    if plan != shop.books.on_plan(customer):
        shop.books.stays[customer].append((plan, shop.now))
        shop.note("plan_changed")
    return f"{customer} comes onto {plan}"


def _onto(connection: Any, by: Any, customer: str, plan: str, key: str) -> Any:
    return credit.grant(connection, customer, 1, by, key=key, plan=plan)


def buy(shop: Shop) -> str:
    """A tier from now on; one that is held already costs nothing more."""
    customer, tier = shop.rng.choice(CLUBS), shop.rng.choice(sorted(TIERS))
    answer = shop.call(
        f"{customer} buys {tier}",
        lambda c, by: tiers.buy(c, customer, tier, by),
        lambda answer: answer.charged_micro == 0 and not answer.changed,
        later=False,
    )
    if isinstance(answer, Denied):
        if customer == CLUBS[0]:
            shop.breach(f"{customer} has credit enough, and cannot buy {tier}: {answer}")
        return f"{customer} cannot buy {tier}: {answer.code}"
    asked_of(shop, customer)  # whoever buys is charged for what it held until now
    held, month = shop.books.tiers.setdefault((customer, tier), Tier()), month_of(shop.now)
    if answer.charged_micro:
        if month in held.wanted or answer.charged_micro != shop.books.prices[tier][-1]:
            shop.breach(f"{customer} was charged {answer.charged_micro} for {tier} in {month}: {held}")
        shop.note("tier_bought")
    held.wanted.add(month)
    held.renews, held.paid_to = True, month
    return f"{customer} buys {tier} for {answer.charged_micro}"


def let_end(shop: Shop) -> str | None:
    """A tier is not wanted any more after this month."""
    if not shop.books.tiers:
        return None
    customer, tier = shop.rng.choice(sorted(shop.books.tiers))
    answer = shop.call(
        f"{customer} ends {tier}",
        lambda c, by: tiers.let_end(c, customer, tier, by),
        lambda answer: not answer.changed,
        later=False,
    )
    asked_of(shop, customer)
    held = shop.books.tiers[(customer, tier)]
    held.renews, held.paid_to = False, month_of(answer.holder.paid_to_ms - 1)
    shop.note("tier_ended")
    return f"{customer} ends {tier}"


def change_terms(shop: Shop) -> str | None:
    """Another price of a tier, for charges to come; or what a plan includes, in months to come and for who comes."""
    if shop.rng.random() < 0.5:
        tier, price = shop.rng.choice(sorted(TIERS)), shop.rng.choice(PRICES)
        change = tiers.Change(price_micro=price)
        shop.call(
            f"price of {tier}",
            lambda c, by: tiers.set_tier(c, tier, change, by),
            lambda answer: bool(answer[0] == answer[1]),
            later=False,
        )
        shop.books.prices[tier].append(price)
        shop.note("price_changed")
        return f"{tier} costs {price}"
    if turn_after(shop.now - 1) == shop.now:
        return None  # in this very moment a month begins: by which terms is decided by who comes first
    plan, gives = shop.rng.choice(sorted(PLANS)), {"included_micro": shop.rng.choice(INCLUDED)}
    shop.write(lambda c, by: credit.set_plan_limit(c, plan, None, by, gives=gives))
    # Who came onto it in this very moment came before that.
    came = any((plan, shop.now) in stays for stays in shop.books.stays.values())
    shop.books.included[plan].append((shop.now + came, gives["included_micro"]))
    shop.note("plan_gives_otherwise")
    return f"{plan} gives {gives}"


def asked_of(shop: Shop, customer: str) -> None:
    """By an answer that needs its balance, each tier that renews has been charged for this month: of one who can
    pay."""
    if month_of(shop.now - BOUGHT_MS) != month_of(shop.now):
        return
    for (whose, _), held in shop.books.tiers.items():
        if whose == customer and held.renews and customer == CLUBS[0]:
            held.wanted.add(month_of(shop.now))


def allot(shop: Shop) -> str:
    """Out of the pool, until a time."""
    member, amount, key = shop.rng.choice(MEMBERS), shop.rng.choice(AMOUNTS), shop.name("part")
    ends = shop.now + shop.rng.choice(LASTS)
    answer = shop.call(
        f"allot {key}",
        lambda c, by: pools.allot(c, POOL, member, amount, ends, by, key=key),
        lambda answer: bool(answer.repeated),
        later=False,
    )
    if isinstance(answer, Denied):
        return f"cannot allot {amount} to {member}: {answer.code}"
    lot = Lot(f"allot:{POOL}:{key}", amount, shop.now, ends, 40, pooled=True)
    shop.books.lots[member].lots.append(lot)
    shop.books.lots[POOL].uses.append((shop.now, amount))
    shop.note("allotted")
    return f"allots {amount} to {member} until {ends}"


def name_payer(shop: Shop) -> str:
    """The pool, or one customer, pays for runs of another, or does no longer."""
    payer, org = shop.rng.choice(((POOL, "studio"), (POOL, "maker"), ("maker", "lab"), ("studio", "club-poor")))
    if shop.rng.random() < 0.2:
        with suppress(UsageError):
            shop.call("end", lambda c, by: pools.end(c, payer, org, by), lambda done: done is False, later=False)
        return f"{payer} pays no longer for {org}"
    limit = shop.rng.choice((None, None, 500_000))
    shop.call(
        f"{payer} pays for {org}",
        lambda c, by: pools.allow(c, payer, org, by, limit_micro=limit),
        lambda answer: bool(answer[0] == answer[1]),
        later=False,
    )
    shop.note("payer_named")
    return f"{payer} pays for {org} up to {limit}"
