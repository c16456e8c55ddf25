"""Counts what a pattern costs: a backtracking matcher, as Python's own is, that counts the characters it compares."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from drawdown.events.privacy.rules import FLAGS

PARSER: Final[Any] = import_module("re._parser")
Next = Callable[[int], bool]


def tree_of(pattern: str) -> Any:
    return PARSER.parse(pattern, FLAGS)


def width_of(pattern: str) -> int:
    """The most characters that one match has."""
    return int(tree_of(pattern).getwidth()[1])


class TooDearError(Exception):
    """More was compared than may be."""


class Counter:
    """Matches a pattern at a place of a text, and counts. Errors: TooDearError above `most`."""

    def __init__(self, pattern: str, text: str, most: int = 10**6) -> None:
        self.tree, self.text, self.steps, self.most = tree_of(pattern), text, 0, most

    def match(self, place: int) -> bool:
        return self._sequence(list(self.tree), 0, place, lambda _: True)

    def _sequence(self, items: list[Any], number: int, place: int, then: Next) -> bool:
        if number == len(items):
            return then(place)
        return self._item(items[number], place, lambda end: self._sequence(items, number + 1, end, then))

    def _item(self, item: Any, place: int, then: Next) -> bool:
        kind, given = item
        name = str(kind)
        if name == "BRANCH":
            return any(self._sequence(list(one), 0, place, then) for one in given[1])
        if name == "SUBPATTERN":
            return self._sequence(list(given[3]), 0, place, then)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            return self._repeat(given[0], given[1], list(given[2]), place, then)
        if name in ("ASSERT", "ASSERT_NOT"):
            return self._look(name == "ASSERT", given, place) and then(place)
        if name == "AT":
            self.steps += 1
            return self._at(str(given), place) and then(place)
        return self._one(item, place) and then(place + 1)

    def _repeat(self, least: int, most: int, inner: list[Any], place: int, then: Next) -> bool:
        if len(inner) == 1 and str(inner[0][0]) in ("IN", "LITERAL", "NOT_LITERAL", "ANY"):
            count = 0
            while count < most and self._one(inner[0], place + count):
                count += 1
            return any(then(place + end) for end in range(count, least - 1, -1))

        def again(done: int, end: int) -> bool:
            if done < most and self._sequence(inner, 0, end, lambda far: far > end and again(done + 1, far)):
                return True
            return done >= least and then(end)

        return again(0, place)

    def _look(self, wanted: bool, given: Any, place: int) -> bool:
        direction, inner = given
        start = place if direction > 0 else place - int(inner.getwidth()[0])
        found = start >= 0 and self._sequence(list(inner), 0, start, lambda end: direction > 0 or end == place)
        return found == wanted

    def _at(self, kind: str, place: int) -> bool:
        words = [0 <= at < len(self.text) and _is_word(self.text[at]) for at in (place - 1, place)]
        return {"AT_BOUNDARY": words[0] != words[1], "AT_BEGINNING": place == 0}[kind]

    def _one(self, item: Any, place: int) -> bool:
        self.steps += 1
        if self.steps > self.most:
            raise TooDearError
        if place >= len(self.text):
            return False
        kind, given = item
        char = self.text[place]
        forms = {ord(char), ord(char.lower()), ord(char.upper())}
        if str(kind) == "LITERAL":
            return given in forms
        if str(kind) == "NOT_LITERAL":
            return given not in forms
        return str(kind) == "ANY" or any(self._in(given, form) for form in forms)

    def _in(self, members: list[Any], code: int) -> bool:
        members = list(members)
        negated = bool(members) and str(members[0][0]) == "NEGATE"
        return any(self._is_member(member, code) for member in members[negated:]) != negated

    def _is_member(self, member: Any, code: int) -> bool:
        kind, given = str(member[0]), member[1]
        if kind == "LITERAL":
            return bool(code == given)
        if kind == "RANGE":
            return bool(given[0] <= code <= given[1])
        char = chr(code)
        return {
            "CATEGORY_DIGIT": char.isdigit(),
            "CATEGORY_WORD": _is_word(char),
            "CATEGORY_SPACE": char.isspace(),
            "CATEGORY_NOT_SPACE": not char.isspace(),
        }[str(given)]


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"
