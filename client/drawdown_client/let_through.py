"""Store and send calls for uses that the client allowed without a response.

The client stores each call until the server has recorded the use.

Guarantee: each call has one effect at the server. The client sends the calls in order, each under its key. If the
server fails only at the first key, or a proxy refuses it, the client sends the calls of other keys first. The client
drops a call after MOST_REFUSALS by a proxy. Only one thread sends, and other
uses do not wait for it. With a spool, the calls outlive the program. If calls are left when the client is closed or the
program ends, the client sends them within a limit. It counts and logs each lost call.
"""

from __future__ import annotations

import atexit
import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

from drawdown_client import guard_words as words
from drawdown_client.calls import Answer, Call, Refusals, post
from drawdown_client.clock import World
from drawdown_client.errors import ClientError, QueueFull, Refused, Unreachable
from drawdown_client.guard_words import Decision, Wish
from drawdown_client.items import Item, Result
from drawdown_client.process import after_fork, at_end_of_child
from drawdown_client.settings import Settings
from drawdown_client.spool import Spool

Sent: TypeAlias = "Future[Unreachable | None]"
_Job: TypeAlias = tuple[Sent, Callable[[], Unreachable | None]]

log = logging.getLogger("drawdown_client")


@dataclass(frozen=True)
class Report:
    """A stored call. `number`: its number in the spool. `key`: the key of its use."""

    number: int
    key: str
    call: Call


class LetThrough:
    """A thread-safe queue of calls for uses that were allowed without a response.

    It also has the uses that a server allowed while its database was unavailable.

    The queue keeps each call until the server has recorded the use. With a spool, the calls are on disk, in a file
    beside the spool (`app.spool.guard`), and the next start of the client sends them.
    """

    _reports: deque[Report]
    _refusals: dict[str, Refusals]
    _lock: threading.Lock
    _sending: threading.Lock
    """The lock of the thread that sends."""
    _spool: Spool | None
    _jobs: SimpleQueue[_Job | None]
    """The work of the daemon thread; None ends the thread."""
    _thread: threading.Thread | None
    _last: Sent
    """The latest work of the daemon thread."""

    def __init__(self, settings: Settings, world: World, once: Callable[[Call, float | None], Answer]) -> None:
        """Create a queue.

        `once`: a function that makes a call once, within the usual limit of an attempt or a number of seconds. Its
        errors: Refused, Unreachable.
        """
        self._once = once
        self._world = world
        self._settings = settings
        self._metrics = frozenset(settings.fails_open)
        self._place = None if settings.spool is None else Path(f"{settings.spool}.guard")
        self._is_closed = False
        self._empty()
        self.lost = 0
        """Number of lost calls: the server refused them, or they still waited at the end without a spool."""
        with self._lock:
            self._open()
        atexit.register(self._at_exit)
        after_fork(self._forked)

    def admits(self, wish: Wish, error: Unreachable) -> bool:
        """Return True if the client allows a use although its call failed.

        The metric must be in `fails_open`. The client does not allow a use after the status 429.
        """
        return wish.metric in self._metrics and not error.too_many

    def has(self, key: str) -> bool:
        """Return True if a call of a use waits to be sent.

        Later calls of the use must then wait, too.
        """
        with self._lock:
            return any(report.key == key for report in self._reports)

    def keep(self, key: str, call: Call, error: Unreachable) -> Decision:
        """Store a call, and return the decision to allow the use.

        Errors: `error`, if the client cannot store the call.
        """
        if not self._put(key, call, str(error)):
            raise error
        return words.UNANSWERED

    def keep_unwritten(self, key: str, call: Call) -> None:
        """Store a use that a server allowed while its database was unavailable.

        The client sends the use again before the end of the use, so that every server that receives the end has the
        use. A repeated use counts once. If the client cannot store the use, only the first server has it.
        """
        self._put(key, call, words.UNWRITTEN)

    def _put(self, key: str, call: Call, why: str) -> bool:
        with self._lock:
            try:
                self._open()
                if self._is_closed or len(self._reports) >= self._settings.kept_calls:
                    return False
                if not self._reports:
                    log.error(
                        "the guard is unavailable, so the client allows uses of the metrics in fails_open: %s", why
                    )
                if any(report.call == call for report in self._reports):
                    return True
                (number,) = (0,) if self._spool is None else self._spool.add([_spool_item(key, call)])
            except (QueueFull, OSError) as error:
                log.error("cannot write a guard call to the spool: %s", error)
                return False
            self._reports.append(Report(number, key, call))
            self._start_thread()
            return True

    def _start_thread(self) -> None:
        """Start the daemon thread, with the first report.

        A thread cannot start at the end of the program.
        """
        if self._thread is None:
            at_end_of_child(self._at_exit)
            made = threading.Thread(target=_work, args=(self._jobs,), name="drawdown-guard", daemon=True)
            with suppress(RuntimeError):  # the program is already at its end, so `close` sends
                made.start()
                self._thread = made

    def first(self) -> Report | None:
        with self._lock:
            with suppress(OSError):  # a forked process without a spool does not have calls. `_put` logs the error
                self._open()
            return self._reports[0] if self._reports else None

    def send(self, key: str | None = None, *, closing_s: float | None = None) -> Unreachable | None:
        """Send the calls, each once, in order.

        Return the error that stopped the method early, or None. The first call without a response stops the method. No
        further call begins after `call_within_s`, and the method does not wait for another thread that sends. Calls
        that a proxy refused wait until they are due, except those of `key`, the use of the caller.

        `closing_s`: seconds in which a closed client must send the calls. The method then waits for another thread, and
        also sends the calls of other keys.
        """
        until_s = self._world.monotonic_s() + (self._settings.call_within_s if closing_s is None else closing_s)
        if self.first() is None:
            return None
        if not self._sending.acquire(timeout=closing_s or 0.0):
            return Unreachable("another thread sends the reports of earlier uses")
        try:
            return self._send_until(until_s, key, is_closing=closing_s is not None)
        finally:
            self._sending.release()

    def _send_until(self, until_s: float, key: str | None, *, is_closing: bool) -> Unreachable | None:
        failed: set[str] = set()
        while (report := self._next(failed, key, is_closing=is_closing)) is not None:
            left_s = max(until_s - self._world.monotonic_s(), 0.0)
            try:
                words.require_written(self._once(report.call, left_s if is_closing else None))
            except Refused as error:
                failed.add(report.key)
                if not (error.may_pass_later and self._postpone(report.key)):
                    self.acknowledge(report, error)
            except Unreachable as error:
                if not is_closing:
                    return error
                failed.add(report.key)
            else:
                self.acknowledge(report)
            if self._world.monotonic_s() >= until_s:
                break
        with self._lock:
            is_answered = all(one.key in self._refusals and one.key != key for one in self._reports)
        return None if is_answered else Unreachable("reports of earlier uses wait to be sent")

    def _next(self, failed: set[str], key: str | None, *, is_closing: bool) -> Report | None:
        """Return the first due call of a key that did not fail in this round."""
        now_s = self._world.monotonic_s()
        with self._lock:
            for report in self._reports:
                refused = self._refusals.get(report.key)
                is_due = is_closing or report.key == key or refused is None or refused.due_s <= now_s
                if is_due and report.key not in failed:
                    return report
        return None

    def _postpone(self, key: str) -> bool:
        """Delay the calls of a key that a proxy refused. Return False if they are lost."""
        with self._lock:
            return self._refusals.setdefault(key, Refusals()).add(self._world, self._answers)

    def note_answer(self) -> None:
        """Note that the server answered a call."""
        with self._lock:
            self._answers += 1

    def postpone_first(self) -> None:
        """Move the calls of the first key behind those of other keys.

        The server fails at this key, and answers other calls.
        """
        with self._lock:
            if self._reports:
                stuck = self._reports[0].key
                self._reports = deque(sorted(self._reports, key=lambda report: report.key == stuck))

    def acknowledge(self, report: Report, refused: ClientError | None = None) -> None:
        """Remove a call, because the server answered the call or the call is lost.

        `refused`: the error of a lost call. The method counts and logs the call.
        """
        with self._lock:
            if report not in self._reports:  # the client was closed meanwhile
                return
            self._reports.remove(report)
            self._refusals.pop(report.key, None)
            if refused is None:
                self._answers += 1
            else:
                self.lost += 1
                log.error("cannot record an allowed use: %s (%s)", (report.call.body or b"").decode(), refused)
            if self._spool is not None:
                why = None if refused is None else Result("refused", None, str(refused))
                item = _spool_item(report.key, report.call)
                self._spool.settle([(report.number, item)], [why or Result("accepted")])

    def send_in_thread(self, key: str | None = None, *, closing_s: float | None = None) -> Sent:
        """Send the calls, as `send` does, in the daemon thread.

        The program can end meanwhile, even if the operating system blocks the thread.
        """
        sent: Sent = Future()
        sent.set_running_or_notify_cancel()
        with self._lock:
            if self._thread is None or self._is_closed:  # without a report, or at the end of the program
                sent.set_result(None)
            elif closing_s is None and not self._last.done():
                sent.set_result(Unreachable("another thread sends the reports of earlier uses"))
            else:
                self._last = sent
                self._jobs.put((sent, partial(self.send, key, closing_s=closing_s)))
        return sent

    def close(self, within_s: float) -> None:
        """Send the calls within `within_s` seconds, then give up."""
        try:
            if self._thread is None:
                self.send(closing_s=within_s)
            else:
                wait([self.send_in_thread(closing_s=within_s)], within_s)
        finally:
            self.give_up()

    def _at_exit(self) -> None:
        self.close(self._settings.close_s)

    def give_up(self) -> None:
        """Stop, and log the remaining calls, which are lost without a spool."""
        atexit.unregister(self._at_exit)
        with self._lock:
            self._is_closed = True
            self._jobs.put(None)
            spool, self._spool, self._place = self._spool, None, None
            if spool is not None:
                if self._reports:
                    log.warning("the spool keeps %d guard calls for the next start", len(self._reports))
                self._reports.clear()
                spool.close()
        while (report := self.first()) is not None:
            self.acknowledge(report, Unreachable("the program ended before the server answered"))

    def _empty(self) -> None:
        self._reports = deque()
        self._refusals = {}
        self._answers = 0
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._spool = None
        self._jobs = SimpleQueue()
        self._thread = None
        self._last = Future()
        self._last.set_result(None)

    def _forked(self) -> None:
        """Reset the queue in a forked process, because the parent process sends the calls."""
        spool = self._spool
        self._empty()
        if spool is not None:
            spool.close()

    def _open(self) -> None:
        """Load the calls of an earlier start. Errors: OSError of the spool."""
        if self._place is None or self._spool is not None:
            return
        self._spool = Spool(self._place, self._settings.spool_bytes)
        for number, item in self._spool.left.items():
            said = item.content
            call = post(str(said["path"]), dict(said["order"]))  # type: ignore[call-overload]
            self._reports.append(Report(number, item.item_id, call))
        self._spool.left = {}
        if self._reports:
            self._start_thread()


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        sent, send = job
        try:
            sent.set_result(send())
        except BaseException as error:  # the caller gets it
            sent.set_exception(error)


def _spool_item(key: str, call: Call) -> Item:
    """Return a call as an item of the spool."""
    said = {"path": call.path, "order": json.loads(call.body or b"{}")}
    return Item("guard", key, json.dumps(said, separators=(",", ":")).encode())
