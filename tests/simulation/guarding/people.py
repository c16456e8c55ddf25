"""People who say what the guard counts, what plans allow, what stands in its place for a while, and who pays."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, Final

from drawdown.guard.decide import Reach
from drawdown.guard.periods import Period
from drawdown.ledger.lots import Terms as LotTerms
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.overrides import Terms, Word
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.wallets import actions as credit
from tests.simulation.actions import insert
from tests.simulation.callers import AGAIN
from tests.simulation.guarding.books import Over
from tests.simulation.guarding.calling import Product
from tests.simulation.guarding.product import ASKERS, FAR
from tests.simulation.oracle import Sample

PLANS: Final = ("basic", "gold")
PERIODS: Final[tuple[Period, ...]] = ("hour", "day", "month")
AMOUNTS: Final = (0, 2, 6, 6, 15, 40, 300, None)
PRICES: Final = ((0, 1), (MICRO, 1), (1, 7), (MICRO // 3, 7))
"""The third rounds to nothing for a few units."""
LASTS: Final = (10 * MINUTE_MS, 180 * MINUTE_MS, 2 * DAY_MS, 89 * DAY_MS, None)
TARGETS: Final[tuple[tuple[Reach, str], ...]] = (
    *(("org", one) for one in ASKERS), ("pattern", "acme-*"), ("pattern", "a*"), ("plan", "basic"), ("plan", "gold"),
)  # fmt: skip
WORDS: Final[tuple[Word, ...]] = ("approve", "approve", "refuse", "end")
METERED: Final = "used"
SIZE: Final = 1024


def limit(product: Product) -> str:
    """A plan allows so much from now on, or says nothing of it any more."""
    rng, limits = product.rng, product.books.limits
    metric, plan = rng.choice(sorted(product.books.metrics)), rng.choice(("*", "*", *PLANS))
    period, amount = rng.choice(PERIODS), rng.choice(AMOUNTS)
    phase, ended = rng.choice((None, None, 0, 1, 2, 3)), rng.random() < 0.15
    key = (metric, plan, period)
    known = limits.get(key)
    said = PlanLimit(metric, plan, period, amount, phase)
    changed = _twice(product, lambda c, by: guard_terms.set_limit(c, said, by, ended=ended))
    if changed != ((known is not None) if ended else known != (amount, phase)):
        product.breach(f"{said} was set, and changed {changed}: it was {known}")
    if ended:
        limits.pop(key, None)
    else:
        limits[key] = (amount, phase)
    product.note("limit_ended" if ended else "limit_set")
    return f"{plan} allows {amount} {metric} a {period}, ended={ended}"


def terms(product: Product) -> str:
    """A metric has another phase, price, payer, or says otherwise when it is warned."""
    rng = product.rng
    metric = rng.choice(sorted(product.books.metrics))
    before = product.books.metrics[metric]
    kind = rng.choice(("phase", "phase", "price", "payer", "little", "open"))
    if kind == "phase":
        after, change = replace(before, phase=(phase := rng.randrange(4))), Change(phase=phase)
    elif kind == "price":
        micro, per = rng.choice(PRICES)
        after, change = replace(before, micro=micro, per=per), Change(price_micro=micro, per_units=per)
    elif kind == "payer":
        payer = rng.choice(("", "", "platform"))
        after, change = replace(before, payer=payer or None), Change(payer=payer)
    elif kind == "little":
        ppm = rng.choice((0, 100_000, 500_000))
        after, change = replace(before, little=Fraction(ppm, 1_000_000)), Change(warn_ppm=ppm)
    else:
        after, change = replace(before, fails_open=(opens := rng.random() < 0.5)), Change(fails_open=opens)
    _twice(product, lambda c, by: guard_terms.set_metric(c, metric, change, by))
    product.books.metrics[metric] = after
    product.note(f"terms_{kind}")
    return f"{metric} is {after}"


def override(product: Product) -> str:
    """One is made, or asked for."""
    rng = product.rng
    (reach, target), metric = rng.choice(TARGETS), rng.choice(sorted(product.books.metrics))
    period, amount, lasts = rng.choice(PERIODS), rng.choice(AMOUNTS), rng.choice(LASTS)
    if product.books.overs and rng.random() < 0.6:  # which of several counts
        metric, period = (other := rng.choice(product.books.overs)).metric, other.period  # type: ignore[assignment]
    ends = None if lasts is None else product.now + lasts
    said, asked = Terms(metric, reach, target, period, amount, ends), rng.random() < 0.4
    made, _ = product.write(lambda c, by: guard_overrides.add(c, said, by, asked=asked, permanent=ends is None))
    state = "asked" if asked else "in_force"
    if made.number not in {one.number for one in product.books.overs}:  # the same again is the first one
        product.books.overs.append(Over(made.number, metric, reach, target, period, amount, ends, state))
    product.note(f"override_{state}")
    return f"override {made.number} of {target}: {amount} {metric} a {period} until {ends}, {state}"


def judge(product: Product) -> str | None:
    """One that was asked for is approved or refused; one that counts is ended."""
    if not product.books.overs:
        return None
    found = product.rng.choice(product.books.overs)
    word: Word = product.rng.choice(WORDS)
    after = {"approve": "in_force", "refuse": "refused", "end": "ended"}[word]
    over = found.ends_ms is not None and found.ends_ms <= product.now
    replaced = any(one.replaces(found, product.now) for one in product.books.overs)
    may = found.state == ("in_force" if word == "end" else "asked") and not (word == "approve" and (over or replaced))
    try:
        row, changed = _twice(product, lambda c, by: guard_overrides.decide(c, found.number, word, by))
    except Refused:
        if may or found.state == after:
            product.breach(f"{word} {found} was refused")
        return f"{word} of {found.number}: refused"
    if row.state != after or changed != (found.state != after) or (changed and not may):
        product.breach(f"{word} {found}: {row}, {changed}")
    found.state = after
    product.note(f"override_{word}")
    return f"{word} of {found.number}"


def give(product: Product) -> str:
    """Somebody pays, or is given credit."""
    rng = product.rng
    customer = rng.choice((*[one for one in ASKERS if one != FAR], "platform", "patron"))
    amount, bought = rng.choice((1, 4, 4, 15)) * MICRO, rng.random() < 0.15
    key, lot = product.name("gift"), LotTerms(kind="purchased" if bought else "bonus")
    plan = rng.choice(PLANS) if customer in ASKERS and rng.random() < 0.1 else None
    _twice(product, lambda c, by: credit.grant(c, customer, amount, by, key=key, plan=plan, terms=lot))
    product.books.given[customer] += amount
    if bought:
        product.books.bought.add(customer)
    if plan is not None:
        product.books.plans[customer] = plan
    product.note("given")
    return f"{customer} gets {amount}, {lot.kind}, on {plan}"


def halt(product: Product) -> str:
    """A person lets an organisation run nothing, or lifts that."""
    org, lift = product.rng.choice(("ann", "bob", METERED)), product.rng.random() < 0.75
    product.write(lambda c, by: orgs.halt(c, [org], by, undo=lift))
    product.note("halted" if not lift else "lifted")
    return f"halts {org}: {not lift}"


def use(product: Product) -> str:
    """Sandboxes run beside, of one who pays for them and for what the guard counts from one wallet."""
    made = [
        Sample(
            product.name("guard-s"), METERED, product.now - product.rng.randrange(5 * MINUTE_MS), SIZE, 300, good=True
        )
        for _ in range(product.rng.randint(1, 4))
    ]
    insert(product.world, made, box=METERED)
    return f"{METERED} uses {len(made)} samples"


def _twice(product: Product, work: Any) -> Any:
    """The first answer of a person, who may be gone before it is committed, or hear nothing and say it again."""
    product.dies(work, Refused)
    answer = product.write(work)
    if product.rng.random() < AGAIN:
        product.note("said_again")
        product.write(partial(work))
    return answer
