"""Define and run the demo's month: set-up, people's acts, and the product's use.

The product has executions, events and builds every day. The month runs the samples of hosts, the acts and the ticks in
the order of time.

Guarantee: the same time and seed give the same month. An act is a real command. The acts between two ticks run in the
order of their times, in one transaction. If a rule refuses an act that may fail, the act is rolled back, and the other
acts run. Days count from the midnight (UTC) before the month's start. Days 1 to 29 are whole. Ticks come every eight
hours. They come more often during an outage and in the last two days, and every five minutes in the last hour.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import sqlalchemy as sa
from rich.console import Console

from drawdown.cli.app import new_api_key
from drawdown.cli.demo.cast import CELLS, DAYS, HOSTILE, MEMBER, MEMBERS, SEED, samples_of, sandboxes_of
from drawdown.cli.demo.stage import (
    DECLINED_CARD,
    PRICES_MICRO,
    DemoBilling,
    DemoCard,
    Outage,
    Stage,
    feature_of,
    set_up,
)
from drawdown.events.envelope import UsageEvent
from drawdown.guard.decide import BLOCK_ALL, WARN, Reach
from drawdown.ledger.draws import Cost
from drawdown.ledger.payouts import period_of
from drawdown.ledger.reservations import Denied
from drawdown.providers.protocol import HOUR_MS
from drawdown.schema.audit import By
from drawdown.schema.clock import Clock
from drawdown.schema.errors import UnknownId
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, SECOND_MS, WINDOW_MS, window_of
from drawdown.worker.access import keys as api_keys
from drawdown.worker.checks import checks, proofs
from drawdown.worker.engine import runner
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions import permission as run_blocks
from drawdown.worker.executions.request import Request
from drawdown.worker.features import actions as features
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.overrides import Word
from drawdown.worker.guard.terms import ANY_PLAN, PlanLimit, Wish
from drawdown.worker.halts import cells
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs import assignments
from drawdown.worker.provider import actions, vendors
from drawdown.worker.provider.vendors import BillFile, BillLine
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.actions import Chosen
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.sources.demo_host import Sandbox, SandboxSample
from drawdown.worker.sources.events.store import take
from drawdown.worker.tick import tick
from drawdown.worker.topup import actions as topups
from drawdown.worker.usage import backfills, withdrawals
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools, tiers
from drawdown.worker.watch import Watcher, watch

TICKED_EVERY_MS: Final = 8 * HOUR_MS
HALF_HOUR_MS: Final = 30 * MINUTE_MS
MOST_TICKS: Final = 190
CHARGED_AT: Final = 14 * HOUR_MS + 5 * MINUTE_MS
OUTAGE_DAY: Final = 20


@dataclass(frozen=True)
class Calendar:
    """The times of the month, counted back from its end."""

    now_ms: int
    days: int = DAYS

    @property
    def start_ms(self) -> int:
        return self.now_ms - self.days * DAY_MS

    @property
    def first_day_ms(self) -> int:
        """Return the midnight (UTC) before the month's start, from which days count."""
        return self.start_ms - self.start_ms % DAY_MS

    @property
    def often_from_ms(self) -> int:
        """Return the time from which hosts write a sample each minute, in milliseconds.

        The time is the start of the second-last whole hour.
        """
        return self.now_ms - self.now_ms % HOUR_MS - 2 * HOUR_MS

    @property
    def charged_ms(self) -> int:
        """Return the time at which the burst is charged, in milliseconds.

        The time is 14:05 (UTC) of the day before yesterday.
        """
        return self.now_ms - self.now_ms % DAY_MS - 2 * DAY_MS + CHARGED_AT

    @property
    def outage(self) -> tuple[int, int]:
        """Return the start and end (ms) of three hours in which Autumn does not answer."""
        begun = window_of(self.start_ms + OUTAGE_DAY * DAY_MS)
        return begun, begun + 3 * HOUR_MS

    @property
    def silent_ms(self) -> int:
        """Return the time (ms) from which Stripe does not answer calls for `wayne`.

        Stripe has since forgotten the idempotency keys of that time.
        """
        return self.now_ms - 26 * HOUR_MS

    @property
    def tangled_ms(self) -> int:
        """Return the time (ms) from which Stripe does not answer for `stark` for two days.

        A person then resolves the pushes in doubt.
        """
        return self.start_ms + 9 * DAY_MS

    @property
    def down_ms(self) -> int:
        """Return the time (ms) from which Stripe is down for all customers."""
        return self.now_ms - 70 * MINUTE_MS

    def outages(self) -> dict[str, tuple[Outage, ...]]:
        return {
            "autumn": (Outage(*self.outage, "silent"),),
            "stripe": (
                Outage(self.now_ms - 7 * HOUR_MS, self.now_ms - 4 * HOUR_MS, "unknown_customer", "cus_Wonka03"),
                Outage(self.tangled_ms, self.tangled_ms + 50 * HOUR_MS, "tangled", "cus_Stark01"),
                Outage(self.silent_ms, None, "tangled", "cus_Wayne02"),
                Outage(self.down_ms, None, "refused"),
            ),
        }

    def ticks(self) -> list[int]:
        """Return the times of the month's ticks."""
        found = set(range(self.start_ms + TICKED_EVERY_MS, self.now_ms, TICKED_EVERY_MS))
        found |= set(range(self.now_ms - 2 * DAY_MS, self.now_ms, 3 * HOUR_MS))
        found |= set(range(self.now_ms - DAY_MS, self.now_ms, HALF_HOUR_MS))
        found |= set(range(self.now_ms - HOUR_MS, self.now_ms + 1, WINDOW_MS))
        found |= {self.charged_ms - WINDOW_MS, self.charged_ms, self.charged_ms + WINDOW_MS}
        found |= set(range(self.outage[0], self.outage[1] + HOUR_MS, 6 * WINDOW_MS))
        return sorted(moment for moment in found if self.start_ms < moment <= self.now_ms)


Work: TypeAlias = Callable[[sa.Connection, By], object]


@dataclass(frozen=True)
class Act:
    """An act of the story: its time, actor, reason and work.

    `may_fail`: a rule may refuse the act, as it may refuse a call of a product.
    """

    at_ms: int
    actor: str
    reason: str
    work: Work
    may_fail: bool = False


def perform(connection: sa.Connection, acts: Sequence[Act]) -> None:
    """Do acts, each with its own time.

    If a rule refuses an act with `may_fail`, roll back only this act.
    """
    for act in acts:
        by = By(act.at_ms, act.actor, act.reason, "cli")
        if not act.may_fail:
            act.work(connection, by)
            continue
        part = connection.begin_nested()
        try:
            act.work(connection, by)
        except (Denied, UnknownId):
            part.rollback()
        else:
            part.commit()


PLANS: Final[Mapping[str, tuple[int, Mapping[str, int]]]] = {
    "hobby": (5, {"included_micro": 5 * MICRO}),
    "starter": (10, {}),
    "team": (20, {"included_micro": 50 * MICRO, "rollover_min_micro": MICRO, "rollover_max_micro": 20 * MICRO}),
    "pro": (100, {"included_micro": 100 * MICRO}),
}
CREDIT: Final[Mapping[str, int]] = {
    "acme": 300,
    "globex": 150,
    "initech": 120,
    "hooli": 300,
    "umbrella": 1050,
    "vandelay": 245,
    "piedpiper": 6,
    HOSTILE: 70,
}
"""Credits that each organisation bought with its first invoice."""
TOKENS, RENDERS = "tokens", "render_minutes"
BILLED_MB: Final = 4096
VM_HOUR_MICRO: Final = 310_000
"""Vendor's price of an hour with BILLED_MB of memory, in millionths of a dollar."""
SUPPLIER: Final = "northwind-renders"


def open_business(stage: Stage, connection: sa.Connection, by: By) -> None:
    """Set up features, rates, plans, cells and organisations in one transaction."""
    features.install_defaults(connection, by)
    _what_things_cost(connection, by)
    for plan, (at_once, gives) in PLANS.items():
        credit.set_plan_limit(connection, plan, at_once, by, gives=gives)
    for cell in stage.cells:
        cells.set_cell(connection, cell.cell_id, cell.url, by, new=True)
    for member in MEMBERS:
        if member.provider:
            assignments.assign(
                connection, [member.org_id], member.provider, by, customer_id=member.customer_id, from_ms=by.now_ms
            )
        if member.org_id in CREDIT:
            amount = CREDIT[member.org_id] * MICRO
            key = f"invoice-{member.org_id}-1"
            credit.grant(connection, member.org_id, amount, by, key=key, plan=member.plan)
        if not member.since:
            stage.start(connection, member)
    assignments.assign(connection, ["oldcorp"], "legacy", by, from_ms=by.now_ms)
    _who_sells(stage, connection, by)
    _what_is_allowed(connection, by)


def _what_things_cost(connection: sa.Connection, by: By) -> None:
    features.map_event(connection, "llm.completion", TOKENS, by, from_ms=by.now_ms)
    features.map_event(connection, "render.finished", RENDERS, by, from_ms=by.now_ms)
    credit.set_rate(connection, TOKENS, 2, 1, by, from_ms=None)
    credit.set_rate(connection, RENDERS, 40_000, 1, by, from_ms=None)
    for size, price in PRICES_MICRO.items():
        actions.set_rate(connection, "autumn", feature_of(size), (price, 1), by, from_ms=None)
    cost = vendors.Units("cloudhost", "vm", "vm-hour", 1, VM_HOUR_MICRO, 3_600, "USD")
    vendors.set_units(connection, feature_of(BILLED_MB), cost, by.now_ms - by.now_ms % DAY_MS, by, new=True)
    tiers.set_tier(connection, "plus", tiers.Change(at_once=60, price_micro=10 * MICRO), by)


def _who_sells(stage: Stage, connection: sa.Connection, by: By) -> None:
    terms = settlements.Change(share_ppm=300_000, hold_ms=7 * DAY_MS, threshold_micro=2 * MICRO, takes_clawbacks=True)
    settlements.set_supplier(connection, SUPPLIER, terms, by, new=True)
    pools.make(connection, "incubator", by)
    credit.grant(connection, "incubator", 200 * MICRO, by, key="incubator-1", plan=None)
    assert stage.app.card is not None
    can = stage.app.card.capabilities
    topups.set_terms(connection, "globex", _filled(20, 50, "cus_Globex77"), can, by)
    topups.set_terms(connection, "piedpiper", _filled(12, 25, DECLINED_CARD), can, by)


def _filled(below: int, by_credits: int, customer: str) -> topups.Terms:
    return topups.Terms(
        threshold_micro=below * MICRO,
        amount_micro=by_credits * MICRO,
        fill_to_micro=None,
        price_minor=80,
        currency="usd",
        service="stripe",
        service_customer=customer,
        most_minor=50_000,
    )


def _what_is_allowed(connection: sa.Connection, by: By) -> None:
    builds = guard_terms.Change(price_micro=50_000, per_units=1, phase=BLOCK_ALL)
    guard_terms.set_metric(connection, "builds", builds, by)
    guard_terms.set_metric(connection, "exports", guard_terms.Change(phase=WARN), by)
    for plan, amount in (("hobby", 12), ("team", 60), (ANY_PLAN, 30)):
        guard_terms.set_limit(connection, PlanLimit("builds", plan, "day", amount), by)
    guard_terms.set_limit(connection, PlanLimit("exports", ANY_PLAN, "day", 4), by)
    run_blocks.block(connection, "acme", "project", "sandbox-of-tom", by)


MARA, JUN, LENA, PRODUCT = "mara (finance)", "jun (on call)", "lena (support)", "the product"
BACKFILLS: Final = (
    ("forgotten-tokens", "acme", "llm.completion", 1_000, 24, "a product had forgotten them"),
    ("lost-renders", "globex", "render.finished", 3, 28, "a queue was found"),
)
"""The backfills. The first is closed and billed. The second is still open."""


def whole_story(stage: Stage, calendar: Calendar) -> Iterator[Act]:
    """Yield all acts of people, in any order."""
    start, now = calendar.first_day_ms, calendar.now_ms
    yield from _payments(start)
    yield from _halts(stage, start, now)
    yield from _support(start)
    yield from _overrides(start, now)
    yield from _suppliers(start)
    yield from _backfills(start)
    yield from _present(now)
    yield Act(calendar.tangled_ms + 40 * HOUR_MS, JUN, "compared with their invoice", _resolved)
    yield Act(now - 3 * HOUR_MS, MARA, "the vendor's bills", partial(_bills, calendar))
    yield Act(now - 2 * HOUR_MS, MARA, "nightly checks", _nightly)


def at(start_ms: int, day: int, hour: int, minute: int = 0) -> int:
    """Return a time (UTC) of a day of the month, in milliseconds."""
    return start_ms + day * DAY_MS + hour * HOUR_MS + minute * MINUTE_MS


def run_of(request: Request, key: str) -> Work:
    return lambda c, by: executions.accept(c, key, request, by)


def _grant(org: str, amount: int, key: str) -> Work:
    return lambda c, by: credit.grant(c, org, amount * MICRO, by, key=key, plan=None)


def _payments(start: int) -> Iterator[Act]:
    for number, day in ((2, 8), (3, 16), (4, 25)):
        paid = _grant("acme", 250, f"invoice-acme-{number}")
        yield Act(at(start, day, 9, 12), MARA, f"invoice {number} was paid", paid)
    yield Act(at(start, 8, 9, 40), MARA, "invoice 2 was paid", _grant("hooli", 700, "invoice-hooli-2"))
    yield Act(at(start, 24, 12, 30), MARA, "half of the invoice was paid", _grant("hooli", 200, "invoice-hooli-3"))
    yield Act(at(start, 12, 10, 5), LENA, "for the outage of their builds", _grant("initech", 5, "sorry-initech"))
    yield Act(at(start, 3, 8), MARA, "60 concurrent sandboxes", lambda c, by: tiers.buy(c, "acme", "plus", by))

    def allot(connection: sa.Connection, by: By) -> None:
        pools.allot(connection, "incubator", "piedpiper", 20 * MICRO, at(start, 34, 0), by, key="batch-7")

    yield Act(at(start, 2, 10), MARA, "batch 7 of the incubator", allot)


def _halts(stage: Stage, start: int, now_ms: int) -> Iterator[Act]:
    """Yield a halt by hand and its end, and an org override.

    Resumed organisations then start sandboxes.
    """
    yield Act(at(start, 15, 13, 2), JUN, "mining on a stolen card?", lambda c, by: orgs.halt(c, ["wonka"], by))
    lift = partial(orgs.halt, undo=True)
    yield Act(at(start, 15, 17, 31), JUN, "it was a load test of theirs", lambda c, by: lift(c, ["wonka"], by))
    for org, day, hour in (("hooli", 8, 11), ("hooli", 24, 14), ("wonka", 15, 18), ("soylent", 26, 9)):
        yield Act(at(start, day, hour), PRODUCT, f"{org} is there", partial(_starts, stage, org))

    def more(connection: sa.Connection, by: By) -> None:
        orgs.override(connection, "globex", by, max_concurrent=150, until_ms=now_ms + 6 * DAY_MS)

    yield Act(at(start, 27, 15), LENA, "a launch, until next week", more)


def _starts(stage: Stage, org: str, connection: sa.Connection, _by: By) -> None:
    stage.start(connection, MEMBER[org])


def _support(start: int) -> Iterator[Act]:
    def key(connection: sa.Connection, by: By) -> None:
        api_keys.create(connection, new_api_key(), "build-service", ["events:write"], by, new=True)

    yield Act(at(start, 1, 9), LENA, "for their builds", key)
    twice = [f"acme-0.0@{at(start, 19, hour) // HOUR_MS}" for hour in range(8, 12)]
    yield Act(at(start, 20, 16), LENA, "a host was counted twice", lambda c, by: withdrawals.withdraw(c, twice, by))


def _overrides(start: int, now_ms: int) -> Iterator[Act]:
    """Yield the overrides, numbered in their order.

    1 is approved, 2 refused, 3 made by hand, 4 and 5 requested.
    """

    def ask(metric: str, reach: Reach, target: str, amount: int, days: int, *, asked: bool = True) -> Work:
        terms = guard_overrides.Terms(metric, reach, target, "day", amount, now_ms + days * DAY_MS)
        return lambda c, by: guard_overrides.add(c, terms, by, asked=asked)

    def decide(number: int, word: Word) -> Work:
        return lambda c, by: guard_overrides.decide(c, number, word, by)

    fair = ask("builds", "plan", "team", 120, 10, asked=False)
    yield Act(at(start, 18, 14), "ana@initech", "our release week", ask("builds", "org", "initech", 40, 5))
    yield Act(at(start, 18, 15), LENA, "they are good for it", decide(1, "approve"))
    yield Act(at(start, 21, 9), "bob@vandelay", "we want more", ask("builds", "org", "vandelay", 900, 20))
    yield Act(at(start, 21, 11), LENA, "not below zero credit", decide(2, "refuse"))
    yield Act(at(start, 25, 10), LENA, "all of the team plan, for the fair", fair)
    yield Act(at(start, 28, 16), "ana@initech", "one more week", ask("builds", "org", "initech", 40, 12))
    yield Act(at(start, 29, 1), "zoe@globex", "quarter's end", ask("exports", "org", "globex", 50, 9))


def _suppliers(start: int) -> Iterator[Act]:
    def payout(connection: sa.Connection, by: By) -> None:
        settlements.make_payout(connection, SUPPLIER, period_of(by.now_ms), by)

    def freeze(connection: sa.Connection, by: By) -> None:
        settlements.freeze(connection, "run-21-1-acme", by)

    def reverse(connection: sa.Connection, by: By) -> None:
        settlements.reverse(connection, "run-05-1-acme", "complaint-5", None, by)

    yield Act(at(start, 22, 9), MARA, "the month's payout", payout)
    yield Act(at(start, 23, 10), MARA, "the customer complains", freeze)
    yield Act(at(start, 24, 10), MARA, "the render was empty", reverse)


def _backfills(start: int) -> Iterator[Act]:
    for name, org, kind, quantity, day, said in BACKFILLS:
        begun = window_of(at(start, day - 9, 8))
        times = [begun + number * 7 * MINUTE_MS for number in range(30)]
        events = [UsageEvent("products", f"{name}-{ts}", kind, org, quantity, ts) for ts in times]
        yield Act(at(start, day, 10), LENA, said, partial(_staged, name, org, begun, events))

    def close(connection: sa.Connection, by: By) -> None:
        name = BACKFILLS[0][0]
        backfills.close(connection, name, backfills.diff(connection, name).hash, by)

    yield Act(at(start, 24, 11), MARA, "the customer was told", close)


def _staged(name: str, org: str, begun: int, events: list[UsageEvent], connection: sa.Connection, by: By) -> None:
    backfills.open_backfill(connection, name, org, begun, begun + 6 * HOUR_MS, by)
    backfills.stage(connection, name, events, by.now_ms)


def _resolved(connection: sa.Connection, by: By) -> None:
    """Resolve stark's pushes in doubt as accepted, because Stripe has them."""
    keys = Chosen(None, None, "stark", "", "").find(connection, ("in_doubt",))
    pushes.resolve_accepted(connection, keys, by, "the dashboard's export of the meter, line by line")


def _bills(calendar: Calendar, connection: sa.Connection, by: By) -> None:
    """Import the vendor's bills by day.

    The bills are close to the use, except on two recent days. Today has no bill.
    """
    lines = []
    today = calendar.now_ms - calendar.now_ms % DAY_MS
    those = [member for member in MEMBERS if member.provider and member.memory_mb == BILLED_MB]
    for day in range(today - (calendar.days - 1) * DAY_MS, today, DAY_MS):
        hours = range(day, day + DAY_MS, HOUR_MS)
        used = (one for member in those for hour in hours for one in samples_of(member, sandboxes_of(member), hour))
        off_percent = 131 if today - day in (4 * DAY_MS, 5 * DAY_MS) else 102
        billed = sum(one.interval_s for one in used) * VM_HOUR_MICRO // 3_600 * off_percent // 100
        lines.append(BillLine("cloudhost", "vm", day, "USD", billed, day < today - 3 * DAY_MS))
    if lines:
        vendors.import_bills(connection, BillFile(hashlib.sha256(repr(lines).encode()).hexdigest(), lines), by)


def _nightly(connection: sa.Connection, by: By) -> None:
    """Store the results of the nightly checks: high spenders, and drift of bills."""
    checks.check_spenders(connection, by.now_ms)
    checks.check_vendors(connection, by.now_ms)


def _present(now_ms: int) -> Iterator[Act]:
    """Yield an execution that cost far more than its hold, and three open executions.

    The open executions are held, queued and metered.
    """
    begun = now_ms - 30 * HOUR_MS
    large = Request("vandelay", amount_micro=6 * MICRO, project="launch", action="train")
    yield Act(begun, PRODUCT, "a run", run_of(large, "train-1"))
    over = Cost(52 * MICRO)
    yield Act(begun + 40 * MINUTE_MS, PRODUCT, "it ended", lambda c, by: executions.settle(c, "train-1", over, by))
    held = Request("acme", amount_micro=3 * MICRO, project="site", supplier=SUPPLIER)
    queued = Request("globex", amount_micro=5 * MICRO, project="app", queued=True)
    boxes = ("acme-1.0", "acme-2.0")
    metered = Request("acme", amount_micro=4 * MICRO, project="lab", settled_by="metering", sandboxes=boxes)
    for minutes, key, request in ((50, "lab-now", metered), (25, "render-now", held), (12, "queued-now", queued)):
        yield Act(now_ms - minutes * MINUTE_MS, PRODUCT, "it goes on", run_of(request, key))


RUN_HOURS: Final = (9, 14, 19)
RUN_BY: Final = (("acme", "globex"), ("acme", "globex", "initech", HOSTILE), ("acme", "globex"))
"""Organisations that start executions at each of RUN_HOURS."""
EVENTS: Final = (
    ("acme", "llm.completion", 40_000),
    ("globex", "render.finished", 20),
    ("initech", "llm.completion", 9_000),
)
"""Organisations with a product that sends events.

Each has its event type, and the largest quantity of an event.
"""


def story(stage: Stage, calendar: Calendar) -> list[Act]:
    """Return all acts of the month, in the order of time."""
    acts = list(whole_story(stage, calendar))
    for day in range(calendar.days + 1):
        acts += _runs(calendar.first_day_ms, day)
        acts += _events(calendar, day)
        acts += _uses(calendar.first_day_ms, day)
    within = (act for act in acts if calendar.start_ms < act.at_ms < calendar.now_ms)
    return sorted(within, key=lambda act: act.at_ms)


def _runs(start: int, day: int) -> Iterator[Act]:
    """Yield builds and renders on credit.

    Most are settled, some are released, and some expire.
    """
    chance = random.Random(f"{SEED} runs {day}")  # noqa: S311
    for number, hour in enumerate(RUN_HOURS):
        for org in RUN_BY[number]:
            begun = at(start, day, hour, chance.randrange(50))
            key, estimate = f"run-{day:02}-{number}-{org}", chance.randrange(4, 30) * 100_000
            supplier = SUPPLIER if org == "acme" and number == 1 else None
            action = "build" if supplier is None else "render"
            project = chance.choice(("site", "app", "shop"))
            request = Request(org, amount_micro=estimate, project=project, action=action, supplier=supplier)
            yield Act(begun, PRODUCT, "a run", run_of(request, key), may_fail=True)
            # All renders of a supplier are settled, because other acts name their settlements.
            luck = 0.4 if supplier else chance.random()
            ended = begun + chance.randrange(2, 40) * MINUTE_MS
            yield Act(ended, PRODUCT, "it ended", _end_of(key, estimate, luck), may_fail=True)


def _end_of(key: str, estimate: int, luck: float) -> Work:
    def end(connection: sa.Connection, by: By) -> None:
        if luck < 0.8:
            executions.settle(connection, key, Cost(round(estimate * (0.5 + luck))), by)
        elif luck < 0.95:
            executions.release(connection, key, Cost(estimate // 5) if luck < 0.9 else None, by)

    return end


def _events(calendar: Calendar, day: int) -> Iterator[Act]:
    chance = random.Random(f"{SEED} events {day}")  # noqa: S311
    told = at(calendar.first_day_ms, day, 12)
    found = [
        UsageEvent(
            "products",
            f"{day:02}-{org}-{number}",
            kind,
            org,
            chance.randrange(1, most),
            max(told - chance.randrange(6 * HOUR_MS), calendar.start_ms),
            project=chance.choice(("site", "app")),
            subject=f"user-{chance.randrange(9)}",
        )
        for org, kind, most in EVENTS
        for number in range(6)
    ]
    yield Act(told, PRODUCT, "events", lambda c, by: take(c, found, by.now_ms))


def _uses(start: int, day: int) -> Iterator[Act]:
    """Yield uses of the guard: builds that cost credit and reach a limit, and exports."""
    chance = random.Random(f"{SEED} builds {day}")  # noqa: S311
    for org, usual in (("acme", 3), ("initech", 4), ("vandelay", 2)):
        for number in range(usual):
            wish = Wish(org, "builds", chance.randrange(1, 9))
            begun = at(start, day, 8 + number, chance.randrange(60))
            yield Act(begun, PRODUCT, "builds", _consume(f"build-{day:02}-{number}-{org}", wish))
    for number in range(3):
        wish = Wish("globex", "exports", 2)
        yield Act(at(start, day, 10 + number), PRODUCT, "exports", _consume(f"export-{day:02}-{number}", wish))


def _consume(key: str, wish: Wish) -> Work:
    return lambda c, by: guard.consume(c, key, wish, by)


BURST: Final = 40
"""Sandboxes of acme in a burst.

Five minutes of them, with 4 GB each, cost 4.80 credits.
"""
LATE: Final = (("acme", 18, 3), ("cyberdyne", 23, 2), ("vandelay", 28, 4))
"""Late samples after a host was cut off.

They have the organisation, the day on which they arrive, and their delay in days.
"""


def live(
    folder: Path,
    file: Path,
    behind: Clock,
    out: Console,
    err: Console,
    days: int = DAYS,
    told: Callable[[int, int, int], None] = lambda _day, _days, _at_ms: None,
) -> Stage:
    """Make a database with the last `days` days, and return its stage.

    `behind`: the clock that the stage follows afterwards. `told`: a callback for each day, with the day's number, the
    number of days, and the time in milliseconds.
    """
    calendar = Calendar(window_of(behind.now_ms()), days)
    stage = set_up(folder, file, behind, out, err)
    try:
        stage.clock.turn(calendar.start_ms)
        stage.hurry()
        hire(stage, calendar)
        upgrade(stage.app.engine)
        by = By(calendar.start_ms, "the demo", "a month of life, made up", "cli")
        stage.app.write(lambda connection: open_business(stage, connection, by))
        turn(stage, calendar, told)
        prove(stage)
    except BaseException:
        stage.close()
        raise
    stage.go_on()
    return stage


def prove(stage: Stage) -> None:
    """Record a run of `drawdown verify`, so that the page of proofs shows a result."""
    by = By(stage.clock.now_ms(), "the demo", "nightly", "cli")
    found = stage.app.read(verify)
    stage.app.write(lambda connection: proofs.keep(connection, found, by, took_ms=0, orgs=None, doubted=None))


def hire(stage: Stage, calendar: Calendar) -> None:
    """Give the stage the demo's services in place of the real services."""
    prices = {feature_of(size): price for size, price in PRICES_MICRO.items()}
    paid = {"cyberdyne": 900 * MICRO, "tyrell": 140 * MICRO}
    real = stage.app.real_providers()
    outages = calendar.outages()
    stage.app.billing = {
        "autumn": DemoBilling(real["autumn"], stage.clock, outages["autumn"], paid, prices),
        "stripe": DemoBilling(real["stripe"], stage.clock, outages["stripe"]),
    }
    stage.app.card = DemoCard(stage.app.real_card(), stage.clock, silent=frozenset({"topup:globex:2"}))


def turn(stage: Stage, calendar: Calendar, told: Callable[[int, int, int], None]) -> None:
    """Run the month. Before each tick, do its acts and write its samples."""
    acts = story(stage, calendar)
    stage.often_from_ms = calendar.often_from_ms
    before, done = calendar.start_ms, 0
    days, shown = -(-(calendar.now_ms - calendar.start_ms) // DAY_MS), 0
    for now in calendar.ticks():
        stage.clock.turn(now)
        day = min((now - calendar.start_ms) // DAY_MS + 1, days)
        if day != shown:
            told(shown := day, days, now)
        upto = next((number for number, act in enumerate(acts[done:], done) if act.at_ms > now), len(acts))
        if upto > done:
            part = acts[done:upto]
            stage.app.write(lambda connection: perform(connection, part))  # noqa: B023, done at once
            done = upto
        stage.host_writes([*used(stage, before, now), *told_late(calendar, before, now)])
        if now == calendar.now_ms:
            look(stage)
        settle(stage)
        before = stage.told_to_ms = now
    stage.done["acts"] = done


def used(stage: Stage, from_ms: int, to_ms: int) -> Iterator[SandboxSample]:
    """Yield the use of the hosts' sandboxes in [from_ms, to_ms)."""
    for hour in range(from_ms - from_ms % HOUR_MS, to_ms, HOUR_MS):
        for org, sandboxes in stage.running.items():
            found = samples_of(MEMBER[org], sandboxes, hour, often=hour >= stage.often_from_ms)
            yield from (one for one in found if from_ms <= one.ts < to_ms)


def told_late(calendar: Calendar, from_ms: int, to_ms: int) -> Iterator[SandboxSample]:
    """Yield the samples of the burst, and the late samples of disconnected hosts."""
    burst = calendar.charged_ms - 2 * WINDOW_MS
    if from_ms <= burst < to_ms:
        for number in range(BURST):
            sandbox = Sandbox(f"acme-loadtest-{number}", "acme", CELLS[number % len(CELLS)], MEMBER["acme"].memory_mb)
            yield SandboxSample(f"loadtest-{number}", sandbox, WINDOW_MS // SECOND_MS, burst + number * SECOND_MS)
    for org, day, days_late in LATE:
        told = calendar.start_ms + day * DAY_MS
        if from_ms <= told < to_ms:
            sandbox = Sandbox(f"{org}-cut-off", org, CELLS[0], MEMBER[org].memory_mb)
            for number in range(12):
                ts = told - days_late * DAY_MS + number * WINDOW_MS
                yield SandboxSample(f"late-{org}-{number}", sandbox, 240, ts)


def look(stage: Stage) -> None:
    """Run one round of the watch, so that the first page shows when credit ends.

    The round must run before the tick, because sealed usage alone does not start a round.
    """
    runner.run(watch(stage.app.context(), Watcher()), stage.app.world())


def settle(stage: Stage) -> None:
    """Run one tick, as `drawdown tick`."""
    runner.run(tick(stage.app.context()), stage.app.world())
    stage.done["ticks"] += 1
