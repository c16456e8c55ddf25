"""Workers as generators that are stepped, one effect at a time.

Guarantee: between an effect being asked for, done and answered, anything else may happen: other workers, time, a crash.
Side by side steps are leaves of their own, so each of them can be interleaved and crashed by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from drawdown.schema.units import MINUTE_MS
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Effect, Push, RunTogether, Steps
from drawdown.worker.engine.shard import Shard
from drawdown.worker.watch import Watcher


@dataclass
class Time:
    """The true time; only the scheduler moves it."""

    now: int

    def advance(self, by_ms: int) -> None:
        self.now += by_ms


@dataclass
class WorkerClock:
    """One machine's clock: wrong by `offset_ms`."""

    time: Time
    offset_ms: int = 0
    trusted: bool = False

    def now_ms(self) -> int:
        return self.time.now + self.offset_ms


class Task:
    """One generator and where it stands: an effect it asked for, an answer it has not seen yet, or its end."""

    def __init__(self, steps: Steps[Any]) -> None:
        self.steps = steps
        self.asked: Effect | None = None
        self.children: list[Task] = []
        self.done = False
        self.result: Any = None
        self.held: tuple[Any, Exception | None] | None = None
        self.late_ms = 0
        """For how long its answer is on its way, once nothing else is left to do."""
        self.over = False
        """Whether its claim had run out as it asked to send: it looks at its clock before a call, and may lie still
        only after that."""
        self.read: dict[str, Any] = {}
        """What a provider said last of customers, until it is written down."""
        self._go(lambda: next(self.steps))

    def hold(self, answer: Any, error: Exception | None) -> None:
        """The effect is done; the step has not been told yet."""
        self.held = (answer, error)

    def tell(self) -> None:
        """Give the step its answer."""
        assert self.held is not None
        (answer, error), self.held = self.held, None
        self._go(lambda: self.steps.send(answer) if error is None else self.steps.throw(error))

    def _go(self, resume: Callable[[], Effect]) -> None:
        self.asked, self.children = None, []
        try:
            self.asked = resume()
        except StopIteration as stop:
            self.done, self.result = True, stop.value
        except Exception as error:
            self.done, self.result = True, error
        self.over = isinstance(self.asked, Push) and self.asked.over()
        if isinstance(self.asked, RunTogether):
            self.children = [Task(steps) for steps in self.asked.steps]
            self.join()

    def join(self) -> None:
        """Go on once all that ran side by side has ended."""
        for child in self.children:
            child.join()
        if isinstance(self.asked, RunTogether) and all(child.done for child in self.children):
            self.hold([child.result for child in self.children], None)
            self.tell()

    def leaves(self) -> Iterator[Task]:
        """The steps that wait for an effect of their own."""
        if isinstance(self.asked, RunTogether):
            for child in self.children:
                yield from child.leaves()
        elif not self.done:
            yield self

    def kill(self) -> None:
        """The process is gone."""
        for child in self.children:
            child.kill()
        self.steps.close()


@dataclass
class Worker:
    """One process that ticks; after a crash another one takes its place."""

    name: str
    shard: Shard
    clock: WorkerClock
    context: Context
    task: Task | None = None
    paused_until: int = 0
    life: int = 1
    failures: list[str] = field(default_factory=list)
    doing: str = ""
    ticks: bool = False
    """Whether its task is a tick, and no command of a person's."""
    began_ms: int = 0
    claimed: set[tuple[str, str]] = field(default_factory=set)
    """(provider, key) of what its task has claimed."""
    blind: bool = False
    """Whether it stays down: its host cannot tell that the database was restored."""
    watching: Context | None = None
    """The context of its watch, while this life goes on."""
    watcher: Watcher = field(default_factory=Watcher)
    watches: bool = False
    """Whether it goes round between ticks."""

    def crash(self) -> None:
        """Drop everything in memory; the next life knows only the database."""
        if self.task is not None:
            self.task.kill()
        self.task = None
        self.claimed = set()
        self.life += 1
        self.context = self._context("")
        self.watching, self.watcher = None, Watcher()

    def watch_context(self) -> Context:
        """Its watch has claims and circuits of its own, and keeps them from round to round."""
        if self.watching is None:
            self.watching = self._context("w")
        return self.watching

    def _context(self, suffix: str) -> Context:
        name = f"{self.name}.{self.life}{suffix}"
        known = self.context
        return Context(
            name,
            self.clock,
            known.capabilities,
            shard=self.shard,
            new_orgs=known.new_orgs,
            hooks=known.hooks,
            payments=known.payments,
            databases=known.databases,
        )

    def up(self, now: int) -> bool:
        """Whether it can take a step; a host that is held down is used for `recover` alone."""
        return self.paused_until <= now and (not self.blind or (self.task is not None and not self.ticks))

    def pause(self, now: int, for_ms: int = 5 * MINUTE_MS) -> None:
        self.paused_until = now + for_ms
