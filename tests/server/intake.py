"""Programs that send events and samples."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import pytest

from drawdown.schema.database import connect, read, write
from drawdown.worker.sources.events import store
from drawdown.worker.usage.prune import raise_floors
from drawdown.worker.verify.verify import verify
from tests.server.house import Caller, House
from tests.server.program import key_of, make_key
from tests.world import T0

SENDER: Final = ("events:write", "samples:write", "usage:read")
EVENTS: Final = "/v1/events"
SAMPLES: Final = "/v1/samples"
TIME: Final = "2026-01-01T00:00:01Z"
RENDER: Final = "page.render"


def event(event_id: str = "e1", quantity: object = 3, **changes: Any) -> dict[str, Any]:
    """A CloudEvent of acme's, a second after the world began; `…` takes a name away."""
    whole = {"specversion": "1.0", "id": event_id, "source": "/web", "type": RENDER, "subject": "acme", "time": TIME,
             "data": {"quantity": quantity}, **changes}  # fmt: skip
    return {name: value for name, value in whole.items() if value is not ...}


def sample(sample_id: str = "s1", **changes: Any) -> dict[str, Any]:
    """A sample of acme's, a second after the world began."""
    whole = {"id": sample_id, "org_id": "acme", "sandbox_id": "box", "cell_id": "cell-1", "memory_mb": 1024,
             "interval_s": 60, "ts": T0 + 1_000, **changes}  # fmt: skip
    return {name: value for name, value in whole.items() if value is not ...}


class Sender:
    """One program; each answer is held to the description (`Caller.send`)."""

    def __init__(self, caller: Caller, name: str = "app") -> None:
        self.caller, self.name = caller, name

    async def send(
        self, path: str, items: Any, kind: str = "application/json", *, packed: Any = False, **headers: Any
    ) -> httpx.Response:
        body = items if isinstance(items, bytes) else json.dumps(items).encode()
        head = {"authorization": f"Bearer {key_of(self.name)}", "content-type": kind, **headers}
        if packed:
            body, head = gzip.compress(body), {**head, "content-encoding": "gzip"}
        return await self.caller.send("POST", path, body, head)

    async def told(self, path: str, items: Any, kind: str = "application/json", **more: Any) -> list[tuple[str, ...]]:
        """Each item's status, and code where it has one."""
        return said(await self.send(path, items, kind, **more))

    async def get(self, path: str) -> httpx.Response:
        return await self.caller.get(path, authorization=f"Bearer {key_of(self.name)}")


def said(answer: httpx.Response) -> list[tuple[str, ...]]:
    """Each item's status, and code where it has one. The answer's own status says whether all of them are kept."""
    assert "results" in answer.json(), answer.text
    results = answer.json()["results"]
    kept = [one["status"] in ("accepted", "duplicate", "pending") for one in results]
    assert answer.status_code == (200 if all(kept) else 207 if any(kept) else 422), answer.text
    assert ("error" in answer.json()) == (answer.status_code == 422), answer.text
    for one in results:
        assert set(one) <= {"status", "id", "code", "message", "at"}, one
        assert ("id" in one) or one["status"] == "invalid", one
        assert (one["status"] in ("accepted", "duplicate")) or (one["code"] and one["message"]), one
        assert ("at" in one) == (one["status"] == "invalid"), one
    return [(one["status"], one["code"]) if "code" in one else (one["status"],) for one in results]


def sender(house: House, name: str = "app", **bound: Any) -> None:
    make_key(house, name, *SENDER, **bound)


def close(house: House, before_ms: int) -> None:
    """Close what lies before a moment for good."""
    house.fleet.tick(house.clock.at_ms)
    write(house.fleet.engine, lambda c: raise_floors(c, before=before_ms, by=house.fleet.by))


def prune_elsewhere(house: House, before_ms: int) -> None:
    """Close what lies before a moment, as another process would, which sees what is committed."""
    other = connect(house.fleet.engine.url.render_as_string(hide_password=False))
    write(other, lambda c: raise_floors(c, before=before_ms, by=house.fleet.by))
    other.dispose()


@contextmanager
def pruned_meanwhile(house: House, monkeypatch: pytest.MonkeyPatch, old_ms: int, before_ms: int) -> Iterator[None]:
    """What lies before a moment is to be closed as soon as a way in holds floors: that waits, and leaves what is old
    and went in."""
    pruning = threading.Thread(target=prune_elsewhere, args=(house, before_ms), daemon=True)

    hold = store.hold

    def held(*given: Any) -> bool:
        found = hold(*given)
        pruning.start()
        pruning.join(0.3)
        assert pruning.is_alive(), "it waits for what is taken"
        return found

    monkeypatch.setattr(store, "hold", held)
    yield
    pruning.join(30)
    assert not pruning.is_alive()
    assert int(str(house.fleet.one("SELECT floor_ms FROM orgs WHERE org_id = 'acme'"))) <= old_ms
    assert house.fleet.rows("SELECT problem FROM usage_samples") == [(None,)]


def clean(house: House) -> None:
    breaches = read(house.fleet.engine, verify).breaches
    assert breaches == [], breaches
