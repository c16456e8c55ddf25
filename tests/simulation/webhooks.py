"""What providers say of their own accord, and who says it in their name, by way of the server's own code.

Guarantee: a webhook may be lost, late, doubled or out of order; whatever was not answered with a success is sent
again. One that its provider did not sign for this moment is refused, or it is a breach; one that is answered with a
success has counted, once, whatever crashed in between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from drawdown.providers.stripe.wire import key_of
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import MINUTE_MS
from drawdown.server.api.webhooks import take
from drawdown.server.http.errors import ApiError
from tests.simulation.actions import ORGS, STRANGERS
from tests.simulation.providers import AUTUMN, STRIPE
from tests.simulation.remote import Remote, Stripe
from tests.simulation.server import Died, Server
from tests.simulation.world import World

FOREIGN: Final = {AUTUMN: "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", STRIPE: "whsec_of_somebody_else"}
TOO_OLD_MS: Final = 5 * MINUTE_MS + 1000
FORGERIES: Final = ("another secret", "another body", "old", "of the future", "unsigned")
DONE: Final = frozenset({"done", "ignored", "repeated"})
_STILL: Final = "SELECT 1 FROM pushes WHERE state = 'accepted' AND attempts > 0 AND COALESCE(wire_key, key) = :key"
_STORED: Final = "SELECT state FROM webhooks WHERE provider = :provider AND event_id = :event"
_BILLED: Final = """
SELECT COUNT(DISTINCT org_id) FROM assignments WHERE provider = :provider AND customer_id = :customer
    AND start_ms <= :now AND (end_ms IS NULL OR :now < end_ms)
"""


@dataclass
class Delivery:
    """One webhook on its way, and what has to become of it."""

    world: World
    provider: str
    body: bytes
    event: str
    customer: str | None
    """Whom it names: his organisation is to be asked for, once."""
    forged: str | None = None
    name: str = "webhook"

    def __post_init__(self) -> None:
        self.stored: str | None = None
        self.now_ms = self.world.time.now

    def _stored(self) -> str | None:
        found = self.world.rows(_STORED, provider=self.provider, event=self.event)
        return str(found[0][0]) if found else None

    def saw(self, error: Exception | None) -> None:
        """Whether it is known was read."""

    def learned(self) -> None:
        """It is judged by what it stores."""

    def begins(self) -> None:
        """The same event may be on its way twice."""
        self.stored = self._stored()

    def changed(self, world: World, asks_before: int, asks_after: int) -> None:
        """A transaction of its own ended, whichever way."""
        before, self.stored = self.stored, self._stored()
        told = f"webhook: {self.provider}'s {self.event}"
        if self.forged is not None:
            world.breaches.append(f"{told} is forged ({self.forged}), and was written down")
        asks = asks_after - asks_before
        if self.stored not in DONE:
            due = 0
        elif before in DONE:
            due = 0
            if asks:
                world.breaches.append(f"{told} counted again")
        else:
            due = self._customers()
            for key in self._refused():
                if world.rows(_STILL, key=key):
                    world.breaches.append(f"2: {key} was refused by {self.provider} and still counts as accepted")
        if asks != due and self.customer is not None:
            world.breaches.append(f"{told} went from {before} to {self.stored} with {asks} asks, not {due}")

    def _customers(self) -> int:
        if self.customer is None:
            return 0
        asked = {"provider": self.provider, "customer": self.customer, "now": self.now_ms}
        return int(self.world.rows(_BILLED, **asked)[0][0])

    def _refused(self) -> list[str]:
        """The keys that an error report shows, which has to be fetched."""
        remote = self.world.remote[self.provider]
        report = remote.emulator.v2_events.get(self.event) if isinstance(remote, Stripe) else None
        kinds: Any = report["data"]["reason"]["error_types"] if report else []  # type: ignore[index]
        return [key_of(one["request"]["identifier"]) for kind in kinds for one in kind["sample_errors"]]

    def ended(self, answer: Any, error: BaseException | None) -> None:
        world, told = self.world, f"webhook: {self.provider}'s {self.event}"
        world.say("server", f"{told} -> {error!r}" if error else f"{told} -> {answer}")
        refused = isinstance(error, ApiError) and error.status == 400
        if self.forged is not None:
            if not refused and not isinstance(error, Died):
                world.breaches.append(f"{told} is forged ({self.forged}), and was answered {answer or error!r}")
            return
        if error is None:
            world.faults.note(f"webhook_{answer}")
            if self._stored() not in DONE and world.lost_at is None:
                world.breaches.append(f"{told} was answered {answer}, and nothing is kept of it")
            return
        if refused or not isinstance(error, ApiError | DatabaseBusy | Died):
            world.breaches.append(f"{told} is genuine, and was answered {error!r}")
        # 5xx, or none at all: its provider sends it again.
        world.faults.note("webhook_not_fetched" if isinstance(error, ApiError) else "webhook_failed")
        world.told.setdefault(self.provider, []).append(self.body)


def webhooks(world: World) -> str | None:
    """They come in, from every provider."""
    done = [told for name, remote in world.remote.items() for told in _come_in(world, name, remote)]
    return f"webhooks: {done}" if done else None


def _come_in(world: World, name: str, remote: Remote) -> list[str]:
    if world.faults.intensity and world.rng.random() < 0.3:
        remote.tell(_customer(world, name))
    due = world.told.pop(name, []) + remote.webhooks(world.time.now)
    now, later = list[bytes](), list[bytes]()
    for body in due:
        lost, late = world.faults.strikes("webhook_lost"), world.faults.strikes("webhook_late")
        if lost and name == STRIPE:
            continue  # for good: what it said is found by reconcile alone
        (later if lost or late else now).append(body)
    now += [body for body in now if world.faults.strikes("webhook_doubled")]
    order = world.rng.sample(range(len(now)), len(now))
    if order != sorted(order) and world.faults.intensity:
        world.faults.note("webhook_reordered")
    if world.faults.strikes("webhook_forged"):
        _forge(world, name, remote, due)
    world.told[name] = later
    return [_deliver(world, name, remote, now[place]) for place in order]


def _customer(world: World, name: str) -> str:
    org = world.rng.choice((*ORGS, *STRANGERS))
    return f"cus_{org}" if name == STRIPE else org


def _deliver(world: World, name: str, remote: Remote, body: bytes) -> str:
    """To any process that is up; each delivery is signed anew."""
    up = [one for one in world.servers if one.up(world.time.now)]
    event, customer = remote.about(body)
    if not up:
        world.told[name].append(body)
        return f"{event}: refused"
    _take(
        world, world.rng.choice(up), Delivery(world, name, body, event, customer), remote.signed(body, world.time.now)
    )
    return event


def _take(world: World, server: Server, delivery: Delivery, headers: Mapping[str, str]) -> None:
    world.process_clock.at_ms = world.time.now
    name, body = delivery.provider, delivery.body
    server.take(delivery, lambda p: take(p.services, p.threads, p.crew, name, headers, body))


def _forge(world: World, name: str, remote: Remote, due: list[bytes]) -> None:
    """Somebody else says it: what was told, or that a customer changed."""
    remote.tell(_customer(world, name))
    body = world.rng.choice(due + remote.webhooks(world.time.now))
    how, now = world.rng.choice(FORGERIES), world.time.now
    match how:
        case "another secret":
            headers = remote.signed(body, now, FOREIGN[name])
        case "another body":
            headers = remote.signed(body, now)
            body = body.replace(b"o", b"0", 1)
        case "old":
            headers = remote.signed(body, now - TOO_OLD_MS)
        case "of the future":
            headers = remote.signed(body, now + TOO_OLD_MS)
        case _:
            headers = {}
    up = [one for one in world.servers if one.up(now)]
    if up:
        _take(world, world.rng.choice(up), Delivery(world, name, body, json.dumps(how), None, forged=how), headers)
