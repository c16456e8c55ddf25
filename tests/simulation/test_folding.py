"""Old months are folded in the simulated world: whatever goes on beside it, old usage stays what it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from drawdown.worker.usage import prune as folding
from tests.simulation.folded import simulated
from tests.simulation.lives import faults_in, lives
from tests.whole import share

SEEDS = share((2, 11), whole=tuple(range(60)))  # 11: a clock that was set back before a charge that is then folded
TICKS = 30
HAPPENED: Final = frozenset({"push_folded", "fold_cut_off", "replay", "void", "year_passed"})


def test_folding_old_months_does_not_change_billed_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    faults_in(simulated, SEEDS, TICKS, monkeypatch, HAPPENED)


SUMS: Final = "the sums are not what they were"
PLANTED: Final = {
    "a sum forgets what was in it": (
        ("and_add", ""),
        "sealed_qty = folded_pushes.sealed_qty + excluded.sealed_qty",
        "sealed_qty = excluded.sealed_qty",
        SUMS,
        27,
    ),
    "attempts are not counted": (("into_sums", ""), "SUM(p.attempts)", "COUNT(*)", SUMS, 111),
    "what was sent elsewhere goes, too": (("folding", ""), "p.provider = 'embedded' AND", "", "folded: a push of", 9),
    "attempts stay": (
        ("fold", "sqlite"),
        "x.window_ms >= :from_ms",
        "x.window_ms > :from_ms + 300000",
        "attempts went with",
        1,
    ),
    "pushes stay": (
        ("fold", "sqlite"),
        "DELETE FROM pushes AS p WHERE {folding}",
        "DELETE FROM pushes AS p WHERE 1 = 0",
        SUMS,
        9,
    ),
}
"""A piece of SQL, what is in it, what is there instead; what is said of it, and a life that shows it."""


@pytest.mark.parametrize("name", share(list(PLANTED)[:1], whole=list(PLANTED)))
def test_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, text, seed = PLANTED[name]
    found: list[str] = []
    for one in lives([seed], lambda: not any(text in line for line in found)):
        with planted(name):
            found.extend(simulated(one, TICKS, monkeypatch).breaches)
        monkeypatch.undo()
    assert any(text in line for line in found), found


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The bug, for as long as the block runs."""
    (piece, dialect), right, wrong, *_ = PLANTED[name]
    whole = folding.SQL.pieces[piece, dialect]
    assert right in whole, "it does not fit the code"
    folding.SQL.put(piece, whole.replace(right, wrong), dialect)
    try:
        yield
    finally:
        folding.SQL.put(piece, whole, dialect)
