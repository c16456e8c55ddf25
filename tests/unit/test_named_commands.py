"""Commands that a message, a page or a docstring names are there, and take the options that are named with them."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from typer.main import get_command

from drawdown.cli.main import VALUED, app, global_options_first
from drawdown.cli.tree import walk
from drawdown.schema import ids
from drawdown.schema.ids import Kind
from drawdown.schema.text import typed
from tests.cases import cases
from tests.sources import nodes_of

ROOT = Path(__file__).parents[2]
LAYERS = ("cli", "server", "worker", "providers", "guard", "ledger", "events", "schema")
COMMAND: Any = get_command(app)
TREE = dict(walk(COMMAND))
FILLED = "VALUE"
"""What stands for a value that is known only when the message is made."""
KINDS = {name: kind for name, kind in vars(ids).items() if isinstance(kind, Kind)}


@cache
def texts() -> list[tuple[str, str]]:
    """Each text of the program, with the module that it stands in."""
    found: list[tuple[str, str]] = []
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            if "migrations" not in path.parts:
                found += [(str(path.relative_to(ROOT)), text) for text in _texts(nodes_of(path))]
    return found


def _texts(nodes: list[ast.AST]) -> Iterator[str]:
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else FILLED for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def named(text: str) -> Iterator[list[str]]:
    """The words of each command in backticks; without the program's name only where the first two are a command's."""
    if "`" not in text and not text.startswith("drawdown "):
        return
    alone = [text] if text.startswith("drawdown ") and "`" not in text else []
    for inside in re.findall(r"`([^`]+)`", " ".join(text.split())) + alone:
        words = inside.split()
        if words[0] == "drawdown" and len(words) > 1:
            yield words[1:]
        elif tuple(words[:2]) in TREE and len(words) > 1:
            yield words


def fault(words: list[str]) -> str | None:
    """Why it is no command, or takes no such option; None where nothing is wrong."""
    words = global_options_first(words)
    while words and words[0].startswith("--"):
        words = words[2:] if words[0] in VALUED else words[1:]
    if not words or words[0] == FILLED or not words[0].islower() or not words[0].strip(",.").isalpha():
        return None
    path: tuple[str, ...] = (words.pop(0).strip(",."),)
    while hasattr(TREE.get(path), "commands") and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        path = (*path, words.pop(0))
    if path not in TREE:
        return f"there is no command {' '.join(path)}"
    there = {option for param in TREE[path].params for option in param.opts} | {"--help", "-h"}
    typed = {re.split("[=,.;)]", word)[0] for word in words if word.startswith("--") and FILLED not in word} - {"--"}
    return f"{' '.join(path)} takes no {', '.join(sorted(typed - there))}" if typed - there else None


def test_named_commands_in_texts_exist() -> None:
    found = [(path, words) for path, text in texts() for words in named(text)]
    assert [f"{path}: `{' '.join(words)}`: {why}" for path, words in found if (why := fault(words))] == []
    assert len(found) > 300


OPTIONS = {
    option
    for command in (COMMAND, *TREE.values())
    for param in command.params
    for option in (*param.opts, *param.secondary_opts)
} | {"--help"}
OF_OTHERS: Final = {"worker/batches/file_sums.py": {"--long", "--ultra"}}
"""By file, options of programs that are not ours."""


def options_named(text: str) -> set[str]:
    """All that is written as an option, inside a command or by itself."""
    return set() if "--" not in text else set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w=-]*\*)", text))


def test_named_options_in_texts_exist() -> None:
    """Beside the command there may be none: a reason that a row is refused names the option alone."""
    wrong = {
        f"{path}: {option}"
        for path, text in texts()
        for option in options_named(text) - OPTIONS - OF_OTHERS.get(path, set())
    }
    assert wrong == set()
    assert options_named("the format given (--time)") == {"--time"} and "--time" not in OPTIONS


@cases(
    ("text", "expected"),
    [
        ("`drawdown events list`", "there is no command events"),
        ("`drawdown event lost X`", "there is no command event lost"),
        ("first `sample list --quarantine`", "sample list takes no --quarantine"),
        ("`drawdown tick --accept-clock`", None),
        ("`drawdown --json hook list`", None),
    ],
)
def test_named_command_with_fault_is_reported(text: str, expected: str | None) -> None:
    assert [fault(words) for words in named(text)] == [expected]


@cases("name", KINDS)
def test_unknown_id_suggestion_is_a_valid_command(name: str) -> None:
    """But for words in capitals, which stand for what a person knows."""
    program, *words = shlex.split(KINDS[name].shown_by.replace("TIME", "2h"))
    assert program == "drawdown" and fault(list(words)) is None
    path = max((tuple(words[:end]) for end in range(1, len(words) + 1) if tuple(words[:end]) in TREE), key=len)
    rest = words[len(path) :]
    if rest != ["--help"]:
        TREE[path].make_context(path[-1], rest, parent=COMMAND.make_context("drawdown", [], resilient_parsing=True))


@cases(
    ("words", "line"),
    [
        (("key", "end", "k"), "key end k"),
        (("key", "end", "two words", "--reason", "because it is"), "key end 'two words' --reason 'because it is'"),
        (("key", "end", "-dash"), "key end -- -dash"),
        (("key", "end", "-h", "--reason", "r"), "key end --reason r -- -h"),
        (("payer", "allow", "acme", "-dash"), "payer allow acme -- -dash"),
        (("backfill", "close", "-a", "--hash", "-b"), "backfill close --hash -b -- -a"),
        (("org", "list", "--overridden"), "org list --overridden"),
    ],
)
def test_typed_command_puts_names_with_dash_after_options(words: tuple[str, ...], line: str) -> None:
    assert typed(*words) == line
    within = COMMAND.make_context("drawdown", [], resilient_parsing=True)
    found = TREE[words[:2]].make_context(words[1], shlex.split(line)[2:], parent=within)
    assert {str(value) for value in found.params.values()} >= {word for word in words[2:] if word[:2] != "--"}


def test_printed_commands_do_not_quote_arguments_with_shlex_quote() -> None:
    """`shlex.quote` is for the value of an option alone."""
    wrong = []
    for path in sorted({path for path, _ in texts()}):
        source = (ROOT / path).read_text()
        assert "shlex.join" not in source or path == "schema/text.py", path
        wrong += [
            f"{path}: {line.strip()}"
            for line in source.splitlines()
            for found in re.finditer(r"drawdown [a-z][^`]*?(--(\{[^}]*\}|[a-z-]+) )?\{(shlex\.)?quote\(", line)
            if found[1] is None
        ]
    assert wrong == []
