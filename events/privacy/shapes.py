"""The allow-list of a published report, which is its shape.

Each value has a class, and unknown fields are faults.

A shape consists of dictionaries (fields), `Rows` (lists of one shape) and classes of values. The redacted reference of
a thing is always the same, and useless without the key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from drawdown.events.privacy.leaves import MAX_DEPTH, Key, Number, Pairs, Path, Trouble
from drawdown.schema.errors import UsageError

MAX_LABEL_CHARS: Final = 64
"""Most characters of a label in a public report."""
_LABEL: Final = re.compile(rf"[A-Za-z0-9](?:[A-Za-z0-9 ._/+-]{{0,{MAX_LABEL_CHARS - 2}}}[A-Za-z0-9+])?")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z")
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_COMMIT: Final = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class Class:
    """A class of values. `words`: the allowed labels; empty: any label."""

    name: str
    words: frozenset[str] = frozenset()


LABEL: Final = Class("public label")
REFERENCE_: Final = Class("redacted reference")
TIME: Final = Class("UTC time")
DAY: Final = Class("day or other")
COMMIT: Final = Class("commit")
NUMBER: Final = Class("number")
NUMBER_OR_NONE: Final = Class("number or null")
FLAG: Final = Class("yes or no")


@dataclass(frozen=True)
class Rows:
    """A list of items that share one shape."""

    of: Shape


Shape: TypeAlias = Class | Rows | Mapping[str, "Shape"]


def word(*words: str) -> Class:
    """Return a class that allows only these labels."""
    return Class("public label", frozenset(words))


def outside(report: object, shape: Shape, path: Path = ()) -> Iterator[Trouble]:
    """Yield the faults of a report against its shape.

    The rules of the faults are `unknown_field`, `missing_field` and `not_of_its_class`.
    """
    if len(path) > MAX_DEPTH:
        return
    if isinstance(shape, Rows):
        if isinstance(report, list) and not isinstance(report, Pairs):
            for place, one in enumerate(report):
                yield from outside(one, shape.of, (*path, place))
            return
    elif isinstance(shape, Mapping):
        if isinstance(report, Pairs | Mapping):
            pairs = report if isinstance(report, Pairs) else Pairs(report.items())
            yield from _fields(pairs, shape, path)
            return
    elif _is_of(report, shape):
        return
    yield Trouble(path, "not_of_its_class")


def _fields(pairs: Pairs, shape: Mapping[str, Shape], path: Path) -> Iterator[Trouble]:
    for number, (name, value) in enumerate(pairs, 1):
        at = (*path, Key(name, number))
        if name in shape:
            yield from outside(value, shape[name], at)
        else:
            yield Trouble(at, "unknown_field")
    if shape.keys() - {name for name, _ in pairs}:
        yield Trouble(path, "missing_field")


def _is_of(value: object, shape: Class) -> bool:
    if shape is FLAG:
        return isinstance(value, bool)
    if shape is NUMBER_OR_NONE and value is None:
        return True
    if shape in (NUMBER, NUMBER_OR_NONE):
        return isinstance(value, Number | int | float) and not isinstance(value, bool)
    if not isinstance(value, str) or isinstance(value, Number):
        return False
    if shape.words:
        return value in shape.words
    if shape in (TIME, DAY):
        return value == "other" if shape is DAY and value == "other" else _is_moment(value, shape)
    pattern = {LABEL: _LABEL, REFERENCE_: REFERENCE, COMMIT: _COMMIT}[shape]
    return pattern.fullmatch(value) is not None


def _is_moment(text: str, shape: Class) -> bool:
    if (_TIME if shape is TIME else _DAY).fullmatch(text) is None:
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


LEAST_KEY_BYTES: Final = 16
"""Fewest bytes of a key that turns ids into references."""
REFERENCE: Final = re.compile(r"ref_[0-9a-f]{12}")
IN_TEXT: Final = re.compile(r"(?<![\w-])ref_[0-9a-f]{12}(?![\w-])")


def reference(key: bytes, kind: str, value: str) -> str:
    """Return the reference of an id: `ref_` and 12 hexadecimal digits.

    The digits are the start of an HMAC-SHA-256 of the kind (`org`, `subject`) and the id. So equal ids of two kinds
    have different references. Errors: UsageError for a key that is too short.
    """
    if len(key) < LEAST_KEY_BYTES:
        raise UsageError(
            f"key too short: a key for references must have at least {LEAST_KEY_BYTES} bytes. Pass a longer key"
        )
    text = f"{len(kind)}:{kind}:{value}"
    return f"ref_{hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:12]}"
