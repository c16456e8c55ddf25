"""The whole trace billed at Autumn and at Stripe: a third of all calls go wrong, and workers are killed as they go.

What was charged is read from the emulated service, never from our tables. Without DRAWDOWN_TEST_WHOLE=1 a fixed
share of the organisations is billed, in the same way.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.providers.kit.emulator import FaultPlan
from drawdown.schema.audit import By
from drawdown.schema.database import connect, write
from drawdown.schema.migrate import upgrade
from drawdown.worker.engine.effects import CLOCKS_APART_MS
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.orgs.assignments import assign
from tests.acceptance import gentd26
from tests.acceptance.commands import must
from tests.acceptance.drain import Process, SharedClock, Siege, insert_samples
from tests.acceptance.gentd26 import Sums
from tests.acceptance.tables import difference, number, rows
from tests.emulators.autumn import TRACK_FAULTS, AutumnEmulator
from tests.emulators.serve import autumn_lines, serving_in_thread, stripe_lines
from tests.emulators.stripe import BILLING_FAULTS, StripeEmulator
from tests.sqlite_databases import migrated
from tests.whole import WHOLE, share

pytestmark = gentd26.needed()

SHARE, KILLS = share((216, 2), whole=(1, 12))
FEATURE = "compute_1gb"
FROM_MS = 1_731_628_800_000
WINDOW_MS, MINUTE_MS, HOUR_MS = 300_000, 60_000, 3_600_000
LATER = (MINUTE_MS, 10 * MINUTE_MS, HOUR_MS, *(6 * HOUR_MS,) * 5)
"""Jumps of the clock between ticks: past backoffs, past the lags, past the life of a key."""
NIGHTS = 8
CREDIT = 10**9
LATENCY_MS = 10
AUTUMN, STRIPE = (*TRACK_FAULTS, "reads_fail", "reads_lag"), (*BILLING_FAULTS, "reads_fail")

Request = tuple[int, str, int, int]
"""(line, organisation, time in milliseconds, seconds)."""


@dataclass
class Account:
    """One emulated account as this test sees it, whichever it is."""

    name: str
    emulator: AutumnEmulator | StripeEmulator
    kinds: tuple[str, ...]

    def charged(self) -> Sums:
        """What the service itself charged, by (customer, window)."""
        found: Sums = defaultdict(int)
        unit = 1 if self.name == "autumn" else 1000
        for (customer, feature, ts), value in self.emulator.charged_by().items():
            assert feature == FEATURE and value == int(value)
            found[customer, ts * unit - ts * unit % WINDOW_MS] += int(value)
        return {place: seconds for place, seconds in found.items() if seconds}


@dataclass
class Drain:
    """One trace on its way through one provider."""

    url: str
    account: Account
    samples: int
    clock: SharedClock
    siege: Siege
    operator: Process
    undelivered: list[bytes] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)
    """What the product and its operator did."""
    differed: set[str] = field(default_factory=set)
    """Customers whose charges reconcile found to differ."""
    told: set[str] = field(default_factory=set)
    """Customers of whom reconcile told a person what it could not fix."""
    by_hand: Counter[str] = field(default_factory=Counter)
    """What a person drew from a customer's balance then, or gave back."""
    clear: bool = False
    """Whether the last reconcile read everything, waited for nothing and found no difference."""
    began: float = field(default_factory=time.monotonic)

    def deliver(self) -> None:
        """Webhooks that are due, signed anew each time as Stripe's are; one that could not be taken comes again."""
        stripe = self.account.emulator
        if not isinstance(stripe, StripeEmulator):
            return
        self.undelivered += [body for _, body in stripe.webhooks(self.clock.now_ms())]
        again = []
        for body in self.undelivered:
            headers, signed = stripe.signed(json.loads(body), self.clock.now_ms())
            told = self.operator.do("notice", headers, signed.decode())
            self.said["webhooks delivered"] += 1
            self.said["refused later, by webhook"] += sum("is rejected now" in line for line in told.get("done", ()))
            again += [body] if told["again"] else []
        self.undelivered = again

    def settle(self) -> None:
        """Tick and let time pass, sending again what was rejected, until nothing is left or a key's life is over."""
        for step in LATER:
            self.clock.jump(step)
            self.deliver()
            self.said["sent anew by push retry"] += self.operator.do("retry")["retried"]
            self._decide()
            report = self.operator.do("tick")
            assert report["failures"] == []
            self.said["looked up"] += report["looked_up"]
            self.said["voided as absent"] += report["voided"]
            if report["exit_status"] == 0 and not self.undelivered:
                return

    def _decide(self) -> None:
        """What is on record as charging nothing, and was sent again: the customer's balance tells."""
        for key, wire_key in rows(self.url, "SELECT key, COALESCE(wire_key, key) FROM pushes WHERE state = 'in_doubt'"):
            charged = self.account.emulator.charged_under(str(wire_key)) is not None
            done = self.operator.do("decide", key, charged)
            self.said[f"settled by a balance, {'charged' if charged else 'not charged'}"] += not done["waits"]

    def reconcile(self) -> None:
        found = self.operator.do("reconcile")
        self.said["reconciled"] += found["compared"]
        self.said["not read"] += found["unread"]
        for line in found["differing"]:
            whole = abs(line["ours"] - line["theirs"]) == line["corrected"]
            self.differed.add(line["customer_id"])
            if not whole:
                self.told.add(line["customer_id"])
            self.said[f"days {line['verdict']}, {'corrected' if whole else 'told'}"] += 1
        self.clear = not (found["waiting"] or found["unread"] or found["differing"])

    def until_clear(self) -> None:
        """Settle and reconcile, night after night."""
        for _ in range(NIGHTS):
            self.settle()
            self.clock.jump(HOUR_MS + CLOCKS_APART_MS)
            self.reconcile()
            if not self._make_up() and self.clear:
                return

    def _make_up(self) -> int:
        """Where something was lost over there beside something drawn twice, one balance does not tell which: a person
        compares with the console, customer by customer; of how many something was to be fixed."""
        account = self.account.emulator
        if not isinstance(account, AutumnEmulator) or not self.told:
            return 0
        fixed, charged = 0, _by_org(self.account.charged())
        for org in sorted(self.told):
            ours = number(self.url, f"SELECT SUM(sent_qty) FROM pushes WHERE state = 'accepted' AND org_id = '{org}'")
            missing = ours - charged.get(org, 0) - self.by_hand[org]
            account.account.add_to_balance(org, FEATURE, -missing)
            self.by_hand[org] += missing
            fixed += missing != 0
        return fixed

    def all_tried(self) -> bool:
        """Whether no push is left that was never sent."""
        sealed = number(self.url, "SELECT COUNT(*) FROM pushes")
        return bool(sealed) and not number(self.url, "SELECT COUNT(*) FROM pushes WHERE state = 'due' AND attempts = 0")

    def never_answered(self) -> int:
        """Attempts whose sender was killed."""
        return number(self.url, "SELECT COUNT(*) FROM attempts WHERE outcome IS NULL")

    def given_back_for(self) -> set[str]:
        """Organisations whose balance was drawn on twice, by reconcile's account."""
        return {str(org) for (org,) in rows(self.url, "SELECT DISTINCT org_id FROM adoptions WHERE kind = 'drawn'")}

    def open(self) -> list[tuple[object, ...]]:
        """Whatever is neither accepted nor voided, by state."""
        settled = "('accepted', 'voided')"
        return rows(self.url, f"SELECT state, COUNT(*) FROM pushes WHERE state NOT IN {settled} GROUP BY state")

    def tell(self, expected: Sums, struck: Counter[str], calls: int) -> None:
        """What happened, for whoever runs this with -s."""
        print(
            f"\n{self.account.name}, {time.monotonic() - self.began:.0f} s: {self.samples:,} requests, "
            f"{sum(expected.values()):,} s in {len(expected):,} windows; {self.siege.kills} kills, "
            f"{self.never_answered():,} attempts never answered; {calls:,} calls, {struck.total():,} struck",
            *(f"  {count:>7,} {kind}" for kind, count in (struck + self.said).most_common()),
            f"  {len(self.account.emulator.doubles):>7,} charged twice, at {len(self.given_back_for()):,} customers",
            f"  charged in the end: {sum(self.account.charged().values()):,} s",
            f"  {len(difference(self.account.charged(), expected)):>7,} windows off: given back in another of theirs",
            sep="\n",
        )


def _requests(share: int) -> list[Request]:
    """The requests of every `share`-th tenant."""
    found = gentd26.moments()
    chosen = set(sorted({org for _, org, _, _ in found})[::share])
    return [row for row in found if row[1] in chosen]


def _sums(requests: Sequence[Request]) -> Sums:
    sums: Sums = defaultdict(int)
    for _, org, ts, seconds in requests:
        sums[org, ts - ts % WINDOW_MS] += seconds
    return {place: seconds for place, seconds in sums.items() if seconds}


def _by_org(sums: Sums) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for (org, _), seconds in sums.items():
        found[org] += seconds
    return {org: seconds for org, seconds in found.items() if seconds}


def _autumn(orgs: Sequence[str], rates: Mapping[str, float]) -> AutumnEmulator:
    # Its limits are a second's and a minute's, and here hours pass in no time.
    emulator = AutumnEmulator(FaultPlan(26, rates), lists_per_s=10**9, tracks_per_minute=10**9)
    emulator.account.add_feature(FEATURE)
    for org in orgs:
        emulator.account.add_customer(org, FROM_MS)
        emulator.account.grant(org, FEATURE, CREDIT, FROM_MS)
    return emulator


def _stripe(orgs: Sequence[str], rates: Mapping[str, float]) -> StripeEmulator:
    emulator = StripeEmulator(FaultPlan(26, rates))
    emulator.add_customer(*orgs)
    emulator.add_meter(FEATURE)
    return emulator


@contextmanager
def _drain(
    url: str, folder: Path, name: str, requests: Sequence[Request], rates: Mapping[str, float] | None = None
) -> Iterator[Drain]:
    clock = SharedClock(folder / "clock", gentd26.AT_MS)
    (folder / "provider").write_text(name)
    orgs = sorted({org for _, org, _, _ in requests})
    set_up(url, name, orgs, requests, By(clock.now_ms(), "test", "the trace"))
    emulator = (_autumn if name == "autumn" else _stripe)(orgs, rates or {})
    kinds: tuple[str, ...] = AUTUMN if name == "autumn" else STRIPE
    with serving_in_thread(emulator, clock, latency_ms=LATENCY_MS) as address:
        if isinstance(emulator, AutumnEmulator):
            lines, route = autumn_lines(emulator, address), "track"
        else:
            lines, route = stripe_lines(emulator, address), "POST /v1/billing/meter_events"
        env = dict(line.split("=", 1) for line in lines)
        siege = Siege(url, folder, clock, env, random.Random(26), lambda: emulator.calls[route])
        operator = siege.new().ready()
        try:
            yield Drain(url, Account(name, emulator, kinds), len(requests), clock, siege, operator)
        finally:
            operator.end()


def set_up(url: str, name: str, orgs: Sequence[str], requests: Sequence[Request], by: By) -> None:
    """A database with the trace in it, every tenant assigned to the provider as the customer of its own name."""
    engine = connect(migrated(url))
    upgrade(engine)
    write(engine, lambda c: install_defaults(c, by))

    def assign_all(connection: sa.Connection) -> None:
        for org in orgs:
            assign(connection, [org], name, by, customer_id=org, from_ms=FROM_MS)

    write(engine, assign_all)
    insert_samples(engine, requests)
    engine.dispose()


def _rates(name: str) -> dict[str, float]:
    """About a third of all calls, of those that bill and of those that read."""
    billing = TRACK_FAULTS if name == "autumn" else BILLING_FAULTS
    each = {kind: 0.33 / len(billing) for kind in billing}
    return {**each, "reads_fail": 0.15, "reads_lag": 0.14} if name == "autumn" else {**each, "reads_fail": 0.3}


def _killed_after(pushes: int) -> list[int]:
    """Spread over the drain: attempts are more than pushes, and the last ones come in a trickle."""
    return [pushes * number // (KILLS + 1) + 20 for number in range(KILLS)]


@pytest.mark.parametrize(
    ("name", "database_url"),
    share([("stripe", "sqlite")], whole=[("autumn", "sqlite"), ("stripe", "postgresql")]),
    indirect=["database_url"],
)
def test_gentd26_trace_with_failing_calls_and_kills_is_charged_once(
    name: str, database_url: str, tmp_path: Path
) -> None:
    requests = _requests(SHARE)
    expected = _sums(requests)
    if WHOLE:
        assert (len(expected), sum(expected.values())) == (gentd26.PUSHES, gentd26.SECONDS)
    with _drain(database_url, tmp_path, name, requests, _rates(name)) as drain:
        emulator = drain.account.emulator
        drain.siege.run(_killed_after(len(expected)), drain.all_tried, drain.deliver)
        drain.settle()
        drain.reconcile()
        drain.settle()
        struck, calls = Counter(emulator.faults.counts), emulator.calls.total()
        emulator.faults.rates = {}
        drain.until_clear()
        drain.tell(expected, struck, calls)

        assert drain.open() == []
        charged = Counter(_by_org(drain.account.charged()))
        charged.update(drain.by_hand)
        assert charged == Counter(_by_org(expected))
        by_hand = {org for org, seconds in drain.by_hand.items() if seconds}
        assert len(by_hand) <= max(3, len(expected) // 100), "a person is asked about few"
        wrong = difference(drain.account.charged(), expected)
        assert {org for org, _ in wrong} <= drain.differed, "a balance's word knows no window"
        must(database_url, "verify", at=str(drain.clock.now_ms()))
    missed = [kind for kind in drain.account.kinds if struck[kind] < share(1, whole=100)]
    assert len(missed) <= share(3, whole=0), (missed, struck)
    assert struck.total() > 0.25 * calls, "about a third: retries and reads shift it from run to run"
    assert drain.siege.kills >= KILLS and drain.never_answered() > 0


@pytest.mark.parametrize("database_url", share(["sqlite"], whole=["postgresql"]), indirect=True)
def test_double_charge_with_autumn_key_store_down_is_refunded(database_url: str, tmp_path: Path) -> None:
    """It fails open: what a killed worker had sent is charged again, and leaves one event. Balances tell."""
    requests = _requests(SHARE)
    expected = _sums(requests)
    with _drain(database_url, tmp_path, "autumn", requests) as drain:
        emulator = drain.account.emulator
        assert isinstance(emulator, AutumnEmulator)
        emulator.key_store = "refusing"
        drain.siege.power_cut = True
        drain.siege.run(_killed_after(len(expected)), drain.all_tried, drain.deliver)
        drain.settle()
        emulator.key_store = "up"
        doubled = {one.customer for one in emulator.doubles}
        too_much = sum(drain.account.charged().values()) - sum(expected.values())
        assert doubled and too_much == sum(int(one.value) for one in emulator.doubles)
        assert _by_org(_events(emulator)) == _by_org(expected), "the events know nothing of it"
        drain.until_clear()
        drain.said["seconds charged twice"] = too_much
        drain.tell(expected, Counter(), emulator.calls.total())

        drawn = {
            org: sum(CREDIT - one.balance for one in customer.grants[FEATURE])
            for org, customer in emulator.account.customers.items()
        }
        assert {org: seconds for org, seconds in drawn.items() if seconds} == _by_org(expected)
        assert drain.given_back_for() == doubled
        wrong = difference(drain.account.charged(), expected)
        assert {org for org, _ in wrong} <= doubled
        adopted = "SELECT SUM(p.sealed_qty) FROM adoptions x JOIN pushes p ON p.org_id = x.org_id AND "
        same = "p.window_ms = x.window_ms AND p.feature = x.feature AND p.revision = x.revision"
        assert number(database_url, f"{adopted}{same} WHERE x.kind = 'drawn'") == too_much
        assert drain.open() == []
        must(database_url, "verify", at=str(drain.clock.now_ms()))


def _events(emulator: AutumnEmulator) -> Sums:
    """What Autumn's list of events says was charged, by (customer, window)."""
    found: Sums = defaultdict(int)
    for event in emulator.account.events:
        for one in event.deductions:
            found[event.customer, event.ts - event.ts % WINDOW_MS] += int(str(one["value"]))
    return found
