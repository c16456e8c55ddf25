"""Run the parts of `--processes N` and `drawdown up`, each in its own process.

Guarantee: each part has a result, even if its process was killed. SIGTERM and SIGINT reach every part, which then ends
between two effects. If the command ends, its parts end. Each part opens its own connections. The signal handler does
not take a lock, because the interrupted thread may hold the lock, and the process would then hang. So `wait` logs the
signal, not the handler.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import Final, Generic, TypeVar

import structlog

from drawdown.cli.startup import meaning_of
from drawdown.cli.streams import Fault
from drawdown.schema.errors import Exit
from drawdown.schema.units import BUCKETS
from drawdown.worker.engine.shard import Shard

log = structlog.get_logger()

LOOK_S: Final = 0.1
"""Seconds between two checks of the flag that a signal sets."""


class Stopping:
    """A flag that SIGTERM or SIGINT sets.

    `parent`: the id of the parent process; the end of that process also sets the flag.
    """

    def __init__(self, parent: int | None = None) -> None:
        self._signal = ""
        self._parent = parent

    def on_signals(self) -> None:
        """Make SIGTERM and SIGINT set the flag."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name

    def end(self) -> None:
        """Set the flag without a signal."""
        self._signal = "none"

    def is_set(self) -> bool:
        if not self._signal and self._parent is not None and os.getppid() != self._parent:
            self._signal = "none: the command has ended"
        return bool(self._signal)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the flag is set, or for `seconds`."""
        ends = None if seconds is None else time.monotonic() + seconds
        while not self.is_set() and (ends is None or time.monotonic() < ends):
            time.sleep(LOOK_S if ends is None else max(0.0, min(LOOK_S, ends - time.monotonic())))
        if self._signal:
            log.info("stopping", signal=self._signal)


P = TypeVar("P")
T = TypeVar("T")

MAX_PROCESSES: Final = 32
"""Most processes of one command.

Each has its own connections and providers.
"""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

# A fork shares the imported modules. It is safe, because a command starts no thread before its work.
_FORK: Final = multiprocessing.get_context("fork")


def shards(count: int) -> list[Shard]:
    """Return all buckets, divided into `count` shards."""
    return [Shard(index * BUCKETS // count, (index + 1) * BUCKETS // count - 1) for index in range(count)]


@dataclass
class _Part(Generic[P, T]):
    part: P
    process: ForkProcess
    answers: Connection
    result: T | Fault | None = None

    def take(self) -> None:
        """Store the result of the part.

        If its process died, store a Fault with the reason.
        """
        try:
            self.result = self.answers.recv()
        except EOFError:
            self.process.join()
            self.result = Fault(f"its process {_ended(self.process.exitcode or 0)}", Exit.LEFT, "process_died")
            log.error("process_died", part=str(self.part), reason=self.result.text)
        self.answers.close()

    def tell(self) -> None:
        if self.process.is_alive():
            self.process.terminate()


def in_processes(
    parts: Sequence[P],
    work: Callable[[P, Stopping], T],
    *,
    together: bool = False,
    before: Stopping | None = None,
) -> list[tuple[P, T | Fault]]:
    """Do the work of each part in its own process, and return the outcomes in order.

    `together`: if a part ends, end the other parts, too. `before`: a flag that a signal may have set before the call.
    """
    begun: list[_Part[P, T]] = []
    with _passed_on(begun) as told:
        begun.extend(_begin(part, work) for part in parts)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if told or (before is not None and before.is_set()):
            for part in begun:
                part.tell()
        left = {part.answers: part for part in begun}
        while left:
            for ready in wait(list(left)):
                assert isinstance(ready, Connection)
                part = left.pop(ready)
                part.take()
                if together:
                    for other in left.values():
                        other.tell()
    for part in begun:
        part.process.join()
    return [(part.part, part.result) for part in begun if part.result is not None]


@contextmanager
def _passed_on(begun: list[_Part[P, T]]) -> Iterator[list[int]]:
    """Pass signals to all parts that have begun, and keep them for the others.

    A signal during the start waits until all parts have begun, unless another thread of the process takes it.
    """
    kept_for_others: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        kept_for_others.append(number)
        for part in begun:
            part.tell()

    kept = {number: signal.signal(number, on_signal) for number in SIGNALS}
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield kept_for_others
    except BaseException:
        on_signal(0, None)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        for number, handler in kept.items():
            signal.signal(number, handler)


def _begin(part: P, work: Callable[[P, Stopping], T]) -> _Part[P, T]:
    answers, answer = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_work, args=(answer, part, work, os.getpid()))
    process.start()
    answer.close()  # otherwise, this process could not detect the end of the part
    return _Part(part, process, answers)


def _work(answer: Connection, part: P, work: Callable[[P, Stopping], object], parent: int) -> None:
    """Run a part's work in its own process, and send the result."""
    stopping = Stopping(parent)
    stopping.on_signals()
    # A terminal sends SIGINT to all processes, and the command sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        result = work(part, stopping)
    except Exception as error:
        result = meaning_of(error)
    answer.send(result)
    answer.close()


def _ended(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
