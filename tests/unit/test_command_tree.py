"""The commands there are: each is listed, says examples that parse, and is imported only when it is asked for."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from drawdown.cli.examples import EXAMPLES
from drawdown.cli.main import app, global_options_first, main, run
from drawdown.cli.nouns.recover import AFTER, BEFORE
from drawdown.cli.tree import MODULES, walk
from drawdown.schema.errors import MEANINGS
from tests.cases import cases

ROOT: Any = get_command(app)
TREE = dict(walk(ROOT))
LEAVES = [path for path, one in TREE.items() if not hasattr(one, "commands")]
HEAVY = ("sqlalchemy", "aiohappyeyeballs", "alembic", "apscheduler", "fastapi", "httptools", "prometheus_client",
         "psycopg", "pydantic", "pydantic_settings", "rich", "standardwebhooks", "structlog", "tenacity", "uvicorn",
         "drawdown.worker", "drawdown.server", "drawdown.providers", "drawdown.ledger")  # fmt: skip


def test_command_tree_contains_org_assign_and_more_than_30_commands() -> None:
    assert ("org", "assign") in LEAVES and len(LEAVES) > 30


def test_command_examples_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("body.json").touch()  # of a webhook: it is opened when it is parsed
    within = ROOT.make_context("drawdown", [], resilient_parsing=True)
    for path in LEAVES:
        lines = EXAMPLES[" ".join(path)]
        assert lines, path
        for line in lines:
            words = shlex.split(line)
            assert tuple(words[: len(path)]) == path
            moved = global_options_first(words)
            TREE[path].make_context(path[-1], moved[moved.index(path[0]) + len(path) :], parent=within)


def test_command_examples_cover_exactly_existing_commands() -> None:
    assert {tuple(name.split()) for name in EXAMPLES} - {()} == set(LEAVES)


def test_command_help_shows_usage_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for path in TREE:
        assert run([*path, "--help"]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"Usage: {' '.join(('drawdown', *path))} ")
        assert "Examples:\n" in said and re.search(r"[a-z]\.\.\.$", said, re.MULTILINE) is None, path
    for path in ((), ("org",), ("org", "assign")):
        assert run([*path, "-h"]) == 0, path


def test_command_group_without_command_prints_help_and_error(capsys: pytest.CaptureFixture[str]) -> None:
    for path in TREE.keys() - set(LEAVES):
        assert run(list(path)) == 2
        said = capsys.readouterr()
        assert said.err.startswith("Usage: drawdown") and said.err.endswith(
            "\ndrawdown: missing command. Name one of the commands, or pass --help\n"
        ), path
        assert "\\n" not in said.err and "Examples:" in said.err and said.out == "", path


def test_command_list_lines_are_not_truncated(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    said = capsys.readouterr().out
    wrong = [one for one, of in MODULES.items() if not re.search(rf"^  {one} +{re.escape(of.says)}$", said, re.M)]
    assert wrong == []


def test_version_option_prints_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert re.fullmatch(r"drawdown \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_help_lists_each_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for status, meaning in MEANINGS.items():
        assert f"{int(status)} {meaning}" in said


COMPLETE = {"_DRAWDOWN_COMPLETE": "complete_bash", "COMP_WORDS": "drawdown pu", "COMP_CWORD": "1"}


@cases(
    ("arguments", "environment", "says", "typers_own"),
    [(["--help"], {}, "Usage", set()), (["--version"], {}, "drawdown ", set()), ([], COMPLETE, "push", {"pydantic"})],
)
def test_help_and_version_do_not_import_heavy_modules(
    arguments: list[str], environment: dict[str, str], says: str, typers_own: set[str]
) -> None:
    look = (
        "import atexit, json, sys\n"
        f"atexit.register(lambda: print(json.dumps([n for n in {HEAVY} if n in sys.modules]), file=sys.stderr))\n"
        f"from drawdown.cli.main import main\nmain({arguments})"
    )
    done = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith(says)
    assert set(json.loads(done.stderr)) <= typers_own


def test_completion_of_subcommand_is_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (COMPLETE | {"COMP_WORDS": "drawdown org ha", "COMP_CWORD": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.split() == ["halt"]


NEVER_AGAIN = {
    *("init", "verify", "reconcile", "replay", "recover", "audit list", "job cancel", "guard reconcile", "push fold"),
    *("sample prune", "hook test", "hook replay"),
    # The product sends these again under its own keys; of the ledger, by the runbook.
    *(f"guard {verb}" for verb in ("consume", "reserve", "settle", "release", "extend")),
    *(f"execution {verb}" for verb in ("accept", "draw", "extend", "settle", "release", "block")),
    *("settlement freeze", "settlement reverse", "settlement payout"),
}
"""What changes something, and is not what people do again after a restore."""
NAMES_NOBODY = {"backfill stage"}
"""What people do, and nothing keeps by whom."""


def test_recover_names_each_repeatable_action_and_only_existing_commands() -> None:
    changing = {" ".join(path) for path in LEAVES if any("--actor" in one.opts for one in TREE[path].params)}
    changing |= NAMES_NOBODY
    again = [*(words for commands in BEFORE.values() for words in commands), *AFTER]
    assert sorted(again) == sorted(changing - NEVER_AGAIN)


NUMBERS: dict[str, tuple[Any, Any]] = {
    f"{' '.join(path)} {param.name}": (one, param)
    for path, one in TREE.items()
    for param in list[Any](one.params)
    if param.type_descriptor.annotation in (int, float)
}
REFUSED = r"is not a (whole )?number (in|such)|is more than"
NO_NUMBERS = ("1.00", "1_0", "2.0", " 3", "3 ", "1e2", "\u0663", "", "+", "nan", "inf", "9" * 20, "9" * 5_000)


def _refusal(param: Any, context: Any, typed: str) -> str:
    """What is said of it; nothing where it is taken."""
    try:
        param.process_value(context, typed)
    except typer.BadParameter as refused:
        return refused.message
    return ""


def test_number_option_not_in_plain_digits_is_refused() -> None:
    """Typer takes the first five for whole numbers: `--price 1.00` was one cent."""
    wrong = []
    for name, (command, param) in NUMBERS.items():
        fractions = {"1.00", "2.0"} if param.type_descriptor.annotation is float else set[str]()
        with command.make_context("it", [], resilient_parsing=True) as context:
            said = {typed: _refusal(param, context, typed) for typed in NO_NUMBERS if typed not in fractions}
        wrong += [(name, typed) for typed, why in said.items() if not re.search(REFUSED, why)]
    assert wrong == [] and len(NUMBERS) > 50


def test_number_option_error_names_option_and_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["org", "list", "--most", "1_0"]) == 2
    said = "Invalid value for '--most': '1_0' is not a whole number in digits (`--help` shows how)"
    assert capsys.readouterr().err == f"drawdown: {said}\n"


def test_number_option_below_minimum_is_refused() -> None:
    for name, (command, param) in NUMBERS.items():
        least = param.type_descriptor.parameter_info.min
        with command.make_context("it", [], resilient_parsing=True) as context:
            if least is not None:
                assert param.process_value(context, str(least)) == least, name
                assert f"is less than {least}" in _refusal(param, context, str(least - 1)), name
            assert param.process_value(context, "+2") == 2, name


def test_number_inside_argument_not_in_plain_digits_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = ["--database-url", f"sqlite:///{tmp_path}/none.db"]
    for words in ("limit set sandboxes {}", "execution preview --org acme --use tokens={}"):
        for typed in ("1_0", "1.0", "\u0663", "9" * 19, "9" * 5_000):
            assert run([*elsewhere, *words.format(typed).split()]) == 2
            assert "whole number of base units" in capsys.readouterr().err, (words, typed)
