"""Progress under fire: what a worker that is killed has sent, and not written down, has an end."""

from __future__ import annotations

import time
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.worker.engine import calls
from drawdown.worker.push import push
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet

ORGS = 120
MOST = 64
"""In place of `MOST_UNSETTLED`: each lane has its part of it."""


def test_sent_but_unsettled_pushes_are_limited(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any moment, at each of two providers; the database takes its time, so that answers pile up."""
    fakes = {name: FakeProvider(capabilities(batch_size=1, in_flight=256), name=name) for name in ("fake", "other")}
    fleet = Fleet(engine, extra=fakes)
    for name in fakes:
        orgs = [f"{name}-{n}" for n in range(ORGS)]
        fleet.assign(*orgs, provider=name)
        insert = (
            "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
            "VALUES (:org, :org, 'box', 'cell-1', 1024, 60, :ts, :ts)"
        )
        given = [{"org": org, "ts": T0 + 1} for org in orgs]
        write(engine, lambda c, given=given, insert=insert: c.execute(sa.text(insert), given))  # type: ignore[misc]
    monkeypatch.setattr(calls, "MOST_UNSETTLED", MOST)
    seen: list[int] = []
    settle = push._settle

    def slow(connection: sa.Connection, **given: Any) -> None:
        time.sleep(0.02)
        settle(connection, **given)
        written = "SELECT COUNT(*) FROM pushes WHERE provider = :name AND state = 'accepted'"
        for name, fake in fakes.items():  # of this transaction's, too, some may never be committed
            sent = len(fake.seen)  # first: another lane may commit meanwhile, and go on
            count = connection.execute(sa.text(written), {"name": name}).scalar_one()
            unsure = len(given["batch"]) if given["batch"][0].org_id.startswith(name) else 0
            seen.append(sent - count + unsure)

    monkeypatch.setattr(push, "_settle", slow)
    assert fleet.tick_windows(2).accepted == 2 * ORGS
    assert MOST // 2 <= max(seen) <= MOST
