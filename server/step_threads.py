"""Run the worker's steps for the server in threads.

Each thread has its own connections and providers.

Guarantee: the numbers of threads and of waiting requests are bounded. If too many reads wait, the next tick does any
further read, because the database already marks that read as due. Work that must stop ends between two effects.
Unauthenticated callers of the gate can cause reads of organisations. These reads have their own threads, so they never
delay a tick or a signed request. If a provider does not answer, all these threads pause their reads at it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import structlog

from drawdown.schema.database import read
from drawdown.schema.units import SECOND_MS
from drawdown.server.http.errors import ApiError
from drawdown.server.http.limits import describe_error
from drawdown.server.services import Services, ThreadKit
from drawdown.worker.engine import runner
from drawdown.worker.engine.breaker import Breaker
from drawdown.worker.engine.clock_check import require_clock
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import Steps
from drawdown.worker.halts.dispatch import dispatch
from drawdown.worker.verdict.project import project

log = structlog.get_logger()

T = TypeVar("T")

THREADS: Final = 4
"""Concurrent reads of providers, for the gate, webhooks and admin requests."""
ORDER_THREADS: Final = 2
"""Signed requests and scheduler checks that run concurrently."""
MAX_ORDERS: Final = 100
"""Signed requests and scheduler checks that run or wait."""
MOST_WAITING: Final = 1_000
"""Organisations that wait for a read."""
DISPATCH_MS: Final = 5 * SECOND_MS
"""Longest time for which a thread notifies cells after a read.

Later notifications stay due for the next watch or tick.
"""


class StepThreads:
    """The threads in which one server runs the worker's steps.

    Each read is for one organisation. If a read for an organisation already waits, a second read is not queued.
    """

    def __init__(self, services: Services, threads: int = THREADS) -> None:
        self._services = services
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="drawdown-steps")
        self._orders = ThreadPoolExecutor(ORDER_THREADS, thread_name_prefix="drawdown-order")
        self._ordered = 0
        self._ticks = ThreadPoolExecutor(1, thread_name_prefix="drawdown-tick")
        self._breakers: dict[str, Breaker] = {}
        self._own = threading.local()
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[None]] = {}
        self._reads: set[Future[None]] = set()
        self.stopping = threading.Event()

    def order(self, work: Callable[[ThreadKit, Context], T]) -> Future[T]:
        """Run a signed request, or a check for a scheduler, in a thread.

        Errors: ApiError 503 if too many requests wait.
        """
        with self._lock:
            if self._ordered >= MAX_ORDERS:
                raise ApiError(503, "busy", "too many requests are in progress. Sign and send the request again later")
            self._ordered += 1
        made = self._orders.submit(lambda: self._with_thread_kit(work))
        made.add_done_callback(self._order_done)
        return made

    def _order_done(self, _done: object) -> None:
        with self._lock:
            self._ordered -= 1

    def tick(self, work: Callable[[ThreadKit, Context], T]) -> Future[T]:
        """Run a tick on its own thread."""
        return self._ticks.submit(lambda: self._with_thread_kit(work))

    def read_again(self, org_id: str, provider: str) -> Future[None] | None:
        """Read an organisation at its provider in a thread.

        The thread projects the verdict, and notifies the cells of a halt at once. Return None if too many reads wait.
        """
        with self._lock:
            if org_id in self._waiting:
                return self._waiting[org_id]
            if len(self._waiting) >= MOST_WAITING:
                log.warning("reads_put_off", org=org_id)
                return None
            made = self._waiting[org_id] = self._pool.submit(lambda: self._read(org_id, provider))
            self._reads.add(made)
        made.add_done_callback(self._reads.discard)
        return made

    def wait_for_reads(self) -> None:
        """Wait until every requested read is done."""
        with self._lock:
            asked = list(self._reads)
        for one in asked:
            one.exception()

    def close(self) -> None:
        """End the work in progress at its next effect, and do not begin other work."""
        self.stopping.set()
        for pool in (self._pool, self._orders, self._ticks):
            pool.shutdown(wait=True, cancel_futures=True)

    def _with_thread_kit(self, work: Callable[[ThreadKit, Context], T]) -> T:
        if not hasattr(self._own, "thread_kit"):
            self._own.thread_kit = self._services.thread_kit()
        thread_kit: ThreadKit = self._own.thread_kit
        self._services.restores.look(thread_kit.world.engine)
        context = thread_kit.context()
        context.stopping = self.stopping.is_set
        return work(thread_kit, context)

    def _read(self, org_id: str, provider: str) -> None:
        with self._lock:
            self._waiting.pop(org_id, None)
        try:
            self._with_thread_kit(lambda thread_kit, context: self._read_with(thread_kit, context, provider, org_id))
        except Exception as error:  # the organisation stays marked, so the next tick reads it
            log.error("read_again_failed", org=org_id, provider=provider, **describe_error(error))

    def _read_with(self, thread_kit: ThreadKit, context: Context, provider: str, org_id: str) -> None:
        check_clock(thread_kit, context)  # with a wrong date, an old verdict could replace a newer one
        # The thread's next read must not wait again for a dead cell.
        context.cell_breakers = self._own.__dict__.setdefault("cell_breakers", {})
        context.breakers = self._breakers
        runner.run(_read_again(context, provider, org_id), thread_kit.world)


def check_clock(thread_kit: ThreadKit, context: Context) -> None:
    """Check this machine's clock before work that stores its time (rule S9).

    Errors: ClockDoubted.
    """
    if not context.clock.trusted:
        read(thread_kit.world.engine, lambda connection: require_clock(connection, context.clock.now_ms()))


def _read_again(context: Context, provider: str, org_id: str) -> Steps[None]:
    if provider not in context.ready() or not context.reading(provider).allows(context.clock.now_ms()):
        return  # the organisation stays due for the watch or the next tick
    done = yield from project(context, provider, org_id)
    if done.halted:
        yield from dispatch(context.within(DISPATCH_MS), provider)
