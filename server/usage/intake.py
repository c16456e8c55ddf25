"""Limit, unpack, read, store and answer bodies of events and samples.

One transaction stores the items of a body.

Guarantee: the response 200 comes after the commit, and an invalid item does not affect others. A refused batch does not
change the database. Reading and storing have their own threads, so a batch does not delay an execution, the gate or a
webhook. At most MOST_BATCHES batches are in progress or wait, and each key has a limited share of this number. At most
AT_ONCE batches are unpacked at a time. With large batches, keys take turns. So a busy key's large batches delay another
key's only by the batches in progress. A small body, such as one event, does not wait for large batches. Up to
SINGLE_BYTES, it shares a transaction with concurrent bodies of its key (`singles`). A body that is still arriving waits
only for its sender, within the budget of all bodies. Drawdown counts invalid items in memory. It writes the counts
every EVERY_S in another task, so requests do not wait for them.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from threading import Lock
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

import sqlalchemy as sa
import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse

from drawdown.events.body_items import Unreadable
from drawdown.events.cloudevents import JSON, is_binary, type_of
from drawdown.events.envelope import Named, Unfit
from drawdown.events.example import example_of
from drawdown.schema.clock import Clock
from drawdown.schema.database import read, write
from drawdown.schema.errors import DrawdownError
from drawdown.schema.text import MAX_ERROR_CHARS, clean, quote_value
from drawdown.server.api.programs import WITHIN_S, Programs, of_program, soon
from drawdown.server.http import limits
from drawdown.server.http.bodies import SMALL_BODY_BYTES, Budget, body_of, is_packed, unpack
from drawdown.server.http.callers import TokenBuckets
from drawdown.server.http.errors import SOON, ApiError, unauthorized
from drawdown.server.http.threads import Threads
from drawdown.server.services import Services
from drawdown.server.usage.singles import SINGLE_BYTES, Singles
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import ApiKey
from drawdown.worker.sources.events import types as charged
from drawdown.worker.sources.events.store import REPEATED, EventResult, Status
from drawdown.worker.usage import invalid
from drawdown.worker.usage.invalid import InvalidItems

MAX_BYTES: Final = 4 * 1024 * 1024
"""Largest body of events or samples as sent, in bytes."""
MAX_UNPACKED_BYTES: Final = 8 * 1024 * 1024
"""Largest unpacked body of events or samples, in bytes.

1,000 items of 8 KB fit.
"""
AT_ONCE: Final = 2
"""Concurrent batches.

Shared transactions of small bodies have the same limit. All transactions of a process use fewer connections than its
engine has.
"""
MOST_BATCHES: Final = 32
"""Batches that run or wait.

A batch counts from the arrival of its whole body, so that slow senders do not use up the limit.
"""
MOST_BATCHES_OF_A_KEY: Final = 16
"""Batches of one key while other keys do not send.

A key can add a batch only while it has fewer batches than the free slots of MOST_BATCHES. Two busy keys thus leave room
for a third key.
"""
STATUSES: Final = ("accepted", charged.CODE, "conflict", "duplicate", "invalid", "pending")
"""Outcomes by which the metrics count items.

An event that the guard charges at once is invalid, but its sender cannot fix the event.
"""
KEPT: Final = ("accepted", "duplicate", "pending")
"""Statuses of items that the server keeps."""
KINDS: Final = ("events", "samples")
ONCE: Final = ("content-type", "content-encoding")
"""Headers that define how to read a body."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Result:
    """The outcome of an item.

    `code` and `message`: the fault, or a note about a stored item; None without either. `at`: the place of the fault in
    the item. `named`: the source and the id in the item.
    """

    status: Status
    code: str | None = None
    message: str | None = None
    at: str | None = None
    named: Named = (None, None)

    def to_json(self) -> dict[str, object]:
        answer = {"status": self.status, "id": self.named[1], "code": self.code, "message": self.message, "at": self.at}
        found = {name: value for name, value in answer.items() if value is not None}
        return {name: value if name == "status" else clean(value, MAX_ERROR_CHARS) for name, value in found.items()}


@dataclass(frozen=True)
class ReceivedBody:
    """A body, unpacked, with its sender's key and the time of its receipt."""

    body: bytes
    content_type: str
    headers: Mapping[str, str]
    key: ApiKey
    now_ms: int


@dataclass(frozen=True)
class Taker(Generic[T]):
    """A kind of items, with the functions that read, name and store these items."""

    kind: Literal["events", "samples"]
    scope: str
    types: Sequence[str]
    """Content types of the bodies that the route accepts."""
    read: Callable[[ReceivedBody], Iterable[T | Unfit]]
    org_of: Callable[[T], str]
    named: Callable[[T], Named]
    store: Callable[[sa.Connection, Sequence[T], ReceivedBody], Sequence[Result]]


@dataclass(frozen=True)
class Body:
    """A body and the kind of its items."""

    taker: Taker[Any]
    received: ReceivedBody


class Intake:
    """The intake of one server. `items`: the number of items by kind and outcome."""

    def __init__(self, services: Services, programs: Programs, budget: Budget, refused: Counter[str]) -> None:
        self._clock, self._restores = services.clock, services.restores
        self._programs = programs
        self._budget = budget
        self._refused = refused
        self._large = Threads(services.engine, services.restores, AT_ONCE, "intake")
        self._turns = FairQueue(AT_ONCE)
        self._small = Threads(services.engine, services.restores, AT_ONCE, "intake-small")
        self._singles: Singles[Body, list[Result] | ApiError] = Singles(self._small, self._answer_all)
        self._quotas = Quotas(refused)
        self._invalid = Invalid(services.clock, programs.threads)
        self._batches: Counter[str] = Counter()
        self.items: Counter[tuple[str, str]] = Counter(
            dict.fromkeys(((kind, status) for kind in KINDS for status in STATUSES), 0)
        )

    def close(self) -> None:
        self._large.close()
        self._small.close()

    async def take(self, request: Request, taker: Taker[T]) -> list[Result]:
        """Return the outcome of each item of a body, in order.

        Errors: ApiError. Unless its code is `answer_lost`, Drawdown has not stored any item.
        """
        return await self._programs.take(request, taker.scope, partial(self._take, request, taker))

    async def _take(self, request: Request, taker: Taker[T], key: ApiKey) -> list[Result]:
        try:
            kind, packed = _kind_of(request, taker)
        except ApiError:
            await self._programs.confirm_key(key)
            raise
        found = await self._outcome(request, taker, ReceivedBody(b"", kind, request.headers, key, 0), packed)
        if isinstance(found, ApiError):
            if found.status == HTTPStatus.UNAUTHORIZED:
                self._programs.remember_key(key.proof, None, self._clock.now_ms())
            raise found
        self.items.update((taker.kind, one.code if one.code == charged.CODE else one.status) for one in found)
        self._invalid.note(key.name, taker.kind, found)
        return found

    async def _outcome(
        self, request: Request, taker: Taker[T], sent: ReceivedBody, packed: bool
    ) -> list[Result] | ApiError:
        """Return the outcome of each item, or the error of a refused body.

        If the function raised the error, the error would keep the body and its items in memory.
        """
        async with self._body_of(request, sent.key) as body:
            if not packed and len(body) <= SINGLE_BYTES:
                one = Body(taker, replace(sent, body=body))
                return await soon(self._singles.ask((taker.kind, sent.key.proof), one))

            def work(engine: sa.Engine) -> list[Result] | ApiError:
                try:
                    whole = unpack(body, MAX_UNPACKED_BYTES) if packed else body
                except ApiError as error:
                    return _bare(error)
                (found,) = self._answer_all(engine, [Body(taker, replace(sent, body=whole))])
                return found

            with self._place(sent.key.name):
                if not packed and len(body) <= SMALL_BODY_BYTES:
                    return await soon(self._small.run(work))
                async with self._turn(sent.key.name):
                    return await soon(self._large.run(work))

    @asynccontextmanager
    async def _body_of(self, request: Request, key: ApiKey) -> AsyncIterator[bytes]:
        """Yield the body of a request.

        Errors: the errors of `body_of`, if the key is still valid; otherwise ApiError 401.
        """
        async with AsyncExitStack() as stack:
            try:
                body = await stack.enter_async_context(body_of(request, MAX_BYTES, self._budget, key.name))
            except ApiError:
                await self._programs.confirm_key(key)
                raise
            yield body

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncIterator[None]:
        """Wait for a turn among the large batches.

        Errors: ApiError 503 if the turn does not come within WITHIN_S; Drawdown then has not stored any item.
        """
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(WITHIN_S):
                    await stack.enter_async_context(self._turns.turn(key))
            except TimeoutError:
                self._refused["batches"] += 1
                message = "too many large batches wait. No item was stored. Send the batch again"
                raise ApiError(503, "busy", message, headers=SOON) from None
            yield

    @contextmanager
    def _place(self, key: str) -> Iterator[None]:
        """Take a place among the waiting batches.

        Errors: ApiError 429 if no place is free, or the key already has its share of places.
        """
        free = MOST_BATCHES - self._batches.total()
        if self._batches[key] >= min(free, MOST_BATCHES_OF_A_KEY):
            self._refused["batches"] += 1
            raise ApiError(429, "busy", "too many batches wait. Send the batch again", headers=SOON)
        self._batches[key] += 1
        try:
            yield
        finally:
            self._batches[key] -= 1
            if not self._batches[key]:
                del self._batches[key]

    def _answer_all(self, engine: sa.Engine, bodies: Sequence[Body]) -> list[list[Result] | ApiError]:
        """Return the outcomes of bodies of one kind and key.

        If possible, all bodies share one transaction.
        """
        now_ms, key = self._clock.now_ms(), bodies[0].received.key
        goes_on = _answered(lambda: read(engine, lambda c: api_keys.find_all(c, [key.proof], now_ms)))
        if isinstance(goes_on, ApiError) or not goes_on:
            error = goes_on if isinstance(goes_on, ApiError) else unauthorized()
            return [_copy_error(error) for _ in bodies]
        found = [_answered(partial(self._read, one, now_ms)) for one in bodies]
        left = {at: items for at, items in enumerate(found) if not isinstance(items, ApiError)}
        done: dict[int, list[Result] | ApiError] = {}
        if len(left) > 1:
            fit = [one for items in left.values() for one in items if not isinstance(one, Unfit)]
            stored = _answered(lambda: self._store(engine, bodies[0], fit, now_ms))
            if isinstance(stored, ApiError):
                # After a server error, do not store each body alone. Each would probably fail, too, after as long a
                # wait.
                done |= {at: _copy_error(stored) for at in left} if stored.status >= 500 else {}
            else:
                answers = iter(stored)
                whole = {at: [_result(one, answers, bodies[at].taker) for one in items] for at, items in left.items()}
                # If an item repeats a refused item with different content, its body is stored again, alone.
                done |= {at: one for at, one in whole.items() if all(each.code != REPEATED for each in one)}
        for at, items in left.items():
            if at not in done:
                done[at] = _answered(partial(self._alone, engine, bodies[at], items, now_ms))
        return [one if isinstance(one, ApiError) else done[at] for at, one in enumerate(found)]

    def _read(self, body: Body, now_ms: int) -> list[Any]:
        """Return the items of a body, each with its content or its fault.

        Errors: ApiError, Unreadable, DrawdownError.
        """
        items = list(body.taker.read(replace(body.received, now_ms=now_ms)))
        fit = [one for one in items if not isinstance(one, Unfit)]
        self._quotas.take(body.received.key.name, len(items), Counter(map(body.taker.org_of, fit)), now_ms)
        return items

    def _alone(self, engine: sa.Engine, body: Body, items: Sequence[Any], now_ms: int) -> list[Result]:
        stored = iter(self._store(engine, body, [one for one in items if not isinstance(one, Unfit)], now_ms))
        return [_result(one, stored, body.taker) for one in items]

    def _store(self, engine: sa.Engine, body: Body, fit: Sequence[Any], now_ms: int) -> Sequence[Result]:
        if not fit:
            return ()
        self._restores.look(engine)
        sent = replace(body.received, now_ms=now_ms)
        return write(engine, lambda c: body.taker.store(c, fit, sent))


def _kind_of(request: Request, taker: Taker[Any]) -> tuple[str, bool]:
    """Return the Content-Type of a body, and True if gzip packed the body.

    Errors: ApiError 400, 415.
    """
    if request.scope.get("query_string"):
        name = clean(next(iter(request.query_params), "?"), MAX_ERROR_CHARS)
        raise ApiError(
            400, "bad_request", f"unknown parameter {quote_value(name)}: this path takes only a body. Remove the query"
        )
    headers = request.headers
    if double := next((name for name in ONCE if len(headers.getlist(name)) > 1), None):
        raise ApiError(400, "bad_request", f"duplicate header {double}. Send it once")
    kind = headers.get("content-type", JSON if is_binary(headers) else "")
    if type_of(kind) not in taker.types:
        raise ApiError(
            415, "not_json", f"invalid Content-Type {quote_value(kind)}: expected one of {', '.join(taker.types)}"
        )
    return kind, is_packed(headers.get("content-encoding", ""))


def _result(item: Any, stored: Iterator[Result], taker: Taker[Any]) -> Result:
    return unfit(item) if isinstance(item, Unfit) else _with_name(next(stored), taker.named(item))


def _answered(work: Callable[[], R]) -> R | ApiError:
    """Return the result of `work`, or its error without references to objects."""
    try:
        return work()
    except Unreadable as error:
        return ApiError(413 if error.code == "too_large" else 400, error.code, str(error))
    except DrawdownError as error:
        return of_program(error)
    except ApiError as error:
        return _bare(error)


def _copy_error(error: ApiError) -> ApiError:
    """Return a copy of an error for another request.

    Raising an error writes a traceback into it.
    """
    return ApiError(error.status, error.code, error.message, headers=error.headers, details=error.details)


def _bare(error: ApiError) -> ApiError:
    error.__context__ = None
    return error.with_traceback(None)


def answer(found: Sequence[Result]) -> JSONResponse:
    """Return the response to a body.

    The status is 200 if the server keeps all items, 207 if it keeps some items, and 422 if it rejects all items.
    """
    body: dict[str, object] = {"results": [one.to_json() for one in found]}
    kept = sum(one.status in KEPT for one in found)
    if kept == len(found):
        return JSONResponse(body)
    if kept:
        return JSONResponse(body, 207)
    wrong = "the item" if len(found) == 1 else f"any of the {len(found):,} items"
    message = f"Drawdown did not keep {wrong}. `results` has the reasons"
    return JSONResponse({"error": {"code": "bad_items", "message": message}, **body}, 422)


def result_of(taken: EventResult) -> Result:
    return Result(taken.status, taken.code, taken.message, "" if taken.status == "invalid" else None)


def unfit(error: Unfit) -> Result:
    return Result("invalid", error.code, str(error), error.at, error.named)


def _with_name(found: Result, named: Named) -> Result:
    return Result(found.status, found.code, found.message, found.at, named)  # `replace` takes three times as long


class FairQueue:
    """A queue with a number of concurrent turns, in one event loop.

    Each key has its own queue, and the keys take turns.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}
        """The queues of keys, in the order of their turns. The queue skips a request that no longer waits.
        """

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Wait for a turn of this key, and keep the turn until the context ends."""
        await self._wait(key)
        try:
            yield
        finally:
            self._next()

    async def _wait(self, key: str) -> None:
        if self._free:  # no request waits then
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._lines.setdefault(key, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # the request got a turn at that moment
                self._next()
            raise

    def _next(self) -> None:
        while self._lines:
            key, line = next(iter(self._lines.items()))
            del self._lines[key]
            place = line.popleft()
            if line:
                self._lines[key] = line
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


KEY_ITEMS_PER_S: Final = 50_000
"""Average items a second with one API key at one process.

A burst may have twice as many.
"""
ORG_ITEMS_PER_S: Final = 40_000
"""Average items a second of one organisation at one process, from all senders.

A burst may have twice as many.
"""


class Quotas:
    """The quotas of one process. They are safe for any of its threads."""

    def __init__(self, refused: Counter[str]) -> None:
        self._refused = refused
        self._keys = TokenBuckets(KEY_ITEMS_PER_S)
        self._orgs = TokenBuckets(ORG_ITEMS_PER_S)
        self._lock = Lock()

    def take(self, key: str, items: int, by_org: Counter[str], now_ms: int) -> None:
        """Take items from the quotas.

        Errors: ApiError 429 if a quota is used up; all quotas then stay unchanged.
        """
        with self._lock:
            if not self._keys.has(key, now_ms, items):
                raise self._too_many("with this key")
            if not all(self._orgs.has(org, now_ms, count) for org, count in by_org.items()):
                raise self._too_many("of one organisation")
            self._keys.take(key, now_ms, items)
            for org, count in by_org.items():
                self._orgs.take(org, now_ms, count)

    def _too_many(self, what: str) -> ApiError:
        self._refused["items"] += 1
        message = (
            f"too many items {what} a second. No item was stored. Send the batch again after the time in Retry-After"
        )
        return ApiError(429, "too_many_requests", message, headers=SOON)


log = structlog.get_logger()

EVERY_S: Final = 1.0
"""Seconds between two writes of the invalid items that a process holds."""
MOST_NOTED: Final = 1_000
"""Combinations of key, kind and code with an unwritten count of invalid items."""


class Answered(Protocol):
    """An item's outcome."""

    @property
    def status(self) -> str: ...
    @property
    def code(self) -> str | None: ...
    @property
    def named(self) -> Named: ...


class Invalid:
    """The unwritten counts of invalid items of one server."""

    def __init__(self, clock: Clock, threads: Threads) -> None:
        self._clock = clock
        self._threads = threads
        self._noted: dict[tuple[str, str, str], InvalidItems] = {}
        self._keeping: asyncio.Task[None] | None = None

    def note(self, key: str, kind: Literal["events", "samples"], results: Sequence[Answered]) -> None:
        """Count the invalid items of a key's batch."""
        wrong = [one for one in results if one.status == "invalid"]
        now_ms = self._clock.now_ms()
        for code, items in Counter(one.code or "" for one in wrong).items():
            self._add(InvalidItems(key, kind, code, items, now_ms, now_ms), (one for one in wrong if one.code == code))
        if self._noted and self._keeping is None:
            self._keeping = asyncio.create_task(self._keep())

    def _add(self, one: InvalidItems, wrong: Iterator[Answered]) -> None:
        slot = (one.key_name, one.kind, one.code)
        before = self._noted.get(slot)
        if before is not None:
            self._noted[slot] = replace(before, items=before.items + one.items, last_ms=one.last_ms)
        elif len(self._noted) < MOST_NOTED:
            named = next((found.named for found in wrong if any(found.named)), (None, None))
            source, item_id = example_of(named)
            self._noted[slot] = replace(one, source=source, item_id=item_id)

    async def _keep(self) -> None:
        try:
            while self._noted:
                await asyncio.sleep(EVERY_S)
                found, self._noted = list(self._noted.values()), {}
                now_ms = self._clock.now_ms()
                await self._threads.write(partial(invalid.keep, found=found, now_ms=now_ms))
        except Exception as error:  # these counts are lost; a later call of `note` starts the task again
            log.warning("invalid_not_kept", **limits.describe_error(error))
        finally:
            self._keeping = None
