"""The guard for programs with threads.

A program checks a use before the use starts, and reserves the possible quantity while the use runs.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Final

from drawdown_client import guard_words as words
from drawdown_client.calls import Call, escape
from drawdown_client.clock import World
from drawdown_client.connection import Line
from drawdown_client.errors import ClientError, Refused, Unreachable
from drawdown_client.guard_words import ENDED, HOLD_S, NOT_HELD, Decision, WayOut, Wish
from drawdown_client.items import Event, of_use
from drawdown_client.let_through import LetThrough
from drawdown_client.settings import Settings

EXTENDS_A_HOLD: Final = 3
"""Extensions of a budget during one reservation time (`hold_s`)."""
LONGEST_S: Final = 86_400.0
"""Default seconds for which a budget is extended."""

log = logging.getLogger("drawdown_client")


class Guard:
    """A thread-safe client of the guard.

    Errors of all methods: Refused; Unreachable after all attempts. If the server does not answer, the client allows a
    use of a metric in `fails_open`, and sends the use later. For other metrics, it raises Unreachable, and the program
    decides.
    """

    def __init__(self, line: Line, settings: Settings | None = None, world: World | None = None) -> None:
        self._line = line
        self._world = world or World()
        self._settings = settings or Settings()
        self.fail_open = LetThrough(self._settings, self._world, line.once)
        """Uses that the client allowed without a response, and that the server does not have yet."""

    def check(self, wish: Wish) -> Decision:
        """Return the decision on a use, without counting the use."""
        away = self.fail_open.send()
        try:
            return self._decide(words.check(wish), away)
        except Unreachable as error:
            if not self.fail_open.admits(wish, error):
                raise
            return words.UNANSWERED

    def options(self, wish: Wish) -> tuple[WayOut, ...]:
        """Return the four ways out of a block, and which are open now.

        The ways out are: top up, sponsor, request a limit override, run locally. Errors: also ValueError without an
        organisation.
        """
        return words.ways_out(self._line.ask(words.options(wish)))

    def consume(self, key: str, wish: Wish, *, event: Event | str | None = None) -> Decision:
        """Use a quantity at once, if the guard allows the use.

        `event`: an event, or a type, to emit with the use. Drawdown counts the use and bills the event, or does
        neither. Errors: also BadItem.
        """
        said = None if event is None else of_use(event, self._world.now_ms())
        call, late = (words.consume(key, wish, said, late=is_late) for is_late in (False, True))
        return self._use(key, wish, call, late)

    def reserve(self, key: str, wish: Wish, *, hold_s: float | None = None) -> Decision:
        """Reserve a quantity, if the guard allows the use.

        `hold_s`: the length of the reservation in seconds; None: an hour.
        """
        late = words.reserve(key, wish, hold_s, late=True)
        return self._use(key, wish, words.reserve(key, wish, hold_s), late)

    def settle(self, key: str, actual: int, *, reason: str | None = None) -> Decision:
        """Settle a reserved use with its total quantity.

        You can also settle a reservation that has expired.
        """
        return self._end(key, words.settle(key, actual, reason))

    def release(self, key: str, incurred: int = 0, *, reason: str | None = None) -> Decision:
        """Release a reserved use, and count only the quantity `incurred`."""
        return self._end(key, words.release(key, incurred, reason))

    def extend(self, key: str, *, to: int | None = None, hold_s: float | None = None) -> Decision:
        """Extend a reserved use, and increase its quantity to `to`.

        `to`: the total quantity; None: unchanged. `hold_s`: the length from now in seconds; None: an hour. The call
        never reduces the quantity or the time until expiry.
        """
        return self._end(key, words.extend(key, to, hold_s))

    def close(self, timeout_s: float | None = None) -> None:
        """Send the uses that were allowed without a response, and log those not sent.

        `timeout_s`: the time limit in seconds; None: `close_s` of the settings.
        """
        self.fail_open.close(self._settings.close_s if timeout_s is None else timeout_s)

    def _use(self, key: str, wish: Wish, call: Call, late: Call) -> Decision:
        """Return the server's decision on a use.

        If the server does not answer this call, the client allows a use of a metric in `fails_open`. If reports of
        earlier uses wait, the call has only one attempt.
        """
        away = self.fail_open.send(key)
        is_open = away is not None and self.fail_open.admits(wish, away)
        if away is not None and is_open and self.fail_open.has(key):
            return self.fail_open.keep(key, late, away)
        try:
            found = self._decide(call, away, is_open=is_open)
        except Unreachable as error:
            if not self.fail_open.admits(wish, error):
                raise
            return self.fail_open.keep(key, late, error)
        if found.reason == words.UNWRITTEN:
            self.fail_open.keep_unwritten(key, late)
        return found

    def _end(self, key: str, call: Call) -> Decision:
        away = self.fail_open.send(key)
        if away is not None and self.fail_open.has(key):
            return self.fail_open.keep(key, call, away)
        return self._decide(call, away)

    def _decide(self, call: Call, away: Unreachable | None, *, is_open: bool = False) -> Decision:
        """Return the server's decision.

        `away`: the error of an earlier report. If the server answers now, only that report failed. `is_open`: True to
        make only one attempt, because the client allows the use without a response.
        """
        found = words.decided(self._line.once(call) if is_open else self._line.ask(call))
        self.fail_open.note_answer()
        if away is not None and found.reason != words.UNWRITTEN:
            self.fail_open.postpone_first()
        return found

    def budget(
        self, key: str, metric: str, estimate: int, *, org_id: str | None = None, project: str | None = None,
        subject: str | None = None, payer: str | None = None, hold_s: float = HOLD_S, extend: bool = False,
        longest_s: float = LONGEST_S,
    ) -> Budget:  # fmt: skip
        """Return a budget, which reserves an estimate while its block runs.

        If the API key is bound to an organisation, omit `org_id`. `key`: the key of the use. `hold_s`: the
        length of the reservation in seconds. `extend`: True to extend the reservation until the block ends, for up to
        `longest_s` seconds.
        """
        wish = Wish(org_id, metric, estimate, project, subject, payer)
        return Budget(self, key, wish, hold_s, longest_s if extend else 0.0)


class Budget:
    """A context manager that reserves an estimate on entry, and settles at the end.

    The budget settles with `actual`, or with the estimate if `actual` is None. Errors on entry: Blocked; those of
    `Guard`.

    If the block raises an error or an interrupt, the budget releases the reservation. The incurred quantity is then
    `actual`, or 0 if `actual` is None.
    """

    def __init__(self, guard: Guard, key: str, wish: Wish, hold_s: float, longest_s: float) -> None:
        self.key = key
        self.actual: int | None = None
        self.answer: Decision | None = None
        """The guard's response to the entry, and later to the end."""
        self._guard = guard
        self._wish = wish
        self._hold_s = hold_s
        self._longest_s = longest_s
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Budget:
        try:
            self.answer = self._guard.reserve(self.key, self._wish, hold_s=self._hold_s)
        except ClientError:
            raise
        except BaseException:  # after an interrupt, the server may have reserved it
            self._give_up(0, "interrupted")
            raise
        words.require_held(self.key, self.answer)
        if self._longest_s:
            self._thread = threading.Thread(target=self._go_on, name=f"drawdown-budget {self.key}", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if kind is not None:
            self._give_up(self.actual or 0, kind.__name__)
            return
        self.answer = self._guard.settle(self.key, self._wish.quantity if self.actual is None else self.actual)

    def _give_up(self, incurred: int, why: str) -> None:
        """Release the reservation after the block raised an error.

        The caller gets that error, so a failure here is only logged.
        """
        try:
            try:
                self._guard.release(self.key, incurred, reason=why)
            except Refused as error:
                if error.code != ENDED or not incurred:
                    raise
                self._guard.settle(self.key, incurred, reason=why)  # the reservation had expired: settle late
        except ClientError as error:
            if isinstance(error, Refused) and error.code == NOT_HELD and not incurred:
                return
            of = escape(self.key)
            log.warning("%s: cannot send usage of %d, so the reservation will expire: %s", of, incurred, error)

    def _go_on(self) -> None:
        turn_s = self._hold_s / EXTENDS_A_HOLD
        for _ in range(int(self._longest_s / turn_s)):
            if self._over.wait(turn_s):
                return
            try:
                self._guard.extend(self.key, hold_s=self._hold_s)
            except ClientError as error:
                if self._over.is_set():
                    return
                log.warning("cannot extend the reservation of %s: %s", escape(self.key), error)
                if isinstance(error, Refused) and not error.may_pass_later:
                    return
