"""What a worker's jobs do: each calls the very function of `drawdown run`, `watch` or `reconcile`.

Guarantee: what goes wrong in a job is logged and told of its worker; the next job of the shard goes on from what is
committed. A job that is stopped, or that this program is too old for, is put back for others.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from drawdown.cli import scheduler
from drawdown.cli.app import App
from drawdown.cli.nouns.reconcile import compare
from drawdown.cli.nouns.tick import new_orgs, parse_shard
from drawdown.cli.stopping import Stopping
from drawdown.cli.watch_loop import WatchLoop
from drawdown.schema.audit import By
from drawdown.schema.errors import DatabaseNotReady, DrawdownError, Refused
from drawdown.schema.text import in_short
from drawdown.worker.cluster.membership import Book, Member, Taken, Terms, Wanted, take_part
from drawdown.worker.reconcile.reconcile import ReconcileScope

log = structlog.get_logger()

QUICK_AT_ONCE: Final = 2
"""Watch rounds, and the nightly comparison, that a worker does at once beside its tick: the comparison takes one."""


@dataclass(frozen=True, eq=False)
class Ticking:
    """A tick that runs: each is another one, of the same shard, too."""

    shard: str


class PutBack(Exception):
    """The job was not done, or not to its end: whoever takes it next does it."""


@dataclass
class Jobs:
    """The work of one worker."""

    app: App
    terms: Terms
    member: Member
    stopping: Stopping
    ended_by: DrawdownError | None = None
    """Why it may work no longer."""
    ticking: Ticking | None = None
    """The tick that runs now."""
    _share: int = 1
    _watches: dict[str, WatchLoop] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.book = Book(self.app.engine, self.member)
        self._ticks, self._quick = _apart(self.app, 1), _apart(self.app, QUICK_AT_ONCE)

    def tick(self, shard: str) -> None:
        """One tick of a shard `i/n`. One of another n than is agreed by now is done all the same: shards that overlap
        are correct, and a shard that is dropped would wait for a tick of another."""
        with self._one_of(self._ticks) as app:
            options = scheduler.Options(
                parse_shard(shard), new_orgs(app, self.terms.new_org_provider, None), False, self.terms.every_s
            )
            self.ticking = Ticking(shard)
            try:
                self._do(f"tick {shard}", lambda: scheduler.tick_once(app, options, self.stopping))
            finally:
                self.ticking = None

    def watch(self, shard: str) -> None:
        """One round. What it remembers of the shard to be quick is kept for the next one here."""
        with self._one_of(self._quick) as app:
            kept = self._watches.setdefault(shard, WatchLoop(app, parse_shard(shard), self.stopping))
            self._do(f"watch {shard}", replace(kept, app=app).round)

    def reconcile(self) -> None:
        """What the nightly `drawdown reconcile --correct` does."""
        with self._one_of(self._quick) as app:
            by = By(app.clock.now_ms(), "drawdown worker", "nightly", "cli")
            self._do("reconcile", lambda: compare(app, ReconcileScope(correct=True, recent=True), by))

    def beat(self) -> None:
        """Say that this worker lives, and take its share of what providers allow: of those that can tick at once."""
        try:
            self.app.ready()
            wanted = Wanted(self.terms.shards, self.terms.every_s, self.terms.new_org_provider, self.terms.providers)
            taken: Taken = self.app.write(lambda c: take_part(c, self.member, wanted))
            self._share = min(taken.terms.shards, taken.living)
        except (DatabaseNotReady, Refused) as error:
            self.end(error)
        except DrawdownError as error:
            log.warning("worker_not_told", error=str(error))

    def end(self, error: DrawdownError) -> None:
        """Work no longer, and say why."""
        self.ended_by = self.ended_by or error
        self.stopping.end()

    def close(self) -> None:
        """Say that this worker ended, and close what it opened."""
        try:
            self.book.left()
        except DrawdownError as error:
            log.warning("worker_not_told", error=str(error))
        for free in (self._ticks, self._quick):
            while not free.empty():
                free.get_nowait().close()

    @contextmanager
    def _one_of(self, free: queue.Queue[App]) -> Iterator[App]:
        app = free.get()
        app.processes = self._share
        try:
            yield app
        finally:
            free.put(app)

    def _do(self, what: str, work: Callable[[], object]) -> None:
        try:
            work()
        except DatabaseNotReady as error:
            self.end(error)
            raise PutBack from error
        except Exception as error:
            text = str(error) if isinstance(error, DrawdownError) else in_short(error)
            log.error("job_failed", job=what, error=text, exc_info=not isinstance(error, DrawdownError))
            self._note(lambda: self.book.failed(f"{what}: {text}"))
        else:
            self._note(self.book.done)
        if self.stopping.is_set():
            raise PutBack

    def _note(self, write: Callable[[], None]) -> None:
        """What cannot be noted was done all the same."""
        try:
            write()
        except DrawdownError as error:
            log.warning("worker_not_told", error=str(error))


def _apart(app: App, count: int) -> queue.Queue[App]:
    """So many of the same invocation, each with connections and providers of its own."""
    made: queue.Queue[App] = queue.Queue()
    for _ in range(count):
        made.put(app.apart())
    return made
