"""A life in which all is there that the pages of rules show: limits, overrides, refusals, events, keys, a proof."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from drawdown.events.envelope import UsageEvent
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access import people as console_users
from drawdown.worker.checks import proofs
from drawdown.worker.features import actions as features
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.overrides import Terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.guard.use import Wish
from drawdown.worker.sources.events.store import take
from drawdown.worker.usage import invalid
from drawdown.worker.usage.invalid import InvalidItems
from drawdown.worker.usage.withdrawals import withdraw_events
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from tests.world import Fleet

SOURCE: Final = "shop"
BLOCKED: Final = 3
"""Of `look`, by acme; as many would have been of `peek`, which only warns."""


def key(number: int) -> str:
    """Of a program."""
    return f"{api_keys.PREFIX}{number:043}"


def rule(fleet: Fleet, org: str = "acme", hostile: str = "globex") -> None:
    """`hostile`: stands where others choose a text."""
    by, now = fleet.by, fleet.clock.now_ms()
    engine = fleet.engine
    for metric, phase in (("look", 3), ("peek", 1)):
        write(engine, lambda c, m=metric, p=phase: guard_terms.set_metric(c, m, Change(phase=p), by))  # type: ignore[misc]
        write(engine, lambda c, m=metric: guard_terms.set_limit(c, PlanLimit(m, "*", "day", 5), by))  # type: ignore[misc]
        for number in range(2 + BLOCKED):
            wish = Wish(org, metric, 2 if number < 2 else 3)
            write(engine, lambda c, w=wish, n=number: guard.consume(c, f"{w.metric}-{n}", w, by))  # type: ignore[misc]
    asked = Terms("look", "org", org, "day", 50, now + 3 * DAY_MS)
    said = replace(by, actor=hostile, reason=hostile)
    write(engine, lambda c: guard_overrides.add(c, asked, said, asked=True))
    made = Terms("look", "pattern", "ini*", "month", 70, now + 5 * DAY_MS)
    write(engine, lambda c: guard_overrides.add(c, made, by, asked=False))
    events(fleet, org, hostile)
    keys(fleet, org, hostile)
    found = read(engine, lambda c: verify(c, now_ms=fleet.clock.now_ms()))
    write(engine, lambda c: proofs.keep(c, found, fleet.by, took_ms=1_500))


def events(fleet: Fleet, org: str, hostile: str) -> None:
    """Three of a type that is billed, one of them withdrawn; one of a type that nothing makes a feature of; a conflict;
    a sample in quarantine."""
    write(fleet.engine, lambda c: features.map_event(c, "order", "orders", fleet.by, new=True))
    write(fleet.engine, lambda c: credit.set_rate(c, "orders", 1_000_000, 10, fleet.by, from_ms=0))
    at = fleet.clock.at_ms - fleet.clock.at_ms % WINDOW_MS + WINDOW_MS + 1
    now = fleet.clock.at_ms = at + WINDOW_MS
    sent = [UsageEvent(SOURCE, f"order-{n}", "order", org, n, at, project=hostile) for n in (1, 2, 3)]
    sent.append(UsageEvent(SOURCE, hostile, hostile, org, 7, at, properties={"note": hostile}))
    write(fleet.engine, lambda c: take(c, sent, now))
    write(fleet.engine, lambda c: take(c, [replace(sent[0], quantity=9)], now + 1))
    fleet.sample(org, at, -1, sample_id="bad-sample")
    refused = [InvalidItems(hostile, "events", "missing", 7, now, now + 1, hostile, hostile)]
    write(fleet.engine, lambda c: invalid.keep(c, refused, now))
    fleet.tick_windows(2)
    write(fleet.engine, lambda c: withdraw_events(c, SOURCE, ["order-2"], fleet.by))


def keys(fleet: Fleet, org: str, hostile: str) -> None:
    """One that goes on and was used, one that ends soon, one that was rotated, one that was ended."""
    by, engine = fleet.by, fleet.engine
    write(
        engine,
        lambda c: api_keys.create(
            c, key(1), "shop", ["events:write"], by, org_id=org, source=None if org is None else "/shop"
        ),
    )
    write(engine, lambda c: api_keys.note_use(c, key(1), by.now_ms))
    write(engine, lambda c: api_keys.create(c, key(2), hostile, ["guard", "ledger:read"], by, for_ms=DAY_MS))
    gone = replace(by, actor="console:tom")
    write(engine, lambda c: console_users.add(c, "tom", "admin", f"{9:043}", by))
    write(engine, lambda c: api_keys.create(c, key(3), "old", ["guard"], gone))
    write(engine, lambda c: console_users.end(c, "tom", by))
    write(engine, lambda c: api_keys.rotate(c, key(4), "old", gone))
    write(engine, lambda c: api_keys.create(c, key(5), "over", ["guard"], by))
    write(engine, lambda c: api_keys.end(c, "over", by))
