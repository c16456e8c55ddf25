"""The nearest id: the one that was meant, at a cost that has a bound whatever ids there are."""

from __future__ import annotations

import random
import time
from difflib import SequenceMatcher
from typing import Any

import pytest

from drawdown.schema import text as texts
from drawdown.schema.ids import is_clean, is_clean_id
from drawdown.schema.text import COMPARED_AT_MOST, MAX_COMPARED_CHARS, nearest
from tests.cases import cases

MANY = [
    f"{org}-{what}-{number}" for org in ("acme", "globex", "wayne") for what in ("prod", "dev") for number in range(200)
]
WORST_S = 0.5
"""Far above what it takes, and far below what comparing each with each took."""


@cases(
    ("given", "meant"),
    [
        ("acme-prod-17x", "acme-prod-17"),
        ("acme-prd-17", "acme-prod-17"),
        ("acme-prodd-17", "acme-prod-17"),
        ("acme-rpod-17", "acme-prod-17"),
        ("ACME-PROD-17", "acme-prod-17"),
        ("galobex-dvv-140", "globex-dev-140"),
        ("wyane-deb-3", "wayne-dev-3"),
    ],
)
def test_nearest_id_with_up_to_two_typos_is_found(given: str, meant: str) -> None:
    assert nearest(given, MANY) == meant


def test_nearest_id_of_long_ids_differing_at_end_is_found() -> None:
    arn = "arn:cloud:region:0123456789:" + "/".join("department" for _ in range(10))
    there = [f"{arn}/{number:03}" for number in range(300)]
    assert nearest(f"{arn}/21x7", there) == f"{arn}/217"
    assert nearest(f"{arn.replace('cloud', 'clowd')}/217", there) == f"{arn}/217"


@cases("there", [["app", "APP"], ["APP", "app"]])
def test_nearest_id_prefers_same_case(there: list[str]) -> None:
    assert [nearest(given, there) for given in ("appp", "APPP")] == ["app", "APP"]


def test_nearest_id_without_similar_id_is_empty() -> None:
    assert nearest("zzzzzz", MANY) is None
    assert nearest("", MANY) is None
    assert nearest("acme", []) is None
    assert nearest("a" * 5_000, ["a" * 200]) == "a" * 200


def test_nearest_id_comparisons_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def counting(junk: Any, one: str, other: str) -> SequenceMatcher[str]:
        compared.append(max(len(one), len(other)))
        return SequenceMatcher(junk, one, other)

    monkeypatch.setattr(texts, "SequenceMatcher", counting)
    nearest("x" + "ab" * 98 + "y", ["z" + "ba" * 97 + str(number) for number in range(1_500)])
    assert (len(compared), max(compared)) == (COMPARED_AT_MOST, MAX_COMPARED_CHARS)


@cases("letters", ["ab", "abc", "abcdefgh"])
def test_nearest_id_of_similar_hostile_ids_is_fast(letters: str) -> None:
    rng = random.Random(5)
    ids_of_a_foe = ["".join(rng.choices(letters, k=199)) for _ in range(1_500)]
    begun = time.thread_time()
    nearest("".join(rng.choices(letters, k=199)), ids_of_a_foe)
    assert time.thread_time() - begun < WORST_S


def test_id_with_control_characters_is_not_clean() -> None:
    assert is_clean("") and is_clean("a\u202eb \u00a0") and not is_clean_id("")
    assert [char for char in "\x00\x1f\x7f\x9f\ud800\ufffd\ufffe\uffff" if is_clean(f"a{char}")] == []
    assert is_clean_id("x" * 200) and not is_clean_id("x" * 201) and is_clean("x" * 201)
