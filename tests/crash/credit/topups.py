"""The siege of the till: two workers fill wallets at a Stripe on a socket that fails a third of all calls, and are
killed between claim, charge and settle; where there is a server, it is killed, too.

Guarantee: who was charged, how often and how much, is read from the emulated service's own books: each payment is of
one top-up of its own, of its amount, and is credited once; nothing is credited that nobody paid.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from drawdown.ledger.draws import Cost
from drawdown.ledger.reservations import Denied
from drawdown.providers.kit.emulator import FaultPlan
from drawdown.schema.audit import By
from drawdown.schema.database import connect
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import MICRO
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.topup import actions as topups
from tests.acceptance.commands import must
from tests.acceptance.drain import LEASE_MS, Process, SharedClock
from tests.acceptance.tables import number, rows
from tests.crash.credit.trace import killed, patiently
from tests.crash.data import FROM_MS
from tests.crash.hunt import Hunt
from tests.crash.nursery import Nursery
from tests.crash.toll import Toll, sound
from tests.emulators.serve import serving_in_thread, stripe_lines
from tests.emulators.stripe import StripeEmulator
from tests.emulators.stripe_payments import CHARGE_FAULTS, LIST_FAULTS
from tests.fake_payments import CAN
from tests.integration.topping import TERMS
from tests.postgres_server import Server
from tests.sqlite_databases import migrated

ROLES = ("drainer-a", "drainer-b")
WALLETS, SHARE = 12, 1 / 3
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
LATER_MS: Final = (LEASE_MS, LEASE_MS, 11 * MINUTE_MS, HOUR_MS, 26 * HOUR_MS)
LIES: Final = ("other_amount", "list_other_amount")
"""What only a person decides; the other faults are all there."""
MANNERS: Final = (*("good",) * 9, "declined", "insufficient", "stolen", "expired", "authenticate", "processing")
FILLS = ("topup_begin", "topup_claim", "topup_settle", "topup_claim_lookups", "topup_settle_lookups")
STEPS = (*(f"{when} {step}" for when in ("begin", "inside", "end") for step in FILLS),
         *(f"{when} {step}" for when in ("begin", "end") for step in ("pay", "pay", "ask_pay")))  # fmt: skip
BY_ORDER, ORDER_S, SETTLING = 0.7, 2.0, 60
MOST_CALLS, CALLS_S = 8, 4.0
"""How many calls the service takes between two kills, and how long they are waited for."""
OPEN = "SELECT topup, state, answer FROM topups WHERE state IN ('due', 'sending', 'in_doubt')"
BEGUN = "SELECT topup, customer_id, money_minor, credits_micro, state FROM topups"
CREDITED = r"SELECT key, to_account, amount_micro FROM ledger_entries WHERE kind = 'grant' AND key LIKE 'topup\:%'"


@dataclass(frozen=True)
class Till:
    """What a siege of the till came to; it is only returned where the books agree."""

    toll: Toll
    topups: int
    payments: int
    struck: Counter[str]
    states: Counter[str]
    took_s: float


class Fillers(Hunt):
    """Two workers, a dozen wallets, one payment service."""

    def __init__(
        self,
        nursery: Nursery,
        dice: random.Random,
        stripe: StripeEmulator,
        clock: SharedClock,
        strikes: int,
        server: Server | None,
    ) -> None:
        super().__init__(nursery, dice, no_kill=False)
        self.stripe, self.clock, self.strikes, self.server = stripe, clock, strikes, server
        self.engine, self.uses = connect(nursery.url), 0

    def besiege(self, kills: int) -> Toll:
        self.start(*ROLES)
        for left in range(kills, 0, -1):
            self.watch()
            self._world()
            calls = self.stripe.calls.total() + self.dice.randint(1, MOST_CALLS)
            until = time.monotonic() + CALLS_S
            while self.stripe.calls.total() < calls and time.monotonic() < until:
                time.sleep(0.005)
            if self.server is not None and self.dice.random() < self.strikes / left:
                self._strike(self.server)
            if self.dice.random() >= BY_ORDER or not self.kill_by_order("tick", self.dice.choice(STEPS), ORDER_S):
                self.kill_at_random()
            self.clock.jump(self.dice.choice(LATER_MS))
        (self.folder / "stop").touch()
        self.end(ROLES)
        self.engine.dispose()
        sound(self.nursery, ROLES)
        self.toll.starts = self.nursery.starts
        return self.toll

    def _strike(self, server: Server) -> None:
        self.strikes -= 1
        killed(server, self.dice)
        self.toll.strikes["postmaster killed"] += 1
        self.engine.dispose()

    def _world(self) -> None:
        """Wallets are used, cards change, and people say so."""
        for place in range(WALLETS):
            name = f"w{place}"
            if self.dice.random() < 0.8:
                self.uses += 1
                self._run(name, f"run-{self.uses}", self.dice.randint(1, 30) * MICRO)
            if self.dice.random() < 0.15:
                self.stripe.payments.put_in(f"cus_{name}", self.dice.choice(MANNERS))
                by = By(self.clock.now_ms(), "test", "another card")
                patiently(self.engine, partial(topups.resume, customer_id=name, by=by))

    def _run(self, org: str, key: str, cost: int) -> None:
        """A run that reserves a credit and costs more, where its wallet has one."""
        by = By(self.clock.now_ms(), "test", "the till")
        request = Request(org, MICRO, overage="charge")
        try:
            patiently(self.engine, partial(executions.accept, key=key, request=request, by=by))
        except Denied:
            return
        patiently(self.engine, partial(executions.settle, key=key, cost=Cost(cost), by=by))


def _set_up(url: str, now_ms: int) -> None:
    engine, by = connect(migrated(url)), By(now_ms, "test", "the till")
    upgrade(engine)

    def begin(connection: sa.Connection) -> None:
        install_defaults(connection, by)
        assign(connection, [f"w{place}" for place in range(WALLETS)], "embedded", by, from_ms=FROM_MS)
        for place in range(WALLETS):
            terms = replace(TERMS, service="stripe", service_customer=f"cus_w{place}", max_day=20)
            topups.set_terms(connection, f"w{place}", terms, CAN, by, new=True)

    patiently(engine, begin)
    engine.dispose()


def _books(url: str, stripe: StripeEmulator) -> Counter[str]:
    """Errors: AssertionError where the service's own books say otherwise. The states of all top-ups."""
    begun = {str(row[0]): row[1:] for row in rows(url, BEGUN)}
    credited = {str(key): (account, micro) for key, account, micro in rows(url, CREDITED)}
    assert stripe.payments.doubles() == [], "charged twice"
    paid = {}
    for one in stripe.payments.taken:
        assert one.charge_id in begun, f"{one.charge_id} was paid, and is no top-up"
        customer, money, micro, _ = begun[one.charge_id]
        assert (one.customer_id, one.amount, one.currency) == (f"cus_{customer}", money, "usd"), one
        paid[one.charge_id] = (f"wallet:{customer}", micro)
    assert credited == paid, f"credited and not paid, or paid and not credited: {credited.items() ^ paid.items()}"
    assert {name for name, row in begun.items() if row[3] == "credited"} == credited.keys()
    return Counter(str(row[3]) for row in begun.values())


def till(
    folder: Path,
    url: str,
    *,
    kills: int,
    seed: int,
    server: Server | None = None,
    strikes: int = 0,
    share: float = SHARE,
    planted: str = "",
) -> Till:
    """`share`: how many of all calls fail.

    Errors: AssertionError where the service's books and ours differ, or something is left open.
    """
    dice = random.Random(seed)
    faults = {kind: share / len(CHARGE_FAULTS) for kind in CHARGE_FAULTS if kind not in LIES}
    faults |= {kind: share / len(LIST_FAULTS) for kind in LIST_FAULTS if kind not in LIES}
    stripe = StripeEmulator(FaultPlan(seed, faults))
    stripe.add_customer(*(f"cus_w{place}" for place in range(WALLETS)))
    for place in range(WALLETS):
        stripe.payments.put_in(f"cus_w{place}")
    clock = SharedClock(folder / "clock", FROM_MS)
    (folder / "provider").write_text("embedded")
    _set_up(url, clock.now_ms())
    began = time.monotonic()
    with serving_in_thread(stripe, clock, latency_ms=5) as address:
        env = dict(line.split("=", 1) for line in stripe_lines(stripe, address))
        with closing(Nursery(folder, url, {**env, "CRASH_PLANTED": planted})) as nursery:
            toll = Fillers(nursery, dice, stripe, clock, strikes, server).besiege(kills)
        took = time.monotonic() - began
        stripe.faults.rates = {}
        operator = Process(url, folder, env).ready()
        try:
            for _ in range(SETTLING):
                clock.jump(12 * HOUR_MS)
                operator.do("tick")
                if not rows(url, OPEN):
                    break
        finally:
            operator.end()
    states = _books(url, stripe)
    assert rows(url, OPEN) == [], "something is left open"
    assert must(url, "verify", at=str(clock.now_ms()))["breaches"] == []
    return Till(toll, number(url, "SELECT COUNT(*) FROM topups"), len(stripe.payments.taken), stripe.payments.struck,
                states, took)  # fmt: skip
