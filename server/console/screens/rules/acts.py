"""What is done to limits, events, keys and people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Field, Size, WrongField, size_of
from drawdown.server.console.frame.templates import url
from drawdown.server.console.screens.rules import acts_keys, acts_limits, acts_people
from drawdown.worker.usage.intake import show_event
from drawdown.worker.usage.withdrawals import withdraw_events, worth_of_events

MOST_FACTS: Final = 20
"""Events that a dry run names, of those it would withdraw."""


def _ids(doing: Doing) -> list[str]:
    found = doing.texts("id")
    if not found:
        raise WrongField("id", "name one event at least")
    return found


def _withdraw(connection: sa.Connection, doing: Doing) -> Done:
    found = withdraw_events(connection, doing.text("source"), _ids(doing), doing.by, doing.maybe("org"))
    anew = sum(not one.already for one in found)
    return Done(f"{anew:,} withdrawn; the next tick gives back what was billed, and their ids are never taken again")


def _standing(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    source, org = doing.text("source"), doing.maybe("org")
    events = [show_event(connection, source, one, org) for one in sorted(_ids(doing))[:MOST_FACTS]]
    return [Fact(one.event_id, f"{one.quantity:,} of {one.event_type}, {_state(one.withdrawn)}") for one in events]


def _state(withdrawn: str | None) -> str:
    return "counts" if withdrawn is None else f"withdrawn: {withdrawn}"


def _command(doing: Doing) -> list[str]:
    org = doing.maybe("org")
    found = ["event", "withdraw", doing.text("source"), *_ids(doing)]
    return [*found, *([] if org is None else ["--org", org])]


def _size(connection: sa.Connection, doing: Doing) -> Size:
    found = _ids(doing)
    return size_of(worth_of_events(connection, doing.text("source"), found, doing.maybe("org")), len(found))


def _go_on(doing: Doing) -> str:
    return url("/console/event", source=doing.text("source"), id=_ids(doing)[0], org=doing.text("org"))


WITHDRAW: Final = Action(
    "event-withdraw",
    "Withdraw events",
    (
        Field("source", "Source"),
        Field("id", "Events", hint="Their ids, one a line.", many=True),
        Field("org", "Organisation", hint="Where several used the same id.", optional=True),
    ),
    _withdraw,
    _standing,
    _command,
    _go_on,
    "An event that is withdrawn counts no more, for good. What is right is a new event, with an id of its own.",
    size=_size,
)
ACTIONS: Final = (*acts_limits.ACTIONS, WITHDRAW, *acts_keys.ACTIONS, *acts_people.ACTIONS)
