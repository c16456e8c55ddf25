"""The client and the server that ships: what is sent is kept once, and read back; also while the server is killed."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, cast

import pytest
import sqlalchemy as sa

from drawdown.schema.database import read
from drawdown_client import AsyncClient, Client, Event, Item, Refused, Result, Settings, Unsent, World
from tests.acceptance.commands import drawdown
from tests.client.shop import AT_MS, TO_MS, free_port, open_shop, prepared
from tests.server.test_process import serving

KILLS: Final = 2
SAMPLE: Final = {
    "org_id": "acme", "sandbox_id": "sb-1", "cell_id": "c-1", "memory_mb": 1024, "cpu_count": 1, "ts": AT_MS,
}  # fmt: skip


def database(folder: Path) -> str:
    return f"sqlite:///{folder}/drawdown.db"


def test_client_items_on_real_server_are_stored_once_and_read_back(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []

    def on_result(item: Item, result: Result) -> None:
        told.append((item.item_id, result.status))

    with open_shop(database(tmp_path), tmp_path) as (url, key), Client(url, key, Settings("/web", on_result)) as client:
        for event_id, quantity in (("e1", 3), ("e1", 3), ("e1", 4), ("e2", 5)):
            client.record(
                "page.render", quantity, org_id="acme", event_id=event_id, at=datetime.fromtimestamp(AT_MS / 1000, UTC),
                subject="page-7", project="site", plan_key="free",
                properties={"model": "small", "deep": {"a": [1, 2.5]}},
            )  # fmt: skip
        client.record("page.rendr", 1, org_id="acme", event_id="e3", at=AT_MS)
        client.record("page.render", 1, event_id="e4", at=AT_MS)
        client.record("page.render", 1, org_id="acme", event_id="e5", at=AT_MS + 10**12)
        client.samples.send({**SAMPLE, "id": "s1", "interval_s": 60}, {**SAMPLE, "id": "s2", "interval_s": -1})
        with pytest.raises(Unsent, match="items that the server refused: 4"):
            client.flush(60)
        rows = client.usage("acme", AT_MS, TO_MS)["rows"]
        assert ("render", 8) in [(row["feature"], row["used"]) for row in rows], rows
        assert ("compute_1gb", 60) in [(row["feature"], row["used"]) for row in rows], rows
        by_project = client.usage("acme", AT_MS, TO_MS, by="project")["rows"]
        assert ("site", 8) in [(row["group"], row["used"]) for row in by_project], by_project
        assert client.balance("acme")["available"] == 99.994
        with pytest.raises(Refused) as found:
            client.usage("nobody", AT_MS, TO_MS)
        assert (found.value.status, found.value.code) == (404, "unknown_org")
    events = [("e1", "accepted"), ("e1", "duplicate"), ("e1", "conflict"), ("e2", "accepted"), ("e3", "pending")]
    assert told == [*events, ("e4", "invalid"), ("e5", "invalid"), ("s1", "accepted"), ("s2", "invalid")]


def test_client_event_with_id_sent_twice_is_duplicate_then_conflict(tmp_path: Path) -> None:
    told: list[str] = []
    settings = Settings("/web", lambda _, result: told.append(result.status), spool=tmp_path / "web.spool")
    with open_shop(database(tmp_path), tmp_path) as (url, key), Client(url, key, settings) as client:
        for _ in range(2):
            client.record("page.render", 3, org_id="acme", event_id="e1")
            client.flush(60)
            time.sleep(0.01)
        client.record("page.render", 4, org_id="acme", event_id="e1")
        with pytest.raises(Unsent) as rejected:
            client.flush(60)
    assert told == ["accepted", "duplicate", "conflict"]
    dead = Path(str(rejected.value.dead_letter)).read_text().splitlines()
    assert [json.loads(line)["item"]["quantity"] for line in dead] == [4]


def test_async_client_items_on_real_server_are_read_back(tmp_path: Path) -> None:
    async def work(url: str, key: str) -> None:
        async with AsyncClient(url, key) as client:
            await asyncio.gather(*(client.record("page.render", 2, org_id="acme", at=AT_MS) for _ in range(200)))
            await client.samples.send({**SAMPLE, "id": "s1", "interval_s": 60})
            await client.flush(60)
            rows = (await client.usage("acme", AT_MS, TO_MS))["rows"]
            assert ("render", 400) in [(row["feature"], row["used"]) for row in rows], rows
            assert (await client.balance("acme"))["available"] == 99.994

    with open_shop(database(tmp_path), tmp_path) as (url, key):
        asyncio.run(work(url, key))


def test_client_batch_of_large_items_is_accepted_by_real_server(tmp_path: Path) -> None:
    """The client's bounds of an item and a body are the server's."""
    told = Counter[str]()

    def on_result(_item: Item, result: Result) -> None:
        told[result.status] += 1

    large = {"note": "x" * 4_000}
    with (
        open_shop(database(tmp_path), tmp_path) as (url, key),
        Client(url, key, Settings(on_result=on_result)) as client,
    ):
        client.events.send(*(Event("page.render", 1, "acme", AT_MS, properties=large) for _ in range(1_050)))
        client.flush(120)
    assert told == {"accepted": 1_050}


def test_client_key_without_scope_or_unknown_is_refused(tmp_path: Path) -> None:
    told: list[str | None] = []
    with open_shop(database(tmp_path), tmp_path, ("usage:read",)) as (url, key):
        for one in (key, key + "x"):
            client = Client(url, one, Settings(on_result=lambda _, result: told.append(result.code)))
            client.record("page.render", 1, org_id="acme")
            with pytest.raises(Unsent):
                client.close(30)
    assert told == ["no_scope", "unauthorized"]


class Brisk:
    """In place of a random number: a tenth of a second between tries."""

    def uniform(self, low: float, high: float) -> float:
        return min(high, 0.1)


def test_client_events_while_server_is_killed_repeatedly_arrive_once(
    database_url: str, engine: sa.Engine, tmp_path: Path
) -> None:
    """Four threads record while the server is killed in the midst of it; another process starts on its port."""
    key, port, ids, jitter = prepared(database_url), free_port(), list[str](), Brisk()
    url, told, kept = f"http://127.0.0.1:{port}", Counter[str](), threading.Semaphore(0)

    def on_result(item: Item, result: Result) -> None:
        assert result.is_kept, result
        told[item.item_id] += 1
        kept.release()

    settings = Settings(on_result=on_result, batch_items=20, batch_ms=5, spool=tmp_path / "app.spool", block_s=300)
    client = Client(url, key, settings, world=World(jitter=cast(random.Random, jitter)))
    wanted = threading.Semaphore(150)

    def record() -> None:
        while wanted.acquire(blocking=False):
            ids.append(client.record("page.render", 1, org_id="acme", at=AT_MS))

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(KILLS):
        with serving(database_url, {}, tmp_path / "log", "--port", str(port)) as (_, process):
            assert all(kept.acquire(timeout=120) for _ in range(60))
            process.kill()
        for _ in range(80):
            wanted.release()
    for thread in threads:
        thread.join()
    record()
    with serving(database_url, {}, tmp_path / "log", "--port", str(port)):
        client.flush(120)
        used = client.usage("acme", AT_MS, TO_MS)["rows"]
    client.close()
    assert told == Counter(ids) and len(ids) == 150 + 80 * KILLS
    assert [(row["feature"], row["used"]) for row in used] == [("render", len(ids))]
    assert read(engine, lambda c: c.execute(sa.text("SELECT COUNT(*) FROM usage_events")).scalar()) == len(ids)
    drawdown(database_url, "tick")  # what is sealed is not charged: nobody set a price
    assert read(engine, lambda c: c.execute(sa.text("SELECT SUM(sealed_qty) FROM pushes")).scalar()) == len(ids)
    done = drawdown(database_url, "verify")
    assert done.status == 0, done.out + done.err


def test_client_generic_calls_with_idempotency_key_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the server and the key that the environment names."""
    scopes = ("--scope", "settlements:write", "--scope", "settlements:read")
    with open_shop(database(tmp_path), tmp_path) as (url, _key):
        made = drawdown(database(tmp_path), "key", "create", "finance", *scopes, "--quiet")
        with pytest.raises(ValueError, match="DRAWDOWN_URL and DRAWDOWN_KEY"):
            Client()
        monkeypatch.setenv("DRAWDOWN_URL", url)
        monkeypatch.setenv("DRAWDOWN_KEY", made.out.strip())
        with Client() as client:
            tried = client.post("/v1/suppliers/pixel", {"share_ppm": 700_000, "new": True, "dry_run": True})
            assert tried["dry_run"] is True and client.get("/v1/suppliers")["suppliers"] == []
            order = {"share_ppm": 700_000, "threshold": 0.5, "new": True}
            first = client.post("/v1/suppliers/pixel", order, key="s-1")
            assert first["changed"] is True and first == client.post("/v1/suppliers/pixel", order, key="s-1")
            with pytest.raises(Refused) as found:
                client.post("/v1/suppliers/pixel", {**order, "share_ppm": 1}, key="s-1")
            assert found.value.code == "other_content"

        async def look() -> object:
            async with AsyncClient() as client:
                await client.post("/v1/suppliers/pixel/freeze", {"reason": "a dispute"})
                return await client.get("/v1/suppliers", most=1)

        (supplier,) = cast(dict[str, list[dict[str, object]]], asyncio.run(look()))["suppliers"]
        assert (supplier["supplier"], supplier["threshold_micro"], supplier["is_frozen"]) == ("pixel", 500_000, True)
