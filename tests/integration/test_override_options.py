"""Each refusal that an option overrides names this option: a test for each such option of any command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from drawdown.cli.main import app
from drawdown.cli.tree import walk

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = {
    "--accept-clock": "tests/integration/test_operations.py::test_a_jump_of_the_clock_stops_and_asks",
    "--allow-halt": "tests/acceptance/test_flips.py::test_nobody_is_halted_by_a_flip_unless_that_is_said",
    "--any-source": "tests/integration/test_cli.py::test_doctor_names_keys_of_one_organisation_that_send_any_source",
    "--final": "tests/integration/test_vendors.py::test_the_latest_file_of_a_day_holds_and_the_same_file_adds_nothing",
    "--force": "tests/integration/test_object_store.py::test_a_prefix_is_listed_before_it_is_watched",
    "--new": "tests/integration/test_cli_unknown_ids.py::test_refusal_of_an_id_names_new_where_new_takes_it",
    "--restored": "tests/integration/test_what_is_said.py::"
    "test_a_recovery_that_is_given_again_tells_again_what_is_to_be_done",
    "--unchecked": "tests/acceptance/test_flips.py::"
    "test_where_the_provider_does_not_say_nothing_moves_unless_unchecked",
    "--yes": "tests/integration/test_corrections.py::test_a_size_without_feature_is_sealed_once_it_has_one",
}
"""The test that reads the option in the refusal."""
PLAIN = """
    absent acknowledge all apply open cancel cells clawbacks cluster correct count csv dark
    deep dry-run failed holds-halt id-from-line keep kept let-through never never-halt once overridden permanent
    queue queued quiet rest roles serve shadow since-last soon stop strict unassigned undo watch whole"""
"""Flags that say what is done, and override no refusal."""


def flags() -> dict[str, list[str]]:
    """The commands that have each flag."""
    found: dict[str, list[str]] = {}
    for path, command in walk(get_command(app)):
        for one in [] if hasattr(command, "commands") else command.params:
            parameter: Any = one
            if getattr(parameter, "is_flag", False):
                found.setdefault(max(parameter.opts, key=len), []).append(" ".join(path))
    return found


def test_of_each_flag_it_is_known_whether_it_overrides_a_refusal() -> None:
    """Whoever adds a flag says here what it is."""
    plain = {f"--{name}" for name in PLAIN.split()}
    assert set(flags()) == plain | set(OVERRIDES) and not plain & set(OVERRIDES)


@pytest.mark.parametrize("option", OVERRIDES)
def test_override_has_a_test_that_reads_it_in_the_refusal(option: str) -> None:
    file, _, name = OVERRIDES[option].partition("::")
    text = (ROOT / file).read_text()
    _, is_there, rest = text.partition(f"def {name}(")
    body = rest.partition("\n\n\n")[0]
    assert is_there and option in body, OVERRIDES[option]
