"""Store and send calls for uses that the client allowed without a response.

The client stores each call until the server has recorded the use.

Guarantee: each call has one effect at the server. The client sends the calls in order, each under its key. If the
server fails only at the first key, the client sends the calls of other keys first. Only one thread sends, and other
uses do not wait for it. With a spool, the calls outlive the program. The client counts and logs each lost call.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drawdown_client import guard_words as words
from drawdown_client.calls import Answer, Call, post
from drawdown_client.errors import ClientError, QueueFull, Refused, Unreachable
from drawdown_client.guard_words import Decision, Wish
from drawdown_client.items import Item, Result
from drawdown_client.process import after_fork
from drawdown_client.settings import Settings
from drawdown_client.spool import Spool

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
    _lock: threading.Lock
    _sending: threading.Lock
    """The lock of the thread that sends."""
    _spool: Spool | None

    def __init__(self, settings: Settings, once: Callable[[Call], Answer]) -> None:
        """Create a queue. `once`: a function that makes a call once. Errors of it: Refused, Unreachable."""
        self._once = once
        self._metrics = frozenset(settings.fails_open)
        self._most = settings.kept_calls
        self._place = None if settings.spool is None else Path(f"{settings.spool}.guard")
        self._most_bytes = settings.spool_bytes
        self._empty()
        self.lost = 0
        """Number of lost calls: the server refused them, or they still waited at the end without a spool."""
        with self._lock:
            self._open()
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
            self._open()
            if len(self._reports) >= self._most:
                return False
            if not self._reports:
                log.error("the guard is unavailable, so the client allows uses of the metrics in fails_open: %s", why)
            if any(report.call == call for report in self._reports):
                return True
            try:
                (number,) = (0,) if self._spool is None else self._spool.add([_spool_item(key, call)])
            except (QueueFull, OSError) as error:
                log.error("cannot write a guard call to the spool: %s", error)
                return False
            self._reports.append(Report(number, key, call))
            return True

    def first(self) -> Report | None:
        with self._lock:
            self._open()
            return self._reports[0] if self._reports else None

    def send(self, wait_s: float = 0.0) -> Unreachable | None:
        """Send the calls, each once, in order.

        Return the error that stopped the method early, or None. `wait_s`: the longest wait for another thread that
        sends, in seconds.
        """
        if self.first() is None:
            return None
        if not self._sending.acquire(timeout=wait_s):
            return Unreachable("another thread sends the reports of earlier uses")
        try:
            while (report := self.first()) is not None:
                try:
                    words.require_written(self._once(report.call))
                except Refused as error:
                    self.acknowledge(report, error)
                except Unreachable as error:
                    return error
                else:
                    self.acknowledge(report)
        finally:
            self._sending.release()
        return None

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
            if refused is not None:
                self.lost += 1
                log.error("cannot record an allowed use: %s (%s)", (report.call.body or b"").decode(), refused)
            if self._spool is not None:
                why = None if refused is None else Result("refused", None, str(refused))
                item = _spool_item(report.key, report.call)
                self._spool.settle([(report.number, item)], [why or Result("accepted")])

    def give_up(self) -> None:
        """Stop, and log the remaining calls, which are lost without a spool."""
        with self._lock:
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
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._spool = None

    def _forked(self) -> None:
        """Reset the queue in a forked process, because the parent process sends the calls."""
        if self._spool is not None:
            self._spool.close()
        self._empty()

    def _open(self) -> None:
        """Load the calls of an earlier start."""
        if self._place is None or self._spool is not None:
            return
        self._spool = Spool(self._place, self._most_bytes)
        for number, item in self._spool.left.items():
            said = item.content
            call = post(str(said["path"]), dict(said["order"]))  # type: ignore[call-overload]
            self._reports.append(Report(number, item.item_id, call))
        self._spool.left = {}


def _spool_item(key: str, call: Call) -> Item:
    """Return a call as an item of the spool."""
    said = {"path": call.path, "order": json.loads(call.body or b"{}")}
    return Item("guard", key, json.dumps(said, separators=(",", ":")).encode())
