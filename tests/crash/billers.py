"""The second siege: two workers bill at an Autumn or a Stripe on a socket, killed between claim, send and settle.

What was charged is read from the emulated service, never from our tables: it has to be exact for each customer and
window. No other fault strikes, so that only the kills can be to blame.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from drawdown.schema.audit import By
from drawdown.schema.database import connect, write
from drawdown.schema.migrate import upgrade
from drawdown.worker.commands.assignments import assign
from drawdown.worker.commands.features import install_defaults
from tests.acceptance.commands import must
from tests.acceptance.drain import LEASE_MS, Process, SharedClock, insert_samples
from tests.acceptance.gentd26 import AT_MS, Sums
from tests.acceptance.tables import SEALED, by_window, difference, number, rows
from tests.crash.data import FROM_MS, Usage, usage
from tests.crash.hunt import Hunt
from tests.crash.nursery import Nursery
from tests.crash.observer import open_steps
from tests.crash.siege import Outcome
from tests.crash.toll import Toll, sound
from tests.emulators.autumn import AutumnEmulator
from tests.emulators.serve import autumn_lines, serving_in_thread, stripe_lines
from tests.emulators.stripe import StripeEmulator

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
IN_FLIGHT, IN_FLIGHT_WAIT_S, MOST_CALLS = 0.4, 3.0, 12
LAG_EVERY = 5
"""Kills between two jumps past the lag of reads, so that what was in flight is looked up while others are killed."""
LATER = (MINUTE_MS, 10 * MINUTE_MS, HOUR_MS, HOUR_MS, HOUR_MS)
Biller = AutumnEmulator | StripeEmulator


class Blockade(Hunt):
    """One database, one biller, two workers."""

    ROLES: Sequence[str] = ("drainer-a", "drainer-b")
    WORK = "tests.crash.process"
    """Whose `work` is a worker's whole life."""

    def __init__(
        self, nursery: Nursery, dice: random.Random, name: str, biller: Biller, clock: SharedClock, *, no_kill: bool
    ) -> None:
        super().__init__(nursery, dice, no_kill=no_kill)
        self.name, self.biller, self.clock = name, biller, clock

    def besiege(self, made: Usage) -> Toll:
        """A kill for each part of the usage but the last."""
        engine = connect(self.nursery.url)
        self.start(*self.ROLES)
        for at, part in enumerate(made.parts):
            insert_samples(engine, [(int(name.split("-")[1]), org, ts, s) for name, org, ts, s in part])
            if at == len(made.parts) - 1:
                break
            self.watch()
            self._kill_one()
            self.clock.jump(LEASE_MS if at % LAG_EVERY else 10 * MINUTE_MS)
        engine.dispose()
        self.before_the_end(made)
        (self.folder / "stop").touch()
        self.end(self.ROLES)
        sound(self.nursery, self.ROLES)
        self.toll.starts = self.nursery.starts
        return self.toll

    def before_the_end(self, made: Usage) -> None:
        """What is to come about while workers are there."""

    def _kill_one(self) -> None:
        roll = self.dice.random()
        if roll < IN_FLIGHT and self._in_flight():
            return
        if roll < 0.8 and self.kill_by_order("tick", self.dice.choice(STEPS)):
            return
        self.kill_at_random()

    def _in_flight(self) -> bool:
        """Kill a worker some of whose calls were taken over there, and some of whose answers never arrive."""
        route = ROUTES[self.name]
        calls = self.biller.calls[route] + self.dice.randint(1, MOST_CALLS)
        until = time.monotonic() + IN_FLIGHT_WAIT_S
        while time.monotonic() < until:
            sending = [one for one in self.running.values() if "push" in open_steps(one.log)]
            if sending and self.biller.calls[route] >= calls:
                self.kill(self.dice.choice(sending))
                return True
            time.sleep(0.002)
        return False


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
def _served(biller: Biller, clock: SharedClock) -> Iterator[dict[str, str]]:
    """The settings to use it by."""
    with serving_in_thread(biller, clock, latency_ms=LATENCY_MS) as address:
        lines = autumn_lines(biller, address) if isinstance(biller, AutumnEmulator) else stripe_lines(biller, address)
        yield dict(line.split("=", 1) for line in lines)


def _set_up(url: str, name: str, orgs: list[str], now_ms: int) -> None:
    engine, by = connect(url), By(now_ms, "test", "the siege")
    upgrade(engine)
    write(engine, lambda c: install_defaults(c, by))
    for org in orgs:
        write(engine, lambda c, org=org: assign(c, [org], name, by, customer_id=org, from_ms=FROM_MS))  # type: ignore[misc]
    engine.dispose()


def _charged(biller: Biller) -> Sums:
    """What the service itself charged, by (customer, window)."""
    unit = 1 if isinstance(biller, AutumnEmulator) else 1000
    found: Sums = defaultdict(int)
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
) -> Outcome:
    """Errors: AssertionError where the service charged anything else than was used, or something is left open."""
    dice = random.Random(seed)
    made = usage(kills + 1, dice, most=ROWS_A_KILL * (kills + 1))
    orgs = sorted({row[1] for part in made.parts for row in part})
    clock, biller = SharedClock(folder / "clock", AT_MS), _biller(name, orgs)
    (folder / "provider").write_text(name)
    _set_up(url, name, orgs, clock.now_ms())
    began = time.monotonic()
    with _served(biller, clock) as env:
        with closing(Nursery(folder, url, {**env, "CRASH_PLANTED": planted}, work=how.WORK)) as nursery:
            toll = how(nursery, dice, name, biller, clock, no_kill=no_kill).besiege(made)
        took = time.monotonic() - began
        operator = Process(url, folder, env).ready()
        try:
            _settle(operator, clock)
        finally:
            operator.end()
    expected = made.sums()
    for what, found in (("sealed", by_window(url, SEALED)), ("charged", _charged(biller))):
        wrong = difference(found, expected)
        assert not wrong, f"{len(wrong)} windows with ({what}, expected) seconds, the first {list(wrong.items())[:5]}"
    assert biller.doubles == []
    assert rows(url, OPEN) == []
    assert must(url, "verify", at=str(clock.now_ms()))["breaches"] == []
    return Outcome(
        toll=toll,
        samples=made.samples,
        pushes=number(url, "SELECT COUNT(*) FROM pushes"),
        seconds=sum(expected.values()),
        sent_again=number(url, "SELECT COUNT(*) FROM pushes WHERE attempts > 1"),
        took_s=took,
    )
