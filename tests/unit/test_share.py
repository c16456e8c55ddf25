"""What `make test` runs of all tests: every test once, every long table evenly, and nothing once time is up."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests import conftest


@dataclass(frozen=True)
class Item:
    nodeid: str

    @property
    def name(self) -> str:
        return self.nodeid.rpartition("::")[2]


def kept(*nodeids: str) -> list[str]:
    items = [Item(nodeid) for nodeid in nodeids]
    left_out = cast(set[Item], conftest._left_out(cast(list[Any], items)))
    return [item.nodeid for item in items if item not in left_out]


def test_each_test_and_each_case_meets_one_database_by_turns() -> None:
    one, two, three = (f"tests/integration/test_a.py::test_{name}" for name in ("one", "two", "three"))
    both = [f"{one}[sqlite]", f"{one}[postgresql]", f"{two}[postgresql-case]", f"{two}[sqlite-case]"]
    both += [f"{three}[postgresql]", f"{three}[sqlite]"]
    assert kept(*both) == [f"{one}[sqlite]", f"{two}[postgresql-case]", f"{three}[sqlite]"]
    assert kept(f"{one}[postgresql]") == [f"{one}[postgresql]"]
    for room in ("unit", "interleave", "contract", "simulation", "stateful"):
        whole = [nodeid.replace("integration", room) for nodeid in both]
        assert kept(*whole) == whole


def test_of_a_long_table_as_many_cases_are_run_evenly_chosen() -> None:
    cases = 4 * conftest.MOST_CASES
    table = [f"tests/server/test_a.py::test_one[{on}-{n}]" for n in range(cases) for on in conftest.DATABASES]
    found = kept(*table)
    assert len(found) == conftest.MOST_CASES
    assert [int(one.rpartition("-")[2][:-1]) for one in found] == list(range(0, cases, 4))
    of_each = [sum(on in one for one in found) for on in conftest.DATABASES]
    assert of_each == [conftest.TURNS[: conftest.MOST_CASES].count(on) for on in conftest.DATABASES]


@pytest.mark.parametrize("name", ["test_a_planted_bug_is_seen", "test_it_is_seen", "test_the_bug_is_caught"])
def test_of_planted_bugs_some_are_run_wherever_they_stand(name: str) -> None:
    bugs = [f"tests/stateful/test_a.py::{name}[{n}]" for n in range(2 * conftest.MOST_PLANTED)]
    assert kept(*bugs) == bugs[::2]
    assert kept(*bugs[:1]) == bugs[:1]


def test_of_the_explorers_pairs_as_many_are_run_evenly_chosen() -> None:
    pairs = [f"{conftest.PAIRS}[{n}]" for n in range(2 * conftest.MOST_PAIRS)]
    assert kept(*pairs) == pairs[::2]
    other = [one.replace("whatever", "other") for one in pairs]
    assert kept(*other) == other


@pytest.mark.parametrize(("left", "status"), [(1, pytest.ExitCode.TESTS_FAILED), (0, pytest.ExitCode.OK)])
def test_a_run_that_left_something_out_did_not_pass(left: int, status: pytest.ExitCode) -> None:
    skipped = [SimpleNamespace(longrepr=("file", 1, "Skipped: no such tool"))]
    skipped += [SimpleNamespace(longrepr=("file", 1, f"Skipped: {conftest.TIME_IS_UP}"))] * left
    terminal = SimpleNamespace(stats={"skipped": skipped})
    config = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin={"terminalreporter": terminal}.get))
    session = SimpleNamespace(exitstatus=pytest.ExitCode.OK, config=config)
    conftest.pytest_sessionfinish(cast(Any, session))
    assert session.exitstatus is status


def test_nothing_is_begun_once_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "WHOLE", False)
    conftest.pytest_runtest_setup()
    monkeypatch.setattr(conftest, "BEGAN_S", conftest.BEGAN_S - conftest.WITHIN_S)
    with pytest.raises(pytest.skip.Exception, match=conftest.TIME_IS_UP):
        conftest.pytest_runtest_setup()
    monkeypatch.setattr(conftest, "WHOLE", True)
    conftest.pytest_runtest_setup()
