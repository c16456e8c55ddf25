"""The tools of the conformance suite: the bench that a provider's author supplies, and calls that go wrong.

Guarantee: nothing here waits, and no answer is changed but by the spoil that is in force.
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
"""The secret that signs a webhook: the one in use, the one before it, which is still taken, or a stranger's."""
Path: TypeAlias = tuple[str | int, ...]
"""Where something is in a JSON value."""
WRONG_TYPES: Final[Sequence[object]] = (None, "x", -7, 1.5, True, [None], {"x": [None]}, 10**400)
Spoil: TypeAlias = Callable[[Call, Http], Awaitable[HttpResult]]
"""Replaces the sending of a call."""


class Unsupported(unittest.SkipTest):
    """This service cannot be made to do that; the message says why."""


@dataclass
class Wire:
    """The `Http` of the provider under test: passes calls on, or spoils them."""

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
        """Every call, for as long as the context lasts."""
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
    """The service never sees it."""

    async def spoil(call: Call, inner: Http) -> HttpResult:
        return answer

    return spoil


def garbled(answer: Answer) -> Spoil:
    """The service does it, and its answer becomes this one."""

    async def spoil(call: Call, inner: Http) -> HttpResult:
        await inner.send(call)
        return answer

    return spoil


def retyped(path: Path, value: object) -> Spoil:
    """The service does it, and one field of its answer becomes this."""

    async def spoil(call: Call, inner: Http) -> HttpResult:
        result = await inner.send(call)
        if not isinstance(result, Answer):
            return result
        return replace(result, body=json.dumps(changed(fields(result), path, value)).encode())

    return spoil


def changed(body: object, path: Path, value: object) -> object:
    """The same JSON but for one place in it; where that place is not, the same."""
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(body, dict) and first in body:
        return {**body, first: changed(body[first], rest, value)}
    if isinstance(body, list) and isinstance(first, int) and first < len(body):
        return [changed(item, rest, value) if n == first else item for n, item in enumerate(body)]
    return body


def paths(body: object) -> Iterator[Path]:
    """Every place in a JSON value, but for lists: there the first two."""
    within: Iterable[tuple[str | int, object]] = ()
    if isinstance(body, Mapping):
        within = body.items()
    elif isinstance(body, list):
        within = enumerate(body[:2])
    for name, part in within:
        yield (name,)
        yield from ((name, *rest) for rest in paths(part))


def fields(result: HttpResult | None) -> Mapping[str, object] | list[object]:
    """Those of an answer that is a JSON object, or the items of one that is a list."""
    with contextlib.suppress(ValueError):
        body = json.loads(result.body) if isinstance(result, Answer) else None
        return body if isinstance(body, dict | list) else {}
    return {}


def same_words(one: HttpResult | None, other: HttpResult | None) -> bool:
    """Return True if two answers have the same status and the same JSON: then no caller can tell them apart."""
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
"""Answers that no service gives on purpose. They do not show if the push was charged before them."""

FOREIGN: Final[Mapping[str, Answer]] = {
    f"{status} {name}": Answer(status, headers, body)
    for status in (400, 401, 403, 404, 405, 408, 409, 413, 422)
    for name, headers, body in (
        ("as a page", {"content-type": "text/html"}, _HTML),
        ("without words", {}, b""),
        ("of a gateway", _JSON, b'{"message": "Not Found", "statusCode": 404, "request_id": "7"}'),
    )
}
"""A no in words that are not the service's."""

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
    """One provider and its service, set up afresh for a test. `wire` None: it does not speak over `Http`."""

    provider: Provider
    clock: FixedClock
    wire: Wire | None
    customer: str
    """Has enough of everything; `feature` is charged to it."""
    feature: str
    unknown_customer: str
    unknown_feature: str
    secrets: Sequence[str] = ()
    """Texts that no message may contain."""
    tells_duplicates: bool = True
    """True if the service reports that a key came before.

    If it does not, another quantity under a key that a lost history had sent is found by look-ups alone (rule R1).
    """

    @abstractmethod
    def charged(self, request: PushRequest) -> int | None:
        """Return the service's own charge under the key of this push, all times together; None: nothing."""

    @abstractmethod
    def charged_total(self, customer_id: str, feature: str) -> int:
        """Return the service's own total charge, under all keys."""

    @abstractmethod
    def charging_nothing(self) -> str:
        """Return a customer that the service charges nothing while it reports success."""

    @abstractmethod
    def change_of(self, customer_id: str) -> bytes:
        """The body of a webhook that says this customer changed."""

    @abstractmethod
    def signed(self, body: bytes, secret: Secret) -> Mapping[str, str]:
        """The headers of a webhook with this body, signed now; names in lower case."""

    @abstractmethod
    def late_refusal(self, request: PushRequest) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of a webhook that says this push, which was answered with success, is refused after all."""

    @abstractmethod
    def with_bad_key(self) -> Provider:
        """The same provider with a key that the service refuses."""

    @abstractmethod
    def without_key(self) -> Provider:
        """The same provider with no key set."""

    def cost(self, feature: str) -> tuple[str, Decimal] | None:
        """Which balance in credits the service draws on for a base unit of a feature, and how much; None: the feature
        has a balance of its own."""
        return None

    def advance(self, ms: int) -> None:
        """Let time pass, for provider and service alike."""
        self.clock.at_ms += ms

    def close(self) -> None:  # noqa: B027
        """Give back what was opened."""
