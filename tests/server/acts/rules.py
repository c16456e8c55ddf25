"""Of limits, events, keys and people."""

from __future__ import annotations

from functools import partial
from typing import Final

from drawdown.events.envelope import UsageEvent
from drawdown.guard.periods import Period
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS, MICRO
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access import people as console_users
from drawdown.worker.features import actions as features
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.overrides import Terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.sources.events.store import take
from drawdown.worker.usage import withdrawals as events
from drawdown.worker.wallets import actions as credit
from tests.server.acts.example import Example
from tests.server.console_home import Home, secret


def _metric(home: Home, phase: int = 1) -> None:
    write(home.engine, lambda c: guard_terms.set_metric(c, "look", Change(phase=phase), home.fleet.by))


def _limit(home: Home, period: Period = "month") -> None:
    terms = PlanLimit("look", "*", period, 7)
    write(home.engine, lambda c: guard_terms.set_limit(c, terms, home.fleet.by))


def _override(home: Home, *, asked: bool, amount: int = 50) -> None:
    terms = Terms("look", "org", "acme", "month", amount, home.now + DAY_MS)
    write(home.engine, lambda c: guard_overrides.add(c, terms, home.fleet.by, asked=asked))


def _asked(home: Home) -> None:
    _metric(home)
    _override(home, asked=True)


def _in_force(home: Home) -> None:
    _metric(home)
    _override(home, asked=False)


def _event(home: Home) -> None:
    write(home.engine, lambda c: features.map_event(c, "order", "orders", home.fleet.by, new=True))
    write(home.engine, lambda c: credit.set_rate(c, "orders", 5 * MICRO, 1, home.fleet.by, from_ms=0, new=True))
    sent = [UsageEvent("shop", name, "order", "acme", 3, home.now) for name in ("o-1", "o-2")]
    write(home.engine, lambda c: take(c, sent, home.now))


def _withdrawn(home: Home) -> None:
    write(home.engine, lambda c: events.withdraw_events(c, "shop", ["o-2"], home.fleet.by))


def _key(home: Home) -> None:
    write(home.engine, lambda c: api_keys.create(c, f"{api_keys.PREFIX}{1:043}", "shop", ["guard"], home.fleet.by))


def _rotated(home: Home) -> None:
    write(home.engine, lambda c: api_keys.rotate(c, f"{api_keys.PREFIX}{2:043}", "shop", home.fleet.by))


def _bob(home: Home) -> None:
    write(home.engine, lambda c: console_users.add(c, "bob", "viewer", secret(40), home.fleet.by))


def _promoted(home: Home) -> None:
    write(home.engine, lambda c: console_users.set_role(c, "bob", "admin", home.fleet.by))


MADE: Final = {
    "metric": "look", "amount": "70", "reach": "org", "id": "acme", "per": "day", "lasts": "until", "expires": "+7d"
}  # fmt: skip
EXAMPLES: Final = {
    "override-approve": Example({"number": "1"}, {"number": "9"}, _limit, prepare=_asked),
    "override-refuse": Example({"number": "1"}, {"number": "x"}, partial(_override, asked=False), prepare=_asked),
    "override-end": Example(
        {"number": "1"}, {"number": "0"}, partial(_override, asked=False, amount=60), prepare=_in_force
    ),
    "override-make": Example(
        MADE,
        {"metric": "lok", "amount": "-1", "reach": "all", "id": "ac", "per": "week", "lasts": "", "expires": "+91d"},
        partial(_limit, period="day"),
        prepare=_metric,
    ),
    "limit-set": Example(
        {"metric": "look", "plan": "*", "amount": "5", "per": "month", "phase": "2"},
        {"metric": "lok", "plan": "tema", "amount": "many", "per": "year", "phase": "4"},
        _limit,
        prepare=_metric,
    ),
    "guard-phase": Example(
        {"metric": "look", "phase": "3"},
        {"metric": "lok", "phase": "4"},
        partial(_metric, phase=2),
        prepare=_metric,
    ),
    "event-withdraw": Example(
        {"source": "shop", "event": "o-1\no-2"},
        {"source": "shopp", "event": "o-3", "org": "acmee"},
        _withdrawn,
        prepare=_event,
    ),
    "key-create": Example(
        {"name": "shop", "scopes": "guard\nevents:write", "org": "acme", "source": "/shop", "for": "90d"},
        {"name": "\x00", "scopes": "all", "org": "acmee", "cell": "cell-9", "for": "soon"},
        secret=True,
    ),
    "key-rotate": Example(
        {"name": "shop", "overlap": "2h"}, {"name": "shopp", "overlap": "31d"}, _rotated, prepare=_key, secret=True
    ),
    "key-end": Example({"name": "shop"}, {"name": "shopp"}, _rotated, prepare=_key),
    "person-add": Example(
        {"name": "bob", "role": "operator", "limit": "50"},
        {"name": "Bob!", "role": "king", "limit": "-1"},
        secret=True,
    ),
    "person-role": Example(
        {"name": "bob", "role": "operator", "limit": "5"},
        {"name": "bop", "role": "king", "limit": "x"},
        _promoted,
        prepare=_bob,
    ),
    "person-reset": Example({"name": "bob"}, {"name": "bop"}, _promoted, prepare=_bob, secret=True),
    "person-end": Example({"name": "bob"}, {"name": "bop"}, _promoted, prepare=_bob),
}
