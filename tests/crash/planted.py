"""Bugs for the siege to find, planted in its own worker processes only.

Each is one that billing software really had: see what the siege says to it in `test_crash.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from drawdown.providers.protocol import Capabilities, PushRequest
from drawdown.schema.database import write
from drawdown.worker.engine import calls, flight, runner
from drawdown.worker.engine.calls import Calls
from drawdown.worker.engine.effects import Effect, Push
from drawdown.worker.push import claim
from drawdown.worker.push.request import request_of as sound_request_of

ACCEPTED = "UPDATE pushes SET state = 'accepted' WHERE key = :key AND state = 'due'"


def _fresh_key() -> None:
    """Each attempt has a key of its own, so that a lost answer is charged again."""

    def request_of(row: sa.Row[Any], capabilities: Capabilities) -> PushRequest:
        found = sound_request_of(row, capabilities)
        return found if row.attempts == 1 else replace(found, key=f"{row.key}:again{row.attempts}")

    vars(claim)["request_of"] = request_of


def _settled_first() -> None:
    """What is about to be sent is written down as accepted, so that who dies before sending never sends."""
    original = runner._do

    async def do(effect: Effect, world: runner.World, calls: Mapping[str, Calls]) -> Any:
        if isinstance(effect, Push):
            keys = [{"key": one.key} for one in effect.batch]
            write(world.engine, lambda connection: connection.execute(sa.text(ACCEPTED), keys))
        return await original(effect, world, calls)

    vars(runner)["_do"] = do


def _settled_at_the_end() -> None:
    """Answers are written down once the last of a claim is in, so that who dies before has heard nothing."""
    vars(flight).update(PORTION=10**9, PORTION_S=10**9)
    vars(calls).update(MOST_UNSETTLED=10**9)


PLANTED: dict[str, Callable[[], None]] = {
    "fresh key": _fresh_key,
    "settled first": _settled_first,
    "settled at the end": _settled_at_the_end,
}
