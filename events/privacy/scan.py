"""The scan of a report for private values, and the gate of published reports.

Guarantee: the scan and the gate never show a private value or key. If a report is too large, too deep or repeats a key,
it has a finding, because an unscanned value is not public. The scan compares this database's own ids with whole words
of a report, and finds a configured secret anywhere in a text, in any case of its letters. It finds an id as the
database has it. It finds an id in another case only if the database has that id in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from drawdown.events.privacy import leaves as fields
from drawdown.events.privacy import rules
from drawdown.events.privacy.leaves import Key, Leaf, Path, Trouble, leaves_of
from drawdown.events.privacy.rules import ForeignRule
from drawdown.events.privacy.shapes import IN_TEXT, Shape, outside
from drawdown.schema.errors import DrawdownError
from drawdown.schema.units import MAX_ID_CHARS

MAX_FINDINGS: Final = 1_000
"""Findings that one scan lists. The scan counts all findings."""
_SHOWN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")

KnownIds: TypeAlias = Callable[[frozenset[str]], Collection[str]]
"""A function that takes the words of a report, and returns those that are ids.

`worker.usage.privacy` reads them from the database.
"""


@dataclass(frozen=True)
class Finding:
    """A private value: its place (`$.rows[3].plan`), and the rule that found it."""

    path: str
    rule: str


@dataclass(frozen=True)
class Scan:
    """The result of a scan: `count` findings, and the first MAX_FINDINGS of them."""

    findings: tuple[Finding, ...]
    count: int


class NotPublic(DrawdownError):
    """Raised if a report must not be published."""

    code = "not_public"

    def __init__(self, scan: Scan) -> None:
        first = "; ".join(f"{one.path}: {one.rule}" for one in scan.findings[:5])
        more = f"; and {scan.count - 5:,} more" if scan.count > 5 else ""
        super().__init__(f"this report must not be published: {first}{more}")
        self.scan = scan


def scan(
    report: object,
    *,
    shape: Shape | None = None,
    known_ids: KnownIds | None = None,
    secrets: Collection[str] = (),
    others: Collection[ForeignRule] = (),
) -> Scan:
    """Scan a report for private values.

    The report comes from `read_reports`, or consists of dictionaries, lists, dataclasses and scalars.

    `shape`: the shape that the report must have, if it is for publication. `known_ids`: finds ids of the database.
    `secrets`: configured secrets. `others`: rules in addition to the built-in rules. Errors: UsageError for a value
    that JSON does not have.
    """
    trouble = [] if shape is None else list(outside(report, shape))
    leaves: list[Leaf] = []
    for one in leaves_of(report):
        (leaves if isinstance(one, Leaf) else trouble).append(one)  # type: ignore[arg-type] # one of two lists
    ids = frozenset() if known_ids is None else frozenset(map(str.casefold, known_ids(candidates(leaves))))
    found = [*trouble, *_find_matches(leaves, ids, secrets, shape is None), *_found_by_others(leaves, others)]
    last = (one.path[-1] for one in found if _is_of_key(one))
    masked = {step.name for step in last if isinstance(step, Key)}
    findings = dict.fromkeys(Finding(format_path(one.path, masked), one.rule) for one in found)
    return Scan(tuple(findings)[:MAX_FINDINGS], len(findings))


def require_public(
    report: object, shape: Shape, *, known_ids: KnownIds | None = None, secrets: Collection[str] = ()
) -> None:
    """Reject a report that is not public.

    Errors: NotPublic, with the places and the rules.
    """
    found = scan(report, shape=shape, known_ids=known_ids, secrets=secrets)
    if found.count:
        raise NotPublic(found)


@dataclass(frozen=True)
class _Match(Trouble):
    of_key: bool = False


def _is_of_key(one: Trouble) -> bool:
    return one.rule == "unknown_field" or (isinstance(one, _Match) and one.of_key)


def _find_matches(
    leaves: Iterable[Leaf], ids: frozenset[str], secrets: Collection[str], any_number: bool
) -> Iterator[_Match]:
    """Yield the matches of the built-in rules, ids and secrets.

    `any_number`: True if no shape states the meaning of numbers.
    """
    for leaf in leaves:
        for name in dict.fromkeys(_rules_of(leaf, any_number)):
            yield _Match(leaf.path, name, leaf.is_key)
        if holds_secret(leaf, secrets):
            yield _Match(leaf.path, "configured_secret", leaf.is_key)
        if ids and holds_id(leaf, ids):
            yield _Match(leaf.path, "known_id", leaf.is_key)


def _found_by_others(leaves: Iterable[Leaf], others: Collection[ForeignRule]) -> Iterator[_Match]:
    for leaf in leaves if others else ():
        texts = [(reading, reading.lower()) for reading in leaf.readings]
        for rule in others:
            if any(rule.finds(text, lowered) for text, lowered in texts):
                yield _Match(leaf.path, rule.name, leaf.is_key)


def _rules_of(leaf: Leaf, any_number: bool) -> Iterator[str]:
    text = leaf.readings[0]
    if leaf.is_key:
        private = fields.rule_of_keys(leaf.key)
    else:
        private = fields.rule_of(leaf.key, leaf.above, is_number=leaf.is_number)
        if leaf.is_number and leaf.path and isinstance(leaf.path[-1], int):
            private = private or fields.rule_of_bytes(leaf.key)
    if private is not None and not fields.says_nothing(text) and IN_TEXT.fullmatch(text) is None:
        yield private
    if leaf.is_number:
        if any_number and not fields.says_how_much(leaf.key):
            yield from rules.found_in_number(leaf.readings[-1])
        return
    key = "" if leaf.is_key else leaf.key
    for reading in leaf.readings:
        yield from rules.found_in(IN_TEXT.sub(" ", reading), key)


def format_path(path: Path, masked: Collection[str]) -> str:
    """Return a place as JSONPath.

    A private or unusual key is shown by its number in its object.
    """
    text = "$"
    for step in path:
        if isinstance(step, Key):
            plain = step.name not in masked and _SHOWN_KEY.fullmatch(step.name)
            text += f".{step.name}" if plain else f".<key {step.number}>"
        else:
            text += "<json>" if step is None else f"[{step}]"
    return text


LEAST_CHARS: Final = 3
"""Fewest characters of an id that a scan searches for."""
LEAST_DIGITS: Final = 6
"""Digits of the shortest number that is compared with ids.

A shorter number can equal an id by chance.
"""
LEAST_SECRET_CHARS: Final = 6
"""Fewest characters of a secret that a scan searches for."""
_BETWEEN_WORDS: Final = re.compile(r"[\s\"'`,;<>()\[\]{}|]+")
_BETWEEN_PARTS: Final = re.compile(r"[:/=&?#@.]+")


def words(leaf: Leaf) -> Iterator[str]:
    """Yield the parts of a leaf that can be ids.

    They are the whole text, its words, and their parts. A word can come twice.
    """
    for reading in leaf.readings:
        yield from filter(_may_be_id, (reading, reading.strip()))
        for word in _BETWEEN_WORDS.split(reading):
            yield from filter(_may_be_id, (word, word.rstrip(".:!?"), *_BETWEEN_PARTS.split(word)))


def candidates(leaves: Iterable[Leaf]) -> frozenset[str]:
    """Return the words to look up among ids, unchanged and in lower case."""
    return frozenset(form for leaf in leaves for word in words(leaf) for form in (word, word.lower()))


def holds_secret(leaf: Leaf, secrets: Iterable[str]) -> bool:
    """Return True if a leaf contains a configured secret."""
    texts = [reading.casefold() for reading in leaf.readings]
    return any(secret.casefold() in text for secret in secrets if len(secret) >= LEAST_SECRET_CHARS for text in texts)


def holds_id(leaf: Leaf, ids: frozenset[str]) -> bool:
    """Return True if a word of a leaf is one of the ids, which are in lower case."""
    return any(word.casefold() in ids for word in words(leaf))


def _may_be_id(text: str) -> bool:
    return LEAST_CHARS <= len(text) <= MAX_ID_CHARS and not (text.isdigit() and len(text) < LEAST_DIGITS)
