"""`verify --since-last` in the simulated world finds what a whole run does, and passes over nothing that changed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Final

import pytest

from drawdown.worker.verify import incremental, questions
from tests.simulation.lives import faults_in, lives
from tests.simulation.mutants_remote import Patches
from tests.simulation.proven import simulated
from tests.whole import share

SEEDS = share((1,), whole=tuple(range(60)))
TICKS = 20
HAPPENED: Final = frozenset({"proof_continued", "proof_passed_over", "reached_back_by a late sample"})


def test_verify_since_last_skips_only_proven_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    faults_in(simulated, SEEDS, TICKS, monkeypatch, HAPPENED)


PLANTED: Final[dict[str, tuple[Callable[[Patches], None], int]]] = {
    "a late sample reaches back to nothing": (
        lambda p: p.query(incremental, "point", "MIN(ts), 'a late sample'", "CAST(NULL AS BIGINT), 'a late sample'"),
        1,
    ),
    "samples are passed over that pushes are not": (
        lambda p: p.query(SimpleNamespace(SQL=questions.USAGE), "samples_since", ":since_ms", ":since_ms + 3600000"),
        0,
    ),
}
"""How each is planted, and a life that shows it."""


@pytest.mark.parametrize("name", share(list(PLANTED)[1:], whole=list(PLANTED)))
def test_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, seed = PLANTED[name]
    found: list[str] = []
    for one in lives([seed], lambda: not any(line.startswith("proof: ") for line in found)):
        patches = Patches()
        with patches.kept():
            plant(patches)
            found.extend(simulated(one, TICKS, monkeypatch).breaches)
        monkeypatch.undo()
    assert any(line.startswith("proof: ") for line in found), found
