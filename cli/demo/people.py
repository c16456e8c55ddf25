"""What people do during the month: invoices, halts by hand, overrides, suppliers, backfills, bills; and what is under
way now. Days are counted from the midnight (UTC) before the month's first moment: 1 to 29 lie in it whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.cli.app import new_api_key
from drawdown.cli.demo.acts import Act, Work
from drawdown.cli.demo.cast import MEMBER, MEMBERS, samples_of, sandboxes_of
from drawdown.cli.demo.moments import Calendar
from drawdown.cli.demo.opening import BILLED_MB, SUPPLIER, VM_HOUR_MICRO
from drawdown.cli.demo.stage import Stage
from drawdown.events.envelope import UsageEvent
from drawdown.guard.decide import Reach
from drawdown.ledger.draws import Cost
from drawdown.ledger.payouts import period_of
from drawdown.providers.protocol import HOUR_MS
from drawdown.schema.audit import By
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, window_of
from drawdown.worker.access import keys as api_keys
from drawdown.worker.checks import checks
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard.overrides import Word
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.provider import vendors
from drawdown.worker.provider.vendors import BillFile, BillLine
from drawdown.worker.push import actions as pushes
from drawdown.worker.push.actions import Chosen
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.usage import backfills, withdrawals
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools, tiers

MARA, JUN, LENA, PRODUCT = "mara (finance)", "jun (on call)", "lena (support)", "the product"
BACKFILLS: Final = (
    ("forgotten-tokens", "acme", "llm.completion", 1_000, 24, "a product had forgotten them"),
    ("lost-renders", "globex", "render.finished", 3, 28, "a queue was found"),
)
"""The first is closed and billed, the other one is still open."""


def whole_story(stage: Stage, calendar: Calendar) -> Iterator[Act]:
    """What people do, in no order."""
    start, now = calendar.first_day_ms, calendar.now_ms
    yield from _money(start)
    yield from _halts(stage, start, now)
    yield from _support(start)
    yield from _overrides(start, now)
    yield from _suppliers(start)
    yield from _backfills(start)
    yield from _present(now)
    yield Act(calendar.tangled_ms + 40 * HOUR_MS, JUN, "compared with their invoice", _resolved)
    yield Act(now - 3 * HOUR_MS, MARA, "the vendor's bills", partial(_bills, calendar))
    yield Act(now - 2 * HOUR_MS, MARA, "what is looked at nightly", _nightly)


def at(start_ms: int, day: int, hour: int, minute: int = 0) -> int:
    """A time (UTC) of a day of the month."""
    return start_ms + day * DAY_MS + hour * HOUR_MS + minute * MINUTE_MS


def run_of(request: Request, key: str) -> Work:
    return lambda c, by: executions.accept(c, key, request, by)


def _grant(org: str, amount: int, key: str) -> Work:
    return lambda c, by: credit.grant(c, org, amount * MICRO, by, key=key, plan=None)


def _money(start: int) -> Iterator[Act]:
    for number, day in ((2, 8), (3, 16), (4, 25)):
        paid = _grant("acme", 250, f"invoice-acme-{number}")
        yield Act(at(start, day, 9, 12), MARA, f"invoice {number} was paid", paid)
    yield Act(at(start, 8, 9, 40), MARA, "invoice 2 was paid", _grant("hooli", 700, "invoice-hooli-2"))
    yield Act(at(start, 24, 12, 30), MARA, "half of the invoice was paid", _grant("hooli", 200, "invoice-hooli-3"))
    yield Act(at(start, 12, 10, 5), LENA, "for the outage of their builds", _grant("initech", 5, "sorry-initech"))
    yield Act(at(start, 3, 8), MARA, "60 sandboxes at once", lambda c, by: tiers.buy(c, "acme", "plus", by))

    def allot(connection: sa.Connection, by: By) -> None:
        pools.allot(connection, "incubator", "piedpiper", 20 * MICRO, at(start, 34, 0), by, key="batch-7")

    yield Act(at(start, 2, 10), MARA, "batch 7 of the incubator", allot)


def _halts(stage: Stage, start: int, now_ms: int) -> Iterator[Act]:
    """One by hand that was lifted; who paid, or was let go on, makes sandboxes again."""
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
    """Numbered as they come: 1 is approved, 2 refused, 3 made by hand, 4 and 5 are still asked for."""

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
    def batch(connection: sa.Connection, by: By) -> None:
        settlements.batch(connection, SUPPLIER, period_of(by.now_ms), by)

    def freeze(connection: sa.Connection, by: By) -> None:
        settlements.freeze(connection, "run-21-1-acme", by)

    def reverse(connection: sa.Connection, by: By) -> None:
        settlements.reverse(connection, "run-05-1-acme", "complaint-5", None, by)

    yield Act(at(start, 22, 9), MARA, "the month's batch", batch)
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
    """What is in doubt of stark: Stripe has it."""
    keys = Chosen(None, None, "stark", "", "").find(connection, ("in_doubt",))
    pushes.resolve_accepted(connection, keys, by, "the dashboard's export of the meter, line by line")


def _bills(calendar: Calendar, connection: sa.Connection, by: By) -> None:
    """What the vendor billed by day: near what was used, but for two days of late; today has no bill."""
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
    """Who spent most, and whether bills drift, are kept as they are found."""
    checks.check_spenders(connection, by.now_ms)
    checks.check_vendors(connection, by.now_ms)


def _present(now_ms: int) -> Iterator[Act]:
    """A run that cost far more than it held; and runs that go on: one held, one queued, one that metering settles."""
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
