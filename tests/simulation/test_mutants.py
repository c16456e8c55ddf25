"""Every planted bug is caught within a few seeds, and leaves nothing behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from drawdown.worker.seal import seal
from tests.simulation import mutants, mutants_worlds, test_folding
from tests.simulation.backfilling import planted as backfilling
from tests.simulation.commerce import planted as commerce
from tests.simulation.door import planted as door
from tests.simulation.guarding import planted as guarding
from tests.simulation.mutants import MUTANTS, hunt, planted
from tests.simulation.mutants_remote import Patches
from tests.simulation.mutants_worlds import SEEN_AT, SLOW
from tests.stateful import test_lots, test_pools
from tests.whole import share

PLANTED = "revision reused, conflict ignored"
MARK = "0 AS revision"
MUTANT_OF_THE_DAY = next(iter(MUTANTS))
"""The one of `make mutants` that `make test` plants: each push is sent twice by it."""


@pytest.mark.parametrize("name", share([MUTANT_OF_THE_DAY], whole=list(MUTANTS)))
def test_mutant_is_caught_within_few_seeds(name: str) -> None:
    caught = hunt(name, first=SEEN_AT.get(name))
    assert caught.by is not None, f"{name!r} survived {caught.seeds} seeds"
    assert caught.unclean == [], "a seed breaches without any bug: the product is wrong there, or the oracle"


def test_mutant_code_is_restored_after_use() -> None:
    before = text()
    with planted(PLANTED):
        assert MARK in text()
    assert text() == before


def text() -> str:
    return seal.SQL.pieces["owed", ""]


def test_mutant_hunt_ignores_seed_that_breaches_without_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def life(seed: int, ticks: int, **world: Any) -> Any:
        breaches = {0: True, 1: False, 2: MARK in text()}[seed]
        return SimpleNamespace(breaches=[f"seed {seed} is wrong"] if breaches else [])

    monkeypatch.setattr(mutants, "simulate", life)
    caught = hunt(PLANTED, seeds=3)
    assert (caught.seed, caught.by, caught.unclean) == (2, "seed 2 is wrong", [0])
    survived = hunt(PLANTED, seeds=2)
    assert (survived.by, survived.unclean) == (None, [0])


def test_mutant_that_does_not_fit_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    breaches = ["S8: a lane failed: AttributeError: 'NoneType' object has no attribute 'read'"]
    monkeypatch.setattr(mutants, "simulate", lambda seed, ticks, **world: SimpleNamespace(breaches=breaches))
    with pytest.raises(AssertionError, match="does not fit the code"):
        hunt(PLANTED)


@pytest.mark.parametrize("table", [backfilling, commerce, door, guarding], ids=lambda table: table.__name__)
def test_planted_bugs_of_lives_fit_code(table: Any) -> None:
    """`make test` plants a few of them. Code that is renamed leaves the others without a target."""
    for plant, _ in table.PLANTED.values():
        patches = Patches()
        with patches.kept():
            plant(patches)


def test_planted_bugs_of_simulation_fit_code() -> None:
    for name in MUTANTS:
        with planted(name):
            pass
    for name in test_folding.PLANTED:
        with test_folding.planted(name):
            pass


def test_planted_bugs_of_credit_fit_code() -> None:
    for table in (test_lots, test_pools):
        assert [bug for bug, (module, name, _) in table.CODE.items() if not hasattr(module, name)] == []
        assert [bug for bug, (sql, name, old, _) in table.TEXTS.items() if old not in sql.pieces[name, ""]] == []


def test_known_bug_seeds_refer_to_existing_bugs() -> None:
    tables = (SEEN_AT, mutants_worlds.LONGER, mutants_worlds.BILLED_BY, mutants_worlds.IN_SECONDS)
    assert {*SLOW, *(name for table in tables for name in table)} <= MUTANTS.keys()
