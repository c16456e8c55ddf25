"""The queue: its bounds, what callers wait for, and what a callback may do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from drawdown_client import BadItem, Closed, Item, QueueFull, Refused, Result, Settings, Unreachable, Unsent, World
from drawdown_client.items import Kind
from drawdown_client.outbox import Outbox
from drawdown_client.settings import MOST_REFUSALS
from tests.client.book import hasty


class Door:
    """Takes items while it is open."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.is_open = threading.Event()
        self.taken: list[str] = []
        self.bodies: list[int] = []
        if is_open:
            self.is_open.set()

    def __call__(self, _kind: Kind, items: Sequence[Item]) -> list[Result]:
        if not self.is_open.wait(0.02):
            raise Unreachable("closed")
        self.taken += [item.item_id for item in items]
        self.bodies.append(len(items))
        return [Result("accepted")] * len(items)


class Gateway(Door):
    """Takes no call with an item that it does not like."""

    def __init__(self, *bad: str) -> None:
        super().__init__()
        self.bad = set(bad)
        self.lone = 0

    def __call__(self, kind: Kind, items: Sequence[Item]) -> list[Result]:
        if self.bad & {item.item_id for item in items}:
            self.lone += len(items) == 1
            raise Refused(403, "no_code", "forbidden")
        return super().__call__(kind, items)


def item(name: str) -> Item:
    return Item("events", name, b"{}")


def box(door: Door, **settings: object) -> Outbox:
    given: dict[str, object] = {"batch_ms": 0, **settings}
    return Outbox(door, lambda: None, Settings(**given), hasty())  # type: ignore[arg-type]


def test_client_full_queue_with_raise_is_refused_at_once() -> None:
    door = Door(is_open=False)
    made = box(door, queue_items=3, when_full="raise", block_s=60)
    made.put([item("a"), item("b")])
    with pytest.raises(QueueFull, match=r"queue is full \(items: 2, limit: 3\)"):
        made.put([item("c"), item("d")])
    made.put([item("e")])
    door.is_open.set()
    made.close(20)
    assert door.taken == ["a", "b", "e"], "of what was refused nothing was recorded"


def test_client_call_larger_than_queue_is_refused_at_once() -> None:
    """It never fits, so a caller who waited and tried again did so for ever."""
    made = box(Door(), queue_items=2, when_full="block", block_s=60)
    with pytest.raises(BadItem, match="too many items in one call: 3, limit: 2"):
        made.put([item("a"), item("b"), item("c")])
    made.close(20)


def test_client_full_queue_blocks_until_room_or_timeout() -> None:
    door = Door(is_open=False)
    made = box(door, queue_items=1, block_s=0.2)
    made.put([item("a")])
    began = time.monotonic()
    with pytest.raises(QueueFull):
        made.put([item("b")])
    assert 0.2 <= time.monotonic() - began < 10
    threading.Timer(0.05, door.is_open.set).start()
    made._settings = Settings(queue_items=1, block_s=30, batch_ms=0)
    made.put([item("c")])
    made.close(20)
    assert door.taken == ["a", "c"]


def test_client_item_that_proxy_refuses_is_dropped_in_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """And it does not hold up the others."""
    is_told, told = threading.Event(), list[tuple[str, str]]()

    def on_result(one: Item, result: Result) -> None:
        told.append((one.item_id, result.status))
        if one.item_id == "e":
            is_told.set()

    gateway = Gateway("e")
    made = box(gateway, on_result=on_result, batch_ms=50)
    made.put([item(name) for name in "abcdefghi"])
    for number in range(2_000):  # the server answers others meanwhile
        if is_told.wait(0.01):
            break
        made.put([item(f"more-{number}")])
    with pytest.raises(Unsent) as found:
        made.flush(20)
    assert found.value.count == 1 and gateway.lone >= MOST_REFUSALS
    assert gateway.taken[:8] == list("abcdfghi") and [one for one in told if one[1] != "accepted"] == [("e", "refused")]
    assert caplog.text.count("a proxy refused an item") == 1 and "refused items (1): 403 no_code" in caplog.text
    made.close(20)


def test_client_items_are_kept_while_proxy_refuses_every_call() -> None:
    """An ingress without a route answered 404 for minutes, and the client dropped what waited."""
    gateway = Gateway("a", "b")
    made = box(gateway, batch_ms=0)
    made.put([item("a"), item("b")])
    for _ in range(2_000):
        if gateway.lone > 2 * MOST_REFUSALS:
            break
        time.sleep(0.01)
    assert gateway.lone > 2 * MOST_REFUSALS and gateway.taken == []
    gateway.bad.clear()
    made.flush(20)
    made.close(20)
    assert sorted(gateway.taken) == ["a", "b"]


def test_client_flush_does_not_wait_for_item_that_proxy_refused(tmp_path: Path) -> None:
    """The item has its place in the queue, and `close` sends it again."""
    gateway, spool = Gateway("a"), tmp_path / "app.spool"
    slow: Any = type("Slow", (), {"uniform": lambda self, low, high: high})()
    settings = Settings(batch_ms=0, queue_items=2, when_full="raise", spool=spool)
    made = Outbox(gateway, lambda: None, settings, World(jitter=slow))
    made.put([item("a")])
    with pytest.raises(Unsent) as found:
        made.flush(20)
    assert (found.value.count, found.value.kept) == (1, True)
    with pytest.raises(QueueFull):
        made.put([item("b"), item("c")])
    made.put([item("d")])
    with pytest.raises(Unsent):
        made.flush(20)
    assert gateway.taken == ["d"]
    gateway.bad.clear()
    made.close(20)
    assert gateway.taken == ["d", "a"] and spool.stat().st_size == 0


def test_client_items_that_proxy_refuses_at_close_are_unsent(tmp_path: Path) -> None:
    names, spool = [str(number) for number in range(50)], tmp_path / "app.spool"
    made = box(Gateway(*names), spool=spool)
    made.put([item(name) for name in names])
    thread = made._thread
    with pytest.raises(Unsent) as found:
        made.close(0.2)
    assert (found.value.count, found.value.kept) == (50, True) and thread is not None
    thread.join(20)
    door = Door()
    box(door, spool=spool).close(20)
    assert door.taken == names


def test_client_shared_by_threads_sends_each_item_once_in_order() -> None:
    door = Door()
    made = box(door, queue_items=50, block_s=60)

    def put(n: int) -> None:
        for k in range(200):
            made.put([item(f"{n}.{k}")])

    threads = [threading.Thread(target=put, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made.close(60)
    assert sorted(door.taken) == sorted(f"{n}.{k}" for n in range(8) for k in range(200))
    for n in range(8):
        assert [one for one in door.taken if one.startswith(f"{n}.")] == [f"{n}.{k}" for k in range(200)]


def test_client_items_within_batch_time_are_sent_together() -> None:
    door = Door()
    made = box(door, batch_ms=150)
    for number in range(20):
        made.put([item(str(number))])
    while not door.taken:
        time.sleep(0.01)
    assert door.bodies == [20]
    made.close(20)


def test_client_flush_does_not_wait_for_batch_time() -> None:
    door = Door()
    made = box(door, batch_ms=60_000)
    made.put([item("a")])
    made.flush(20)
    assert door.taken == ["a"]
    made.put([item("b")])
    with pytest.raises(Unsent):
        door.is_open.clear()
        made.flush(0.1)
    door.is_open.set()
    made.close(20)
    assert door.taken == ["a", "b"]


def test_client_result_callbacks_complete_before_flush_returns() -> None:
    told: list[str] = []

    def on_result(one: Item, _result: Result) -> None:
        time.sleep(0.05)
        told.append(one.item_id)

    made = box(Door(), on_result=on_result)
    made.put([item("a"), item("b")])
    made.flush(20)
    assert told == ["a", "b"]
    made.close(20)


def test_client_failing_callback_does_not_stop_sending(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[Callable[[], None]] = [lambda: {"b": None}["a"], lambda: (_ for _ in ()).throw(SystemExit(3))]

    def on_result(_item: Item, _result: Result) -> None:
        if failures:
            failures.pop()()

    door = Door()
    made = box(door, on_result=on_result)
    for name in "abc":
        made.put([item(name)])
        made.flush(20)
    made.close(20)
    assert door.taken == ["a", "b", "c"] and caplog.text.count("on_result failed") == 2


def test_client_callback_can_record_and_cannot_flush() -> None:
    seen: list[str] = []

    def on_result(one: Item, _result: Result) -> None:
        if one.item_id == "a":
            made.put([item("b")])
            with pytest.raises(RuntimeError, match="cannot flush"):
                made.flush(1)
            with pytest.raises(QueueFull):
                made.put([item("c"), item("d")])
        seen.append(one.item_id)

    made = box(Door(), on_result=on_result, queue_items=2, block_s=60)
    made.put([item("a")])
    made.flush(20)
    made.flush(20)
    made.close(20)
    assert seen == ["a", "b"]


def test_client_closed_queue_refuses_items() -> None:
    made = box(Door())
    made.close(1)
    with pytest.raises(Closed):
        made.put([item("a")])


def test_client_blocked_put_is_ended_by_close() -> None:
    door = Door(is_open=False)
    made = box(door, queue_items=1, block_s=60)
    made.put([item("a")])
    found: list[BaseException] = []

    def wait() -> None:
        try:
            made.put([item("b")])
        except Closed as error:
            found.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    with pytest.raises(Unsent):
        made.close(0.2)
    thread.join(20)
    assert len(found) == 1


def test_client_invalid_settings_are_refused() -> None:
    for wrong in ({"batch_items": 1_001}, {"batch_items": 0}, {"queue_items": 0}, {"block_s": -1.0}):
        with pytest.raises(ValueError):
            Settings(**wrong)
