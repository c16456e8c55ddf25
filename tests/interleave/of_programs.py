"""What programs have done over HTTP, and the keys that let them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.server.api import executions, models
from drawdown.server.api.programs import Caller
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.executions import actions as runs
from drawdown.worker.executions.actions import RequestedExecution
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.use import Wish
from drawdown.worker.usage import invalid
from drawdown.worker.usage.invalid import InvalidItems
from tests.interleave.of_guard import BEE, _never_beyond
from tests.interleave.of_runs import LAB, _within_its_means
from tests.interleave.party import Act, Check, Party, plain
from tests.interleave.stage import NOW, Stage

SAID: Final = Caller(ApiKey("app", ("executions:write",), None), NOW)
BOUND: Final = Caller(ApiKey("app", ("executions:write",), LAB), NOW)
"""Its key may only change executions that it began."""


def _key(number: int) -> str:
    return f"{api_keys.PREFIX}{number:043}"


def _act(name: str, act: str, order: object, said: Caller = SAID, **more: object) -> Party:
    """A route of runs, by its function; amounts are in micro-credits by then."""
    work = getattr(executions, act)
    return plain(f"server.api.programs:act {name}", lambda s, c: work(c, order, said, **more), _within_its_means)


def _one_goes_on(stage: Stage) -> Iterator[str]:
    for name, going in stage.rows("SELECT name, COUNT(*) - COUNT(rotated_ms) FROM api_keys GROUP BY name"):
        if going != 1:
            yield f"{going} keys of {name} go on"


def _ended(stage: Stage) -> Iterator[str]:
    yield from _one_goes_on(stage)
    for (times,) in stage.rows("SELECT COUNT(*) FROM api_keys WHERE name = 'app' AND ended_ms IS NULL"):
        if times:
            yield f"{times} keys of app let somebody in after it was ended"


def _with_key(stage: Stage) -> None:
    """There is a key, whichever of two transactions is set up first."""
    if not stage.rows("SELECT 1 FROM api_keys WHERE name = 'app'"):
        write(stage.engine, partial(api_keys.create, key=_key(1), name="app", scopes=["guard"], by=stage.by))


def _on_key(name: str, work: Callable[..., object], check: Check) -> Party:
    def ready(stage: Stage) -> Act:
        _with_key(stage)

        def one(connection: sa.Connection) -> object:
            return work(connection, by=stage.by)

        return Act(lambda engine: write(engine, one))

    return Party(f"cli.declared:run key {name}", ready, check)


def _accepted_alone(stage: Stage, connection: sa.Connection) -> object:
    asked = RequestedExecution("new", Request(LAB, 4), "key:app", "explored")
    return runs.accept(connection, asked.key, asked.request, asked.by(NOW))


def _accepted_together(stage: Stage, connection: sa.Connection) -> object:
    """Two of acme, in whose wallet nothing is due; lab's would be asked for alone."""
    asked = [RequestedExecution(f"new-{amount}", Request("acme", amount), "key:app", "explored") for amount in (4, 5)]
    return runs.accept_together(connection, asked, NOW)


def _used() -> Party:
    def ready(stage: Stage) -> Act:
        _with_key(stage)
        return Act(lambda engine: write(engine, lambda c: api_keys.note_use(c, _key(1), NOW)))

    return Party("server.api.programs:_keep_use", ready, _one_goes_on)


def _used_by_a_recalled_key() -> Party:
    """As `Programs.identify` and the guard do in one transaction."""

    def ready(stage: Stage) -> Act:
        _with_key(stage)

        def one(connection: sa.Connection) -> object:
            going = api_keys.find_all(connection, [api_keys.hash_of(_key(1))], NOW)
            return going and guard.consume(connection, "bee-recalled", Wish(BEE, "spark", 1), stage.by)

        return Act(lambda engine: write(engine, one))

    return Party("server.api.guard:_use", ready, _never_beyond)


def _invalid(items: int) -> Callable[[Stage, sa.Connection], object]:
    found = [InvalidItems("app", "events", code, items, NOW, NOW) for code in ("missing", "bad_id")]
    return lambda _stage, c: invalid.keep(c, found, NOW)


PROGRAMS: Final = (
    plain("server.usage.intake:_keep", _invalid(2)),
    plain("server.usage.intake:_keep of another server", _invalid(3)),
    plain("server.api.request_batching:_alone", _accepted_alone, _within_its_means),
    plain("server.api.request_batching:_decide", _accepted_together),
    _act("draw", "_draw", models.DrawRequest.model_construct(number=1, credits=2), key="going"),
    _act("extend", "_extend", models.ExtendRequest.model_construct(to=6), key="going"),
    _act("settle", "_settle", models.SettleRequest.model_construct(actual=3), key="going"),
    _act("release", "_release", models.ReleaseRequest.model_construct(), key="going"),
    _act("preview", "_preview", models.PreviewRequest.model_construct(org=LAB, estimate=4), BOUND),
    _on_key("create", partial(api_keys.create, key=_key(2), name="other", scopes=["guard"]), _one_goes_on),
    _on_key("rotate", partial(api_keys.rotate, key=_key(3), name="app"), _one_goes_on),
    _on_key("rotate again", partial(api_keys.rotate, key=_key(4), name="app", overlap_ms=0), _one_goes_on),
    _on_key("end", partial(api_keys.end, name="app"), _ended),
    _used(),
    _used_by_a_recalled_key(),
)
