"""The server's processes: the real webhooks, gate and crew, on threads that the scheduler steps.

Guarantee: each transaction and read that a request asks for, and each step of the crew's reads, is an effect of its
own: anything may happen before it and between it and its answer, and a crash takes everything that was in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import sqlalchemy as sa

from drawdown.providers.protocol import Provider
from drawdown.server.api.gate import Gate
from drawdown.server.http.threads import Threads
from drawdown.server.services import Services, ThreadKit
from drawdown.server.settings import ServerSettings
from drawdown.server.step_threads import THREADS, StepThreads, _read_again
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.engine.shard import Shard
from tests.simulation.loop import Loop
from tests.simulation.stepping import Task, Time, Worker, WorkerClock

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """A request's read of the database."""

    work: Callable[[sa.Connection], Any]


class Request(Protocol):
    """What somebody asked of the server, and who judges the answer."""

    name: str
    """Of its transactions."""

    def saw(self, error: Exception | None) -> None:
        """A read of its own was done; its answer may still be on the way."""

    def learned(self) -> None:
        """The answer of that read arrived in time."""

    def begins(self) -> None:
        """A transaction of its own is about to be done."""

    def changed(self, world: Any, asks_before: int, asks_after: int) -> None:
        """A transaction of its own ended."""

    def ended(self, answer: Any, error: BaseException | None) -> None:
        """It was answered, or its process died (`error` is a `Died`)."""


class Died(Exception):
    """The process is gone, and with it the connection."""


REQUEST: Final[ContextVar[Request]] = ContextVar("request")


@dataclass
class Served:
    """Everything that was asked of a process is answered."""


class Asked(Task):
    """One statement of a request, until its coroutine has the answer."""

    def __init__(self, process: Serving, effect: Any, request: Request) -> None:
        self.process, self.request = process, request
        self.asked = effect
        self.children, self.done, self.result, self.held = [], False, None, None
        self.late_ms, self.over, self.read = 0, False, {}
        self.told: Any = process.loop.create_future()

    def tell(self) -> None:
        assert self.held is not None
        answer, error = self.held
        self.process.asked_for.remove(self)
        if self.told.done():
            return  # whoever asked waits no longer
        if isinstance(self.asked, Reading):
            self.request.learned()
        if error is None:
            self.told.set_result(answer)
        else:
            self.told.set_exception(error)


class Lines(Threads):
    """The database, by way of the scheduler."""

    def __init__(self, process: Serving) -> None:
        self._process = process

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        found: T = await self._ask(Reading(work))
        return found

    async def write(self, work: Callable[[sa.Connection], T], *, rollback: bool = False, always: bool = False) -> T:
        assert not rollback and not always, "people's deeds are told of in people.py"
        done: T = await self._ask(Transaction(REQUEST.get().name, work))
        return done

    async def _ask(self, effect: Any) -> Any:
        one = Asked(self._process, effect, REQUEST.get())
        self._process.asked_for.append(one)
        return await one.told


@dataclass
class Piece:
    """A read of the crew's, waiting or under way."""

    work: Callable[[], Steps[None]]
    future: Future[None]
    task: Task | None = None


class Queue:
    """What the crew takes for its pool of threads."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def submit(self, work: Callable[[], Steps[None]]) -> Future[None]:
        self.pieces.append(Piece(work, Future()))
        return self.pieces[-1].future


class SteppedCrew(StepThreads):
    """The crew, whose pieces are steps that the scheduler takes."""

    def __init__(self, services: Services, queue: Queue) -> None:
        super().__init__(services)
        self._pool = queue  # type: ignore[assignment]

    def _read(self, org_id: str, provider: str) -> Steps[None]:  # type: ignore[override]
        self._waiting.pop(org_id, None)
        return _read_again(self._services.thread_kit().context(), provider, org_id)


class Serving(Task):
    """One process, as a task whose leaves are all that is under way in it."""

    def __init__(self, server: Server) -> None:
        self.children, self.held, self.asked, self.result = [], None, None, None
        self.late_ms, self.over, self.read = 0, False, {}
        self.done = True
        self.loop = Loop(server.time)
        self.asked_for: list[Asked] = []
        self.queue = Queue()
        self.requests: dict[Any, Request] = {}
        self.services = server.services()
        self.threads = Lines(self)
        self.crew = SteppedCrew(self.services, self.queue)
        self.gate = Gate(self.services, self.threads, self.threads, self.crew)

    def begin(self, request: Request, work: Coroutine[Any, Any, Any]) -> None:
        """A request comes in."""
        context = copy_context()
        context.run(REQUEST.set, request)
        task = self.loop.create_task(work, context=context)
        self.requests[task] = request
        task.add_done_callback(self._answered)
        self.join()

    def _answered(self, task: Any) -> None:
        request = self.requests.pop(task)
        if not task.cancelled():
            error = task.exception()
            request.ended(None if error else task.result(), error)

    def leaves(self) -> Iterator[Task]:
        yield from list(self.asked_for)
        for piece in self.queue.pieces:
            if piece.task is not None:
                yield from piece.task.leaves()

    def join(self) -> None:
        """Let everything go on that can."""
        busy = True
        while busy:
            busy = False
            self.loop.settle()
            for piece in self.queue.pieces[:THREADS]:
                if piece.task is None:
                    piece.task, busy = Task(piece.work()), True
                piece.task.join()
                if piece.task.done:  # what went wrong is logged: it stays marked
                    self.queue.pieces.remove(piece)
                    piece.future.set_result(None)
                    busy = True
        self.done = not (self.asked_for or self.queue.pieces or self.requests)
        self.result = Served() if self.done else None

    def kill(self) -> None:
        for piece in self.queue.pieces:
            if piece.task is not None:
                piece.task.kill()
        died = list(self.requests.values())
        for task in self.requests:
            task.remove_done_callback(self._answered)
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.asked_for.clear()
        self.loop.settle()
        self.loop.close()
        for request in died:
            request.ended(None, Died())


@dataclass
class Server(Worker):
    """A process that answers requests; after a crash another one takes its place."""

    time: Time = field(default_factory=lambda: Time(0))
    settings: ServerSettings = field(default_factory=ServerSettings)
    providers: dict[str, Provider] = field(default_factory=dict)
    unasked: dict[str, Provider] = field(default_factory=dict)
    process: Serving | None = None
    contexts: int = 0

    def services(self) -> Services:
        made: Any = {"engine": None, "http": None}
        return Services(
            clock=self.clock, settings=self.settings, providers=self.providers, unasked=self.unasked, broken={},
            thread_kit=self._thread_kit, **made,
        )  # fmt: skip

    def _thread_kit(self) -> ThreadKit:
        world: Any = None
        return ThreadKit(world, self._fresh)

    def _fresh(self) -> Context:
        self.contexts += 1
        return self._context(f".{self.contexts}")

    def running(self) -> Serving:
        """The process, begun where there is none."""
        if self.process is None:
            self.process = Serving(self)
        return self.process

    def take(self, request: Request, work: Callable[[Serving], Coroutine[Any, Any, Any]]) -> None:
        """A request comes in."""
        process = self.running()
        process.begin(request, work(process))
        self.task = None if process.done else process

    def crash(self) -> None:
        self.task = None
        super().crash()
        process, self.process = self.process, None
        if process is not None:
            process.kill()


def new_server(name: str, time: Time, context: Context, settings: ServerSettings, **providers: Any) -> Server:
    """A process on a clock that is right."""
    return Server(name, Shard(), WorkerClock(time), context, time=time, settings=settings, **providers)
