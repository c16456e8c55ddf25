"""Read the items of a body.

A body is one JSON object, an array of objects, or one object on each line.

Guarantee: this module is pure. Each item is read and bounded separately. If an item is invalid, only that item is
reported, and the others are read. To find the ends of invalid items, Drawdown skips at most MOST_PASSED_OVER tokens of
a body. A body has one meaning, because repeated names, numbers that JSON does not allow, and bytes that are not UTF-8
are rejected.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from drawdown.events.envelope import Unfit
from drawdown.schema.errors import UsageError
from drawdown.schema.text import quote_value

MOST_ITEMS: Final = 1_000
"""Most items in one body of events or samples."""
MAX_ITEM_BYTES: Final = 16 * 1024
"""Largest item in a body of events or samples, in bytes."""
_FIRST_LOOK: Final = 1024
"""Bytes of an item to read first, enough for most items.

If they are not enough, the whole item is read.
"""
MOST_PASSED_OVER: Final = 200_000
"""Most tokens to skip in the invalid items of one body.

Tokens are brackets, texts and commas. A thousand invalid items have fewer.
"""
MAX_DEPTH: Final = 8
"""Most nested levels of objects and arrays in one item, including the item itself."""

Item = dict[str, object]

_BLANK: Final = re.compile(rb"[ \t\r\n]*")
_LINE: Final = re.compile(rb"[^\n]*\n|[^\n]+")
_TOKENS: Final = re.compile(rb'"(?:[^"\\]++|\\(?:.|\Z))*+(?:"|\Z)|[\[{]+|[\]}]+|,', re.DOTALL)
"""Tokens that decide where an item ends.

A text without an end is one token up to the end of the body.
"""


_NO_UTF8: Final = re.compile("[\ud800-\udfff]")


class Unreadable(UsageError):
    """Raised if a body cannot be read, so all of its items are rejected.

    `code`: `not_json` or `too_large`.
    """


def drop_traceback(error: Unfit) -> Unfit:
    """Return an error without its traceback, which would keep all read data in memory."""
    error.__context__ = None
    return error.with_traceback(None)


def _once(pairs: list[tuple[str, object]]) -> Item:
    found = dict(pairs)
    if len(found) != len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise Unfit("duplicate_keys", f"duplicate key {quote_value(key)} in an object. Keep one of them")
    return found


def _no_number(text: str) -> object:
    raise Unfit("not_json", f"invalid number {quote_value(text)}: JSON does not allow it. Send a finite number")


def _whole_number(text: str) -> int | Decimal:
    """Return a whole number.

    A number with more digits than Python reads is still JSON, so its field reports the fault.
    """
    try:
        return int(text)
    except ValueError:
        return Decimal(text)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=_whole_number, parse_float=Decimal, parse_constant=_no_number
)


def is_array(body: bytes) -> bool:
    return _sign(body, _skip(body, 0)) == b"["


def array(body: bytes) -> Iterator[Item | Unfit]:
    """Yield the items of a JSON array.

    Errors: Unreadable, even after some items. Then also reject those items.
    """
    at, number, left = _skip(body, 0), 0, MOST_PASSED_OVER
    if _sign(body, at) != b"[":
        raise Unreadable("invalid body: expected a JSON array", code="not_json")
    at = _skip(body, at + 1)
    follows = _sign(body, at)
    at += follows == b"]"
    while follows != b"]":
        number += 1
        if number > MOST_ITEMS:
            raise _too_many()
        item, end, left = _next(body, at, left)
        yield item
        at = _skip(body, end)
        follows = _sign(body, at)
        if follows not in (b",", b"]"):
            raise Unreadable("invalid body: expected a comma or ] after an item of the JSON array", code="not_json")
        at = _skip(body, at + 1)
    if _skip(body, at) != len(body):
        raise Unreadable("invalid body: data follows the JSON array. Send only the array", code="not_json")


def one(body: bytes) -> Item | Unfit:
    """Return the single item of a body. Errors: Unreadable."""
    try:
        return _whole(body)
    except Unfit as error:
        if error.code == "not_json":
            raise Unreadable("invalid body: expected a JSON object in UTF-8", code="not_json") from None
        return drop_traceback(error)


def read_lines(body: bytes) -> Iterator[Item | Unfit]:
    """Yield the items of JSON lines, one for each line.

    An empty line yields an Unfit. Errors: Unreadable for too many lines, after MOST_ITEMS items. Then also reject those
    items.
    """
    for number, found in enumerate(_LINE.finditer(body)):
        if number >= MOST_ITEMS:
            raise _too_many()
        try:
            if not found[0].strip():
                raise Unfit("empty_line", "the line is empty. Send one item on each line")
            yield _whole(found[0].removesuffix(b"\n"))
        except Unfit as error:
            yield drop_traceback(error)


def _whole(text: bytes) -> Item:
    """Return the item of a whole text. Errors: Unfit."""
    if len(text) > MAX_ITEM_BYTES:
        raise _too_large()
    try:
        return _object(_DECODER.decode(text.decode()), text.count(b"{") + text.count(b"["))
    except Unfit:
        raise
    except RecursionError:
        raise _too_deep() from None
    except (ValueError, ArithmeticError):
        raise _no_json() from None


def _next(body: bytes, at: int, left: int) -> tuple[Item | Unfit, int, int]:
    """Return the item that begins here, its end, and the rest of MOST_PASSED_OVER.

    Errors: Unreadable if its end cannot be found.
    """
    wrong: Unfit | None = None
    for most_bytes in (_FIRST_LOOK, MAX_ITEM_BYTES):
        # Bytes that are not UTF-8 become halves of surrogate pairs. They keep their number, and are never valid text.
        text = body[at : at + most_bytes].decode("utf-8", "surrogateescape")
        try:
            item, length = _DECODER.raw_decode(text)
            end = at + _bytes_of(text, length)
            if _sign(body, _skip(body, end)) in (b",", b"]"):
                return _object(item, text.count("{", 0, length) + text.count("[", 0, length)), end, left
        except Unfit as error:
            wrong = drop_traceback(error)
        except (ValueError, RecursionError, ArithmeticError):
            wrong = None
    end, deepest, left = _end(body, at, left)
    if end - at > MAX_ITEM_BYTES:
        return _too_large(), end, left
    if deepest > MAX_DEPTH:
        return _too_deep(), end, left
    return wrong or _no_json(), end, left


def _end(body: bytes, at: int, left: int) -> tuple[int, int, int]:
    """Return the end of the item at `at`, its depth, and the rest of `left`.

    The item begins at `at`. Its end is the array's next comma, or the end of the array. Errors: Unreadable.
    """
    depth = deepest = 0
    for found in _TOKENS.finditer(body, at):
        if not left:
            raise Unreadable("too many items that cannot be parsed. Send fewer items", code="too_large")
        left -= 1
        start, end = found.span()
        first = body[start]
        if first in b"[{":
            depth += end - start
            deepest = max(deepest, depth)
        elif first in b"]}":
            if end - start > depth:
                return start + depth, deepest, left
            depth -= end - start
        elif first == 0x2C and not depth:
            return start, deepest, left
    raise Unreadable("invalid body: the JSON array does not end. Send the whole array", code="not_json")


def _bytes_of(text: str, length: int) -> int:
    """Return the number of bytes of the first `length` characters.

    Errors: Unfit if they were not UTF-8.
    """
    if text.isascii():
        return length
    if _NO_UTF8.search(text, 0, length):
        raise _no_json()
    return len(text[:length].encode())


def _object(item: object, openings: int) -> Item:
    """Return an item of at most MAX_DEPTH levels. Errors: Unfit.

    `openings`: the number of opening brackets in the item's text. An item cannot have more levels than that.
    """
    if not isinstance(item, dict):
        raise Unfit("not_an_object", "invalid item: expected a JSON object")
    if openings <= MAX_DEPTH:
        return item
    level: list[Any] = [item]
    for _ in range(MAX_DEPTH):  # the depth of the parser itself differs between versions of Python
        level = [
            one
            for held in level
            for one in (held.values() if type(held) is dict else held)
            if type(one) is dict or type(one) is list
        ]
        if not level:
            return item
    raise _too_deep()


def _sign(body: bytes, at: int) -> bytes:
    return body[at : at + 1]


def _skip(body: bytes, at: int) -> int:
    found = _BLANK.match(body, at)
    return at if found is None else found.end()


def _too_many() -> Unreadable:
    return Unreadable(
        f"too many items: at most {MOST_ITEMS:,} are allowed. Send the rest in another body", code="too_large"
    )


def _too_large() -> Unfit:
    return Unfit("too_large", f"item too large: at most {MAX_ITEM_BYTES:,} bytes are allowed. Send less data")


def _too_deep() -> Unfit:
    return Unfit("too_deep", f"nested too deeply: objects and arrays may nest {MAX_DEPTH} levels. Use fewer levels")


def _no_json() -> Unfit:
    return Unfit("not_json", "invalid item: expected JSON in UTF-8")
