"""The second siege: two workers bill at an Autumn, a Stripe, or both, on sockets, and are killed between claim, send
and settle.

What was charged is read from the emulated services, never from our tables: it has to be exact for each customer and
window. Unless it is asked for (`faulty`), no other fault strikes, so that only the kills can be to blame.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from drawdown.providers.kit.emulator import FaultPlan
from drawdown.schema.audit import By
from drawdown.schema.database import connect, write
from drawdown.schema.migrate import upgrade
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.orgs.assignments import assign
from tests.acceptance.commands import must
from tests.acceptance.drain import LEASE_MS, Process, SharedClock, insert_samples
from tests.acceptance.gentd26 import AT_MS, Sums
from tests.acceptance.tables import SEALED, by_window, difference, number, rows
from tests.crash.data import FROM_MS, Row, Usage, usage
from tests.crash.hunt import Hunt
from tests.crash.nursery import Nursery
from tests.crash.observer import open_steps
from tests.crash.siege import Outcome
from tests.crash.toll import Toll, sound
from tests.emulators.autumn import AutumnEmulator
from tests.emulators.serve import autumn_lines, serving_in_thread, stripe_lines
from tests.emulators.stripe import StripeEmulator
from tests.sqlite_databases import migrated

STEPS = (
    *(f"{when} {step}" for when in ("begin", "inside", "end") for step in ("claim", "settle")),
    "inside seal", "end seal", "begin push", "end push", "begin look_up", "end look_up",
)  # fmt: skip
ROUTES = {"autumn": "track", "stripe": "POST /v1/billing/meter_events"}
FEATURE = "compute_1gb"
OPEN = "SELECT state, COUNT(*) FROM pushes WHERE state NOT IN ('accepted', 'voided') GROUP BY state"
WINDOW_MS, MINUTE_MS, HOUR_MS = 300_000, 60_000, 3_600_000
CREDIT = 10**9
LATENCY_MS = 15
ROWS_A_KILL = 40
ENOUGH = 50
"""Kills in a siege in which each fault has to strike."""
IN_FLIGHT, IN_FLIGHT_WAIT_S, MOST_CALLS = 0.4, 3.0, 12
LAG_EVERY = 5
"""Kills between two jumps past the lag of reads, so that what was in flight is looked up while others are killed."""
INSIDE: Sequence[str] = ("inside claim", "inside settle", "inside seal")
AIMED_WAIT_S = 30.0
"""For each of two steps that the last kill is aimed at. A worker comes to the second with each of its ticks."""
BOTH = "both"
FAULTY = dict.fromkeys(("request_lost", "answer_lost", "error_500_before", "error_500_after", "throttled"), 0.025)
"""Chances a call: one in eight or so comes to no clear answer."""
LATER = (MINUTE_MS, 10 * MINUTE_MS, HOUR_MS, HOUR_MS, HOUR_MS)
Biller = AutumnEmulator | StripeEmulator
Billers = Mapping[str, Biller]
"""By the provider's name."""


class Blockade(Hunt):
    """One database, its billers, two workers."""

    ROLES: Sequence[str] = ("drainer-a", "drainer-b")
    WORK = "tests.crash.process"
    """Whose `work` is a worker's whole life."""

    def __init__(
        self, nursery: Nursery, dice: random.Random, billers: Billers, clock: SharedClock, *, no_kill: bool
    ) -> None:
        super().__init__(nursery, dice, no_kill=no_kill)
        self.billers, self.clock = billers, clock

    def besiege(self, made: Usage) -> Toll:
        """A kill for each part of the usage but the last."""
        engine = connect(self.nursery.url)
        self.start(*self.ROLES)
        for at, part in enumerate(made.parts):
            self.insert(engine, part)
            if at == len(made.parts) - 1:
                break
            self.watch()
            last = at == len(made.parts) - 2
            if not (last and self.toll.inside == 0 and self._kill_inside()):
                self._kill_one()
            self.between(at)
            self.clock.jump(LEASE_MS if at % LAG_EVERY else 10 * MINUTE_MS)
        engine.dispose()
        self.while_faulty()
        for biller in self.billers.values():
            biller.faults.rates = {}
        self.before_the_end(made)
        (self.folder / "stop").touch()
        self.end(self.ROLES)
        sound(self.nursery, self.ROLES)
        self.toll.starts = self.nursery.starts
        return self.toll

    def insert(self, engine: sa.Engine, part: Sequence[Row]) -> None:
        """A part of the usage."""
        insert_samples(engine, [(int(name.split("-")[1]), org, ts, s) for name, org, ts, s in part])

    def between(self, at: int) -> None:
        """What comes about after each kill, before time passes."""

    def while_faulty(self) -> None:
        """What has to be done before the services get well."""

    def before_the_end(self, made: Usage) -> None:
        """What is to come about while workers are there."""

    def _kill_inside(self) -> bool:
        """Where no kill landed inside a step by chance, as of one or two is to be expected, the last one is aimed."""
        return any(self.kill_by_order("tick", at, AIMED_WAIT_S) for at in (self.dice.choice(INSIDE[:2]), INSIDE[2]))

    def _kill_one(self) -> None:
        roll = self.dice.random()
        if roll < IN_FLIGHT and self._in_flight():
            return
        if roll < 0.8 and self.kill_by_order("tick", self.dice.choice(STEPS)):
            return
        self.kill_at_random()

    def _in_flight(self) -> bool:
        """Kill a worker some of whose calls were taken over there, and some of whose answers never arrive."""
        name = self.dice.choice(sorted(self.billers))
        route, biller = ROUTES[name], self.billers[name]
        calls = biller.calls[route] + self.dice.randint(1, MOST_CALLS)
        until = time.monotonic() + IN_FLIGHT_WAIT_S
        while time.monotonic() < until:
            sending = [one for one in self.running.values() if "push" in open_steps(one.log)]
            if sending and biller.calls[route] >= calls:
                self.kill(self.dice.choice(sending))
                return True
            time.sleep(0.002)
        return False


def billed_by(name: str, orgs: Sequence[str]) -> dict[str, list[str]]:
    """Which organisations each service bills: of both every other one."""
    return {"autumn": list(orgs[::2]), "stripe": list(orgs[1::2])} if name == BOTH else {name: list(orgs)}


def _biller(name: str, orgs: list[str]) -> Biller:
    if name == "stripe":
        stripe = StripeEmulator()
        stripe.add_customer(*orgs)
        stripe.add_meter(FEATURE)
        return stripe
    # Its limits are a second's and a minute's, and here hours pass in no time.
    autumn = AutumnEmulator(lists_per_s=10**9, tracks_per_minute=10**9)
    autumn.account.add_feature(FEATURE)
    for org in orgs:
        autumn.account.add_customer(org, FROM_MS)
        autumn.account.grant(org, FEATURE, CREDIT, FROM_MS)
    return autumn


@contextmanager
def _served(billers: Iterable[Biller], clock: SharedClock) -> Iterator[dict[str, str]]:
    """The settings to use them by."""
    lines: list[str] = []
    with ExitStack() as stack:
        for one in billers:
            address = stack.enter_context(serving_in_thread(one, clock, latency_ms=LATENCY_MS))
            lines += autumn_lines(one, address) if isinstance(one, AutumnEmulator) else stripe_lines(one, address)
        yield dict(line.split("=", 1) for line in lines)


def _set_up(url: str, billed: Mapping[str, list[str]], now_ms: int) -> None:
    engine, by = connect(migrated(url)), By(now_ms, "test", "the siege")
    upgrade(engine)
    write(engine, lambda c: install_defaults(c, by))
    for name, org in ((name, org) for name, orgs in billed.items() for org in orgs):
        given = partial(assign, org_ids=[org], provider=name, by=by, customer_id=org, from_ms=FROM_MS)
        write(engine, given)
    engine.dispose()


def _charged(billers: Iterable[Biller]) -> Sums:
    """What the services themselves charged, by (customer, window)."""
    found: Sums = defaultdict(int)
    for biller in billers:
        unit = 1 if isinstance(biller, AutumnEmulator) else 1000
        for (customer, _, ts), value in biller.charged_by().items():
            found[customer, ts * unit - ts * unit % WINDOW_MS] += int(value)
    return {place: seconds for place, seconds in found.items() if seconds}


def _settle(operator: Process, clock: SharedClock) -> None:
    for step in LATER:
        clock.jump(step)
        report = operator.do("tick")
        assert report["failures"] == []
        if report["exit_status"] == 0:
            return


def blockade(
    folder: Path,
    url: str,
    name: str,
    *,
    kills: int,
    seed: int,
    no_kill: bool = False,
    planted: str = "",
    how: type[Blockade] = Blockade,
    faulty: bool = False,
) -> Outcome:
    """`name`: a provider's, or both. Errors: AssertionError where a service charged anything else than was used, or
    something is left open."""
    dice = random.Random(seed)
    made = usage(kills + 1, dice, most=ROWS_A_KILL * (kills + 1))
    orgs = sorted({row[1] for part in made.parts for row in part})
    clock, billed = SharedClock(folder / "clock", AT_MS), billed_by(name, orgs)
    billers = {one: _biller(one, theirs) for one, theirs in billed.items()}
    if faulty:
        for at, biller in enumerate(billers.values()):
            biller.faults = FaultPlan(seed + at, FAULTY)
    (folder / "provider").write_text(name)
    _set_up(url, billed, clock.now_ms())
    began = time.monotonic()
    with _served(billers.values(), clock) as env:
        with closing(Nursery(folder, url, {**env, "CRASH_PLANTED": planted}, work=how.WORK)) as nursery:
            toll = how(nursery, dice, billers, clock, no_kill=no_kill).besiege(made)
        took = time.monotonic() - began
        operator = Process(url, folder, env).ready()
        try:
            _settle(operator, clock)
        finally:
            operator.end()
    expected = made.sums()
    for what, found in (("sealed", by_window(url, SEALED)), ("charged", _charged(billers.values()))):
        wrong = difference(found, expected)
        assert not wrong, f"{len(wrong)} windows with ({what}, expected) seconds, the first {list(wrong.items())[:5]}"
    assert [double for biller in billers.values() for double in biller.doubles] == []
    struck = sum((biller.faults.counts for biller in billers.values()), Counter[str]())
    assert not faulty or all(struck[kind] for kind in FAULTY) or kills < ENOUGH, struck
    assert rows(url, OPEN) == []
    assert must(url, "verify", at=str(clock.now_ms()))["breaches"] == []
    return Outcome(
        toll=toll,
        samples=made.samples,
        pushes=number(url, "SELECT COUNT(*) FROM pushes"),
        seconds=sum(expected.values()),
        sent_again=number(url, "SELECT COUNT(*) FROM pushes WHERE attempts > 1"),
        took_s=took,
        struck=struck,
    )
