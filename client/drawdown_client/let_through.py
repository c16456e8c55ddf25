"""Store calls for uses that the client allowed without a response.

The client stores each call until the server has recorded the use.

Guarantee: each call has one effect at the server. The client sends the calls in order, each under its key. With a
spool, the calls outlive the program. The client counts and logs each lost call.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from pathlib import Path

from drawdown_client import guard_words as words
from drawdown_client.calls import Call, post
from drawdown_client.errors import ClientError, QueueFull, Unreachable
from drawdown_client.guard_words import Decision, Wish
from drawdown_client.items import Item, Result
from drawdown_client.settings import Settings
from drawdown_client.spool import Spool

log = logging.getLogger("drawdown_client")


class LetThrough:
    """A thread-safe queue of calls for uses that were allowed without a response.

    It also has the uses that a server allowed while its database was unavailable.

    The queue keeps each call until the server has recorded the use. With a spool, the calls are on disk, in a file
    beside the spool (`app.spool.guard`), and the next start of the client sends them.
    """

    def __init__(self, settings: Settings) -> None:
        self._metrics = frozenset(settings.fails_open)
        self._most = settings.kept_calls
        self._place = None if settings.spool is None else Path(f"{settings.spool}.guard")
        self._most_bytes = settings.spool_bytes
        self._calls: deque[tuple[int, Call]] = deque()
        """The waiting calls, each with its number in the spool."""
        self._keys: set[str] = set()
        self._lock = threading.Lock()
        self._spool: Spool | None = None
        self._pid = os.getpid()
        self.lost = 0
        """Number of lost calls: the server refused them, or they still waited at the end without a spool."""
        with self._lock:
            self._open()

    def admits(self, wish: Wish, error: Unreachable) -> bool:
        """Return True if the client allows a use although its call failed.

        The metric must be in `fails_open`. The client does not allow a use after the status 429.
        """
        return wish.metric in self._metrics and not error.too_many

    def ends(self, key: str) -> bool:
        """Return True if the start of a use waits to be sent.

        The end of the use must then wait, too.
        """
        return key in self._keys

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
            if len(self._calls) >= self._most:
                return False
            if not self._calls:
                log.error("the guard is unavailable, so the client allows uses of the metrics in fails_open: %s", why)
            if call not in (one for _, one in self._calls):
                try:
                    (number,) = (0,) if self._spool is None else self._spool.add([_spool_item(key, call)])
                except (QueueFull, OSError) as error:
                    log.error("cannot write a guard call to the spool: %s", error)
                    return False
                self._calls.append((number, call))
            self._keys.add(key)
            return True

    def next(self) -> Call | None:
        with self._lock:
            self._open()
            if not self._calls:
                self._keys.clear()
                return None
            return self._calls[0][1]

    def acknowledge_first(self, refused: ClientError | None = None) -> None:
        """Remove the first call, because the server answered the call or the call is lost.

        `refused`: the error of a lost call. The method counts and logs the call.
        """
        with self._lock:
            number, call = self._calls.popleft()
            if refused is not None:
                self.lost += 1
                log.error("cannot record an allowed use: %s (%s)", (call.body or b"").decode(), refused)
            if self._spool is not None:
                why = None if refused is None else Result("refused", None, str(refused))
                self._spool.settle([(number, _spool_item("", call))], [why or Result("accepted")])

    def give_up(self) -> None:
        """Stop, and log the remaining calls, which are lost without a spool."""
        with self._lock:
            spool, self._spool, self._place = self._spool, None, None
            if spool is not None:
                if self._calls:
                    log.warning("the spool keeps %d guard calls for the next start", len(self._calls))
                self._calls.clear()
                spool.close()
        while self.next() is not None:
            self.acknowledge_first(Unreachable("the program ended before the server answered"))

    def _open(self) -> None:
        """Load the calls of an earlier start.

        A forked process begins empty, because its parent sends them.
        """
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._calls.clear()
            self._keys.clear()
            if self._spool is not None:
                self._spool.close()
                self._spool = None
        if self._place is None or self._spool is not None:
            return
        self._spool = Spool(self._place, self._most_bytes)
        for number, item in self._spool.left.items():
            said = item.content
            self._calls.append((number, post(str(said["path"]), dict(said["order"]))))  # type: ignore[call-overload]
            self._keys.add(item.item_id)
        self._spool.left = {}


def _spool_item(key: str, call: Call) -> Item:
    """Return a call as an item of the spool."""
    said = {"path": call.path, "order": json.loads(call.body or b"{}")}
    return Item("guard", key, json.dumps(said, separators=(",", ":")).encode())
