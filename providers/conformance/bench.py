"""The bench that a provider's author supplies, and faults for calls.

Guarantee: the tools do not wait. Only the active spoil changes a response.
"""

from __future__ import annotations

import contextlib
import json
import unittest
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final, Literal, TypeAlias

from drawdown.providers.http import Answer, Call, Http, HttpResult, NoAnswer, NotSent
from drawdown.providers.protocol import Provider, PushRequest
from drawdown.schema.clock import FixedClock

Secret: TypeAlias = Literal["current", "previous", "strange"]
"""The secret that signs a webhook.

It is the current secret, the previous secret (still accepted), or that of a stranger.
"""
Path: TypeAlias = tuple[str | int, ...]
"""The path to a part of a JSON value."""
WRONG_TYPES: Final[Sequence[object]] = (None, "x", -7, 1.5, True, [None], {"x": [None]}, 10**400)
Spoil: TypeAlias = Callable[[Call, Http], Awaitable[HttpResult]]
"""A fault: a function that replaces the sending of a call."""


class Unsupported(unittest.SkipTest):
    """Raised if the service cannot support a hook. The message has the reason."""


@dataclass
class Wire:
    """The `Http` of the provider under test, which passes calls on or spoils them.

    `spoil` None: calls are passed on. `calls`: their number. `last`: the last result (None: there was no call).
    """

    inner: Http
    spoil: Spoil | None = None
    calls: int = 0
    last: HttpResult | None = None

    async def send(self, call: Call) -> HttpResult:
        self.calls += 1
        self.last = await (self.inner.send(call) if self.spoil is None else self.spoil(call, self.inner))
        return self.last

    async def close(self) -> None:
        await self.inner.close()

    @contextlib.contextmanager
    def spoiled(self, spoil: Spoil) -> Iterator[None]:
        """Spoil every call while the context is open."""
        self.spoil = spoil
        try:
            yield
        finally:
            self.spoil = None


async def refused(call: Call, inner: Http) -> HttpResult:
    return NotSent("refused")


async def cut_before(call: Call, inner: Http) -> HttpResult:
    return NoAnswer("cut, and it never arrived")


async def cut_after(call: Call, inner: Http) -> HttpResult:
    await inner.send(call)
    return NoAnswer("cut, after it arrived")


def instead(answer: Answer) -> Spoil:
    """Return a spoil that answers in place of the service, which never sees the call."""

    async def spoil(call: Call, inner: Http) -> HttpResult:
        return answer

    return spoil


def garbled(answer: Answer) -> Spoil:
    """Return a spoil that sends the call, and replaces the service's response."""

    async def spoil(call: Call, inner: Http) -> HttpResult:
        await inner.send(call)
        return answer

    return spoil


def retyped(path: Path, value: object) -> Spoil:
    """Return a spoil that sends the call, and replaces a field of the response."""

    async def spoil(call: Call, inner: Http) -> HttpResult:
        result = await inner.send(call)
        if not isinstance(result, Answer):
            return result
        return replace(result, body=json.dumps(changed(fields(result), path, value)).encode())

    return spoil


def changed(body: object, path: Path, value: object) -> object:
    """Return the JSON with another value at a path; unchanged if it lacks the path."""
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(body, dict) and first in body:
        return {**body, first: changed(body[first], rest, value)}
    if isinstance(body, list) and isinstance(first, int) and first < len(body):
        return [changed(item, rest, value) if n == first else item for n, item in enumerate(body)]
    return body


def paths(body: object) -> Iterator[Path]:
    """Yield the path to every part of a JSON value.

    For a list, yield only the paths to its first two items.
    """
    within: Iterable[tuple[str | int, object]] = ()
    if isinstance(body, Mapping):
        within = body.items()
    elif isinstance(body, list):
        within = enumerate(body[:2])
    for name, part in within:
        yield (name,)
        yield from ((name, *rest) for rest in paths(part))


def fields(result: HttpResult | None) -> Mapping[str, object] | list[object]:
    """Return the JSON object or list of a response; empty if it has neither."""
    with contextlib.suppress(ValueError):
        body = json.loads(result.body) if isinstance(result, Answer) else None
        return body if isinstance(body, dict | list) else {}
    return {}


def same_words(one: HttpResult | None, other: HttpResult | None) -> bool:
    """Return True if two responses have the same status and the same JSON.

    Then a caller cannot distinguish them.
    """
    if not isinstance(one, Answer) or not isinstance(other, Answer) or one.status != other.status:
        return False
    try:
        return bool(json.loads(one.body) == json.loads(other.body))
    except (ValueError, RecursionError):
        return False


LOST: Final[Mapping[str, Spoil]] = {"refused": refused, "cut before": cut_before, "cut after": cut_after}

_HTML: Final = b"<!doctype html><html><h1>Sign in</h1></html>"
_JSON: Final = {"content-type": "application/json"}
NONSENSE: Final[Mapping[str, Answer]] = {
    "a page": Answer(200, {"content-type": "text/html"}, _HTML),
    "nothing": Answer(200, {}, b""),
    "nothing, by status": Answer(204, {}, b""),
    "JSON cut short": Answer(200, _JSON, b'{"id": "evt_1", "value": 30'),
    "null": Answer(200, _JSON, b"null"),
    "a list": Answer(200, _JSON, b"[]"),
    "a list of lists without end": Answer(200, _JSON, b"[" * 100_000),
    "a text": Answer(200, _JSON, b'"ok"'),
    "an empty object": Answer(200, _JSON, b"{}"),
    "no number": Answer(
        200, _JSON, b'{"id": 1, "value": NaN, "balance": Infinity, "deductions": [{"value": 1e999999}]}'
    ),
    "no UTF-8": Answer(200, _JSON, b'{"id": "\xff\xfe"}'),
    "a megabyte": Answer(200, _JSON, b'{"id": "' + b"x" * 1_000_000),
    "moved": Answer(302, {"location": "https://elsewhere.invalid/"}, b""),
    "an error of somebody in between": Answer(502, {"content-type": "text/html"}, _HTML),
    "an error of another shape": Answer(500, _JSON, b'{"error": [null], "code": 7, "message": {}}'),
}
"""Responses that a service never sends on purpose.

They do not show whether the push was charged before.
"""

FOREIGN: Final[Mapping[str, Answer]] = {
    f"{status} {name}": Answer(status, headers, body)
    for status in (400, 401, 403, 404, 405, 408, 409, 413, 422)
    for name, headers, body in (
        ("as a page", {"content-type": "text/html"}, _HTML),
        ("without words", {}, b""),
        ("of a gateway", _JSON, b'{"message": "Not Found", "statusCode": 404, "request_id": "7"}'),
        ("of another API", _JSON, b'{"error": {"code": %d, "message": "no", "status": "ABORTED"}}' % status),
        ("of another API, in words", _JSON, b'{"error": {"code": "Forbidden", "message": "no"}}'),
    )
}
"""Errors from senders other than the service."""

THROTTLED: Final[Mapping[str, Mapping[str, str]]] = {
    "seconds": {"retry-after": "7"},
    "nothing": {},
    "zero": {"retry-after": "0"},
    "a word": {"retry-after": "soon"},
    "less than nothing": {"retry-after": "-5"},
    "a year": {"retry-after": "31536000"},
    "more than a number": {"retry-after": "9" * 400},
    "no date": {"retry-after": "Wed, 99 Foo 2026 25:61:61 GMT"},
    "the first year": {"retry-after": "Mon, 01 Jan 0001 00:00:00 +2359"},
}


class Bench(ABC):
    """One provider and its service, new for each test.

    `wire` None: the provider does not use `Http`.
    """

    provider: Provider
    clock: FixedClock
    wire: Wire | None
    customer: str
    """A customer with enough credit, which is charged for `feature`."""
    feature: str
    unknown_customer: str
    unknown_feature: str
    secrets: Sequence[str] = ()
    """Texts that a message must not contain."""
    tells_duplicates: bool = True
    """True if the service reports that it received a key before.

    If False, only a lookup finds that the service charged another quantity under a key. This happens after a database
    lost its history (rule R1).
    """

    @abstractmethod
    def charged(self, request: PushRequest) -> int | None:
        """Return the service's total charge under the key of this push, in base units.

        Return None if the service did not charge under the key.
        """

    @abstractmethod
    def charged_total(self, customer_id: str, feature: str) -> int:
        """Return the service's total charge under all keys, in base units."""

    @abstractmethod
    def charging_nothing(self) -> str:
        """Return a customer that the service does not charge although it reports success."""

    @abstractmethod
    def change_of(self, customer_id: str) -> bytes:
        """Return the body of a webhook that reports that this customer changed."""

    @abstractmethod
    def signed(self, body: bytes, secret: Secret) -> Mapping[str, str]:
        """Return the headers of a webhook with this body, signed now; names in lower case."""

    @abstractmethod
    def late_refusal(self, request: PushRequest) -> tuple[Mapping[str, str], bytes]:
        """Return headers and body of a webhook that reports a late refusal of a push.

        The service had answered the push with success.
        """

    @abstractmethod
    def with_bad_key(self) -> Provider:
        """Return the same provider with a key that the service refuses."""

    @abstractmethod
    def without_key(self) -> Provider:
        """Return the same provider without a key."""

    def cost(self, feature: str) -> tuple[str, Decimal] | None:
        """Return the balance that pays for a feature, and the credits for one base unit.

        Return None if the feature has its own balance.
        """
        return None

    def advance(self, ms: int) -> None:
        """Advance the clock of provider and service, by milliseconds."""
        self.clock.at_ms += ms

    def close(self) -> None:  # noqa: B027
        """Close all resources of the bench."""
