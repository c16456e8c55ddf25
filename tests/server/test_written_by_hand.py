"""The list of what is not made from a declaration agrees with the code, both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from typer.main import get_command

from drawdown.cli.main import app
from drawdown.cli.tree import walk
from drawdown.schema.declare import Action
from drawdown.server.console.pages import ACTIONS as FORMS
from drawdown.server.declarations import BY_NAME, DECLARED
from tests.server.house import House, described

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "develop.md"
SECTION: Final = "\n## Written by hand\n"


def listed(kind: str) -> list[str]:
    """The names in the first column of the table with this head. `topup set/start` is two names."""
    text = PAGE.read_text(encoding="utf-8").partition(SECTION)[2].partition("\n## ")[0]
    rows = text.partition(f"| {kind} | reason |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert rows and all(row.count("|") == 3 and row.split("|")[2].strip() for row in rows), "each has its reason"
    return [name for row in rows for one in re.findall(r"`([^`]+)`", row.split("|")[1]) for name in _names(one)]


def _names(text: str) -> Iterator[str]:
    if " /" in text or "/" not in text:
        yield text
        return
    noun, _, verbs = text.rpartition(" ")
    yield from (f"{noun} {verb}" for verb in verbs.split("/"))


def commands() -> list[str]:
    tree = [path for path, _ in walk(get_command(app)) if path]
    leaves = [" ".join(path) for path in tree if not any(other[:-1] == path for other in tree)]
    return [name for name in leaves if name not in BY_NAME or BY_NAME[name].by_hand]


def forms() -> list[str]:
    """A generated form does its deed by a function of `server/console/declared.py`."""
    return [one.name for one in FORMS if one.do.__module__ != "drawdown.server.console.declared"]


def operations(house: House) -> list[str]:
    made = {("post" if isinstance(one, Action) else "get", one.path) for one in DECLARED}
    paths = described(house.server)["paths"]
    return [f"{way.upper()} {path}" for path, ways in paths.items() for way in ways if (way, path) not in made]


@pytest.mark.parametrize("kind", ["command", "form"])
def test_list_of_commands_and_forms_by_hand_is_that_of_the_code(kind: str) -> None:
    names = listed(kind)
    assert sorted(names) == sorted({"command": commands, "form": forms}[kind]())


def test_list_of_operations_by_hand_is_that_of_the_code(lone: House) -> None:
    assert sorted(listed("operation")) == sorted(operations(lone))


def test_action_that_is_declared_by_hand_has_a_command_by_hand() -> None:
    """Else `by_hand` would leave a declaration without a command."""
    assert sorted(set(BY_NAME) - {" ".join(path) for path, _ in walk(get_command(app))}) == []
