"""The leaves of a report: each text and number in it, each key, with the place where it stands.

Guarantee: bounded in depth and in number; what lies beyond is told as trouble, never passed over. JSON that stands in a
text is walked, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from decimal import Decimal
from typing import Final, TypeAlias

from drawdown.events.privacy.documents import Number, Pairs, parse
from drawdown.events.privacy.fields import bare
from drawdown.events.privacy.readings import MAX_TEXT_CHARS, look
from drawdown.schema.errors import UsageError

MAX_DEPTH: Final = 32
MAX_LEAVES: Final = 200_000
"""Values of one report: texts, numbers, and the objects and lists around them."""
MAX_DECODED_CHARS: Final = 4_194_304
"""Of one report: what its texts say once they are decoded, and the JSON that stands in texts. A few characters could
else be read in ever more ways."""
LEAST_DECODED_CHARS: Final = 64
"""That one reading counts for: a short one costs its time, too."""
_NESTED: Final = ("{", "[", '"')


@dataclass(frozen=True)
class Key:
    """A step into an object: the key, and its number there, from 1 on."""

    name: str
    number: int


Step: TypeAlias = Key | int | None
"""Into an object, into a list, or (None) into JSON that stands in a text."""
Path: TypeAlias = tuple[Step, ...]


@dataclass(frozen=True)
class Leaf:
    """A text, number or key. `key` is the bare name of the field it stands in, `above` that of the one around it."""

    path: Path
    readings: tuple[str, ...]
    key: str
    above: str
    is_key: bool = False
    is_number: bool = False


@dataclass(frozen=True)
class Trouble:
    """What is wrong with the form of a report at a place."""

    path: Path
    rule: str


@dataclass(frozen=True)
class _Node:
    value: object
    path: Path
    key: str
    above: str


class _Room:
    """What may still be decoded of one report."""

    def __init__(self) -> None:
        self.left = MAX_DECODED_CHARS

    def take(self, text: str) -> None:
        self.left -= max(len(text), LEAST_DECODED_CHARS)


def leaves_of(report: object) -> Iterator[Leaf | Trouble]:
    """All of a report, whether it was read by `documents` or is made of dictionaries, lists, dataclasses and scalars.

    Errors: UsageError for a value that JSON does not have.
    """
    nodes, seen, room = [_Node(report, (), "", "")], 0, _Room()
    while nodes:
        node = nodes.pop()
        seen += 1
        if seen + len(nodes) + _size(node.value) > MAX_LEAVES:
            yield Trouble(node.path[:MAX_DEPTH], "too_large")
            return
        if len(node.path) > MAX_DEPTH:
            yield Trouble(node.path[:MAX_DEPTH], "too_deep")
            continue
        found: list[_Node] = []
        yield from _look(node, found, room)
        if room.left < 0:
            yield Trouble(node.path, "too_large")
            return
        nodes.extend(reversed(found))


def _look(node: _Node, below: list[_Node], room: _Room) -> Iterator[Leaf | Trouble]:
    value = asdict(node.value) if is_dataclass(node.value) and not isinstance(node.value, type) else node.value
    if isinstance(value, Pairs | Mapping):
        yield from _object(value if isinstance(value, Pairs) else Pairs(value.items()), node, below, room)
    elif isinstance(value, Number | int | float | Decimal) and not isinstance(value, bool):
        text = str(value)
        if len(text) > MAX_TEXT_CHARS:
            yield Trouble(node.path, "long_text")
        yield Leaf(node.path, _number(text[:MAX_TEXT_CHARS]), node.key, node.above, is_number=True)
    elif isinstance(value, str):
        yield from _text(value, node, below, room)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        below.extend(_Node(one, (*node.path, place), node.key, node.above) for place, one in enumerate(value))
    elif value is not None and not isinstance(value, bool):
        raise UsageError(f"a report holds no {type(value).__name__}: it is JSON")


def _object(pairs: Pairs, node: _Node, below: list[_Node], room: _Room) -> Iterator[Leaf | Trouble]:
    names = set()
    for number, (name, value) in enumerate(pairs, 1):
        if not isinstance(name, str):
            raise UsageError("a key of a report is a text: it is JSON")
        path = (*node.path, Key(name, number))
        yield from _read(name, Leaf(path, (), node.key, node.above, is_key=True), room)
        if name in names:
            yield Trouble(path, "duplicate_key")
        names.add(name)
        below.append(_Node(value, path, bare(name), node.key))


def _text(text: str, node: _Node, below: list[_Node], room: _Room) -> Iterator[Leaf | Trouble]:
    leaf = Leaf(node.path, (), node.key, node.above)
    for one in _read(text, leaf, room):
        yield one
        leaf = one if isinstance(one, Leaf) else leaf
    for reading in leaf.readings:
        if reading.lstrip().startswith(_NESTED):
            room.take(reading)
            try:
                inner = parse(reading)
            except UsageError as error:
                if error.code == "report_too_deep":
                    yield Trouble(node.path, "too_deep")
                continue
            if not (isinstance(inner, str) and inner == text):
                below.append(_Node(inner, (*node.path, None), node.key, node.above))


def _read(text: str, leaf: Leaf, room: _Room) -> Iterator[Leaf | Trouble]:
    """A leaf with the readings of its text, and what is wrong with them."""
    found, is_all = look(text)
    if len(text) > MAX_TEXT_CHARS:
        yield Trouble(leaf.path, "long_text")
    elif not is_all:
        yield Trouble(leaf.path, "many_readings")
    for reading in found[1:]:
        room.take(reading)
    yield replace(leaf, readings=tuple(found))


def _size(value: object) -> int:
    """How many nodes lie in a value, not those below them."""
    return len(value) if isinstance(value, Mapping | list | tuple) else 0


def _number(text: str) -> tuple[str, ...]:
    """As it was written, and in digits alone, where it is a whole one that has few."""
    if text.isdigit():
        return (text,)
    try:
        number = Decimal(text)
    except ArithmeticError:
        return (text,)
    if number.is_finite() and -40 < number.adjusted() < 40 and number == number.to_integral_value():
        return tuple(dict.fromkeys((text, format(number.to_integral_value(), "f"))))
    return (text,)
