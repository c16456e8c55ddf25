"""The siege of Autumn in one process: the same setting, service, people and judge, and kills at counted steps.

    python -m tests.crash.autumn.alone --pushes 300 --kills 8 --seed 1 --seeds 20

Guarantee: all of it follows from the seed. The service is called in place, transactions run one after another, and the
clock moves by a millisecond with each of both, and by each wait, so that a run repeats to the last call. A worker that
was killed does nothing more: its claims and calls stay as they were.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
import structlog

from drawdown.providers.autumn import build
from drawdown.providers.http import Call, HttpResult
from drawdown.providers.kit.emulator import Direct
from drawdown.providers.protocol import Provider, Setup
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect, read, write
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from tests.acceptance.drain import LEASE_MS, Worker
from tests.acceptance.tables import number
from tests.crash.autumn.judge import Verdict, judge
from tests.crash.autumn.mischief import Mischief
from tests.crash.autumn.setting import AT_MS, Struck, emulated, make
from tests.crash.autumn.siege import SEALED, UNSENT, Healing, insert, set_up
from tests.crash.billers import HOUR_MS, LAG_EVERY, MINUTE_MS
from tests.emulators.autumn import SECRET_KEY
from tests.world import Cells

MOST_STEPS: Final = 60
"""Of a killed worker, whose kill is at any of them."""
TRIES: Final = 60
"""Ticks until each push was sent once, at most."""
_T = TypeVar("_T")


class Killed(BaseException):
    """The process ends here: no handler of errors runs."""


@dataclass
class Moving(FixedClock):
    """A clock that moves with what is done."""

    def jump(self, ms: int) -> None:
        self.at_ms += ms


@dataclass
class Taking(Direct):
    """Each call takes a millisecond."""

    clock: Moving

    async def send(self, call: Call) -> HttpResult:
        self.clock.jump(1)
        return await super().send(call)


@dataclass
class InPlace:
    """What a worker needs of the command line, without its settings."""

    engine: sa.Engine
    providers: Mapping[str, Provider]
    clock: FixedClock
    name: str = "a"

    def world(self) -> runner.World:
        return runner.World(self.engine, self.providers, Cells(), self.clock)

    def context(self) -> Context:
        capabilities = {name: provider.capabilities for name, provider in self.providers.items()}
        return Context(self.name, self.clock, capabilities)

    def read(self, work: Callable[[sa.Connection], _T]) -> _T:
        return read(self.engine, work)

    def write(self, work: Callable[[sa.Connection], _T]) -> _T:
        return write(self.engine, work)


class Alone(Worker):
    """All workers and the operator, one after another."""

    def __init__(self, engine: sa.Engine, autumn: Struck, clock: Moving) -> None:
        self.clock = clock  # type: ignore[assignment]
        self.provider = "autumn"
        found = build(Setup("autumn", {"secret_key": SECRET_KEY}, clock, Taking(autumn, clock), engine))
        unpaced = {"calls_per_s": None, "reads_per_s": None, "lookups_per_s": None}
        found.capabilities = replace(found.capabilities, **unpaced)  # type: ignore[arg-type]
        self.state = InPlace(engine, {"autumn": found}, clock)  # type: ignore[assignment]

    def ready(self) -> Alone:
        return self

    def do(self, command: str, *given: Any) -> Any:
        return getattr(self, command)(*given)

    def killed(self, command: str, name: str, at: int) -> bool:
        """Whether a process of this name was killed at the step of this number. Else it ended before."""
        self.state.name = name  # type: ignore[attr-defined]
        with _killing(at) as kill:
            try:
                self.do(command)
            except Killed:
                assert kill.done
        return kill.done


@dataclass
class _Kill:
    done: bool = False


@contextmanager
def _killing(at: int) -> Iterator[_Kill]:
    """Every other one dies with its step done, and unknown to it."""
    kill, sound, count = _Kill(), runner._do, 0

    async def step(effect: Any, world: runner.World, calls: Any) -> object:
        nonlocal count
        if kill.done:
            raise Killed
        answer = await sound(effect, world, calls) if count < at or at % 2 else None
        count += 1
        if count > at:
            kill.done = True
            raise Killed
        return answer

    vars(runner)["_do"] = step
    try:
        yield kill
    finally:
        vars(runner)["_do"] = sound


@contextmanager
def _in_place(clock: Moving) -> Iterator[None]:
    """Transactions run where they are asked for: threads would take turns by chance. A wait moves the clock alone."""
    to_thread, sleep = asyncio.to_thread, asyncio.sleep

    async def at_once(work: Callable[..., _T], /, *given: Any, **named: Any) -> _T:
        clock.jump(1)
        return work(*given, **named)

    async def wait(seconds: float) -> None:
        clock.jump(ceil(seconds * 1000))
        await sleep(0)

    vars(asyncio).update(to_thread=at_once, sleep=wait)
    try:
        yield
    finally:
        vars(asyncio).update(to_thread=to_thread, sleep=sleep)


@dataclass(frozen=True)
class Ended:
    """What a siege came to."""

    verdict: Verdict
    kills: int
    pushes: int
    autumn: Struck
    healing: Healing


def alone(folder: Path, *, pushes: int, kills: int, seed: int) -> Ended:
    """Errors: AssertionError where a difference is silent or unexplained, or something is left open."""
    dice, url = random.Random(seed), f"sqlite:///{folder}/drawdown.db"
    setting = make(pushes, kills + 2, dice)
    clock, autumn = Moving(AT_MS), emulated(setting, seed, AT_MS - HOUR_MS)
    set_up(url, setting, clock.now_ms())
    engine = connect(url)
    operator = Alone(engine, autumn, clock)
    healing = Healing(url, operator, clock, autumn, setting)  # type: ignore[arg-type]
    try:
        with _in_place(clock):
            healing.begin_in_peace()
            died = _besiege(operator, healing, kills, dice)
            healing.heal()
            breaches = operator.do("verify")
    finally:
        engine.dispose()
    verdict = judge(url, setting, autumn, healing.beside(), healing.made_up, healing.unsure)
    assert verdict.wrong is None, healing.retold(verdict)
    assert breaches == []
    return Ended(verdict, died, number(url, "SELECT COUNT(*) FROM pushes"), autumn, healing)


def _besiege(operator: Alone, healing: Healing, kills: int, dice: random.Random) -> int:
    """A worker at a time, until each push was sent once. Returns how many were killed."""
    url, setting, autumn, clock = healing.url, healing.setting, healing.autumn, healing.clock
    mischief = Mischief(url, autumn, setting, clock, kills)
    died = 0
    for at, part in enumerate(setting.parts[1:]):
        insert(operator.state.engine, part)
        if at == kills:
            break
        command = "reconcile" if at % 4 == 3 else "tick"
        died += operator.killed(command, dice.choice("ab"), dice.randrange(MOST_STEPS))
        mischief.begin(at)
        operator.do("tick")
        mischief.deliver()
        mischief.outage(at)
        clock.jump(LEASE_MS if at % LAG_EVERY else 10 * MINUTE_MS)
    autumn.key_store = autumn.balance_store = "up"
    for _ in range(TRIES):
        operator.do("tick")
        if not number(url, UNSENT) and number(url, SEALED) >= setting.windows():
            break
        clock.jump(MINUTE_MS)
    else:
        raise AssertionError(f"{number(url, UNSENT)} pushes are not sent")
    autumn.faults.rates = {}
    autumn.loses = autumn.repeats = False
    return died


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pushes", type=int, default=300)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    failed = 0
    for seed in range(given.seed, given.seed + given.seeds):
        with tempfile.TemporaryDirectory(prefix="dd-crash-") as folder:
            try:
                found = alone(Path(folder), pushes=given.pushes, kills=given.kills, seed=seed)
            except AssertionError as error:
                failed += 1
                print(f"seed {seed}: FAILED: {error}", flush=True)
                continue
        exact, told = found.verdict.exact, len(found.verdict.told)
        print(f"seed {seed}: {found.pushes:,} pushes, {found.kills} kills, {exact} exact, {told} told", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
