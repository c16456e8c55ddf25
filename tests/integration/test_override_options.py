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
    "--accept-clock": "tests/integration/test_operations.py::test_clock_jump_beyond_limit_is_refused",
    "--allow-halt": "tests/acceptance/test_flips.py::test_assignment_that_would_halt_needs_allow_halt",
    "--any-source": "tests/integration/test_cli.py::test_doctor_org_key_with_any_source_is_reported",
    "--final": "tests/integration/test_vendors.py::test_vendor_latest_bill_file_of_day_applies_and_repeat_is_ignored",
    "--force": "tests/integration/test_object_store.py::test_object_prefix_is_listed_before_source_is_added",
    "--new": "tests/integration/test_cli_unknown_ids.py::test_cli_unknown_id_refusal_names_new_option_where_accepted",
    "--restored": "tests/integration/test_what_is_said.py::test_recover_repeated_lists_required_actions",
    "--unchecked": "tests/acceptance/test_flips.py::test_assignment_with_unreadable_provider_needs_unchecked",
    "--yes": "tests/integration/test_corrections.py::test_usage_of_unmapped_size_is_sealed_after_mapping",
}
"""The test that reads the option in the refusal."""
PLAIN = """
    absent acknowledge all apply open cancel cells clawbacks cluster correct count csv deep
    dry-run fail-open failed holds-halt id-from-line keep kept let-through never never-halt once overridden permanent
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


def test_each_flag_is_listed_as_plain_or_override() -> None:
    """Whoever adds a flag says here what it is."""
    plain = {f"--{name}" for name in PLAIN.split()}
    assert set(flags()) == plain | set(OVERRIDES) and not plain & set(OVERRIDES)


@pytest.mark.parametrize("option", OVERRIDES)
def test_override_option_is_named_in_listed_refusal_test(option: str) -> None:
    file, _, name = OVERRIDES[option].partition("::")
    text = (ROOT / file).read_text()
    _, is_there, rest = text.partition(f"def {name}(")
    body = rest.partition("\n\n\n")[0]
    assert is_there and option in body, OVERRIDES[option]
