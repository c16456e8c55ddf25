"""Allow uses of fail-open metrics while the database is unavailable.

Drawdown records these uses after the outage.

Guarantee: Drawdown allows such a use only if this process knows its API key, that key has not expired, and the metric
fails open. The outage of the organisation must be shorter than FAIL_OPEN_MS, and so must that of the whole process.
After the outage, Drawdown counts each use with its quantity, under its use key. If a program repeats the call
meanwhile, the use counts once. If KEPT_AT_MOST uses are unrecorded, Drawdown refuses further uses. Until a use is
recorded, Drawdown refuses calls that change or end it. If a rule refuses the record, or the process ends first, the
process logs the use with its quantity, and the use is lost.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Final, Generic, TypeVar

import sqlalchemy as sa
import structlog

from drawdown.guard.decide import decide
from drawdown.schema import database
from drawdown.schema.errors import DatabaseBusy, DatabaseNotReady, DrawdownError
from drawdown.schema.text import quote_value
from drawdown.schema.units import MINUTE_MS, SECOND_MS
from drawdown.server.api.programs import RECALLED_MS, Find, soon
from drawdown.server.http.errors import SOON, ApiError, unauthorized
from drawdown.server.http.limits import describe_error
from drawdown.server.http.threads import Threads
from drawdown.server.services import Services
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.executions.actions import LIFE_MS
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.counters import LimitReached
from drawdown.worker.guard.terms import Metric
from drawdown.worker.guard.use import Answer, Ask, Costs, answer, require_key
from drawdown.worker.verdict.refresh_requests import in_doubt

log = structlog.get_logger()
T = TypeVar("T")

FAIL_OPEN_MS: Final = 15 * MINUTE_MS
"""Milliseconds of an outage in which a server allows uses of fail-open metrics.

An outage ends if the database answers. It also ends after this time without a failed call, if each use is recorded.
"""
WITHIN_S: Final = 2.0
"""Seconds that a check or a use of a fail-open metric waits for the database.

The record of an allowed use waits as long for each lock.
"""
LOOK_AGAIN_MS: Final = SECOND_MS
"""Time after a failed call of an organisation during which its calls do not wait for the database.

After a failed read of a remembered key, a process does not read remembered keys for as long.
"""
MOST_REMEMBERED: Final = 1_000
"""API keys that a process remembers for an outage.

Remembered metrics, and organisations with a failed call, have the same limit.
"""
REMEMBERED_MS: Final = 60 * MINUTE_MS
"""Longest time for which a process remembers a key or metric for an outage."""
LEARNED_EVERY_MS: Final = MINUTE_MS
"""Age of a metric's terms from which a server's guard reads them again."""
KEPT_AT_MOST: Final = 10_000
"""Uses that a process allowed without the database and has not recorded yet."""
RECORD_EVERY_S: Final = 1.0
"""Seconds between two attempts to record uses of an outage."""
MOST_FAILED: Final = 3
"""Organisations with a failed record after which an attempt to record uses ends. The next begins with the others."""
CLOSING_S: Final = 5.0
"""Seconds that an ending process waits to record uses."""
_ALL: Final = ""  # not an organisation's id
UNREADABLE: Final = "database_unreadable"
OUTCOMES: Final = ("let_through", "recorded", "lost")
AWAY: Final = (DatabaseBusy, DatabaseNotReady, TimeoutError)


class Memory(Generic[T]):
    """The last values by name, bounded in number and age."""

    def __init__(self) -> None:
        self._said: OrderedDict[str, tuple[int, T]] = OrderedDict()

    def put(self, name: str, value: T, now_ms: int) -> None:
        self._said[name] = (now_ms, value)
        self._said.move_to_end(name)
        if len(self._said) > MOST_REMEMBERED:
            self._said.popitem(last=False)

    def get(self, name: str, now_ms: int, most_ms: int = REMEMBERED_MS) -> T | None:
        at_ms, value = self._said.get(name, (0, None))
        return value if 0 <= now_ms - at_ms <= most_ms else None

    def forget(self, name: str) -> None:
        self._said.pop(name, None)


class FailOpen:
    """The fail-open memory of one process.

    `uses`: the number of uses without the database, by outcome: let_through, recorded or lost.
    """

    def __init__(self, services: Services, threads: Threads, reading: Threads, find: Find) -> None:
        self._services = services
        self._look_up = find
        self._threads = threads
        self._reading = reading
        self._keys: Memory[ApiKey] = Memory()
        self._unread_ms: int | None = None  # the last failed read of a remembered key
        self._terms: Memory[Metric] = Memory()
        self._outages: Memory[int] = Memory()  # the start, as of the last failed call, by organisation and for _ALL
        self._kept: OrderedDict[str, Ask] = OrderedDict()
        self._recording = asyncio.Lock()
        self._closing = threading.Lock()  # for the next two values, which `close` and its thread share
        self._is_closed = False
        self._under_way: str | None = None
        self._loop: asyncio.Task[None] | None = None
        self.uses: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))

    async def find(self, offered: str, now_ms: int) -> ApiKey | None:
        """Return the API key in this text; None if it is unknown, expired or revoked.

        If the database does not answer, return the remembered key. Errors: the errors in AWAY, if the key is not
        remembered; ApiError 429, 503.
        """
        return await self._find(api_keys.hash_of(offered), now_ms)

    async def recall_key(self, offered: str, now_ms: int) -> ApiKey | None:
        """Return a recently found API key from memory, or read it now.

        The caller must read the key again in its transaction, and call `remember_key` with the result. None and errors:
        as in `find`.
        """
        proof = api_keys.hash_of(offered)
        return self._cached_key(proof, now_ms, RECALLED_MS) or await self._find(proof, now_ms)

    async def confirm_key(self, key: ApiKey) -> ApiKey:
        """Read a remembered API key again, and return it.

        The result can be the remembered key, as in `find`. Errors: ApiError 401 for an expired or revoked key; the
        errors of `find`.
        """
        found = await self._find(key.proof, self._services.clock.now_ms())
        if found is None:
            raise unauthorized()
        return found

    def remember_key(self, proof: str, found: ApiKey | None, now_ms: int) -> None:
        """Remember a key as the database stores it, or forget it if `found` is None."""
        if found is None:
            self._keys.forget(proof)
        else:
            self._keys.put(proof, found, now_ms)

    async def _find(self, proof: str, now_ms: int) -> ApiKey | None:
        remembered = self._keys.get(proof, now_ms) is not None
        if not remembered or not self._read_just_failed():
            if remembered and self._unread_ms is not None:  # one call tries again, and others need not wait with it
                self._unread_ms = self._services.clock.now_ms() + int(WITHIN_S * SECOND_MS)
            try:
                look_up = partial(self._look_up, proof, now_ms)
                found = await self._ask_database(look_up, None, quick=remembered, ends=False)
            except AWAY:
                if not remembered:
                    raise
                self._unread_ms = self._services.clock.now_ms()
            else:
                self._unread_ms = None
                self.remember_key(proof, found, now_ms)
                return found
        known = self._cached_key(proof, now_ms)
        return None if known is None else replace(known, recalled=True)

    def _read_just_failed(self) -> bool:
        now_ms = self._services.clock.now_ms()
        return self._unread_ms is not None and -WITHIN_S * SECOND_MS <= now_ms - self._unread_ms < LOOK_AGAIN_MS

    def _cached_key(self, proof: str, now_ms: int, most_ms: int = REMEMBERED_MS) -> ApiKey | None:
        """Return the remembered key, unless it expired or is too old."""
        known = self._keys.get(proof, now_ms, most_ms)
        is_over = known is not None and known.expires_ms is not None and now_ms >= known.expires_ms
        return None if is_over else known

    async def ask(self, asked: Ask, work: Callable[[], Awaitable[Answer]], *, uses: bool = True) -> Answer:
        """Return the result of `work`, or a decision without the database.

        `uses`: True for a use, False for a check. Errors: the errors of `work`; Denied `other_content`; ApiError 503.
        """
        metric, now = asked.wish.metric, asked.by.now_ms
        terms = self._terms.get(metric, now)
        quick, ends = terms is not None and terms.fails_open, uses or not self._kept
        try:
            # The allowed use is recorded before its repeat.
            if uses and not await self._written(asked.name, quick=True):
                raise DatabaseBusy(_unrecorded(asked.key))
            found = await self._ask_database(work, asked.wish.org_id, quick=quick, ends=ends)
        except LimitReached:  # the database answered
            raise
        except AWAY as error:
            if terms is None or not terms.fails_open or not self._is_young(asked.wish.org_id):
                raise _not_now(error) from error
            return self._let_through(asked, terms, uses=uses)
        if self._terms.get(metric, now, LEARNED_EVERY_MS) is None:
            await self._learn(metric, asked.wish.org_id, now)
        return found

    async def _learn(self, metric: str, org_id: str, now_ms: int) -> None:
        """Read the terms of a metric, so that they are in memory during an outage."""
        with suppress(*AWAY, ApiError):
            work = partial(self._reading.read, lambda c: guard_terms.find(c, metric))
            self._terms.put(metric, await self._ask_database(work, org_id, quick=True, ends=False), now_ms)

    async def before(self, key: str) -> None:
        """Record the allowed uses with this use key, before a call changes or ends them.

        Errors: ApiError 503 if these uses cannot be recorded yet.
        """
        its_own = [name for name, use in self._kept.items() if use.key == key]
        if not all([await self._written(name) for name in its_own]):
            raise ApiError(503, "database", _unrecorded(key), headers=SOON)

    async def record(self) -> None:
        """Record the allowed uses of each organisation in their order.

        If a record fails, the uses of its organisation wait for the next attempt, behind those of the others.
        """
        failed: set[str] = set()
        async with self._recording:
            for name, use in list(self._kept.items()):
                if use.wish.org_id in failed or await self._written(name):
                    continue
                failed.add(use.wish.org_id)
                if len(failed) == MOST_FAILED:
                    break
            for name in [name for name, use in self._kept.items() if use.wish.org_id in failed]:
                self._kept.move_to_end(name)

    async def _written(self, name: str, *, quick: bool = False) -> bool:
        """Record one use, and return True if it is no longer pending.

        If another task recorded the use meanwhile, the use counts once.
        """
        use = self._kept.get(name)
        if use is None:
            return True
        try:
            await self._ask_database(lambda: self._threads.write(self._recorder(use)), use.wish.org_id, quick=quick)
        except (*AWAY, ApiError):
            return False
        except DrawdownError as error:
            if self._kept.pop(name, None) is not None:
                self._lose(use, error)
            return True
        if self._kept.pop(name, None) is not None:
            self.uses["recorded"] += 1
        return True

    def close(self) -> None:
        """Record all pending uses, and log each use that is lost.

        If a record is still under way after CLOSING_S, its thread logs the use if the record fails.
        """
        recording = None
        if self._kept:
            pool = ThreadPoolExecutor(1)
            recording = pool.submit(self._record_now)
            wait([recording], CLOSING_S)
            pool.shutdown(wait=False, cancel_futures=True)
        with self._closing:
            self._is_closed = True
            under_way = None if recording is None or recording.done() else self._under_way
            rest = [name for name in self._kept if name != under_way]
        for name in rest:
            if (use := self._kept.pop(name, None)) is not None:
                self._lose(use, DatabaseBusy("the process ended before the database was available"))

    def _record_now(self) -> None:
        failed: set[str] = set()
        for key, use in list(self._kept.items()):
            if use.wish.org_id in failed:
                continue
            try:
                database.write(self._services.engine, partial(self._begin_record, key, self._recorder(use)))
            except DatabaseBusy as error:
                with self._closing:
                    is_late, has_begun = self._is_closed, self._under_way == key
                    self._under_way = None
                if is_late and has_begun:
                    self._lose(self._kept.pop(key, use), error)
                if is_late:
                    return
                failed.add(use.wish.org_id)
                if len(failed) == MOST_FAILED:
                    return
                continue
            except DrawdownError as error:
                self._lose(use, error)
            else:
                self.uses["recorded"] += 1
            self._kept.pop(key, None)  # the use itself may have been repeated and recorded meanwhile

    def _begin_record(self, key: str, work: Callable[[sa.Connection], Answer], connection: sa.Connection) -> Answer:
        """Record a use, unless `close` logged it as lost. Errors: DatabaseBusy."""
        with self._closing:
            if self._is_closed and self._under_way != key:
                raise DatabaseBusy("the process ended before the record began")
            self._under_way = key
        return work(connection)

    def _recorder(self, use: Ask) -> Callable[[sa.Connection], Answer]:
        """Return the work that records a use. The use counts at the time of the record.

        The wait for each lock is at most WITHIN_S, so that one locked wallet does not use up the threads.
        """

        def work(connection: sa.Connection) -> Answer:
            with database.waiting_at_most(connection, int(WITHIN_S * SECOND_MS)):
                return guard.take(connection, replace(use.at(self._services.clock.now_ms()), failed_open=True))

        return work

    def _lose(self, use: Ask, error: DrawdownError) -> None:
        self.uses["lost"] += 1
        said = {"key": use.key, "org": use.wish.org_id, "metric": use.wish.metric, "quantity": use.wish.quantity}
        log.error("guard_use_lost", **said, **describe_error(error))

    async def _ask_database(
        self, work: Callable[[], Awaitable[T]], org_id: str | None, *, quick: bool, ends: bool = True
    ) -> T:
        """Return the result of `work` in the database.

        `org_id`: the organisation of the call; None for the read of a key, which does not begin an outage. `quick`:
        wait at most WITHIN_S. `ends`: True if a result ends the outage. The read of a key does not end it, because a
        locked database can still be read. Errors: AWAY and ApiError, if the database does not answer; the errors of
        `work`.
        """
        began_ms = self._services.clock.now_ms()
        if quick and org_id is not None and self._outages.get(org_id, began_ms, LOOK_AGAIN_MS - 1) is not None:
            raise DatabaseBusy("the database did not answer the last request. Send the request again later")
        try:
            async with asyncio.timeout(WITHIN_S if quick else None):
                found = await soon(work())
        except LimitReached:
            raise
        except (*AWAY, ApiError) as error:
            if isinstance(error, ApiError) and error.status < HTTPStatus.INTERNAL_SERVER_ERROR:  # too many requests
                raise
            if org_id is not None:
                self._note_failure(org_id, began_ms)
            raise
        if ends and org_id is not None:
            for name in (org_id, _ALL):
                self._outages.forget(name)
        return found

    def _note_failure(self, org_id: str, began_ms: int) -> None:
        """Begin or continue an organisation's outage, and the outage of all.

        `began_ms`: the start of the call that failed now. Other organisations can succeed meanwhile, for example if one
        wallet is locked.
        """
        now_ms = self._services.clock.now_ms()
        for name in (org_id, _ALL):
            since_ms = self._began_ms(name, now_ms)
            self._outages.put(name, began_ms if since_ms is None else since_ms, now_ms)

    def _began_ms(self, name: str, now_ms: int) -> int | None:
        return self._outages.get(name, now_ms, REMEMBERED_MS if self._kept else FAIL_OPEN_MS)

    def _is_young(self, org_id: str) -> bool:
        now_ms = self._services.clock.now_ms()
        own_ms, all_ms = self._began_ms(org_id, now_ms), self._began_ms(_ALL, now_ms)
        return own_ms is not None and now_ms - min(own_ms, own_ms if all_ms is None else all_ms) <= FAIL_OPEN_MS

    def _let_through(self, asked: Ask, terms: Metric, *, uses: bool) -> Answer:
        """Allow a use without the database.

        Errors: Denied `other_content`; ApiError 503 at the limit of pending uses.
        """
        facts = replace(in_doubt(UNREADABLE, allowed=True), phase=terms.phase)
        verdict = replace(decide(facts, asked.wish.quantity), reason=UNREADABLE)
        costs = Costs(terms.price.of(asked.wish.quantity), degraded=True)
        said = answer(asked.wish.metric, asked.wish.quantity, verdict, costs, asked.by.now_ms)
        if not uses:
            return said
        before = self._kept.get(asked.name)
        if before is None:
            self._keep(asked)
        elif before.fingerprint != asked.fingerprint:
            raise guard.other_content(asked.key)
        until = asked.by.now_ms + (asked.wish.for_ms or LIFE_MS) if asked.state == "held" else None
        return replace(said, state=asked.state, repeated=before is not None, expires_ms=until)

    def _keep(self, use: Ask) -> None:
        require_key(use.key)
        if len(self._kept) >= KEPT_AT_MOST:
            raise ApiError(
                503,
                "database",
                f"cannot allow the use: the database is unavailable, and {KEPT_AT_MOST:,} allowed uses wait to be "
                "recorded. Send the request again later",
                headers=SOON,
            )
        if not self._kept:
            log.error("guard_fail_open", metric=use.wish.metric, org=use.wish.org_id)
        self._kept[use.name] = use
        self.uses["let_through"] += 1
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._go_on())

    async def _go_on(self) -> None:
        while self._kept:  # until Drawdown has recorded all kept uses, or the process ends
            await asyncio.sleep(RECORD_EVERY_S)
            await self.record()


def _unrecorded(key: str) -> str:
    return f"an allowed use with the key {quote_value(key)} is not recorded yet. Send the same request again"


def _not_now(error: BaseException) -> BaseException:
    if isinstance(error, TimeoutError):
        message = (
            "the database timed out, so the request may have succeeded. Send the same request again, because "
            "this is safe"
        )
        return ApiError(503, "answer_lost", message, headers=SOON)
    return error
