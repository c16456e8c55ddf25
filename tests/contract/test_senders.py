"""Others' clients send to us as they are: OpenMeter's, and the official `cloudevents` package's three modes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from cloudevents.conversion import to_binary, to_json, to_structured
from cloudevents.http import CloudEvent
from corehttp.exceptions import HttpResponseError
from openmeter import Client
from openmeter.aio import Client as AsyncClient
from openmeter.models import Event

from tests.server.house import House
from tests.server.intake import sender
from tests.server.program import key_of
from tests.server.test_process import serving

NOW = datetime.now(UTC)


@pytest.fixture
def url(engine: sa.Engine, database_url: str, tmp_path: Path) -> Iterator[str]:
    house = House(engine)
    house.clock.at_ms = int(NOW.timestamp() * 1000)
    sender(house)
    with serving(database_url, {}, tmp_path / "log") as (found, _process):
        yield found
    house.server.close()


def an_event(event_id: str, quantity: object = 3, **more: Any) -> Event:
    data = {"quantity": quantity, "model": "small"}
    said = {"source": "/web", "type": "page.render", "subject": "acme", "time": NOW, **more}
    return Event(id=event_id, specversion="1.0", data=data, **said)


def kept(engine: sa.Engine) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        found = connection.execute(
            sa.text("SELECT event_id, quantity, org_id, properties FROM usage_events ORDER BY 1")
        )
        return [tuple(row) for row in found]


def test_openmeter_client_sends_events_unchanged(engine: sa.Engine, url: str) -> None:
    with Client(endpoint=url, token=key_of("app")) as client:
        client.events.ingest_event(an_event("e1"))
        client.events.ingest_event(an_event("e1"))
        client.events.ingest_events([an_event("e2"), an_event("e3", "4")])
        client.events.ingest_events_json(an_event("e4"))
        with pytest.raises(HttpResponseError) as refused:
            client.events.ingest_events([an_event("e5"), an_event("e1", 9), an_event("e6", 1.5)])
        assert refused.value.status_code == 422
    with pytest.raises(HttpResponseError), Client(endpoint=url, token="ddk_" + "a" * 43) as client:
        client.events.ingest_event(an_event("e7"))

    async def at_once() -> None:
        async with AsyncClient(endpoint=url, token=key_of("app")) as client:
            await client.events.ingest_event(an_event("e8"))

    asyncio.run(at_once())
    found = kept(engine)
    assert [(row[0], row[1]) for row in found] == [("e1", 3), ("e2", 3), ("e3", 4), ("e4", 3), ("e5", 3), ("e8", 3)]
    assert {row[2] for row in found} == {"acme"} and {row[3] for row in found} == {'{"model":"small"}'}


def test_cloudevents_package_modes_are_each_accepted_or_duplicate(engine: sa.Engine, url: str) -> None:
    attributes = {"id": "c1", "source": "/wéb", "type": "page.render", "subject": "acme", "traceparent": "00-1"}
    event = CloudEvent(attributes, {"quantity": 3})
    head = {"authorization": f"Bearer {key_of('app')}"}
    binary, structured = to_binary(event), to_structured(event)
    plain = [(name.encode(), str(value).encode()) for name, value in {**head, **binary[0]}.items()]
    assert "content-type" not in binary[0], "the package names none"
    found = [
        httpx.post(f"{url}/v1/events", headers={**head, **structured[0]}, content=structured[1]),
        httpx.post(f"{url}/v1/events", headers=plain, content=binary[1]),
    ]
    batch = {**head, "content-type": "application/cloudevents-batch+json"}
    body = json.dumps([json.loads(to_json(event))] * 2)
    found.append(httpx.post(f"{url}/v1/events", headers=batch, content=body))
    statuses = [one["status"] for answer in found for one in answer.json()["results"]]
    assert statuses == ["pending", "duplicate", "duplicate", "duplicate"], [one.text for one in found]
    assert len(kept(engine)) == 1
