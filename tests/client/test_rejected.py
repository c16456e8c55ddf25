"""Items that the server does not take: kept beside the spool, raised with their count, and logged whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
import respx

from drawdown_client import Client, Item, Result, Settings, Unsent
from drawdown_client.items import Kind
from drawdown_client.outbox import Outbox
from tests.cases import cases
from tests.client.book import KEY, URL, hasty


def says(kind: Kind, items: Sequence[Item]) -> list[Result]:
    """By an item's name."""
    bad = {
        "i": Result("invalid", "in_the_future", "see to the clock", "occurred_at"),
        "c": Result("conflict", "c", "d"),
    }
    return [bad.get(item.item_id[0], Result("accepted")) for item in items]


def item(name: str) -> Item:
    return Item("events", name, json.dumps({"event_id": name, "org_id": "acme", "quantity": 7}).encode())


def box(spool: Path | None, **settings: object) -> Outbox:
    given: dict[str, object] = {"batch_ms": 0, "spool": spool, **settings}
    return Outbox(says, lambda: None, Settings(**given), hasty())  # type: ignore[arg-type]


def test_client_rejected_items_move_from_spool_to_dead_letters(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = tmp_path / "app.spool"
    made = box(spool)
    made.put([item(name) for name in ("a1", "i1", "a2", "c1", "a3")])
    with pytest.raises(Unsent) as found:
        made.flush(20)
    dead = tmp_path / "app.spool.dead"
    assert (found.value.count, found.value.rejected, found.value.dead_letter) == (0, 2, str(dead))
    assert str(found.value) == f"items that the server refused: 2 ({dead} keeps them)"
    lines = [json.loads(line) for line in dead.read_text().splitlines()]
    assert [(one["id"], one["status"], one["code"], one["item"]["quantity"]) for one in lines] == [
        ("i1", "invalid", "in_the_future", 7),
        ("c1", "conflict", "c", 7),
    ]
    assert dead.stat().st_mode & 0o777 == 0o600
    assert '"org_id": "acme", "quantity": 7' in caplog.text
    made.close(20)  # it was raised
    assert spool.stat().st_size == 0


def test_client_close_without_spool_raises_rejected_items() -> None:
    made = box(None)
    made.put([item("i1")])
    with pytest.raises(Unsent, match=r"items that the server refused: 1 \(only the log has them\)"):
        made.close(20)


def test_client_full_dead_letter_file_keeps_items_in_spool(tmp_path: Path) -> None:
    spool = tmp_path / "app.spool"
    (tmp_path / "app.spool.dead").write_text("x" * 1_000)
    made = box(spool, spool_bytes=1_000, batch_ms=50)
    made.put([item(name) for name in ("a1", "i1", "a2", "a3")])
    with pytest.raises(Unsent):
        made.close(20)
    (tmp_path / "app.spool.dead").unlink()
    again = box(spool)
    with pytest.raises(Unsent) as found:
        again.close(20)
    assert found.value.rejected == 1, "read again at the next start, it alone"
    assert spool.stat().st_size == 0 and "i1" in (tmp_path / "app.spool.dead").read_text()


@cases("status", [200, 207, 422])
def test_client_results_are_read_for_any_status(status: int, tmp_path: Path) -> None:
    results = [{"status": "invalid", "code": "in_the_future", "message": "…"}]
    body = {"error": {"code": "bad_items", "message": ""}, "results": results}
    with respx.mock(base_url=URL) as router:
        router.post("/v1/events").mock(httpx.Response(status, json=body))
        made = Client(URL, KEY, Settings(spool=tmp_path / "app.spool"), world=hasty())
        for _ in range(5):
            made.record("page.render", 1, org_id="acme")
            with pytest.raises(Unsent) as found:
                made.flush(20)
            assert (found.value.count, found.value.rejected) == (0, 1)
        made.close(20)
    assert len((tmp_path / "app.spool.dead").read_text().splitlines()) == 5
