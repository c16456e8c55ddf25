"""A warehouse that is asked, in the simulated world: each unit that it says is billed once, come what may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from drawdown.worker.batches import query_source, sources, take
from tests.simulation.kinds import KINDS
from tests.simulation.lives import lives, missing
from tests.simulation.warehouse import simulated
from tests.whole import share

SEEDS = share((9,), whole=tuple(range(40)))
TICKS = 12
HAPPENED: Final = frozenset({"taken", "repeated", "conflict", "warehouse_withdrawn", "warehouse_asked_again"})


def test_query_units_are_each_billed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    for seed in lives(SEEDS, lambda: missing(HAPPENED, seen)):
        wrong, asked = lived(seed, tmp_path, monkeypatch)
        assert wrong == [], seed
        assert asked.made is not None
        seen.update(asked.outcomes)
        seen.update(asked.made.faults.counts)
        monkeypatch.undo()
    assert missing(HAPPENED, seen) == set()
    kinds = [part for kind, parts in KINDS.items() if "warehouse" in kind for part in parts]
    assert share(True, whole=set(kinds) <= seen.keys())


def half_is_taken(patch: pytest.MonkeyPatch) -> None:
    """What came before the line was cut off counts as all."""
    right = query_source._select_columns

    def wrong(*given: Any) -> Any:
        names, rows = right(*given)

        def until_cut() -> Iterator[Any]:
            try:
                yield from rows
            except sa.exc.SQLAlchemyError:
                return

        return names, until_cut()

    patch.setattr(query_source, "_select_columns", wrong)


def as_it_came(patch: pytest.MonkeyPatch) -> None:
    """The same rows in another order are another file."""
    patch.setattr(query_source, "_put_in_order", lambda raw, path, *_: path.write_bytes(raw.read_bytes()))


def asked_once(patch: pytest.MonkeyPatch) -> None:
    """Nobody asks again a day later."""
    patch.setattr(query_source, "ASKED_AGAIN_MS", 0)


def any_content_of_a_name(patch: pytest.MonkeyPatch) -> None:
    """Another content of a period is taken beside the first."""
    right = take._claim

    def wrong(connection: Any, sums: Any, source: str, by: Any, seen: Any) -> Any:
        other = replace(sums.file, name=f"{sums.file.name}-{sums.batch}")
        found = right(connection, replace(sums, file=other), source, by, seen)
        return replace(found, name=sums.file.name)

    patch.setattr(take, "_claim", wrong)
    patch.setattr(take, "overlap", lambda *_: None)


def passes_over_what_is_open(patch: pytest.MonkeyPatch) -> None:
    """A period is left behind though it is in conflict."""
    patch.setattr(sources, "left_open", lambda connection, source: [])


UNSAID = "with rows that the warehouse never said together"
LESS = "the warehouse says"
PLANTED = {
    half_is_taken: (UNSAID, 0),
    as_it_came: (UNSAID, 0),
    asked_once: (LESS, 14),
    any_content_of_a_name: (LESS, 3),
    passes_over_what_is_open: (LESS, 0),
}
"""What is said of each, and a life that shows it."""


@pytest.mark.parametrize("plant", share(list(PLANTED)[:1], whole=list(PLANTED)))
def test_planted_bug_is_found(plant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, seed = PLANTED[plant]
    found: list[str] = []
    for one in lives([seed], lambda: not any(text in line for line in found)):
        plant(monkeypatch)
        found.extend(lived(one, tmp_path, monkeypatch)[0])
        monkeypatch.undo()
    assert any(text in line for line in found), found


def lived(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    folder = tmp_path / str(seed)
    folder.mkdir()
    return simulated(seed, TICKS, folder, monkeypatch)
