"""A provider is paused, and goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from drawdown.schema import ids
from drawdown.schema.errors import Refused
from drawdown.schema.units import EXEMPT_PROVIDERS
from drawdown.server.console.acting.action import Action, Doing, Done, Fact, Field
from drawdown.server.console.frame import figures
from drawdown.worker.catalog.terms import paused
from drawdown.worker.provider import actions as providers

PROVIDER: Final = Field("provider", "Provider", hint="Its name, as organisations are assigned to it.")
PLACE: Final = "/console/providers"


def _named(connection: sa.Connection, doing: Doing) -> str:
    """Errors: UnknownId; Refused for one that bills nothing here."""
    name = doing.text("provider")
    ids.require(connection, ids.PROVIDER, name)
    if name in EXEMPT_PROVIDERS:
        raise Refused(f"{name} bills nothing here: there is nothing to pause")
    return name


def _standing(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
    name = _named(connection, doing)
    found = paused(connection).get(name)
    return [Fact(name, "sent to" if found is None else f"paused since {figures.time(found[0])}: {found[1]}")]


def _pause(connection: sa.Connection, doing: Doing) -> Done:
    name = _named(connection, doing)
    providers.pause(connection, name, doing.by)
    return Done(f"{name}: paused; usage goes on being sealed, and waits")


def _resume(connection: sa.Connection, doing: Doing) -> Done:
    name = _named(connection, doing)
    since = providers.resume(connection, name, doing.by)
    return Done(f"{name}: resumed; it had been paused since {figures.time(since)} UTC")


PAUSE: Final = Action(
    "provider-pause",
    "Pause",
    (PROVIDER,),
    _pause,
    _standing,
    lambda doing: ["provider", "pause", doing.text("provider")],
    lambda _doing: PLACE,
    "Nothing is sent until it is resumed; what was sent before may still be looked up.",
)
RESUME: Final = Action(
    "provider-resume",
    "Resume",
    (PROVIDER,),
    _resume,
    _standing,
    lambda doing: ["provider", "pause", doing.text("provider"), "--undo"],
    lambda _doing: PLACE,
    "The next tick sends what has waited.",
)
ACTIONS: Final = (PAUSE, RESUME)
