"""Every planted bug is caught within a few seeds, and leaves nothing behind."""

from __future__ import annotations

import pytest

from drawdown.worker import seal_sql as sql
from tests.simulation.mutants import MUTANTS, SEEN_AT, hunt, planted


@pytest.mark.parametrize("name", MUTANTS)
def test_the_bug_is_caught(name: str) -> None:
    caught = hunt(name, first=SEEN_AT.get(name))
    assert caught.by is not None, f"{name!r} survived {caught.seeds} seeds"


def test_a_mutant_is_put_back() -> None:
    before = sql.SEAL
    with planted("revision reused, conflict ignored"):
        assert "0 AS revision" in sql.SEAL
    assert sql.SEAL is before
