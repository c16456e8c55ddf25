"""Under any sequence of faults each event is sent until it is acknowledged: none is lost, and none has two ids."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx
import respx
from hypothesis import given, settings
from hypothesis import strategies as st

from drawdown_client import Client, Item, Result, Settings, Unsent
from tests.client.book import KEY, Book, hasty
from tests.whole import share

URL: Final = "http://never-lost.test"
"""Its own: a client that another test of this process left behind goes on sending to that one's."""
UNREAD: Final = ("refused", "timeout", "429", "503", "500")
READ: Final = ("cut", "late", "no_json", "short", "500 after")
"""The server has the batch, and the client does not learn of it."""
STEPS: Final = st.lists(st.sampled_from((*UNREAD, *READ, "well", "well")), max_size=12)


class Struck:
    """A book whose answers are struck by faults, one after the other; then by none."""

    def __init__(self, faults: list[str]) -> None:
        self.book = Book()
        self.faults = iter(faults)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        fault = next(self.faults, "well")
        found = self.book.answer(request) if fault in ("well", *READ) else None
        match fault:
            case "refused":
                raise httpx.ConnectError("refused")
            case "timeout":
                raise httpx.ConnectTimeout("late")
            case "cut":
                raise httpx.RemoteProtocolError("cut")
            case "late":
                raise httpx.ReadTimeout("late")
            case "429" | "503" | "500":
                return httpx.Response(int(fault), headers={"retry-after": "0"})
            case "500 after":
                return httpx.Response(500)
            case "no_json":
                return httpx.Response(200, text="<html>")
            case "short":
                return httpx.Response(200, json={"results": [{"status": "accepted"}] * 999})
        assert found is not None
        return found


@settings(max_examples=share(30, whole=120))
@given(faults=STEPS, counts=st.lists(st.integers(1, 9), min_size=1, max_size=5), most=st.integers(1, 7))
def test_client_under_random_faults_delivers_each_event_once(faults: list[str], counts: list[int], most: int) -> None:
    struck, told = Struck(faults), Counter[str]()
    numbers = itertools.count(100)

    def on_result(item: Item, result: Result) -> None:
        assert result.is_kept
        told[item.item_id] += 1

    with respx.mock(base_url=URL, using="httpx") as router:
        router.post("/v1/events").side_effect = struck
        made = Client(URL, KEY, Settings(batch_items=most, batch_ms=0, on_result=on_result), world=hasty())
        ids = [made.record("page.render", next(numbers), org_id="acme") for count in counts for _ in range(count)]
        made.flush(60)
        made.close()
    assert struck.book.numbers == list(range(100, 100 + len(ids))), "none is lost, none is there twice"
    assert {item["event_id"] for item in struck.book.kept.values()} == set(ids)
    assert told == Counter(ids)


@settings(max_examples=share(12, whole=50))
@given(lives=st.lists(st.tuples(st.integers(0, 6), STEPS), min_size=1, max_size=4), most=st.integers(1, 4))
def test_client_with_spool_over_restarts_delivers_each_event_once(
    lives: list[tuple[int, list[str]]], most: int
) -> None:
    """Each life ends before all is sent, where faults go on; the last one has none."""
    book, numbers, ids = Book(), itertools.count(100), set[str]()
    with tempfile.TemporaryDirectory() as folder:
        wanted = Settings(batch_items=most, batch_ms=0, spool=Path(folder) / "app.spool")
        for count, faults in [*lives, (0, [])]:
            struck = Struck(faults)
            struck.book = book
            with respx.mock(base_url=URL, using="httpx", assert_all_called=False) as router:
                router.post("/v1/events").side_effect = struck
                made = Client(URL, KEY, wanted, world=hasty())
                ids |= {made.record("page.render", next(numbers), org_id="acme") for _ in range(count)}
                _end(made, 0.0 if faults else 60.0)
        assert (Path(folder) / "app.spool").stat().st_size == 0, "all is acknowledged"
    assert book.numbers == list(range(100, 100 + len(ids)))
    assert {item["event_id"] for item in book.kept.values()} == ids


def _end(made: Any, timeout_s: float) -> None:
    thread = made._outbox._thread
    try:
        made.close(timeout_s)
    except Unsent as error:
        assert error.kept
    if thread is not None:
        thread.join(60)  # in a process of its own, it would be gone
