"""A provider is away for a day, a little less, a little more, or for 36 days: what is sent, looked up, parked and said.

Two kinds of outage: nobody can connect, or calls are taken and never answered, and were applied or were not. Time is
virtual; what was charged is read from the emulated service.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa

from drawdown.providers import autumn, stripe
from drawdown.providers.http import Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.protocol import HOUR_MS, Provider, Setup
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, GRACE_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.push import actions as pushes
from drawdown.worker.status.ticks import Report
from drawdown.worker.verify.verify import verify
from tests.emulators.autumn import AutumnEmulator
from tests.emulators.stripe import StripeEmulator
from tests.whole import at_length, share
from tests.world import T0, Fleet

FEATURE = "compute_1gb"
ORGS = ("acme", "bolt")
SAFE_MS, RETENTION_MS = 23 * HOUR_MS, 24 * HOUR_MS
OLDEST_MS = 35 * DAY_MS - HOUR_MS
SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
EVERY_MS = share((24 * HOUR_MS, 5 * DAY_MS), whole=(12 * HOUR_MS, 12 * HOUR_MS))
"""Between two ticks of a day's and of a month's outage, once it has lasted a day; something is used in between."""
QUICK_MS, SLOW_MS = share((15 * MINUTE_MS, 6 * HOUR_MS), whole=(HOUR_MS, HOUR_MS))
"""For so long ticks of a month's outage come every five minutes, and on its first day this far apart."""
LENGTHS = {
    "23 h 59 min": 24 * HOUR_MS - MINUTE_MS,
    "24 h": 24 * HOUR_MS,
    "24 h 1 min": 24 * HOUR_MS + MINUTE_MS,
    "36 days": 36 * DAY_MS,
}
NO_CONNECTION, NO_ANSWER = "no connection (ECONNREFUSED)", "no complete response within 30 s"


@dataclass
class Line:
    """The way to an emulated service. `state`: up; refused (nobody can connect); lost (taken, never answered, not
    applied); applied (taken and applied, never answered)."""

    emulator: AutumnEmulator | StripeEmulator
    fleet: Fleet
    state: str = "up"
    tried: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """When each key was sent, or tried to be."""
    bodies: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    reads: Counter[str] = field(default_factory=Counter)
    """Reading calls, by the state of the line."""

    async def send(self, call: Call) -> HttpResult:
        now = self.fleet.clock.now_ms()
        key = _key_of(call)
        if key is None:
            self.reads[self.state] += 1
        else:
            self.tried[key].append(now)
            self.bodies[key].add(call.body)
        if self.state == "refused":
            return NotSent(NO_CONNECTION)
        if self.state == "lost":
            return NoAnswer(NO_ANSWER)
        answer = self.emulator.handle(call, now)
        return NoAnswer(NO_ANSWER) if self.state == "applied" else answer

    async def close(self) -> None:
        """There is nothing to close."""


def _key_of(call: Call) -> str | None:
    """The key of a call that bills."""
    path = urlsplit(call.url).path
    if path == "/v1/track":
        return str(json.loads(call.body)["idempotency_key"])
    if call.method == "POST" and path == "/v1/billing/meter_events":
        return parse_qs(call.body.decode())["identifier"][0]
    return None


class Outage:
    """Two organisations at one provider that is away from the first moment on. They use something all the while."""

    def __init__(self, engine: sa.Engine, name: str, state: str, length_ms: int) -> None:
        self.fleet = Fleet(engine)
        self.name, self.state, self.length_ms = name, state, length_ms
        emulator: AutumnEmulator | StripeEmulator = AutumnEmulator() if name == "autumn" else StripeEmulator()
        self.line = Line(emulator, self.fleet, state)
        settings = {"secret_key": emulator.secret_key, "url": "https://billing.test"}
        build = autumn.build if name == "autumn" else stripe.build
        made: Provider = build(Setup(name, settings, self.fleet.clock, self.line, engine))
        # Seconds of this clock are not the machine's: rates a second would only make the test slow.
        made.capabilities = replace(made.capabilities, calls_per_s=None, reads_per_s=None, lookups_per_s=None)
        self.fleet.extra = {name: made}
        self._customers(emulator)
        write(engine, lambda c: [assign(c, [org], name, self.fleet.by, customer_id=org, from_ms=T0) for org in ORGS])
        # Both were read before: the first push of an unread customer waits for a read, and no such push ages.
        write(engine, lambda c: c.execute(sa.text("UPDATE orgs SET balance_read_ms = :at"), {"at": T0}))
        self.used: dict[tuple[str, int], int] = {}
        self.reports: list[Report] = []
        self.began_ms = T0 + WINDOW_MS + GRACE_MS
        self.end_ms = self.began_ms + length_ms
        is_long = length_ms > 2 * DAY_MS
        self.step_ms = EVERY_MS[is_long]
        self.first_ms, self.hour_ms = (QUICK_MS, SLOW_MS) if is_long else (HOUR_MS, HOUR_MS)

    @staticmethod
    def _customers(emulator: AutumnEmulator | StripeEmulator) -> None:
        if isinstance(emulator, StripeEmulator):
            emulator.add_customer(*ORGS)
            emulator.add_meter(FEATURE)
            return
        emulator.lists_per_s = 10**9
        emulator.account.add_feature(FEATURE)
        for org in ORGS:
            emulator.account.add_customer(org, T0)
            emulator.account.grant(org, FEATURE, 10**9, T0)

    def use(self, window_ms: int) -> None:
        for org in ORGS:
            seconds = 10 + len(self.used)
            self.fleet.sample(org, window_ms + 1, seconds)
            self.used[org, window_ms] = seconds

    def tick(self, at_ms: int) -> Report:
        self.reports.append(self.fleet.tick(at_ms))
        return self.reports[-1]

    def away(self) -> Report:
        """Ticks until right before the end: every five minutes, then sparser; new usage now and then."""
        self.use(T0)
        for at in self._moments():
            if (at - self.began_ms) % self.step_ms == 0 and at > self.began_ms:
                self.use(at - GRACE_MS - WINDOW_MS)
            self.tick(at)
        return self.reports[-1]

    def _moments(self) -> Iterator[int]:
        past = 0
        while past < self.length_ms:
            yield self.began_ms + past
            step = 5 * MINUTE_MS if past < self.first_ms else self.hour_ms if past < 24 * HOUR_MS else self.step_ms
            past = (past // step + 1) * step

    def back(self) -> Report:
        """The service is back; a tick at that moment."""
        self.line.state = "up"
        return self.tick(self.end_ms)

    def after(self, hours: int = 1) -> Report:
        """Ticks on."""
        for _ in range(hours):
            self.tick(self.fleet.clock.at_ms + HOUR_MS)
        return self.reports[-1]

    def two_days_later(self) -> Report:
        """Ticks on until nothing sent before can still be applied over there."""
        for _ in range(14):
            self.tick(self.fleet.clock.at_ms + 4 * HOUR_MS)
        return self.reports[-1]

    # What is told of it

    def first_tried(self) -> dict[str, int]:
        """When each key was tried first, of those tried during the outage."""
        return {key: times[0] for key, times in self.line.tried.items() if times[0] < self.end_ms}

    def charged(self) -> dict[tuple[str, int], int]:
        found: dict[tuple[str, int], int] = defaultdict(int)
        unit = 1 if self.name == "autumn" else 1000
        for (customer, _, ts), value in self.line.emulator.charged_by().items():
            found[customer, ts * unit - ts * unit % WINDOW_MS] += int(value)
        return {place: value for place, value in found.items() if value}

    def pushes(self) -> dict[str, str]:
        return {str(key): str(state) for key, state in self.fleet.rows("SELECT key, state FROM pushes")}

    def errors(self) -> set[str]:
        return {str(text) for (text,) in self.fleet.rows("SELECT DISTINCT last_error FROM pushes WHERE state = 'due'")}

    def settled_exactly(self) -> None:
        """Each second is charged once, nothing is open, and the proof holds."""
        assert self.charged() == self.used
        assert self.line.emulator.doubles == []
        assert set(self.pushes().values()) <= {"accepted", "voided"}
        assert all(len(bodies) == 1 for bodies in self.line.bodies.values()), "the same key, the same bytes"
        assert self.reports[-1].exit_status == 0
        assert read(self.fleet.engine, verify).breaches == []


def key(org: str, window_ms: int, revision: int = 0) -> str:
    return f"usage:{org}:{window_ms}:{FEATURE}" + (f":r{revision}" if revision else "")


ALL = [(name, length) for name in ("autumn", "stripe") for length in LENGTHS if length != "36 days"]


def one_of(day: tuple[str, str]) -> pytest.MarkDecorator:
    """One outage of about a day every day, and each of them in the whole."""
    return pytest.mark.parametrize(("name", "length"), share([day], whole=ALL))


@one_of(("autumn", "23 h 59 min"))
@SQLITE
def test_provider_refusing_connections_for_day_is_billed_after_return(
    engine: sa.Engine, name: str, length: str
) -> None:
    """Proven unsent: no key ages, nothing is in doubt, and all of it is sent when the service is back."""
    outage = Outage(engine, name, "refused", LENGTHS[length])
    said = outage.away()
    assert (said.left.due, said.left.queued, said.left.in_doubt, said.left.rejected) == (len(outage.used), 0, 0, 0)
    assert (said.exit_status, said.accepted, said.looked_up) == (75, 0, 0)
    assert outage.errors() == {f"not sent: {NO_CONNECTION}"}
    assert outage.charged() == {} and outage.line.emulator.calls.total() == 0
    assert outage.fleet.one("SELECT COUNT(*) FROM pushes WHERE first_attempt_ms IS NOT NULL") == 0
    for times in outage.line.tried.values():
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert min(gaps, default=HOUR_MS) >= 5 * MINUTE_MS, "no more than one knock a tick"

    outage.back()
    report = outage.after()
    assert sum(one.accepted for one in outage.reports) == len(outage.used)
    assert sum(one.looked_up for one in outage.reports) == 0
    assert outage.pushes() == {key(org, window): "accepted" for org, window in outage.used}
    assert report.left.due == 0
    outage.settled_exactly()


@one_of(("stripe", "24 h 1 min"))
@SQLITE
def test_provider_answers_lost_for_day_are_looked_up_and_billed_once(engine: sa.Engine, name: str, length: str) -> None:
    outage = Outage(engine, name, "applied", LENGTHS[length])
    said = outage.away()
    assert (said.exit_status, said.accepted, said.left.in_doubt, said.left.rejected) == (75, 0, 0, 0)
    assert said.left.due + said.left.queued == len(outage.used)
    assert outage.charged() == outage.used, "it is all there, and we know of none"
    unasked = outage.fleet.rows("SELECT DISTINCT last_error FROM pushes WHERE state = 'queued' AND lookups > 0")
    # At Stripe the key's last hour begins with the last tick: whether it is asked for in that tick or the next is open.
    assert len(unasked) == 1 or (name == "stripe" and not unasked)
    assert all("the lookup failed: " in str(text) and NO_ANSWER in str(text) for (text,) in unasked)
    sends = {one: len(times) for one, times in outage.line.tried.items()}
    if name == "autumn":
        # A duplicate proves nothing there, so nothing is sent again: it is asked for.
        assert said.left.queued == len(outage.used)
        assert set(sends.values()) == {1}
    else:
        # A duplicate proves delivery there: the same bytes again, as long as the identifier is remembered for sure.
        assert max(sends.values()) > 20
        assert said.left.queued == len([at for at in outage.first_tried().values() if said.at_ms - at >= SAFE_MS])

    outage.back()
    outage.after(2)
    assert outage.pushes() == {key(org, window): "accepted" for org, window in outage.used}
    for times in outage.line.tried.values():
        assert times[-1] - times[0] < SAFE_MS, "never sent where the key may be forgotten"
    asked = sum(one.looked_up for one in outage.reports if one.at_ms >= outage.end_ms)
    assert asked == said.left.queued, "each is asked for once, and found"
    outage.settled_exactly()


@one_of(("autumn", "23 h 59 min"))
@SQLITE
def test_provider_requests_lost_for_day_are_resent_or_voided_and_billed(
    engine: sa.Engine, name: str, length: str
) -> None:
    outage = Outage(engine, name, "lost", LENGTHS[length])
    said = outage.away()
    assert (said.exit_status, said.accepted, said.left.in_doubt, said.left.rejected) == (75, 0, 0, 0)
    assert said.left.due + said.left.queued == len(outage.used)
    assert outage.charged() == {} and outage.line.emulator.calls.total() == 0
    first = outage.first_tried()
    assert set(first) == {key(org, window) for org, window in outage.used}

    report = outage.back()
    outage.after(3)
    aged = {one for one, at in first.items() if outage.end_ms - at >= SAFE_MS}
    assert aged == {key(org, T0) for org in ORGS}
    for one, times in outage.line.tried.items():
        if one in aged:
            assert times[-1] - times[0] < SAFE_MS and times[-1] < outage.end_ms, "never sent again blind"
        elif one in first:
            assert times[-1] >= outage.end_ms, "the same bytes again, within the life of the key"
    if name == "stripe" or outage.length_ms < RETENTION_MS:
        # Looked up and absent; but the last attempt may yet be applied, until the key is forgotten over there.
        assert report.left.queued >= len(aged)
    outage.two_days_later()
    states = outage.pushes()
    assert {one for one, state in states.items() if state == "voided"} == aged
    assert states.keys() - first.keys() == {f"{one}:r1" for one in aged}
    evidence = [str(text) for (text,) in outage.fleet.rows("SELECT evidence FROM voids")]
    assert len(evidence) == len(aged) and all("the lookup found no charge" in text for text in evidence)
    for org, window, at in outage.fleet.rows("SELECT org_id, window_ms, at_ms FROM voids"):
        last = outage.line.tried[key(str(org), int(str(window)))][-1]
        assert int(str(at)) - last >= RETENTION_MS, "not before it can no longer be applied"
    outage.settled_exactly()


def _after_36_days(engine: sa.Engine, name: str, state: str) -> Outage:
    outage = Outage(engine, name, state, LENGTHS["36 days"])
    outage.away()
    return outage


def _old(outage: Outage) -> set[tuple[str, int]]:
    """Used in windows that are too old for Stripe when it is back."""
    return {place for place in outage.used if place[1] < outage.end_ms - OLDEST_MS}


def _billed_by_hand(outage: Outage, parked: set[str]) -> None:
    """A person puts what Stripe will not take into an invoice item, and says so."""
    by = outage.fleet.by
    found = {one for one, state in outage.pushes().items() if state == "rejected"}
    assert found == parked
    write(outage.fleet.engine, lambda c: pushes.resolve_accepted(c, sorted(parked), by, "invoice item ii_1"))
    assert outage.after().exit_status == 0


@at_length("make test-whole")
@SQLITE
def test_autumn_refusing_connections_for_36_days_is_billed_after_return(engine: sa.Engine) -> None:
    """It takes events of any age."""
    outage = _after_36_days(engine, "autumn", "refused")
    said = outage.reports[-1]
    assert (said.left.due, said.left.queued, said.left.rejected, said.exit_status) == (len(outage.used), 0, 0, 75)
    outage.back()
    outage.after()
    assert outage.pushes() == {key(org, window): "accepted" for org, window in outage.used}
    outage.settled_exactly()


@SQLITE
def test_stripe_refusing_connections_for_36_days_rejects_old_pushes(engine: sa.Engine) -> None:
    """What grew too old was never sent: it is parked with its reason, and asks for a person while the outage lasts."""
    outage = _after_36_days(engine, "stripe", "refused")
    said = outage.reports[-1]
    parked = {place for place in outage.used if place[1] < said.at_ms - OLDEST_MS}
    assert len(parked) >= share(2, whole=4)
    assert (said.left.rejected, said.left.due) == (len(parked), len(outage.used) - len(parked))
    assert (said.left.in_doubt, said.left.queued, said.exit_status) == (0, 0, 1)
    first = next(one for one in outage.reports if one.left.rejected)
    assert first.at_ms - T0 > OLDEST_MS and outage.reports[outage.reports.index(first) - 1].at_ms - T0 <= OLDEST_MS
    reasons = outage.fleet.rows("SELECT DISTINCT last_error FROM pushes WHERE state = 'rejected'")
    assert reasons == [("not sent: the provider takes nothing dated more than 35 days back",)]
    outage.back()
    report = outage.after()
    old = _old(outage)
    assert (report.left.rejected, report.left.due, report.exit_status) == (len(old), 0, 1)
    assert outage.charged() == {place: qty for place, qty in outage.used.items() if place not in old}
    assert outage.line.emulator.doubles == []
    _billed_by_hand(outage, {key(org, window) for org, window in old})
    assert read(engine, verify).breaches == []


@at_length("make test-whole")
@pytest.mark.parametrize("state", ["lost", "applied"])
@SQLITE
def test_autumn_without_answers_for_36_days_voids_lost_pushes_only(engine: sa.Engine, state: str) -> None:
    outage = _after_36_days(engine, "autumn", state)
    said = outage.reports[-1]
    assert (said.left.queued, said.left.due, said.left.in_doubt, said.exit_status) == (len(outage.used), 0, 0, 75)
    assert {len(times) for times in outage.line.tried.values()} == {1}, "sent once, then asked for"
    outage.back()
    outage.two_days_later()
    aged = {one for one, at in outage.first_tried().items() if outage.end_ms - at >= SAFE_MS}
    voided = {one for one, now in outage.pushes().items() if now == "voided"}
    assert voided == (aged if state == "lost" else set())
    outage.settled_exactly()


@pytest.mark.parametrize(
    ("state", "database_url"),
    share([("lost", "sqlite")], whole=[("lost", "postgresql"), ("applied", "sqlite")]),
    indirect=["database_url"],
)
def test_stripe_without_answers_for_36_days_bills_or_rejects_old_pushes(engine: sa.Engine, state: str) -> None:
    outage = _after_36_days(engine, "stripe", state)
    said = outage.reports[-1]
    assert (said.left.in_doubt, said.left.rejected, said.exit_status) == (0, 0, 75)
    assert said.left.queued + said.left.due == len(outage.used)
    assert all(times[-1] - times[0] < SAFE_MS for times in outage.line.tried.values())
    outage.back()
    report = outage.two_days_later()
    if state == "applied":
        assert outage.pushes() == {key(org, window): "accepted" for org, window in outage.used}
        return outage.settled_exactly()
    old = {place for place in outage.used if key(*place, 1) not in outage.line.tried and key(*place) in _voided(outage)}
    assert old and old >= _old(outage)
    assert (report.left.rejected, report.left.queued, report.exit_status) == (len(old), 0, 1)
    assert outage.charged() == {place: qty for place, qty in outage.used.items() if place not in old}
    assert outage.line.emulator.doubles == []
    _billed_by_hand(outage, {key(org, window, 1) for org, window in old})
    assert read(engine, verify).breaches == []
    return None


def _voided(outage: Outage) -> set[str]:
    return {one for one, state in outage.pushes().items() if state == "voided"}
