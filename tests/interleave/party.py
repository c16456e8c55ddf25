"""A transaction of the product's, as the explorer knows it: where it begins, how it is set up and run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.errors import Refused
from drawdown.worker.engine.effects import Steps
from drawdown.worker.history.incarnation import HistoryDoubted
from tests.interleave.stage import Stage
from tests.interleave.walk import NothingLeft, Walk

Check = Callable[[Stage], Iterator[str]]


def _nothing(_engine: sa.Engine) -> None:
    return


def well(_stage: Stage) -> Iterator[str]:
    return iter(())


@dataclass(frozen=True)
class Act:
    """One transaction that is ready to be run, and what its program does after it."""

    transaction: Callable[[sa.Engine], object]
    after: Callable[[sa.Engine], object] = _nothing


@dataclass(frozen=True)
class Party:
    """`name` is also where the transaction is opened (see `sites`); where one place does several things, what follows a
    blank tells them apart."""

    name: str
    ready: Callable[[Stage], Act]
    check: Check = well
    """What is wrong in the end that only this transaction can say, where it was not refused."""
    last: bool = False
    """Set up after the other one: what it needs stops everybody else."""

    @property
    def site(self) -> str:
        return self.name.split(" ")[0]


def plain(name: str, work: Callable[[Stage, sa.Connection], object], check: Check = well) -> Party:
    """A function of one connection, in `schema.database.write`."""
    return Party(name, lambda stage: Act(lambda engine: write(engine, lambda c: work(stage, c))), check)


def host(what: str, text: str, **values: object) -> Party:
    """A statement that another program sends, and does not repeat."""

    def run(engine: sa.Engine) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text(text), values)

    return Party(f"host {what}", lambda _stage: Act(run))


def rest(stage: Stage, walk: Walk, engine: sa.Engine, *ends: type[Exception]) -> None:
    """To the end. Where somebody recovered meanwhile, it ends as a lane of a tick does: the next tick tells."""
    with suppress(HistoryDoubted, *ends):
        stage.note(walk.rest(engine))


def step(
    name: str,
    steps: Callable[[Stage], Steps[Any]],
    before: Callable[[Stage], object] = well,
    *,
    last: bool = False,
    ends: tuple[type[Exception], ...] = (),
) -> Party:
    """The transaction of that name in the product's steps: what comes before it is set-up, the rest follows. `ends`:
    with what else the rest may end, since it is a person's, who is told what another one did meanwhile."""

    def ready(stage: Stage) -> Act:
        before(stage)
        walk = stage.walk(steps(stage))
        try:
            walk.until(name.split(" ")[0], stage.engine)
        except Refused as error:  # beside the other one it does not come so far: a second replay of the same windows
            raise NothingLeft(str(error)) from error
        return Act(walk.one, lambda engine: rest(stage, walk, engine, *ends))

    return Party(name, ready, last=last)
