"""A process that began on a provider's former terms, while a person accepts others and a tick bills by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from drawdown.providers.protocol import Unknown
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import write
from drawdown.schema.units import DAY_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps
from drawdown.worker.provider import actions as providers
from drawdown.worker.push.confirm import confirm
from drawdown.worker.push.push import push
from drawdown.worker.tick import tick
from tests.fake_provider import FakeProvider
from tests.interleave.of_jobs import NEW_UNIT
from tests.interleave.party import Act, Party, rest
from tests.interleave.stage import NOW, OTHER_CAN, Stage
from tests.interleave.walk import Walk

LATER: Final = "provider = 'other'"
LOOKED_UP: Final[dict[str, Any]] = {"lookup_lag_ms": 0, "duplicate_proves_delivery": False}
"""A send without a response is not repeated, but looked up."""


def _sealed_on_former_terms(stage: Stage) -> Context:
    """A process that waits to send what the third provider is owed; one for both."""
    if stage.former is None:
        stage.former = FakeProvider(replace(OTHER_CAN, **LOOKED_UP), name="other")
        stage.walk(tick(stage.context())).until("sweep", stage.engine)
        stage.owed_on_former_terms = {key for (key,) in stage.rows(f"SELECT key FROM pushes WHERE {LATER}")}
        stage.other.capabilities = replace(NEW_UNIT, **LOOKED_UP)
    return replace(stage.context(), capabilities={**stage.context().capabilities, "other": stage.former.capabilities})


def _former(name: str, steps: Callable[[Context], Steps[Any]]) -> Party:
    """A transaction of a process that has the former settings, and meets the provider where these say."""

    def ready(stage: Stage) -> Act:
        context = _sealed_on_former_terms(stage)
        assert stage.former is not None
        providing = {**stage.providers(), "other": stage.former}
        world = runner.World(stage.engine, providing, stage.cells, stage.clock)
        walk = Walk(steps(context), world)
        walk.until(name.split(" ")[0], stage.engine)
        return Act(walk.one, lambda engine: rest(stage, walk, engine))

    return Party(name, ready, _on_terms_of_seal)


def _ahead(context: Context) -> Context:
    """By its clock, what was sent just now is to be looked up."""
    return replace(context, clock=FixedClock(NOW + DAY_MS))


def _changes(stage: Stage) -> Act:
    """A person accepts the other terms, and a tick by them begins."""
    _sealed_on_former_terms(stage)
    can = stage.other.capabilities

    def work(engine: sa.Engine) -> None:
        providers.accept(partial(write, engine), "other", can, stage.by)
        stage.walk(tick(stage.context())).until("sweep", engine)

    return Act(work)


def _changes_and_sends(stage: Stage) -> Act:
    """And nobody knows whether what it sent arrived."""
    _sealed_on_former_terms(stage)
    can = stage.other.capabilities

    def work(engine: sa.Engine) -> None:
        providers.accept(partial(write, engine), "other", can, stage.by)
        stage.walk(tick(stage.context())).until("sweep", engine)
        for (key,) in stage.rows(f"SELECT key FROM pushes WHERE {LATER} AND state = 'due'"):
            stage.other.answers[key] = Unknown("cut")
        stage.walk(push(stage.context(), "other")).rest(engine)
        for key in tuple(stage.other.answers):
            del stage.other.answers[key]
            stage.charge_at_other(key)

    return Act(work)


def _on_terms_of_seal(stage: Stage) -> Iterator[str]:
    """What a process on former terms sent was sealed on them, and what was sent once is not billed again."""
    assert stage.former is not None
    for key in stage.former.charged.keys() - stage.owed_on_former_terms:
        yield f"{key} was sealed on the terms in force, and sent on the former"
    for key in stage.former.charged.keys() | stage.other.charged.keys():
        if stage.rows("SELECT 1 FROM pushes WHERE key = :key AND state = 'voided'", key=key):
            yield f"{key} is voided, and was charged"


TERMS: Final = (
    _former("claim on former terms", lambda context: push(context, "other")),
    _former("claim_lookups on former terms", lambda context: confirm(_ahead(context), "other")),
    Party("worker.provider.actions:accept and seal", _changes, _on_terms_of_seal),
    Party("worker.provider.actions:accept and send", _changes_and_sends, _on_terms_of_seal),
)
