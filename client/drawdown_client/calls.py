"""Make one call to the server: its request, its response and its retries.

Guarantee: the client retries a call only if a retry is safe and may help. It retries after a missing or broken
connection, an invalid response, a redirect, 408, 429 and 5xx. Any other refusal is final for the caller who waits. If
it lacks Drawdown's code, a proxy refused the call, maybe for its content. Then the client sends a stored item or report
again later. The client waits as long as `Retry-After` requests, up to LONGEST_RETRY_AFTER_S. It does not follow
redirects, so it never sends the key to another address. If a response is too large, or is not a JSON object, the client
raises a ClientError.
"""

from __future__ import annotations

import gzip
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from itertools import islice
from typing import Any, Final, cast
from urllib.parse import quote

from tenacity import RetryCallState
from tenacity.wait import wait_base

from drawdown_client.clock import World
from drawdown_client.errors import NO_CODE, Refused, Unreachable
from drawdown_client.http import httpx
from drawdown_client.items import Item, Kind, Result, Status
from drawdown_client.settings import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    LONGEST_RETRY_AFTER_S,
    MAX_ANSWER_BYTES,
    MAX_SAID_CHARS,
    MOST_ANSWER_SIGNS,
    MOST_REFUSALS,
    WHOLE_ANSWER_S,
    Settings,
)  # fmt: skip

log = logging.getLogger("drawdown_client")

Answer = dict[str, Any]

VERSION: Final = "0.1.0"
_AGAIN: Final = (408, 429)
_NOTHING_KEPT: Final = 422
"""Status of the response if the server did not store any item of a batch.

`results` has the reason for each item.
"""
_SHOWN: Final = 200
"""Characters of an invalid response that an error shows."""
_SIGN: Final = re.compile(rb'(?:[^"{\[:,]++|"(?:[^"\\]++|\\(?:.|\Z))*+(?:"|\Z))*+(?:[{\[:,]|\Z)', re.DOTALL)
"""A sign outside of texts, with the text before it.

A text without an end extends to the end of the body, as does a body without a sign, so no byte is read twice.
"""
_STATUSES: Final = frozenset(("accepted", "duplicate", "pending", "conflict", "invalid"))


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    body: bytes | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    is_packed: bool = False
    once: str | None = None
    """The Idempotency-Key of the call.

    The server does the operation once, even if the client sends the call several times.
    """

    @property
    def headers(self) -> dict[str, str]:
        found = {} if self.body is None else {"Content-Type": "application/json"}
        found |= {"Content-Encoding": "gzip"} if self.is_packed else {}
        return found if self.once is None else {**found, "Idempotency-Key": self.once}


def get(*path: str, query: Mapping[str, str | None] | None = None) -> Call:
    """Return a GET call of a path. `path`: its parts, which the function escapes."""
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return Call("GET", "/" + "/".join(quote(part, safe="") for part in path), query=given)


def post(path: str, order: Mapping[str, object]) -> Call:
    """Return a POST call. The body omits fields that are None."""
    given = {name: value for name, value in order.items() if value is not None}
    return Call("POST", path, json.dumps(given, allow_nan=False).encode())


def act(path: str, order: Mapping[str, object], key: str) -> Call:
    """Return a call of an operation that changes data.

    The server does the operation once for each `key`, even if the call is repeated.
    """
    return replace(post(path, order), once=key)


def look(path: str, query: Mapping[str, object]) -> Call:
    """Return a call of an operation that only reads data."""
    given = {name: _word(value) for name, value in query.items() if value is not None}
    return Call("GET", path, query=given)


def _word(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def batch(kind: Kind, items: Sequence[Item]) -> Call:
    packed = gzip.compress(b"[" + b",".join(item.body for item in items) + b"]", mtime=0)
    return Call("POST", f"/v1/{kind}", packed, is_packed=True)


def headers(key: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {key}",
        "User-Agent": f"drawdown-client/{VERSION}",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }


def no_cookies() -> CookieJar:
    """Return a cookie jar that does not store cookies.

    Otherwise a server could send any number of cookies.
    """
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


def base_url(url: str) -> str:
    """Return the address of a server, without a slash at its end. Errors: ValueError."""
    wrong = f"invalid server address {url!r:.60}: expected http://… or https://…"
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(wrong) from error
    if found.scheme not in ("http", "https") or not found.host:
        raise ValueError(wrong)
    return url.rstrip("/")


class Received:
    """The received bytes of a response.

    The client refuses a compressed response, because its few bytes could expand without limit.
    """

    def __init__(self, response: httpx.Response) -> None:
        """Check the encoding. Errors: Unreachable for a compressed response."""
        if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise Unreachable(
                "invalid response: it is compressed, but the client did not request that. Turn compression off at the "
                "server"
            )
        self.body = bytearray()

    def add(self, chunk: bytes) -> None:
        """Add received bytes. Errors: Unreachable above MAX_ANSWER_BYTES."""
        self.body += chunk
        if len(self.body) > MAX_ANSWER_BYTES:
            raise Unreachable(f"invalid response: more than {MAX_ANSWER_BYTES:,} bytes. Check the server address")


class TryTimeout:
    """The remaining seconds of one attempt, as the timeout of its socket.

    A fixed timeout restarts with each byte, so a slow server could delay the response headers without limit. The socket
    reads this object as an integer before each wait, because a socket accepts only a float or an integer.
    """

    def __init__(self, settings: Settings, world: World, most_s: float) -> None:
        self._each_s = settings.answer_s
        self._most_s = most_s
        self._world = world
        self._until_s = world.monotonic_s() + most_s

    def __index__(self) -> int:
        """Return the remaining seconds, rounded up.

        Errors: Unreachable if the time is over.
        """
        left_s = self._until_s - self._world.monotonic_s()
        if left_s <= 0:
            raise too_slow(self._most_s)
        return math.ceil(min(left_s, self._each_s))


def read(response: httpx.Response, body: bytes | bytearray, world: World) -> Answer:
    """Return the JSON object of a response.

    Errors: Refused if the refusal is final; Unreachable if a retry may help.
    """
    status = response.status_code
    found = _object(body)
    if found is not None and (200 <= status < 300 or (status == _NOTHING_KEPT and "results" in found)):
        return found
    if 200 <= status < 300:
        raise Unreachable(f"invalid response: expected a JSON object, got {_text(body)!r}. Check the server address")
    said = found.get("error") if found is not None else None
    error = said if isinstance(said, dict) else {}
    is_of_drawdown = isinstance(error.get("code"), str)
    code = escape(error["code"]) if is_of_drawdown else NO_CODE
    message = escape(error.get("message", _text(body)))
    if status not in range(400, 500) or status in _AGAIN:
        raise Unreachable(f"{status} {code}: {message}", _retry_after_s(response, world), too_many=status == 429)
    details = error.get("details")
    raise Refused(status, code, message, details if isinstance(details, dict) else None)


def escape(value: object) -> str:
    """Return a server's text, or an id, in a form that is safe in a line of a log.

    The result has at most MAX_SAID_CHARS characters of the text, with control characters escaped.
    """
    text = (value if isinstance(value, str) else str(value) if isinstance(value, int | None) else "?")[:MAX_SAID_CHARS]
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def try_s(settings: Settings) -> float:
    """Return the time limit of a whole attempt, in seconds."""
    return settings.connect_s + WHOLE_ANSWER_S


def too_slow(most_s: float) -> Unreachable:
    return Unreachable(f"the server did not complete its response within {most_s:g} s")


def failed(error: httpx.HTTPError | httpx.StreamError) -> Unreachable:
    """Return the error for a call without a response."""
    return Unreachable(f"the server did not answer ({type(error).__name__}): {escape(str(error))}")


def results(answer: Answer, count: int) -> list[Result]:
    """Return the results of `count` items.

    Errors: Unreachable if the response does not have a known result for each item.
    """
    found = answer.get("results")
    if not isinstance(found, list) or len(found) != count:
        raise Unreachable(
            f"invalid response: expected a result for each item, {count:,} in all. Check the server address"
        )
    return [_result(one) for one in found]


def _result(said: object) -> Result:
    status = said.get("status") if isinstance(said, dict) else None
    if not isinstance(said, dict) or not isinstance(status, str) or status not in _STATUSES:
        raise Unreachable("invalid response: this version does not know an item's result. Upgrade drawdown-client")
    code, message, at = (None if said.get(name) is None else escape(said[name]) for name in ("code", "message", "at"))
    return Result(cast(Status, status), code, message, at)


def _object(body: bytes | bytearray) -> Answer | None:
    """Return the JSON object of a body; None for another body or too many values.

    The number of values is bounded, because a value of a few bytes takes 60 to 200 bytes of memory.
    """
    if len(body) > MOST_ANSWER_SIGNS < sum(1 for _ in islice(_SIGN.finditer(body), MOST_ANSWER_SIGNS + 1)):
        return None
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _text(body: bytes | bytearray) -> str:
    return bytes(body[:_SHOWN]).decode(errors="replace")


def _retry_after_s(response: httpx.Response, world: World) -> float | None:
    said = response.headers.get("retry-after", "").strip()
    if not said:
        return None
    if said.isascii() and said.isdecimal():
        found = float(said[:10])
    else:
        try:
            when = parsedate_to_datetime(said)
            found = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - world.now_ms() / 1000
        except (ValueError, OverflowError):
            return None
    return min(max(found, 0.0), LONGEST_RETRY_AFTER_S)


def pause_s(world: World, attempt: int, longest_s: float = LONGEST_PAUSE_S) -> float:
    """Return the seconds to wait after a failed attempt.

    The backoff is exponential with jitter. It starts at FIRST_PAUSE_S and doubles up to `longest_s`. The wait is a
    random part of the backoff.
    """
    return world.jitter.uniform(0.0, min(FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 30), longest_s))


@dataclass
class Refusals:
    """The refusals of one item, or of one use's reports, by a proxy.

    `due_s`: the time of the next attempt.
    """

    tries: int = 0
    due_s: float = 0.0
    _counted: int = 0
    _answers: int = -1

    def add(self, world: World, answers: int) -> bool:
        """Delay the next attempt after a refusal. Return False after MOST_REFUSALS.

        `answers`: the number of the server's answers until now. A refusal counts only if the server answered another
        call since the last one. Otherwise, the proxy may refuse every call, and not this one.
        """
        self.tries += 1
        self.due_s = world.monotonic_s() + pause_s(world, self.tries)
        self._counted += self._answers != answers
        self._answers = answers
        return self._counted < MOST_REFUSALS


class Backoff(wait_base):
    """The wait before a retry: `pause_s`, or longer if the server requests it.

    `asked`: True if the last response requested a wait.
    """

    def __init__(self, world: World, longest_s: Callable[[], float] = lambda: LONGEST_PAUSE_S) -> None:
        self._world = world
        self._longest_s = longest_s
        self.asked = False

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome is not None else None
        asked = error.retry_after_s if isinstance(error, Unreachable) else None
        self.asked = bool(asked)
        return max(pause_s(self._world, retry_state.attempt_number, self._longest_s()), asked or 0.0)


def patience(settings: Settings, world: World) -> Callable[[RetryCallState], bool]:
    """Return a function that decides whether to stop the retries.

    The retries stop after `call_tries` attempts, or if the next pause would end after `call_within_s` seconds.
    """
    started = world.monotonic_s()

    def is_over(state: RetryCallState) -> bool:
        late = world.monotonic_s() - started + state.upcoming_sleep > settings.call_within_s
        return late or state.attempt_number >= settings.call_tries

    return is_over


def timeouts(settings: Settings, each: float | None = None, most_s: float = math.inf) -> httpx.Timeout:
    """Return the timeouts of a call.

    `each`: the timeout of each read or write in seconds; None: `answer_s`. `most_s`: the time limit of the attempt.
    """
    waits = settings.answer_s if each is None else each
    return httpx.Timeout(settings.answer_s, connect=min(settings.connect_s, most_s), read=waits, write=waits)


def say_again(state: RetryCallState) -> None:
    """Log a failed attempt, and the wait before the next attempt."""
    error = state.outcome.exception() if state.outcome is not None else None
    log.warning("sending items again in %.1f s (attempt %d): %s", state.upcoming_sleep, state.attempt_number, error)
