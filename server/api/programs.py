"""Authenticate programs by API key, and answer in one transaction.

Guarantee: Drawdown finds the key and checks its scope before it reads a body. Drawdown also accepts a key from its
cache, if the answering transaction reads the key again. It refuses all calls of an expired or revoked key. It looks up
unknown keys on a separate thread, so callers with invented keys do not delay programs. A key that is bound to an
organisation cannot name another organisation, or see its executions. Programs have their own threads, so they do not
delay the gate, a webhook or a signed request. Every refusal has a code. If a step of the permission order refuses, the
refusal names this step.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Final, NoReturn, TypeVar, get_origin

import sqlalchemy as sa
import structlog
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Scope

from drawdown.ledger.own_keys import strip_own_prefixes
from drawdown.ledger.reservations import Denied
from drawdown.schema.audit import By
from drawdown.schema.clock import Clock
from drawdown.schema.declare import Action
from drawdown.schema.errors import ClockDoubted, DrawdownError, Refused, UnknownId, UsageError
from drawdown.schema.ids import is_clean, is_clean_id, tell_few_names, tell_no_names
from drawdown.schema.text import quote_value
from drawdown.schema.units import MINUTE_MS
from drawdown.server.api.codes import CALLS
from drawdown.server.api.request_batching import RequestBatcher, Way
from drawdown.server.declarations import BY_NAME, DECLARED
from drawdown.server.http import bodies
from drawdown.server.http.callers import TokenBuckets
from drawdown.server.http.errors import SOON, ApiError, bad_value, of_drawdown, unauthorized
from drawdown.server.http.limits import KnownProofs, describe_error
from drawdown.server.http.misses import Misses
from drawdown.server.http.threads import Threads
from drawdown.server.services import Services
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import ApiKey

log = structlog.get_logger()

MAX_BYTES: Final = 64 * 1024
"""Largest body of a program's request, in bytes."""
MOST_PARAMETERS: Final = 50
"""Parameters of a program's query."""
AT_ONCE: Final = 4
"""Concurrent transactions of programs.

All transactions of a process use fewer connections than its engine has.
"""
READS_AT_ONCE: Final = 2
"""Concurrent lookups of keys and checks of the guard.

Writes and slow reads do not delay them.
"""
WITHIN_S: Final = 20.0
"""Seconds that a program waits for the database.

Drawdown may still process its request later.
"""
LOCK_WAIT_MS: Final = 1_000
"""Longest wait of a program's transaction for each lock, in milliseconds.

A locked wallet then frees its threads before calls of other organisations time out. A declared action waits as long as
a tick.
"""
REQUESTS_PER_S: Final = 1_000
"""Average requests a second with one API key at one process.

A burst may have twice as many.
"""
STATUSES: Final[Mapping[str, int]] = {
    "no_credit": 402, "payer_limit": 402, "no_estimate": 422, "settled_by_missing": 422, "no_sandbox": 422,
    "metering_alone": 422, "foreign_org": 403,
}  # fmt: skip
"""HTTP statuses of refusals by a rule. All others are 409."""
CODES: Final = tuple(CALLS)
"""Codes that the metrics count by name. Any other code counts as `other`."""
NOT_FOUND: Final = ("unknown_metric", "unknown_org", "unknown_execution", "unknown_settlement", "unknown_use")

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
A = TypeVar("A")
R = TypeVar("R")
Answer = Mapping[str, object]
Find = Callable[[str, int], Awaitable[ApiKey | None]]
"""A function that returns the key in this text, as valid at a time."""
Again = Callable[[ApiKey], Awaitable[object]]
"""A function that checks that a key is still valid. Errors: ApiError 401."""


@dataclass(frozen=True)
class Caller:
    """The key of a request, and the time of the transaction that answers."""

    key: ApiKey
    now_ms: int

    def by(self, reason: str) -> By:
        return By(self.now_ms, self.key.actor, reason, "http")

    def require_org(self, org_id: str | None) -> str:
        """Return the organisation that the request names, or else the key's own.

        Errors: ApiError 403 if the request names an organisation other than the key's own. ApiError 422 if neither the
        request nor the key names an organisation, or if the id is invalid.
        """
        own = self.key.org_id
        if (named := org_id or own) is None:
            raise bad_value("org_id", "missing org_id. Send it, because this key is not bound to an organisation")
        if own not in (None, clean_id(named, "organisation id")):
            raise ApiError(
                403, "foreign_org", f"this key is bound to {own}. Send that organisation, or use another key"
            )
        return named


class Programs:
    """The entry point that all routes for programs share.

    `denied`: the number of refusals by code. `threads` and `reading`: the threads for transactions, and for lookups of
    keys and checks of the guard. `noting`: the task that records the use of keys; None while it does not run.
    """

    def __init__(self, services: Services, budget: bodies.Budget, refused: Counter[str]) -> None:
        self._services, self._budget, self._refused = services, budget, refused
        self.threads = Threads(services.engine, services.restores, AT_ONCE, "programs", lock_wait_ms=LOCK_WAIT_MS)
        self.reading = Threads(services.engine, services.restores, READS_AT_ONCE, "reads")
        self._rates = TokenBuckets(REQUESTS_PER_S)
        self.names = NamesBudget(services.clock)
        self._misses = Misses()
        self.known = KnownKeys()
        self._strangers = Threads(services.engine, services.restores, STRANGERS_AT_ONCE, "strangers")
        self._finding = RequestBatcher(self._strangers, services.clock, FINDING, self.names)
        self.noting: asyncio.Task[None] | None = None
        self.denied: Counter[str] = Counter(dict.fromkeys((*CODES, "other"), 0))

    def close(self) -> None:
        self.threads.close()
        self.reading.close()
        self._strangers.close()

    def batch_requests(self, way: Way[A, R]) -> RequestBatcher[A, R]:
        """Return a batcher, in which concurrent requests share transactions."""
        return RequestBatcher(self.reading if way.reads else self.threads, self._services.clock, way, self.names)

    def is_known(self, scope: Scope) -> bool:
        """Return True if the request has a key that was found recently.

        Such a request does not wait with unauthenticated callers.
        """
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        now_ms, text = self._services.clock.now_ms(), token.strip().decode("latin-1")
        return scheme.lower() == b"bearer" and self.known.has(api_keys.hash_of(text), now_ms)

    async def act(
        self,
        request: Request,
        scope: str,
        model: type[M],
        work: Callable[[sa.Connection, M, Caller], Answer],
        *,
        reads: bool = False,
    ) -> JSONResponse:
        """Perform the work of a request in one transaction.

        `reads`: True if the work only reads, so it does not wait for writers. Errors: ApiError.
        """

        def do(order: M, said: Caller) -> Awaitable[Answer]:
            if reads:
                return self.threads.read(lambda c: work(c, order, self.identify(said.key, c)))
            return self.threads.write(lambda c: work(c, order, self.identify(said.key, c)))

        return await self.act_by(request, scope, model, do)

    async def act_by(
        self,
        request: Request,
        scope: str,
        model: type[M],
        do: Callable[[M, Caller], Awaitable[Answer]],
        find: Find | None = None,
        again: Again | None = None,
    ) -> JSONResponse:
        """Perform the work of a request by `do`, which opens the transaction.

        Other requests may share that transaction. `find`: a function that looks up keys in its own way. `again`: a
        function that confirms the key before an error of the body is returned, because `find` may have returned an
        expired or revoked key. Errors: ApiError.
        """
        return await self._answered(self._ordered(request, scope, model, do, find, again))

    async def take(self, request: Request, scope: str, do: Callable[[ApiKey], Awaitable[T]]) -> T:
        """Find the key, check its scope, and then call `do` with the key.

        `do` reads the body. The key may come from a cache, so `do` must read the key again before it answers. Errors:
        ApiError.
        """

        async def answer() -> T:
            key = await self._proven(request, scope, self.recall_key)
            return await self._paced(key, do(key))

        return await self.refused(answer())

    async def _ordered(
        self,
        request: Request,
        scope: str,
        model: type[M],
        do: Callable[[M, Caller], Awaitable[Answer]],
        find: Find | None,
        again: Again | None,
    ) -> Answer:
        key = await self._proven(request, scope, find)
        try:
            async with bodies.body_of(request, MAX_BYTES, self._budget) as body:
                order = bodies.parse(body, request.headers.get("content-type", ""), model)
        except ApiError:
            if again is not None:
                await again(key)
            raise
        return await self._paced(key, soon(do(order, self._now(key))))

    async def ask(
        self, request: Request, scope: str, model: type[M], work: Callable[[sa.Connection, M, Caller], Answer]
    ) -> JSONResponse:
        """Answer a request without a body, by its query, in one read transaction.

        Errors: ApiError.
        """

        async def answer() -> Answer:
            key = await self._proven(request, scope)
            query = _query_of(request, model)
            return await self._paced(key, soon(self.threads.read(lambda c: work(c, query, self.identify(key, c)))))

        return await self._answered(answer())

    async def _paced(self, key: ApiKey, work: Awaitable[T]) -> T:
        """Return the result of the work.

        If too many requests of a key do not find their object, their responses wait. Errors: ApiError, with the ids of
        a bound key's organisation as the program sent them.
        """
        try:
            return await work
        except (ApiError, DrawdownError) as error:
            told = error if isinstance(error, ApiError) else of_program(error, key.org_id)
            if isinstance(error, UnknownId) or told.status == HTTPStatus.NOT_FOUND:
                await self._misses.wait(key.name, self._services.clock.now_ms())
            raise told from None

    def identify(self, key: ApiKey, connection: sa.Connection) -> Caller:
        """Return the caller, with the time of this transaction.

        This method reads a remembered key again, because the key may have expired or been revoked while the thread
        waited. Errors: ApiError 401 for such a key.
        """
        said = self._now(key)
        if key.recalled and key.proof not in api_keys.find_all(connection, [key.proof], said.now_ms):
            raise unauthorized()
        if key.org_id is not None:
            tell_no_names(connection)
        else:
            tell_few_names(connection, self.names)
        return said

    def _now(self, key: ApiKey) -> Caller:
        return Caller(key, self._services.clock.now_ms())

    async def _find(self, offered: str, now_ms: int) -> ApiKey | None:
        return await soon(self.find(api_keys.hash_of(offered), now_ms))

    async def find(self, proof: str, now_ms: int) -> ApiKey | None:
        """Return the key of a hash; None if the key is unknown, expired or revoked.

        Lookups of unknown keys wait only for each other, and share a statement.
        """
        if self.known.has(proof, now_ms):
            read = self.reading.read(lambda connection: api_keys.find_all(connection, [proof], now_ms))
            found = (await read).get(proof)
        else:
            found = await self._finding.ask(proof)
        self.remember_key(proof, found, now_ms)
        return found

    async def recall_key(self, offered: str, now_ms: int) -> ApiKey | None:
        """Return a recently found key from memory, or read it now.

        The caller must read the key again in its transaction, and call `remember_key` with the result.
        """
        return self.known.get(api_keys.hash_of(offered), now_ms) or await self._find(offered, now_ms)

    def remember_key(self, proof: str, found: ApiKey | None, now_ms: int) -> None:
        """Remember a key as the database stores it, or forget it if `found` is None."""
        self.known.note(proof, now_ms, found)

    async def confirm_key(self, key: ApiKey) -> None:
        """Check that a remembered key is still valid. Errors: ApiError 401."""
        if await soon(self.find(key.proof, self._services.clock.now_ms())) is None:
            raise unauthorized()

    async def _proven(self, request: Request, scope: str, find: Find | None = None) -> ApiKey:
        """Return the key of a request. Errors: ApiError 401, 403, 429."""
        given = request.headers.getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        offered = token.strip()
        key = None
        if scheme.lower() == "bearer" and api_keys.KEY.fullmatch(offered):
            now = self._services.clock.now_ms()
            key = await (find or self._find)(offered, now)
        if key is None:
            raise unauthorized()
        self._note_use(key, offered, now)
        if not self._rates.take(key.name, self._services.clock.now_ms()):
            self._refused["keys"] += 1
            raise ApiError(
                429,
                "too_many_requests",
                "too many requests with this key. Send the request again after the time in Retry-After",
                headers=SOON,
            )
        require_scope(key, scope)
        return key

    def _note_use(self, key: ApiKey, offered: str, now_ms: int) -> None:
        """Record the use of a key without delaying the request.

        Drawdown writes one record at a time. If a program uses the key meanwhile, a later request records that use.
        Drawdown then remembers the stored key, so the next request does not write again.
        """
        is_kept = key.used_ms is not None and now_ms < key.used_ms + api_keys.USED_EVERY_MS
        if self.noting is None and not is_kept:
            self.noting = asyncio.create_task(self._keep_use(offered, now_ms))

    async def _keep_use(self, offered: str, now_ms: int) -> None:
        proof = api_keys.hash_of(offered)
        try:
            found = await self.threads.write(lambda connection: api_keys.note_use(connection, offered, now_ms))
            if found is None or self.known.has(proof, now_ms):  # unless this process forgot the key meanwhile
                self.remember_key(proof, found, now_ms)
        except Exception as error:  # the request succeeds, and the next one tries again
            log.warning("key_use_not_kept", **describe_error(error))
        finally:
            self.noting = None

    async def _answered(self, work: Awaitable[Answer]) -> JSONResponse:
        return JSONResponse(dict(await self.refused(work)))

    async def refused(self, work: Awaitable[T]) -> T:
        """Return the result of the work, and count a refusal by its code.

        Errors: ApiError, also in place of a DrawdownError.
        """
        try:
            return await work
        except DrawdownError as error:
            self._deny(of_program(error))
        except ApiError as error:
            self._deny(error)

    def _deny(self, error: ApiError) -> NoReturn:
        self.denied[error.code if error.code in CODES else "other"] += 1
        raise error from None


COMMAND: Final = re.compile(r"([Rr]un )?`drawdown ([^`\s][^`]*)`")
_BY_HAND: Final = {
    "execution accept": "POST /v1/executions",
    "execution preview": "POST /v1/executions/preview",
    "execution draw": "POST /v1/executions/{execution}/draws",
    "execution extend": "POST /v1/executions/{execution}/extend",
    "execution settle": "POST /v1/executions/{execution}/settle",
    "execution release": "POST /v1/executions/{execution}/release",
    "execution list": "GET /v1/executions",
    "execution show": "GET /v1/executions/{execution}",
    "guard check": "POST /v1/guard/check",
    "guard consume": "POST /v1/guard/consume",
    "guard reserve": "POST /v1/guard/reserve",
    "guard settle": "POST /v1/guard/settle",
    "guard release": "POST /v1/guard/release",
    "guard extend": "POST /v1/guard/extend",
    "guard options": "GET /v1/guard/{org_id}/options",
    "ledger show": "GET /v1/accounts/{org_id}",
    "ledger statement": "GET /v1/accounts/{org_id}/statement",
    "override ask": "POST /v1/guard/overrides",
    "override make": "POST /v1/guard/overrides",
    "usage": "GET /v1/usage/{org_id}",
}
"""Operations of commands that are not declared."""
OPTION: Final = re.compile(r"(?<![\w-])--([a-z][a-z-]*)( [A-Z]+)?")


@cache
def _fields() -> Mapping[str, str]:
    """Return the field of each option.

    If the field differs between commands, the value is the option's own word.
    """
    found: dict[str, str] = {}
    for one in DECLARED:
        for param in one.params:
            word = param.option.removeprefix("--")
            found[word] = param.field if found.get(word, param.field) == param.field else param.word
    return found


_CALL: Final = {"Run ": "Call ", "run ": "call "}
_SETTING: Final = re.compile(r"\b([Ss]et)(?= DRAWDOWN_)")


def for_programs(text: str) -> str:
    """Return an error's text for a program.

    The text names the operation in place of a command, and the field in place of an option. If a command has no
    operation, the text keeps the command, for the operator of the server.
    """

    def field_of(found: re.Match[str]) -> str:
        return f"`{_fields().get(found[1], found[1].replace('-', '_'))}`"

    told, at = [], 0
    for found in COMMAND.finditer(text):
        told += [OPTION.sub(field_of, text[at : found.start()]), _for_program(found)]
        at = found.end()
    whole = "".join([*told, OPTION.sub(field_of, text[at:])])
    return _SETTING.sub(lambda found: f"{'Ask' if found[1] == 'Set' else 'ask'} the operator to set", whole)


def _for_program(found: re.Match[str]) -> str:
    """Return the operation of a command, with the fields of its options.

    If the command has no operation, return a text that refers the caller to the operator.
    """
    run, words = found[1] or "", found[2].split()
    if words[-1] == "--help":
        return "`/openapi.json`"
    if words == ["ledger", "show"]:
        return f"{_CALL.get(run, '')}`GET /v1/wallets`"
    for count in range(len(words), 0, -1):
        name = " ".join(words[:count])
        one = BY_NAME.get(name)
        if one is None and name not in _BY_HAND:
            continue
        operation = _BY_HAND[name] if one is None else f"{'POST' if isinstance(one, Action) else 'GET'} {one.path}"
        own = {} if one is None else {param.option: param.field for param in one.params if not param.is_argument}
        named = dict.fromkeys(own[word] for word in words[count:] if word in own)
        fields = [field for field in named if f"{{{field}}}" not in operation]
        given = f" with {', '.join(f'`{field}`' for field in fields)}" if fields else ""
        return f"{_CALL.get(run, '')}`{operation}`{given}"
    if not run:
        return f"{found[0]} on the server"
    return f"{'Ask' if run[0] == 'R' else 'ask'} the operator to run `drawdown {found[2]}`"


def of_program(error: DrawdownError, org_id: str | None = None) -> ApiError:
    """Return a Drawdown error as a response to a program.

    `org_id`: the organisation that the key is bound to.
    """
    text = for_programs(str(error))
    if org_id is not None:
        text = strip_own_prefixes(text, org_id)
    match error:
        case Denied():
            details = None if error.step is None else {"step": error.step}
            return ApiError(STATUSES.get(error.code, 409), error.code, text, details=details)
        case UnknownId():
            return ApiError(404 if error.code in NOT_FOUND else 422, error.code, text)
        case UsageError():
            return bad_value(error.at, text, error.code)
        case Refused():
            return ApiError(409, error.code, text)
        case ClockDoubted():
            return ApiError(503, "clock_doubted", text, headers=SOON)
    found = of_drawdown(error)
    return ApiError(found.status, found.code, for_programs(found.message), details=found.details, headers=found.headers)


def clean_id(text: str, what: str) -> str:
    """Return an id that a database can store. Errors: ApiError 422."""
    if not is_clean_id(text):
        raise ApiError(
            422,
            "bad_value",
            f"invalid {what} {quote_value(text)}: expected 1 to 200 characters without control characters",
        )
    return text


async def soon(work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(WITHIN_S):
            return await work
    except TimeoutError:
        message = (
            "the database timed out, so the request may have succeeded. Send the same request again, because "
            "this is safe"
        )
        raise ApiError(503, "answer_lost", message, headers=SOON) from None


def _query_of(request: Request, model: type[M]) -> M:
    """Return the query.

    A name may occur several times only for a field that is a list. Errors: ApiError 422.
    """
    raw: bytes = request.scope.get("query_string", b"")
    if raw.count(b"&") >= MOST_PARAMETERS:
        raise ApiError(
            422, "bad_value", f"too many query parameters: at most {MOST_PARAMETERS} are allowed. Send fewer parameters"
        )
    given: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        if not is_clean(value):
            raise bad_value(name, f"invalid {name} {quote_value(value)}: expected UTF-8 without control characters")
        given.setdefault(name, []).append(value)
    lists = {name for name, one in model.model_fields.items() if get_origin(one.annotation) is list}
    found = {name: values if name in lists or len(values) > 1 else values[0] for name, values in given.items()}
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise bodies.not_taken("query", error, model) from None


def require_scope(key: ApiKey, scope: str) -> None:
    """Check that a key has a scope. Errors: ApiError 403."""
    if scope not in key.scopes:
        message = f"key {key.name} does not have the scope {scope}. Use a key with this scope"
        wanted = f'Bearer error="insufficient_scope", scope="{scope}"'
        raise ApiError(403, "no_scope", message, headers={"WWW-Authenticate": wanted})


STRANGERS_AT_ONCE: Final = 1
"""Concurrent lookups of keys that this process has not found before."""
RECALLED_MS: Final = MINUTE_MS
"""Time for which Drawdown accepts a known key without another lookup.

Each call reads the key again in its own transaction.
"""
NAMES_PER_S: Final = 5
"""Average searches a second for the id nearest to a mistyped id.

All programs share the limit. A burst may have twice as many searches.
"""
_ALL: Final = ""


class KnownKeys(KnownProofs[ApiKey]):
    """The keys that were found recently."""

    def get(self, proof: str, now_ms: int) -> ApiKey | None:
        """Return a key that was found within RECALLED_MS, unless the key expired."""
        at_ms, key = self.found.get(proof, (0, None))
        if key is None or not 0 <= now_ms - at_ms <= RECALLED_MS:
            return None
        return None if key.expires_ms is not None and now_ms >= key.expires_ms else key


class NamesBudget:
    """The budget of searches for ids near a mistyped id. It is safe for threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._bucket = TokenBuckets(NAMES_PER_S, 1)

    def __call__(self) -> bool:
        with self._lock:
            return self._bucket.take(_ALL, self._clock.now_ms())


def _find_all(connection: sa.Connection, proofs: Sequence[str], now_ms: int) -> Sequence[ApiKey | None]:
    found = api_keys.find_all(connection, proofs, now_ms)
    return [found.get(proof) for proof in proofs]


def _find(connection: sa.Connection, proof: str, now_ms: int) -> ApiKey | None:
    return api_keys.find_all(connection, [proof], now_ms).get(proof)


FINDING: Final = Way[str, ApiKey | None](lambda _proof: None, _find_all, _find, lambda _proof: False, reads=True)
"""The batching of lookups.

Lookups share transactions and statements. A lookup that arrives during a transaction is in the next transaction.
"""


FOREIGN_KEY: Final = "foreign_key"


def require_maker(key: ApiKey, maker: str, what: str) -> None:
    """Check that a key bound to an organisation began this object.

    `maker`: the actor who began the object. Errors: ApiError 403.
    """
    if key.org_id is not None and key.actor != maker:
        why = "another key began it. Use that key, or a key that is not bound to an organisation"
        raise ApiError(403, FOREIGN_KEY, f"key {key.name} cannot change {what}: {why}")
