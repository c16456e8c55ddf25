"""Drives the product's steps one effect at a time, so that any transaction of them can be done apart.

Guarantee: each effect is done as production does it; what may run side by side is run one after the other.
"""

from __future__ import annotations

import asyncio
import atexit
from functools import cache
from typing import Any

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import Effect, RunTogether, Steps, Transaction


def flat(steps: Steps[Any]) -> Steps[Any]:
    """The same steps, with what they run side by side in a row."""
    answer: Any = None
    failure: Exception | None = None
    while True:
        try:
            effect = steps.send(answer) if failure is None else steps.throw(failure)
        except StopIteration as stop:
            return stop.value
        answer, failure = None, None
        try:
            answer = (yield from _in_a_row(effect)) if isinstance(effect, RunTogether) else (yield effect)
        except Exception as error:
            failure = error


def _in_a_row(together: RunTogether) -> Steps[list[Any]]:
    answers: list[Any] = []
    for one in together.steps:
        try:
            answers.append((yield from flat(one)))
        except Exception as error:
            answers.append(error)
    return answers


def _alone(effect: Effect) -> Steps[Any]:
    return (yield effect)


@cache
def _loop() -> asyncio.Runner:
    """One for all effects, which are many and small; `runner.run` makes one each."""
    made = asyncio.Runner(loop_factory=runner._loop_factory())
    atexit.register(made.close)
    return made


class NothingLeft(AssertionError):
    """The steps ended without the transaction that was waited for: another one has done it all."""


class Walk:
    """Some steps and how far they have come; `world` is what they meet outside of the database."""

    def __init__(self, steps: Steps[Any], world: runner.World) -> None:
        self._steps, self._world = flat(steps), world
        self.asked: Effect | None = None
        self.result: Any = None
        self._go(None, None)

    def _go(self, answer: Any, failure: Exception | None) -> None:
        try:
            self.asked = self._steps.send(answer) if failure is None else self._steps.throw(failure)
        except StopIteration as stop:
            self.asked, self.result = None, stop.value

    def one(self, engine: sa.Engine) -> None:
        """Do what is asked for now. Errors: those that the steps themselves end with."""
        effect, answer, failure = self.asked, None, None
        assert effect is not None
        try:
            if isinstance(effect, Transaction):
                answer = write(engine, effect.work, rollback=effect.rollback)
            else:
                answer = _loop().run(runner._whole(_alone(effect), self._world))
        except Exception as error:  # handed to the step, which decides
            failure = error
        self._go(answer, failure)

    def until(self, name: str, engine: sa.Engine) -> None:
        """Do what comes before a transaction."""
        while not (isinstance(self.asked, Transaction) and self.asked.name == name):
            if self.asked is None:
                raise NothingLeft(f"the steps ended without a transaction {name}")
            self.one(engine)

    def rest(self, engine: sa.Engine) -> Any:
        """Do all that is left; what the steps return."""
        while self.asked is not None:
            self.one(engine)
        return self.result
