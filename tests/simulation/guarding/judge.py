"""What a life of the guard came to, beside what its people and products said and were answered.

Guarantee: what everybody may read is compared with the books; `verify` and the nightly comparison of counters have
nothing to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from drawdown.schema.units import MINUTE_MS
from drawdown.worker.guard import lists as views
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.verify.verify import verify
from tests.simulation.credit import judged as tills
from tests.simulation.guarding.books import PERIODS, begin_of
from tests.simulation.guarding.calling import SOURCE, Call, Product
from tests.simulation.guarding.product import free

ALL: Final = 1_000_000


def judged(product: Product) -> list[str]:
    """What is wrong, a line each."""
    world = product.world
    return [
        *(f"verify: {breach}" for breach in world.read(verify).breaches),
        *(f"reconcile: {drift}" for drift in world.read(lambda c: views.drifts(c, 0, ALL))),
        *tills(world),
        *_uses(product),
        *_events(product),
        *_counters(product),
        *_rates(product),
        *_overrides(product),
        *_wallets(product),
    ]


def _uses(product: Product) -> Iterator[str]:
    """Each use as it was answered, and no other."""
    found = {one.use_key: one for one in product.world.read(lambda c: views.list_uses(c, "", "", product.now, ALL))}
    for key, use in product.books.uses.items():
        one = found.pop(key, None)
        if one is None:
            yield f"{key} was used, and is not there: {use}"
            continue
        want = (use.org, use.metric, use.state, use.asked, use.amount, use.charged_micro, use.forgone_micro)
        have = (
            one.org_id, one.metric, one.state, one.requested_quantity, one.quantity, one.charged_micro,
            one.forgone_micro,
        )  # fmt: skip
        if have != want or (one.decision, one.would, one.degraded) != (use.decision, use.would, use.degraded):
            yield f"{key} is {one}, and should be {use}"
    yield from (f"{one} is a use that nobody was told of" for one in found.values())


def _events(product: Product) -> Iterator[str]:
    """Each use that emits has its event, with what it used, when it was used; and no other event is there."""
    text = "SELECT event_id, org_id, quantity, ts FROM usage_events WHERE source = :source"
    found = {str(key): said for key, *said in product.world.rows(text, source=SOURCE)}
    want = {
        key: [one.org, one.asked, one.at_ms]
        for key, one in product.books.uses.items()
        if one.said[0] == "consume" and Call("consume", key, one.org).emits
    }
    for key in sorted(found.keys() | want.keys()):
        if found.get(key) != want.get(key):
            yield f"the event of {key} is {found.get(key)}, and should be {want.get(key)}"


def _counters(product: Product) -> Iterator[str]:
    """Each counter is what was used in its period: by a sum of the judge's own."""
    text = "SELECT org_id, metric, period, start_ms, used FROM guard_counters"
    found = {tuple(spot): int(used) for *spot, used in product.world.rows(text)}
    sums: dict[tuple[Any, ...], int] = {}
    for use in product.books.uses.values():
        for period in PERIODS:
            of = (use.org, use.metric, period, begin_of(period, use.at_ms))
            sums[of] = sums.get(of, 0) + use.amount
    for spot in sorted(found.keys() | sums.keys()):
        if found.get(spot, 0) != sums.get(spot, 0):
            yield f"the counter {spot} says {found.get(spot)}, and {sums.get(spot)} were used"


def _rates(product: Product) -> Iterator[str]:
    """What is told of each metric: how often it was asked, blocked, and would be; what nobody knew, and nobody paid."""
    books, now = product.books, product.now
    for metric in books.metrics:
        for rate in product.world.read(lambda c: views.rates_of(c, metric, now)):  # noqa: B023
            since = now - views.SPANS[rate.span]
            uses = [one for one in books.uses.values() if one.metric == metric and one.at_ms >= since]
            times = [
                (spot[4], count)
                for spot, count in books.denied.items()
                if spot[1] == metric and spot[2] > since - MINUTE_MS
            ]
            blocked = sum(count for enforced, count in times if enforced)
            unknown, forgone = sum(one.amount for one in uses if one.degraded), sum(one.forgone_micro for one in uses)
            would = sum(count for _, count in times)
            passes = sum(one.would != "block" for one in uses)
            want = (passes + would, blocked, would, unknown, forgone)
            have = (rate.requests, rate.blocked, rate.would, rate.fail_open_units, rate.forgone_micro)
            if have != want:
                figures = "(requests, blocked, would, fail_open_units, forgone)"
                yield f"{metric} in {rate.span}: {figures} is {have}, and should be {want}"


def _overrides(product: Product) -> Iterator[str]:
    """Each as people said."""
    rows = product.world.read(lambda c: guard_overrides.list_overrides(c, "", product.now, ALL, everything=True))
    found = {one.number: (one.target, one.amount, one.ends_ms, one.state) for one in rows}
    want = {one.number: (one.target, one.amount, one.ends_ms, one.state) for one in product.books.overs}
    if found != want:
        yield f"overrides are {found}, and should be {want}"


def _wallets(product: Product) -> Iterator[str]:
    """Each wallet has what was given, less what was charged; nothing is held."""
    kept = product.world.rows("SELECT SUBSTR(account_id, 8), balance_micro, held_micro FROM ledger_accounts")
    for customer, balance, held in kept:
        if customer in product.books.given and (balance, held) != (free(product, customer), 0):
            yield f"{customer} has {balance} and holds {held}, and should have {free(product, customer)}"
