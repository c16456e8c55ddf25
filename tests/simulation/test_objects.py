"""Objects of a store in the simulated world: whatever it does, each content is billed once, and none is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import pytest
from urllib3.exceptions import ProtocolError

from drawdown.worker.batches import folders, objects
from drawdown.worker.batches.files import FoundFile, found_file
from tests.simulation.lives import lives, missing
from tests.simulation.mutants_remote import Patches
from tests.simulation.stored import simulated
from tests.whole import share

SEEDS = share((9,), whole=tuple(range(40)))
TICKS = 12
HAPPENED: Final = frozenset(
    {"taken", "repeated", "store_slow_down", "store_body_cut", "store_object_changes", "store_listing_changes"}
)


def test_store_objects_are_each_billed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    for seed in lives(SEEDS, lambda: missing(HAPPENED, seen)):
        wrong, stored, faults = simulated(seed, TICKS, monkeypatch)
        assert wrong == [], seed
        seen.update(stored.outcomes)
        seen.update(faults)
        monkeypatch.undo()
    assert missing(HAPPENED, seen) == set()


def _half_is_whole(patches: Patches) -> None:
    """What came before an answer was cut off counts as the object."""

    def wrong(store: Any, file: FoundFile, bucket: str, key: str, etag: str, folder: Any, over: Any) -> FoundFile:
        path = folder / "object.jsonl"
        with objects._explained(file.name), path.open("wb") as written:
            body = objects._client(store).get_object(Bucket=bucket, Key=key)["Body"]
            with suppress(ProtocolError):
                while chunk := body.read1(7):
                    written.write(chunk)
        return replace(found_file(path), name=file.name, at=file.at)

    patches.put(objects, "_bring", wrong)


def _one_page(patches: Patches) -> None:
    """What lies on later pages is nobody's business."""
    right = objects.page_of

    def wrong(*given: Any) -> Any:
        return replace(right(*given), goes_on=None)

    patches.put(folders, "page_of", wrong)


PLANTED: Final[dict[str, tuple[Callable[[Patches], None], str, int]]] = {
    "half a body is a whole one": (_half_is_whole, "lies there, and became None", 20),
    "a listing has one page": (_one_page, "lies there, and became None", 0),
}
"""How each is planted, what is said of it, and a life that shows it."""


@pytest.mark.parametrize("name", share(list(PLANTED)[:1], whole=list(PLANTED)))
def test_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, text, seed = PLANTED[name]
    found: list[str] = []
    for one in lives([seed], lambda: not any(text in line for line in found)):
        patches = Patches()
        with patches.kept():
            plant(patches)
            found.extend(simulated(one, TICKS, monkeypatch)[0])
        monkeypatch.undo()
    assert any(text in line for line in found), found
