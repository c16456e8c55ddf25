"""What providers say of their own accord, and who says it in their name.

Guarantee: a webhook may be lost, late, doubled or out of order; one that its provider did not sign for this moment is
refused, or it is a breach.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from drawdown.providers.protocol import PushRefused, ReadFailed, WebhookRefused
from drawdown.schema.units import MINUTE_MS
from drawdown.worker.notices import apply_notices
from tests.simulation.actions import ORGS, STRANGERS
from tests.simulation.providers import AUTUMN, STRIPE
from tests.simulation.remote import Remote
from tests.simulation.world import World, run_coroutine

FOREIGN: Final = {AUTUMN: "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", STRIPE: "whsec_of_somebody_else"}
TOO_OLD_MS: Final = 5 * MINUTE_MS + 1000
FORGERIES: Final = ("another secret", "another body", "old", "of the future", "unsigned")
_STILL: Final = "SELECT 1 FROM pushes WHERE state = 'accepted' AND attempts > 0 AND COALESCE(wire_key, key) = :key"


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
    done = []
    for place in order:
        told = _take(world, name, remote, now[place])
        if told is None:
            later.append(now[place])  # answered 503, so it comes again
        else:
            done += told
    world.told[name] = later
    return done


def _customer(world: World, name: str) -> str:
    org = world.rng.choice((*ORGS, *STRANGERS))
    return f"cus_{org}" if name == STRIPE else org


def _take(world: World, name: str, remote: Remote, body: bytes) -> list[str] | None:
    """Each delivery is signed anew."""
    world.process_clock.at_ms = world.time.now
    headers = remote.signed(body, world.time.now)
    read = run_coroutine(remote.provider.notices(headers, body, world.time.now))
    if isinstance(read, ReadFailed):
        return None
    done = world.write(partial(apply_notices, provider=name, notices=read, now_ms=world.time.now))
    world.faults.note("webhook")
    for notice in read:
        if isinstance(notice, PushRefused) and world.rows(_STILL, key=notice.key):
            world.breaches.append(f"2: {notice.key} was refused by {name} and still counts as accepted")
    return done


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
    try:
        read = run_coroutine(remote.provider.notices(headers, body, now))
    except WebhookRefused:
        return
    world.breaches.append(f"a forged webhook of {name}'s ({how}) was taken: {read!r}")
