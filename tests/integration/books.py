"""A wallet that everything happens to, and its statement by hand: a sum in Python over raw entries.

Guarantee: what is summed up here shares no statement with the view that it judges.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.ledger.allocation import KINDS
from drawdown.ledger.draws import Cost
from drawdown.ledger.due_changes import look_ahead, mature_due
from drawdown.ledger.entries import Usage
from drawdown.ledger.lots import Terms
from drawdown.ledger.reservations import Denied
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets.statement import LINES, Span, Statement, of_customer
from tests.world import T0, Fleet

T = TypeVar("T")
HOUR_MS: Final = 60 * MINUTE_MS
JANUARY: Final = T0
FEBRUARY: Final = T0 + 31 * DAY_MS
MARCH: Final = FEBRUARY + 28 * DAY_MS
MIDDLE: Final = FEBRUARY + 13 * DAY_MS
"""From then on x costs more."""
RATES: Final[dict[str, tuple[tuple[int, int, int], ...]]] = {"x": ((0, 3, 7), (MIDDLE, 5, 7)), "y": ((0, 250, 1),)}
WALLET: Final = "wallet:acme"
ACTS: Final = ("use", "use", "use", "give_back", "grant", "take", "take_back", "accept", "accept", "go_on", "go_on",
               "sweep")  # fmt: skip


class Books:
    """The wallet of acme, in micro-credits; a clock that only goes forward."""

    def __init__(self, engine: sa.Engine, seed: int = 0) -> None:
        self.fleet, self.rng = Fleet(engine), random.Random(seed)
        self.fleet.assign("acme")
        self.count = 0
        self.charged: list[str] = []
        self.lots: list[str] = []
        self.runs: dict[str, int] = {}
        """Those that did not end, and until when they hold."""
        self.late: set[str] = set()
        self.held: dict[int, int] = {}
        """What was held just before a month's end."""
        for feature, rates in RATES.items():
            for start, micro, per in rates:
                self.set_rate(feature, start, micro, per)

    @property
    def now(self) -> int:
        return self.fleet.clock.at_ms

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        return write(self.fleet.engine, work)

    def set_rate(self, feature: str, from_ms: int, micro: int, per: int) -> None:
        self.write(lambda c: credit.set_rate(c, feature, micro, per, self.fleet.by, from_ms=from_ms))

    def held_at(self, moment_ms: int) -> int:
        return read(self.fleet.engine, lambda c: look_ahead(c, "acme", moment_ms)).held_micro

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}-{self.count}"

    def pass_time(self, ms: int) -> None:
        """What is held as a month ends is noted."""
        for end in (FEBRUARY, MARCH):
            if self.now < end <= self.now + ms:
                self.held[end] = self.held_at(end - 1)
        self.fleet.clock.at_ms += ms

    def live(self, steps: int) -> None:
        for _ in range(steps):
            self.pass_time(self.rng.randrange(1, 30 * HOUR_MS))
            getattr(self, self.rng.choice(ACTS))()

    # What happens. Each is one transaction.

    def use(self, quantity: int | None = None, ts: int | None = None, feature: str | None = None) -> None:
        """Some use is late by days, some is given back by metering."""
        key = self.name("u")
        often = quantity if quantity is not None else self.rng.choice((self.rng.randrange(1, 400), -7, 0))
        late_ms = self.rng.choice((0, HOUR_MS, 20 * DAY_MS, 40 * DAY_MS)) if quantity is None else 0
        when = self.now - late_ms if ts is None else ts
        used = Usage(key, "acme", feature or self.rng.choice("xy"), often, when)
        assert self.write(lambda c: wallet.charge(c, [used], self.now)) == [wallet.Charge.CHARGED]
        self.charged.append(key)

    def give_back(self) -> None:
        if self.charged:
            key = self.charged.pop(self.rng.randrange(len(self.charged)))
            assert self.write(lambda c: wallet.reverse(c, [key], self.now)) == {key}

    def grant(self, amount: int | None = None, **terms: Any) -> str:
        """A lot: some begin later, most are over one day."""
        key = self.name("g")
        begins = self.now + self.rng.choice((0, 0, DAY_MS, 20 * DAY_MS))
        ends = self.rng.choice((None, begins + self.rng.randrange(HOUR_MS, 30 * DAY_MS)))
        kind: Any = self.rng.choice(KINDS)
        given = Terms(**terms) if terms else Terms(kind, begins_ms=begins, expires_ms=ends)
        micro = amount if amount is not None else self.rng.randrange(1, 9_000)
        self.write(lambda c: credit.grant(c, "acme", micro, self.fleet.by, key=key, plan=None, terms=given))
        self.lots.append(key)
        return key

    def take(self) -> None:
        """A correction, of no lot."""
        key = self.name("t")
        self.write(lambda c: credit.grant(c, "acme", -self.rng.randrange(1, 900), self.fleet.by, key=key, plan=None))

    def take_back(self) -> None:
        if self.lots:
            lot, whole = self.rng.choice(self.lots), self.rng.random() < 0.3
            self.write(lambda c: credit.take_back(c, lot, self.fleet.by, whole=whole))

    def accept(self, amount: int | None = None, **more: Any) -> str:
        key, some = self.name("r"), amount if amount is not None else self.rng.randrange(1, 600)
        life = more.pop("for_ms", self.rng.choice((HOUR_MS, 3 * DAY_MS, 20 * DAY_MS)))
        asked: dict[str, Any] = {
            "project": self.rng.choice((None, "site", "shop")), "overage": self.rng.choice(("charge", "cap")), **more
        }  # fmt: skip
        with suppress(Denied):
            request = Request("acme", some, for_ms=life, **asked)
            self.write(lambda c: executions.accept(c, key, request, self.fleet.by))
            self.runs[key] = self.now + life
        return key

    def go_on(self) -> None:
        """A run draws, is settled, late where its hold is over, or is given up."""
        if not self.runs:
            return
        key = self.rng.choice(sorted(self.runs))
        if self.now >= self.runs[key]:
            self.late.add(key)
            self.settle(key, self.rng.randrange(100))
        elif self.rng.random() < 0.5:
            self.count += 1
            cost = Cost(self.rng.randrange(300))
            self.write(lambda c: executions.draw(c, key, self.count, cost, self.fleet.by))
        elif self.rng.random() < 0.7:
            self.settle(key, self.rng.randrange(700))
        else:
            del self.runs[key]
            self.write(lambda c: executions.release(c, key, None, self.fleet.by))

    def settle(self, key: str, more: int) -> None:
        del self.runs[key]
        drawn = int(str(self.fleet.one("SELECT drawn_micro FROM reservations WHERE reservation = :key", key=key)))
        self.write(lambda c: executions.settle(c, key, Cost(drawn + more), self.fleet.by))

    def sweep(self) -> None:
        self.write(lambda c: mature_due(c, self.now))

    def statement(self, span: Span, most: int = LINES) -> Statement:
        return read(self.fleet.engine, lambda c: of_customer(c, "acme", span, self.now, most))


@dataclass(frozen=True)
class Sums:
    """A statement, as far as it can be added up by hand."""

    opening: int
    closing: int
    credits: dict[tuple[str, str], tuple[int, int]]
    """By section and kind: how many, and what they moved."""
    usage: dict[tuple[str, str, int, int], tuple[int, int, int]]
    """By feature, month of use and rate: charges, quantity and what was charged."""
    runs: dict[str, tuple[int, int, int, int, int]]
    """By project: runs, drawn, settled, late, written off."""


def shown(found: Statement) -> Sums:
    """What the view says."""
    return Sums(
        found.opening_micro,
        found.closing_micro,
        {(one.section, one.what): (one.entries, one.moved_micro) for one in found.credits},
        {
            (one.feature or "", one.month or "", one.micro_credits or 0, one.per_quantity or 0): (
                one.charges, one.quantity or 0, one.charged_micro
            )
            for one in found.usage
        },
        {
            one.project or "": (
                one.executions, one.drawn_micro, one.settled_micro, one.late_micro, one.written_off_micro
            )
            for one in found.executions
        },
    )  # fmt: skip


def by_hand(books: Books, span: Span) -> Sums:
    """The same, of the rows as they lie there."""
    rows: list[Any] = books.fleet.rows(
        "SELECT key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, reservation, lot "
        "FROM ledger_entries"
    )
    lots: list[Any] = books.fleet.rows("SELECT lot, kind, begins_ms, at_ms FROM ledger_lots")
    kinds = {lot: kind for lot, kind, _, _ in lots}
    later = {lot for lot, _, begins_ms, given_ms in lots if begins_ms > given_ms}
    labels: list[Any] = books.fleet.rows("SELECT reservation, project FROM reservations")
    projects = dict(labels)
    opening = closing = 0
    credits: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    usage: dict[tuple[str, str, int, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    runs: dict[str, Counter[str]] = defaultdict(Counter)
    of_project: dict[str, set[str]] = defaultdict(set)
    for key, kind, payer, payee, amount, feature, quantity, ts, at_ms, run, lot in rows:
        moved = amount * ((payee == WALLET) - (payer == WALLET))
        opening += moved if at_ms < span.from_ms else 0
        closing += moved if at_ms < span.to_ms else 0
        if not span.from_ms <= at_ms < span.to_ms:
            continue
        if kind == "usage":
            month = datetime.fromtimestamp(ts / 1000, UTC).strftime("%Y-%m")
            _, micro, per = max(one for one in RATES[feature] if one[0] <= ts)
            _add(usage[feature, month, micro, per], 1, quantity, amount)
        elif kind == "execution":
            project = projects[run] or ""
            of_project[project].add(run)
            number = key.split(":")[2]
            part = "drawn" if number.startswith("d") else "late" if run in books.late else "settled"
            runs[project]["off" if key.endswith(":-") else part] += amount
        elif kind == "expiry":
            _add(credits["expired", kinds[lot]], 1, moved)
        elif amount < 0:
            _add(credits["taken_back", kinds.get(lot, "of no lot")], 1, moved)
        else:
            _add(credits["began" if key in later else "given", kinds[key]], 1, moved)
    return Sums(
        opening,
        closing,
        {name: (many, moved) for name, (many, moved) in credits.items()},
        {name: (charges, quantity, amount) for name, (charges, quantity, amount) in usage.items()},
        {
            project: (len(of_project[project]), parts["drawn"], parts["settled"], parts["late"], -parts["off"])
            for project, parts in runs.items()
        },
    )


def _add(sums: list[int], *more: int) -> None:
    for number, one in enumerate(more):
        sums[number] += one


def priced(quantity: int, micro: int, per: int) -> int:
    """What a quantity costs, a half of a micro-credit away from zero."""
    amount = (Decimal(abs(quantity)) * micro / per).quantize(Decimal(1), ROUND_HALF_UP)
    return int(amount) if quantity >= 0 else -int(amount)
