"""Store items that wait to be sent, and send them in a thread.

Guarantee: the client sends each recorded item, with the same bytes and id, until the server returns a result for the
item or refuses the call. If a proxy refuses an item alone, the client sends the other items first, and drops this item
after MOST_REFUSALS. It calls `on_result` once for each item. The number of waiting items is bounded. An item is
never lost silently. If items are left when the client is closed or the program ends, they are in the spool, or the
client raises or logs their number. If the server rejects an item, the client moves the item from the spool
to the dead-letter file. The client logs the whole item, and reports the number of such items in `Unsent`. A forked
process begins empty, because the process that recorded an item sends it.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

from tenacity import RetryCallState, Retrying, retry_if_exception_type

from drawdown_client.calls import Backoff, Refusals, escape, pause_s, say_again
from drawdown_client.clock import World
from drawdown_client.errors import TOO_LARGE, BadItem, Closed, QueueFull, Refused, Unreachable, Unsent
from drawdown_client.items import Item, Kind, Result, Waiting
from drawdown_client.process import after_fork, at_end_of_child
from drawdown_client.settings import BATCH_BYTES, LONGEST_PAUSE_S, Settings
from drawdown_client.spool import Spool, dead_letter_of

Send: TypeAlias = Callable[[Kind, Sequence[Item]], list[Result]]
"""A function that sends items once, and returns their results.

Errors: Unreachable, Refused.
"""

CLOSING_PAUSE_S: Final = 0.5
"""Longest pause in seconds before a retry while `close` waits, and the pause after an unexpected error."""
_UNSPOOLED: Final = 0

log = logging.getLogger("drawdown_client")


@dataclass(eq=False)
class _Entry:
    """A waiting item.

    `number`: its number in the spool. `order`: its place in the queue since the start. `refused`: its
    refusals by a proxy.
    """

    number: int
    item: Item
    order: int = 0
    refused: Refusals = field(default_factory=Refusals)


class Outbox:
    """A thread-safe queue of items, with the thread that sends them."""

    _changed: threading.Condition
    _waiting: deque[_Entry]
    _postponed: list[_Entry]
    """Items that a proxy refused, until they are due."""
    _thread: threading.Thread | None
    _spool: Spool | None
    _has_ended: bool
    _is_told: bool

    def __init__(self, send: Send, hang_up: Callable[[], None], settings: Settings, world: World) -> None:
        self._send = send
        self._hang_up = hang_up
        self._settings = settings
        self._world = world
        self._empty()
        self._closing = self._on_result_failed = False
        self._pending = Waiting()
        with self._changed:
            self._open_spool()
        atexit.register(self._at_exit)
        after_fork(self._forked)

    def put(self, items: Sequence[Item]) -> None:
        """Record items.

        Errors: QueueFull, Closed, OSError of the spool. After an error, the items are not recorded.
        """
        with self._changed:
            self._open_spool()
            self._wait_for_room(len(items))
            if self._closing:
                raise Closed("the client is closed. Create another client")
            numbers = [_UNSPOOLED] * len(items) if self._spool is None else self._spool.add(items)
            self._take(list(map(_Entry, numbers, items)))

    def offer(self, items: Sequence[Item]) -> bool:
        """Record items without a wait for space or a disk.

        Return False if the client has a spool, is closed, or lacks space. Then call `put`.
        """
        with self._changed:
            has_room = self._count + len(items) <= self._settings.queue_items
            if self._settings.spool is not None or self._closing or not has_room:
                return False
            self._take([_Entry(_UNSPOOLED, item) for item in items])
            return True

    def flush(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` seconds for the results of all items recorded so far.

        The method does not wait for items that a proxy refused. Errors: Unsent, also for these items, and for items
        that the server refused since the last flush; RuntimeError if the sending thread
        calls this method.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("cannot flush: on_result runs in the thread that sends. Flush in another thread")
        with self._changed:
            wanted = self._put
            self._hurried += 1
            self._waited_for += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._done >= wanted, timeout_s)
            finally:
                self._waited_for -= 1
            refused = sum(entry.order > wanted and entry.refused.tries > 0 for entry in self._waiting)
            self._require_sent(max(wanted - self._done, 0) + refused + len(self._postponed))

    def close(self, timeout_s: float) -> None:
        """Send waiting items within `timeout_s` seconds, then stop.

        Errors: Unsent, in the first call only.
        """
        with self._changed:
            if self._has_ended or self._is_told:  # the thread may end shortly after the time limit
                return
            self._closing = True
            self._deadline_s = self._world.monotonic_s() + timeout_s
            self._take(self._postponed)
            self._postponed = []
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
        with self._changed:
            atexit.unregister(self._at_exit)
            if thread is None:
                self._end()
            self._is_told = True
            self._require_sent(self._count)

    def _empty(self) -> None:
        self._changed = threading.Condition()
        self._waiting = deque()
        self._postponed = []
        self._thread = None
        self._spool = None
        self._answers, self._refused_after = 0, -1  # the server's answers, also those before a proxy's last refusal
        self._put = self._done = self._refused = self._rejected = self._hurried = self._waited_for = 0
        self._deadline_s = 0.0
        self._seen = (0, False)
        self._has_ended = self._is_told = False

    def _end(self) -> None:
        """Close the connection and the spool.

        If a thread sends, only that thread calls this method, because the thread may be in a call when `close` returns.
        """
        self._has_ended = True
        self._hang_up()
        spool, self._spool = self._spool, None  # before `close`, so that a fork in between does not find a closed spool
        if spool is not None:
            spool.close()

    def _open_spool(self) -> None:
        if self._settings.spool is None or self._spool is not None or self._closing:
            return
        self._spool = Spool(Path(self._settings.spool), self._settings.spool_bytes)
        self._take([_Entry(number, item) for number, item in self._spool.left.items()])
        self._spool.left = {}

    @property
    def _count(self) -> int:
        return len(self._waiting) + len(self._postponed)

    def _take(self, found: Sequence[_Entry]) -> None:
        if not found:
            return
        for entry in found:
            self._put += 1
            entry.order = self._put
        self._waiting.extend(found)
        if self._thread is None or not self._thread.is_alive():
            at_end_of_child(self._at_exit)
            self._thread = threading.Thread(target=self._run, name="drawdown-client", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _wait_for_room(self, count: int) -> None:
        settings = self._settings
        if count > settings.queue_items:
            raise BadItem(f"too many items in one call: {count:,}, limit: {settings.queue_items:,}. Send fewer at once")

        def has_room() -> bool:
            return self._closing or self._count + count <= settings.queue_items

        may_wait = settings.when_full == "block" and threading.current_thread() is not self._thread
        if not has_room() and not (may_wait and self._changed.wait_for(has_room, settings.block_s)):
            raise QueueFull(
                f"queue is full (items: {self._count:,}, limit: {settings.queue_items:,}). Try again later, or "
                "drop the item"
            )

    def _require_sent(self, left: int) -> None:
        count, rejected = left + self._refused, self._rejected
        self._refused = self._rejected = 0
        if count or rejected:
            spool = self._settings.spool
            dead_letter = None if spool is None else str(dead_letter_of(Path(spool)))
            raise Unsent(count, kept=spool is not None, rejected=rejected, dead_letter=dead_letter)

    def _at_exit(self) -> None:
        try:
            self.close(self._settings.close_s)
        except Unsent as error:
            log.error("at the end of the program, %s", error)

    # The work of the thread.

    def _run(self) -> None:
        while batch := self._next():
            try:
                if not self._deliver(batch):
                    break
            except Exception:
                log.exception("cannot send items (%d); the client will retry", len(batch))
                self._pause(CLOSING_PAUSE_S, may_hurry=False)
        with self._changed:
            self._end()

    def _take_due(self) -> float | None:
        """Queue the postponed items that are due.

        Return the seconds until the next item is due; None without such an item.
        """
        now_s = self._world.monotonic_s()
        self._take([entry for entry in self._postponed if entry.refused.due_s <= now_s])
        self._postponed = [entry for entry in self._postponed if entry.refused.due_s > now_s]
        return min((entry.refused.due_s - now_s for entry in self._postponed), default=None)

    def _next(self) -> list[_Entry]:
        """Return the next batch, with items of one kind.

        The batch is empty if the client is closed and its time limit is over.
        """
        with self._changed:
            while not self._closing:
                next_s = self._take_due()
                if self._waiting:
                    break
                self._changed.wait(next_s)
            most = self._settings.batch_items
            self._changed.wait_for(
                lambda: len(self._waiting) >= most or self._closing or self._waited_for, self._settings.batch_ms / 1000
            )
            if self._is_late():
                return []
            found: list[_Entry] = []
            room = BATCH_BYTES
            for entry in islice(self._waiting, most):
                room -= len(entry.item.body) + 1
                if found and (entry.item.kind != found[0].item.kind or room < 0):
                    break
                found.append(entry)
            return found

    def _is_late(self) -> bool:
        return self._closing and self._world.monotonic_s() > self._deadline_s

    def _deliver(self, batch: Sequence[_Entry]) -> bool:
        """Send a batch until the server answers.

        Return False if the client was closed before an answer, and the batch still waits.
        """
        try:
            found = self._until_answered([entry.item for entry in batch])
        except Unreachable as error:
            log.warning("the client stopped sending, because it was closed before the server answered: %s", error)
            return False
        except Refused as error:
            if (error.status == TOO_LARGE or error.may_pass_later) and len(batch) > 1:
                middle = len(batch) // 2
                return self._deliver(batch[:middle]) and not self._is_late() and self._deliver(batch[middle:])
            if error.may_pass_later and self._postpone(batch[0], error):
                if self._refused_after == self._answers:  # all items may be refused
                    self._pause(pause_s(self._world, 1), may_hurry=False)
                self._refused_after = self._answers
                return True
            log.error("the server refused items (%d): %s", len(batch), error)
            found = [Result("refused", error.code, error.message)] * len(batch)
        self._answered(batch, found)
        return True

    def _postpone(self, entry: _Entry, error: Refused) -> bool:
        """Move an item that a proxy refused behind the others. False: it is lost."""
        if not entry.refused.add(self._world, self._answers):
            return False
        if entry.refused.tries == 1:
            log.warning("a proxy refused an item, so the client will retry: %s: %s", escape(entry.item.item_id), error)
        with self._changed:
            self._waiting.popleft()
            self._postponed.append(entry)
            self._done += 1
            self._changed.notify_all()
        return True

    def _until_answered(self, items: Sequence[Item]) -> list[Result]:
        backoff = Backoff(self._world, lambda: CLOSING_PAUSE_S if self._closing else LONGEST_PAUSE_S)

        def is_over(state: RetryCallState) -> bool:
            return self._closing and self._world.monotonic_s() + state.upcoming_sleep > self._deadline_s

        def send() -> list[Result]:
            self._seen = (self._hurried, self._closing)  # a flush or close during the call ends the pause after it
            return self._send(items[0].kind, items)

        again = Retrying(
            retry=retry_if_exception_type(Unreachable),
            wait=backoff,
            stop=is_over,
            sleep=lambda seconds: self._pause(seconds, may_hurry=not backoff.asked),
            before_sleep=say_again,
            reraise=True,
        )
        return again(send)

    def _pause(self, seconds: float, *, may_hurry: bool) -> None:
        """Wait before a retry.

        `close` ends the wait. `flush` ends the wait, too, unless the server requested it.
        """
        with self._changed:
            hurried, closing = self._seen
            self._changed.wait_for(
                lambda: self._closing != closing or (may_hurry and self._hurried != hurried), seconds
            )

    def _answered(self, batch: Sequence[_Entry], found: Sequence[Result]) -> None:
        is_refused = found[0].status == "refused"
        self._answers += not is_refused
        with self._changed:
            if self._spool is not None and not is_refused:
                self._spool.settle([(entry.number, entry.item) for entry in batch], found)
            for _ in batch:
                self._waiting.popleft()
            self._changed.notify_all()
        for entry, result in zip(batch, found, strict=True):
            self._tell(entry.item, result)
        with self._changed:
            self._done += len(batch)
            self._refused += len(batch) if is_refused else 0
            self._rejected += 0 if is_refused else sum(not one.is_kept for one in found)
            self._changed.notify_all()

    def _tell(self, item: Item, result: Result) -> None:
        if not result.is_kept and result.status != "refused":
            why = f"{result.status} {result.code}: {result.message}"
            log.error("item rejected: %s %s: %s: %s", item.kind, escape(item.item_id), why, item.body.decode())
        if result.status == "pending":
            self._pending.tell(item, result)
        if self._settings.on_result is None:
            return
        try:
            self._settings.on_result(item, result)
        except BaseException as error:  # the thread continues after any error of the callback
            log.error("on_result failed: %s", escape(str(error)), exc_info=None if self._on_result_failed else error)
            self._on_result_failed = True

    def _forked(self) -> None:
        """Reset the outbox in a forked process.

        The outbox then does not have waiting items, and has its own lock, thread and spool.
        """
        spool = self._spool
        self._empty()
        if spool is not None:
            spool.close()
