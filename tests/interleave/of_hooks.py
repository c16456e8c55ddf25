"""Webhooks to the operator's product: what is due, claimed and settled, and what people change meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.worker.commands import hooks
from drawdown.worker.engine.effects import Steps
from drawdown.worker.hooks.deliver import deliver
from drawdown.worker.verdict.holds import expire_holds
from tests.interleave.judge import ORIGINS
from tests.interleave.party import Act, Party, step
from tests.interleave.stage import NOW, Stage


def _listening(stage: Stage) -> None:
    """An endpoint, whichever of two transactions is set up first; of what it wants, runs here expire."""
    if not stage.rows("SELECT 1 FROM hook_endpoints WHERE name = 'app'"):
        args = ("app", "https://app.example/in", ("topup.failed", "reservation.expired"), stage.by)
        write(stage.engine, lambda c: hooks.set_endpoint(c, *args, new=True))


def _tried(stage: Stage) -> None:
    """And a message for it."""
    _listening(stage)
    if not stage.rows("SELECT 1 FROM hook_messages"):
        write(stage.engine, lambda c: hooks.try_endpoint(c, "app", stage.by))


def _failed(stage: Stage) -> None:
    """Which it did not take by the whole schedule."""
    _tried(stage)
    failed = (
        "UPDATE hook_deliveries SET state = 'failed', failures = 8, attempts = 8, ended_ms = :now WHERE state = 'due'"
    )
    stage.write(failed, now=NOW)


def _delivers(stage: Stage) -> Steps[Any]:
    return deliver(stage.context("other", hooks=ORIGINS))


def _replay(name: str, before: Callable[[Stage], None], work: Callable[[sa.Connection, Stage, str], object]) -> Party:
    """Of the message that there is."""

    def ready(stage: Stage) -> Act:
        before(stage)
        ((message_id,),) = stage.rows("SELECT MIN(message_id) FROM hook_messages")
        return Act(lambda engine: write(engine, lambda c: work(c, stage, message_id)))

    return Party(f"cli.nouns.hooks:{name}", ready, _told)


def _by(name: str, work: Callable[[sa.Connection, Stage], object], before: Callable[[Stage], None]) -> Party:
    def ready(stage: Stage) -> Act:
        before(stage)
        return Act(lambda engine: write(engine, lambda c: work(c, stage)))

    return Party(f"cli.nouns.hooks:{name}", ready, _told)


def _told(stage: Stage) -> Iterator[str]:
    """Whatever is said to have been delivered was taken; whatever was not ended is decided."""
    taken = {name for endpoint in list(stage.product.taken) for name in stage.product.ids(endpoint)}
    for name, state in stage.rows("SELECT message_id, state FROM hook_deliveries"):
        if state == "delivered" and name not in taken:
            yield f"{name} is delivered, and was not taken"


HOOKS: Final = (
    step("expire_holds told", lambda s: expire_holds(s.context("other")), _listening),
    step("due_hooks", _delivers, _tried),
    step("claim_hooks", _delivers, _tried),
    step("settle_hooks", _delivers, _tried),
    _by("set_", lambda c, s: hooks.set_endpoint(c, "app", "https://new.example/in", (), s.by, new=True), _listening),
    _by("set_ new", lambda c, s: hooks.set_endpoint(c, "other", "https://b.example", (), s.by, new=True), _listening),
    _by("rotate", lambda c, s: hooks.rotate(c, "app", s.by), _tried),
    _by("end", lambda c, s: hooks.end(c, "app", s.by), _tried),
    _by("test_", lambda c, s: hooks.try_endpoint(c, "app", s.by), _listening),
    _replay("replay", _tried, lambda c, s, message_id: hooks.replay(c, message_id, s.by)),
    _by("replay failed", lambda c, s: hooks.replay_failed(c, "app", s.by), _failed),
    _by("low", lambda c, s: hooks.set_low(c, "acme", 7, s.by), _listening),
)
