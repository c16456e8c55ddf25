"""What a shop's life came to, beside what its people and products said and were answered.

Guarantee: of the ledger only entries and balances are read, to be compared; no held sum, no lot and no settlement of
its own is believed. What rolled over, and expired of plans, is taken from entries: `verify` proves it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from drawdown.worker.verify.verify import verify
from tests.simulation.commerce.books import CLUBS, MEMBERS, MODELLED, PLANS, POOL, RATE, month_of
from tests.simulation.commerce.calling import Shop
from tests.stateful.pools import WAIT_MS, Member

ENTRIES: Final = "SELECT key, kind, from_account, to_account, amount_micro, ts, reservation FROM ledger_entries"


def judged(shop: Shop) -> list[str]:
    """What is wrong, a line each."""
    return [
        *(f"verify: {breach}" for breach in shop.world.read(verify).breaches),
        *_runs(shop),
        *_months(shop),
        *_tiers(shop),
        *_wallets(shop),
        *_suppliers(shop),
    ]


def _runs(shop: Shop) -> Iterator[str]:
    """Each was charged what it cost, by one receipt at most; one that metering or a provider settles by none."""
    text = (
        "SELECT reservation, SUM(amount_micro), COUNT(DISTINCT CASE WHEN key LIKE '%:final:%' AND key NOT LIKE '%:-' "
        "THEN key END), COUNT(DISTINCT from_account), MAX(from_account) FROM ledger_entries WHERE kind = 'execution' "
        "GROUP BY reservation"
    )
    charged = {key: more for key, *more in shop.world.rows(text)}
    for key, run in shop.books.runs.items():
        total, receipts, wallets, wallet = charged.pop(key, (0, 0, 0, ""))
        want = run.drawn if run.kind == "receipt" else 0
        most = 1 if run.kind == "receipt" else 0
        if total != want or receipts > most or (wallets and (wallets, wallet) != (1, f"wallet:{run.customer}")):
            yield f"{key} was charged {total} by {receipts} receipts to {wallet}, and should be {want}: {run}"
    yield from (f"{key} was charged, and nobody was told of it" for key in charged)
    for account, held in shop.world.rows("SELECT account_id, held_micro FROM ledger_accounts WHERE held_micro <> 0"):
        yield f"{account} keeps {held} held, and nothing runs"


def _months(shop: Shop) -> Iterator[str]:
    """Each month of each stay was given once, and nothing else was but what people gave."""
    given: Counter[tuple[str, str, int]] = Counter()
    for key, kind, _, to, amount, _, _ in shop.world.rows(ENTRIES):
        customer = to.removeprefix("wallet:")
        if kind == "grant" and customer in CLUBS and not key.startswith(("rollover:", "reduced:")):
            what = ":".join(key.split(":")[:4]) if key.startswith("included:") else key
            given[(customer, what, amount)] += 1
    want: Counter[tuple[str, str, int]] = Counter()
    for customer in CLUBS:
        want.update((customer, f"grant:{key}", amount) for key, amount in shop.books.given[customer].items())
        first = PLANS[shop.books.stays[customer][0][0]].first
        want.update([(customer, f"first:{customer}", first)] if first else [])
        for (plan, month), amount in shop.books.months(customer, shop.now).items():
            want[(customer, f"included:{customer}:{plan}:{month}", amount)] += 1
    yield from (f"{what} was given {given[what]} times, and should be {want[what]}" for what in given | want
                if given[what] != want[what])  # fmt: skip


def _tiers(shop: Shop) -> Iterator[str]:
    """Each month of a tier was charged once at most; of one who can pay, each that was wanted; and none after its
    end."""
    charged: Counter[tuple[str, str, str]] = Counter()
    for key, kind, account, _, amount, ts, _ in shop.world.rows(ENTRIES):
        if kind == "tier":
            tier = key.split(":")[2]
            charged[(account.removeprefix("wallet:"), tier, month_of(ts))] += 1
            if amount not in shop.books.prices[tier]:
                yield f"{key} cost {amount}, and {tier} never did"
    yield from (f"{what} was charged {times} times" for what, times in charged.items() if times > 1)
    for (customer, tier), held in shop.books.tiers.items():
        months = {month for whose, what, month in charged if (whose, what) == (customer, tier)}
        wanted = held.wanted | ({month_of(shop.now)} if held.renews else set())
        if customer == CLUBS[0] and not wanted <= months:
            yield f"{customer} held {tier} in {sorted(wanted)}, and was charged for {sorted(months)}"
        if not held.renews and any(month > held.paid_to for month in months):
            yield f"{customer} was charged for {tier} in {sorted(months)}, and it was to end: {held}"
    for customer, tier in {(customer, tier) for customer, tier, _ in charged} - shop.books.tiers.keys():
        yield f"{customer} was charged for {tier}, and never bought it"


def _wallets(shop: Shop) -> Iterator[str]:
    """What was given is what is left and what was used; of those on no plan, each lot is worked out."""
    balances = dict(shop.world.rows("SELECT SUBSTR(account_id, 8), balance_micro FROM ledger_accounts"))
    for customer in MEMBERS:
        used = _metered(shop, customer)
        if sum(amount for _, amount in used) != _used_micro(shop, customer):
            yield f"{customer} was charged {used} for its sandboxes, and used {_used_micro(shop, customer)}"
        shop.books.lots[customer].uses += used
        shop.books.lots[customer].pay()
    for customer in MEMBERS:
        for lot in shop.books.lots[customer].lots:
            if lot.pooled and lot.ends + WAIT_MS <= shop.now:
                shop.books.lots[POOL].uses.append((lot.begins, lot.taken + lot.paid - lot.amount))
    for customer in MODELLED:
        want = _left(shop.books.lots[customer], shop.now)
        if balances[customer] != want:
            yield f"{customer} has {balances[customer]}, and should have {want}"
    for customer in CLUBS:
        want = _left_of_plans(shop, customer)
        if balances[customer] != want:
            yield f"{customer} has {balances[customer]}, and should have {want}"


def _used_micro(shop: Shop, org: str) -> int:
    """What the samples of an organisation's sandboxes come to."""
    return sum(RATE * used for (whose, *_), used in shop.world.oracle.expected().owed.items() if whose == org)


def _metered(shop: Shop, customer: str) -> list[tuple[int, int]]:
    """(moment, micro-credits) of each charge for a window: where in its window it is dated is the worker's affair, and
    says which lots it may draw on."""
    text = "SELECT ts, amount_micro FROM ledger_entries WHERE kind = 'usage' AND from_account = :account"
    return [(ts, amount) for ts, amount in shop.world.rows(text, account=f"wallet:{customer}")]


def _left(member: Member, now_ms: int) -> int:
    member.pay()
    lots = [one for one in member.lots if one.begins <= now_ms or one.taken]
    expired = sum(one.amount - one.taken - one.paid for one in lots if one.ends + WAIT_MS <= now_ms)
    return sum(one.amount - one.taken for one in lots) - expired - sum(amount for _, amount in member.uses)


def _left_of_plans(shop: Shop, customer: str) -> int:
    books = shop.books
    plans = sum(books.months(customer, shop.now).values())
    given = sum(books.given[customer].values()) + plans + PLANS[books.stays[customer][0][0]].first
    runs = sum(one.drawn for one in books.runs.values() if one.customer == customer and one.kind == "receipt")
    metered = _used_micro(shop, customer)
    other = 0
    for key, kind, account, to, amount, _, _ in shop.world.rows(ENTRIES):
        if kind in ("expiry", "tier") or key.startswith(("rollover:", "reduced:")):
            other += amount * ((to == f"wallet:{customer}") - (account == f"wallet:{customer}"))
    return given - runs - metered + other


def _suppliers(shop: Shop) -> Iterator[str]:
    """By the files that were handed over: each run in one of them, at its share less what was reversed; each claw-back
    taken off once."""
    paid: Counter[str] = Counter()
    times: Counter[tuple[str, str | None]] = Counter()
    for lines in shop.books.files.values():
        for line in lines:
            paid[line.reservation] += line.amount_micro
            times[(line.reservation, line.reversal)] += 1
    yield from (f"{what} is in {number} lines" for what, number in times.items() if number > 1)
    for key, one in shop.books.owed.items():
        carried = sum(take.amount for take in one.taken.values() if take.clawback and take.batch is None)
        want = one.left + carried if one.batch else 0
        if paid.pop(key, 0) != want:
            yield f"{key}: the supplier was paid something else than {want}: {one}"
    yield from (f"{key} was paid to a supplier, and is owed to none" for key, amount in paid.items() if amount)
