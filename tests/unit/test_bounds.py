"""Each bound of the code has its meaning beside it, and the tests that hold bounds are there."""

from __future__ import annotations

import ast
from collections import Counter

from tests.bounds import HELD, ROOT, bounds, held
from tests.sources import tree_of


def test_bounds_of_code_have_docstrings() -> None:
    found = list(bounds())
    assert len(found) > 700
    assert [one.name for one in found if len(one.meaning) <= 5] == [], "write a docstring below these, then `make docs`"


def test_held_bounds_list_names_only_existing_bounds() -> None:
    assert set(held()) - {one.name for one in bounds()} == set(), "remove these from tests/held_bounds.txt"
    assert len(held()) > 400


def test_held_bounds_list_is_sorted_and_unique() -> None:
    names = [line.split(" ")[0] for line in HELD.read_text(encoding="utf-8").splitlines()]
    assert names == sorted(names) and [name for name, count in Counter(names).items() if count > 1] == []


def test_held_bounds_list_names_existing_tests() -> None:
    named = {tuple(test.split("::")) for test in held().values()}
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    there = {
        (file, node.name)
        for file in {file for file, _ in named}
        for node in tree_of(ROOT / file).body
        if isinstance(node, functions)
    }
    assert named - there == set()
