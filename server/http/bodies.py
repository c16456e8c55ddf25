"""Read the bodies of requests, and unpack gzip.

Guarantee: a body in memory never exceeds its route's limit. All large bodies in memory share a budget, and each address
and each key has a limited share of it. The budget does not count small bodies, so large bodies do not block them.
Drawdown never unpacks a body beyond its limit. It waits a limited time for a slow caller, and this wait does not block
other connections.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request

from drawdown.schema.text import clean, nearest, quote_value
from drawdown.server.http.callers import caller_of
from drawdown.server.http.errors import ApiError
from drawdown.server.http.limits import connection_of, resting

BODY_TIMEOUT_S: Final = 10.0
"""Longest wait for a request's body."""
IN_MEMORY: Final = (
    "cannot read the request body: too many bytes of request bodies are in memory. Wait for `Retry-After`, then send "
    "the request again"
)
MAX_HELD_BYTES: Final = 32 * 1024 * 1024
"""Bytes of large bodies of all callers in memory."""
MAX_HELD_OF_AN_ADDRESS_BYTES: Final = 4 * 1024 * 1024
"""Bytes of large bodies of one caller in memory."""
MAX_HELD_OF_A_KEY_BYTES: Final = 16 * 1024 * 1024
"""Bytes of large bodies of one API key in memory.

One program thus cannot block all others. All requests without a key, such as webhooks, share one such limit.
"""
SMALL_BODY_BYTES: Final = 64 * 1024
"""Bytes of each body that do not count against the budget of large bodies.

The number of connections limits the sum of these bytes.
"""
_LENGTH_DIGITS: Final = 15
MOST_SAID_WRONG: Final = 20
"""Errors in the response to one invalid body or query."""
MAX_AT_CHARS: Final = 300
"""Characters of the path to the field in each listed error.

The path includes names that the caller chose.
"""

M = TypeVar("M", bound=BaseModel)


class Budget:
    """The bytes of large bodies in memory, in total and for each address and key."""

    def __init__(self, refused: Counter[str]) -> None:
        self._refused = refused
        self._held: Counter[str] = Counter()
        self._held_of_key: Counter[str] = Counter()
        self.bytes = 0

    def take(self, caller: str, size: int, key: str = "") -> None:
        """Count bytes of a body.

        `key`: the name of the API key that sends the body; "" without a key. Errors: ApiError 503 if a limit would be
        exceeded.
        """
        if (
            self.bytes + size > MAX_HELD_BYTES
            or self._held[caller] + size > MAX_HELD_OF_AN_ADDRESS_BYTES
            or self._held_of_key[key] + size > MAX_HELD_OF_A_KEY_BYTES
        ):
            self._refused["bodies"] += 1
            headers = {"Connection": "close", "Retry-After": "1"}
            raise ApiError(503, "busy", IN_MEMORY, headers=headers)
        self._add(caller, size, key)

    def give_back(self, caller: str, size: int, key: str = "") -> None:
        self._add(caller, -size, key)

    def _add(self, caller: str, size: int, key: str) -> None:
        self.bytes += size
        for held, name in ((self._held, caller), (self._held_of_key, key)):
            held[name] += size
            if not held[name]:
                del held[name]


@asynccontextmanager
async def body_of(request: Request, most_bytes: int, budget: Budget, key: str = "") -> AsyncIterator[bytes]:
    """Yield the whole body. The budget counts the body until the context ends.

    `key`: as in `Budget.take`. Errors: ApiError 413 if the body is too large, 408 if the body is too slow. ApiError 400
    if the body is incomplete, or its length is invalid. ApiError 503 if the budget is used up.
    """
    said = request.headers.get("content-length", "0")
    if not (said.isascii() and said.isdigit() and len(said) <= _LENGTH_DIGITS):
        raise ApiError(
            400, "bad_request", f"invalid Content-Length {quote_value(said)}: expected the number of bytes in digits"
        )
    if int(said) > most_bytes:
        raise _too_large(most_bytes)
    caller = caller_of(request.client and request.client.host)
    body = bytearray()

    def take(size: int) -> None:
        budget.take(caller, _counted(len(body) + size) - _counted(len(body)), key)

    try:
        await _read(request, most_bytes, take, body)
        yield bytes(body)
    finally:
        budget.give_back(caller, _counted(len(body)), key)


def _counted(size: int) -> int:
    """Return the number of bytes that the budget counts."""
    return max(0, size - SMALL_BODY_BYTES)


async def _read(request: Request, most_bytes: int, take: Callable[[int], None], body: bytearray) -> None:
    """Read a body.

    Meanwhile the connection's slot counts as idle, so slow bodies do not block the gate and the guard.
    """
    try:
        with resting(connection_of(request.scope)):
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > most_bytes:
                        raise _too_large(most_bytes)
                    take(len(chunk))
                    body += chunk
    except TimeoutError:
        raise ApiError(
            408,
            "too_slow",
            "the body did not arrive in time. Send the request again without pauses",
            headers={"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise ApiError(400, "cut_short", "the body ended too early. Send the request again") from None


def _too_large(most_bytes: int) -> ApiError:
    message = f"body too large: at most {most_bytes} bytes are allowed. Send a smaller body"
    return ApiError(413, "too_large", message, headers={"Connection": "close"})


def parse(body: bytes, content_type: str, model: type[M]) -> M:
    """Return the model that a JSON body contains.

    Unknown fields, repeated names and numbers in place of texts are errors. A number with decimals stays exact. Errors:
    ApiError 415, 400, 422.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "not_json", f"invalid Content-Type {quote_value(content_type)}: expected application/json")
    try:
        found = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_constant, parse_float=Decimal)
    except (ValueError, RecursionError, ArithmeticError):
        raise ApiError(
            400,
            "not_json",
            "invalid body: expected JSON in UTF-8, without duplicate keys, huge numbers or very deep nesting",
        ) from None
    try:
        return model.model_validate(found, strict=True)
    except ValidationError as error:
        raise not_taken("body", error, model) from None


MEANT: Final = {"amount": "quantity"}
"""The right field for each wrong field.

Credits are an `amount`, and base units a `quantity`.
"""


def not_taken(what: str, error: ValidationError, model: type[BaseModel]) -> ApiError:
    """Return the error of an invalid body or query.

    The error does not repeat values. Its message states the first fault of `details.wrong`.
    """
    found = error.errors(include_url=False, include_context=False, include_input=False)
    names = [field.alias or name for name, field in model.model_fields.items()]
    wrong = [
        {"at": clean(".".join(map(str, one["loc"])), MAX_AT_CHARS), "message": _message(one, names)}
        for one in found[:MOST_SAID_WRONG]
    ]
    at, why = wrong[0]["at"], wrong[0]["message"]
    rest = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    message = f"invalid {what}: {at + ': ' if at else ''}{why}{rest}"
    return ApiError(422, "bad_value", message, details={"wrong": wrong})


def _message(wrong: ErrorDetails, names: Sequence[str]) -> str:
    """Return the message of one error. `names`: the fields at the top level."""
    match wrong["type"]:
        case "extra_forbidden" if len(wrong["loc"]) == 1:
            given = str(wrong["loc"][0])
            near = MEANT[given] if MEANT.get(given) in names else nearest(given, names)
            hint = "." if near is None else f"; did you mean {near}?"
            return f"unknown field{hint} Fields: {', '.join(names)}"
        case "extra_forbidden":
            return "unknown field"
        case "missing":
            return "required"
        case "model_type" | "model_attributes_type":
            return "must be a JSON object"
    return wrong["msg"].removeprefix("Value error, ")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key. Send each key once")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"invalid number {quote_value(name)}: expected a JSON number")


PIECE_BYTES: Final = 64 * 1024
"""Bytes of a body that one step unpacks."""
MOST_MEMBERS: Final = 1_000
"""Most gzip members in one body."""
_GZIP: Final = 16 + zlib.MAX_WBITS


def is_packed(content_encoding: str) -> bool:
    """Return True if the body is in gzip. Errors: ApiError 415 for another encoding."""
    found = content_encoding.strip().lower()
    if found in ("", "identity"):
        return False
    if found in ("gzip", "x-gzip"):
        return True
    raise ApiError(
        415,
        "bad_encoding",
        f"invalid Content-Encoding {quote_value(content_encoding)}: expected gzip or identity. Send the body "
        "uncompressed, or as gzip",
    )


def unpack(body: bytes, most_bytes: int) -> bytes:
    """Return the unpacked body.

    The body may have several gzip members, one after the other. Errors: ApiError 413 if it is too large or has too many
    members, 400 if it is invalid.
    """
    found = bytearray()
    at = members = 0
    try:
        while at < len(body):
            members += 1
            if members > MOST_MEMBERS:
                raise ApiError(
                    413,
                    "too_large",
                    f"too many gzip members: at most {MOST_MEMBERS:,} are allowed. Send the body as a single member",
                )
            at = _member(body, at, found, most_bytes)
    except zlib.error:
        raise ApiError(400, "bad_encoding", "invalid body: expected gzip, as Content-Encoding states") from None
    return bytes(found)


def _member(body: bytes, at: int, found: bytearray, most_bytes: int) -> int:
    """Unpack the gzip member at this position into `found`, and return its end.

    The function passes a piece at a time to zlib, because zlib copies the bytes after a member. With the whole body,
    these copies would take quadratic time. Errors: ApiError 413, 400.
    """
    member = zlib.decompressobj(_GZIP)
    while not member.eof:
        piece = body[at : at + PIECE_BYTES]
        if not piece:
            raise ApiError(400, "bad_encoding", "invalid body: the gzip data ended too early. Send the whole body")
        at += len(piece)
        found += member.decompress(piece, most_bytes + 1 - len(found))
        if len(found) > most_bytes:
            raise ApiError(
                413,
                "too_large",
                f"body too large: at most {most_bytes} unpacked bytes are allowed. Send a smaller body",
            )
    return at - len(member.unused_data)
