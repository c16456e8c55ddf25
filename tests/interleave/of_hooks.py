"""Webhooks to the operator's product: what is due, claimed and settled, and what people change meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.worker.engine.effects import Steps
from drawdown.worker.hooks import actions as hooks
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


def _crowded(stage: Stage) -> None:
    """As many as may go on, but for one."""
    ((going,),) = stage.rows("SELECT COUNT(*) FROM hook_endpoints WHERE ended_ms IS NULL")
    for number in range(going, hooks.MAX_ENDPOINTS - 1):
        name, url = f"crowd-{number}", "https://app.example/in"
        made = partial(hooks.set_endpoint, name=name, url=url, events=("topup.failed",), by=stage.by, new=True)
        write(stage.engine, made)


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

    return Party(name if ":" in name else f"cli.declared:run hook {name}", ready, _told)


def _by(name: str, work: Callable[[sa.Connection, Stage], object], before: Callable[[Stage], None]) -> Party:
    def ready(stage: Stage) -> Act:
        before(stage)
        return Act(lambda engine: write(engine, lambda c: work(c, stage)))

    return Party(name if ":" in name else f"cli.declared:run hook {name}", ready, _told)


def _told(stage: Stage) -> Iterator[str]:
    """Whatever is said to have been delivered was taken; whatever was not ended is decided."""
    taken = {name for endpoint in list(stage.product.taken) for name in stage.product.ids(endpoint)}
    for name, state in stage.rows("SELECT message_id, state FROM hook_deliveries"):
        if state == "delivered" and name not in taken:
            yield f"{name} is delivered, and was not taken"
    ((going,),) = stage.rows("SELECT COUNT(*) FROM hook_endpoints WHERE ended_ms IS NULL")
    if going > hooks.MAX_ENDPOINTS:
        yield f"{going} endpoints are active"
    made = [
        target
        for target, details in stage.rows("SELECT target, details FROM operator_actions WHERE action = 'hook_set'")
        if json.loads(str(details))["was"] is None
    ]
    if len(made) > len(set(made)):
        yield f"by what is on record one endpoint was made twice: {sorted(made)}"


HOOKS: Final = (
    step("expire_holds told", lambda s: expire_holds(s.context("other")), _listening),
    step("due_hooks", _delivers, _tried),
    step("claim_hooks", _delivers, _tried),
    step("settle_hooks", _delivers, _tried),
    _by("set", lambda c, s: hooks.set_endpoint(c, "app", "https://new.example/in", (), s.by, new=True), _listening),
    _by("set new", lambda c, s: hooks.set_endpoint(c, "other", "https://b.example", (), s.by, new=True), _listening),
    _by(
        "set another new",
        lambda c, s: hooks.set_endpoint(c, "third", "https://app.example/c", (), s.by, new=True),
        _crowded,
    ),
    _by(
        "set one more new",
        lambda c, s: hooks.set_endpoint(c, "fourth", "https://app.example/d", (), s.by, new=True),
        _crowded,
    ),
    _by(
        "set the same new",
        lambda c, s: hooks.set_endpoint(c, "third", "https://app.example/e", (), s.by, new=True),
        _crowded,
    ),
    _by("rotate", lambda c, s: hooks.rotate(c, "app", s.by), _tried),
    _by("end", lambda c, s: hooks.end(c, "app", s.by), _tried),
    _by("cli.nouns.hooks:test_", lambda c, s: hooks.try_endpoint(c, "app", s.by), _listening),
    _replay("replay", _tried, lambda c, s, message_id: hooks.replay(c, message_id, s.by)),
    _by("replay failed", lambda c, s: hooks.replay_failed(c, "app", s.by), _failed),
    _by("low", lambda c, s: hooks.set_low(c, "acme", 7, s.by), _listening),
)
