"""The guard for programs with an event loop: the methods of `guard` as coroutines.

Guarantee: if the task of a budget is cancelled, the client releases the budget before the cancellation continues.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import TypeVar

from drawdown_client import guard_words as words
from drawdown_client.calls import Call, escape
from drawdown_client.clock import World
from drawdown_client.connection import AsyncLine, Line
from drawdown_client.errors import ClientError, Refused, Unreachable
from drawdown_client.guard import EXTENDS_A_HOLD, LONGEST_S
from drawdown_client.guard_words import ENDED, HOLD_S, NOT_HELD, Decision, WayOut, Wish
from drawdown_client.items import Event, of_use
from drawdown_client.let_through import LetThrough
from drawdown_client.settings import Settings

T = TypeVar("T")

log = logging.getLogger("drawdown_client")


class AsyncGuard:
    """A client of the guard for one event loop. Errors of all methods: as `Guard`."""

    def __init__(
        self, line: AsyncLine, reports: Line, settings: Settings | None = None, world: World | None = None
    ) -> None:
        """Create a client.

        `reports`: the connection of the threads that send uses allowed without a response.
        """
        self._line = line
        self._reports = reports
        self._world = world or World()
        self._settings = settings or Settings()
        self.fail_open = LetThrough(self._settings, self._world, reports.once)
        """Uses that the client allowed without a response, and that the server does not have yet."""

    async def check(self, wish: Wish) -> Decision:
        """Return the decision on a use, without counting the use."""
        away = await self._send()
        try:
            return await self._decide(words.check(wish), away)
        except Unreachable as error:
            if not self.fail_open.admits(wish, error):
                raise
            return words.UNANSWERED

    async def options(self, wish: Wish) -> tuple[WayOut, ...]:
        """Return the four ways out of a block, and which are open now.

        The ways out are: top up, sponsor, request a limit override, run locally. Errors: also ValueError without an
        organisation.
        """
        return words.ways_out(await self._line.ask(words.options(wish)))

    async def consume(self, key: str, wish: Wish, *, event: Event | str | None = None) -> Decision:
        """Use a quantity at once, if the guard allows the use.

        `event`: an event, or a type, to emit with the use. Drawdown counts the use and bills the event, or does
        neither. Errors: also BadItem.
        """
        said = None if event is None else of_use(event, self._world.now_ms())
        call, late = (words.consume(key, wish, said, late=is_late) for is_late in (False, True))
        return await self._use(key, wish, call, late)

    async def reserve(self, key: str, wish: Wish, *, hold_s: float | None = None) -> Decision:
        """Reserve a quantity, if the guard allows the use.

        `hold_s`: the length of the reservation in seconds; None: an hour.
        """
        late = words.reserve(key, wish, hold_s, late=True)
        return await self._use(key, wish, words.reserve(key, wish, hold_s), late)

    async def settle(self, key: str, actual: int, *, reason: str | None = None) -> Decision:
        """Settle a reserved use with its total quantity.

        You can also settle a reservation that has expired.
        """
        return await self._end(key, words.settle(key, actual, reason))

    async def release(self, key: str, incurred: int = 0, *, reason: str | None = None) -> Decision:
        """Release a reserved use, and count only the quantity `incurred`."""
        return await self._end(key, words.release(key, incurred, reason))

    async def extend(self, key: str, *, to: int | None = None, hold_s: float | None = None) -> Decision:
        """Extend a reserved use, and increase its quantity to `to`.

        `to`: the total quantity; None: unchanged. `hold_s`: the length from now in seconds; None: an hour. The call
        never reduces the quantity or the time until expiry.
        """
        return await self._end(key, words.extend(key, to, hold_s))

    async def close(self, timeout_s: float | None = None) -> None:
        """Send the uses that were allowed without a response, as `Guard.close` does."""
        timeout_s = self._settings.close_s if timeout_s is None else timeout_s
        sent = asyncio.wrap_future(self.fail_open.send_in_thread(closing_s=timeout_s))
        try:
            await asyncio.wait([sent], timeout=timeout_s)
        finally:
            sent.cancel()
            self.fail_open.give_up()
            self._reports.close()

    async def _use(self, key: str, wish: Wish, call: Call, late: Call) -> Decision:
        """Return the server's decision on a use.

        If the server does not answer this call, the client allows a use of a metric in `fails_open`. If reports of
        earlier uses wait, the call has only one attempt.
        """
        away = await self._send(key)
        is_open = away is not None and self.fail_open.admits(wish, away)
        if away is not None and is_open and self.fail_open.has(key):
            return self.fail_open.keep(key, late, away)
        try:
            found = await self._decide(call, away, is_open=is_open)
        except Unreachable as error:
            if not self.fail_open.admits(wish, error):
                raise
            return self.fail_open.keep(key, late, error)
        if found.reason == words.UNWRITTEN:
            self.fail_open.keep_unwritten(key, late)
        return found

    async def _end(self, key: str, call: Call) -> Decision:
        away = await self._send(key)
        if away is not None and self.fail_open.has(key):
            return self.fail_open.keep(key, call, away)
        return await self._decide(call, away)

    async def _decide(self, call: Call, away: Unreachable | None, *, is_open: bool = False) -> Decision:
        """Return the server's decision.

        `away`: the error of an earlier report. If the server answers now, only that report failed. `is_open`: True to
        make only one attempt, because the client allows the use without a response.
        """
        found = words.decided(await (self._line.once(call) if is_open else self._line.ask(call)))
        self.fail_open.note_answer()
        if away is not None and found.reason != words.UNWRITTEN:
            self.fail_open.postpone_first()
        return found

    async def _send(self, key: str | None = None) -> Unreachable | None:
        """Send allowed uses in the daemon thread. A cancelled call does not wait."""
        if self.fail_open.first() is None:
            return None
        return await asyncio.wrap_future(self.fail_open.send_in_thread(key))

    def budget(
        self, key: str, metric: str, estimate: int, *, org_id: str | None = None, project: str | None = None,
        subject: str | None = None, payer: str | None = None, hold_s: float = HOLD_S, extend: bool = False,
        longest_s: float = LONGEST_S,
    ) -> AsyncBudget:  # fmt: skip
        """Return a budget, which reserves an estimate while its block runs.

        If the API key is bound to an organisation, omit `org_id`. `key`: the key of the use. `hold_s`: the
        length of the reservation in seconds. `extend`: True to extend the reservation until the block ends, for up to
        `longest_s` seconds.
        """
        wish = Wish(org_id, metric, estimate, project, subject, payer)
        return AsyncBudget(self, key, wish, hold_s, longest_s if extend else 0.0)


class AsyncBudget:
    """A budget for one event loop, as `Budget`. A cancelled task also releases it."""

    def __init__(self, guard: AsyncGuard, key: str, wish: Wish, hold_s: float, longest_s: float) -> None:
        self.key = key
        self.actual: int | None = None
        self.answer: Decision | None = None
        """The guard's response to the entry, and later to the end."""
        self._guard = guard
        self._wish = wish
        self._hold_s = hold_s
        self._longest_s = longest_s
        self._going_on: asyncio.Task[None] | None = None

    async def __aenter__(self) -> AsyncBudget:
        try:
            self.answer = await _whole(self._guard.reserve(self.key, self._wish, hold_s=self._hold_s))
        except ClientError:
            raise
        except BaseException:  # if it was cancelled, the server may have reserved it
            await _whole(self._give_up(0, "interrupted"))
            raise
        words.require_held(self.key, self.answer)
        if self._longest_s:
            self._going_on = asyncio.create_task(self._go_on())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._going_on is not None:
            self._going_on.cancel()
        if kind is not None:
            await _whole(self._give_up(self.actual or 0, kind.__name__))
            return
        used = self._wish.quantity if self.actual is None else self.actual
        self.answer = await _whole(self._guard.settle(self.key, used))

    async def _give_up(self, incurred: int, why: str) -> None:
        """Release the reservation after the block raised an error.

        The caller gets that error, so a failure here is only logged.
        """
        try:
            try:
                await self._guard.release(self.key, incurred, reason=why)
            except Refused as error:
                if error.code != ENDED or not incurred:
                    raise
                await self._guard.settle(
                    self.key, incurred, reason=why
                )  # the reservation had expired: settle the quantity late
        except ClientError as error:
            if isinstance(error, Refused) and error.code == NOT_HELD and not incurred:
                return
            of = escape(self.key)
            log.warning("%s: cannot send usage of %d, so the reservation will expire: %s", of, incurred, error)

    async def _go_on(self) -> None:
        turn_s = self._hold_s / EXTENDS_A_HOLD
        for _ in range(int(self._longest_s / turn_s)):
            await asyncio.sleep(turn_s)
            try:
                await self._guard.extend(self.key, hold_s=self._hold_s)
            except ClientError as error:
                log.warning("cannot extend the reservation of %s: %s", escape(self.key), error)
                if isinstance(error, Refused) and not error.may_pass_later:
                    return


async def _whole(work: Coroutine[object, object, T]) -> T:
    """Run work to its end, and raise a cancellation only afterwards.

    The time limits of a call bound the wait.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:
            break
    if cancelled is not None:
        if not task.cancelled() and task.exception() is not None:
            log.warning("task was cancelled: %s", task.exception())
        raise cancelled
    return task.result()
