"""What the server's routes change, what imports, and what hosts' own programs do to the tables that are theirs."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from drawdown.providers.embedded import EmbeddedProvider
from drawdown.providers.protocol import CustomerChanged, PushRefused
from drawdown.schema.units import DAY_MS
from drawdown.worker.access.idempotency import use_once
from drawdown.worker.engine.effects import Push
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs import assignments
from drawdown.worker.push import webhooks
from drawdown.worker.push.push import push
from drawdown.worker.sources.samples.importer import import_samples
from drawdown.worker.sources.samples.rows import ImportOptions
from drawdown.worker.verdict.refresh_requests import end_request, may_ask
from tests.interleave.of_steps import sent_before
from tests.interleave.party import Act, Party, host, plain, rest
from tests.interleave.stage import FLIP, NOW, OLD, SAMPLE, T0, Stage, key
from tests.interleave.walk import NothingLeft

EVENT: Final = webhooks.WebhookEvent("fake", "event-1", "a hash")
REFUSAL: Final = webhooks.WebhookEvent("fake", "event-2", "another hash")


def _refused(stage: Stage, connection: sa.Connection) -> None:
    """Of a push that was accepted, the provider says that it did not take it after all."""
    stage.fake.charged.pop(key(0), None)
    webhooks.take_event(connection, REFUSAL, [PushRefused(key(0), "no meter")], NOW)


def _charge(stage: Stage) -> Act:
    """What was claimed is sent to the embedded ledger; its answer is lost, and the same bytes are sent again."""
    sent_before(stage)
    sends = stage.walk(push(stage.context("other"), "embedded"))
    while not isinstance(sends.asked, Push):
        if sends.asked is None:
            raise NothingLeft("nothing is left to be sent to the embedded ledger")
        sends.one(stage.engine)
    batch = sends.asked.batch

    def charge(engine: sa.Engine) -> None:
        asyncio.run(EmbeddedProvider(engine, stage.clock).push(batch))

    return Act(charge, lambda engine: rest(stage, sends, engine))


ROWS: Final = f"""id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts
csv-1,acme,box,cell-1,1024,60,{FLIP + 5}
"""
CONFLICT: Final = f"a-0,acme,box,cell-1,1024,61,{T0 + 1}\n"
CSV: Final = ImportOptions(format="csv", time_format="ms")


def _import(_stage: Stage) -> Act:
    rows = (ROWS + CONFLICT).encode()
    return Act(lambda engine: import_samples(engine, ["-"], CSV, NOW, stdin=io.BytesIO(rows)))


def _import_strictly(_stage: Stage) -> Act:
    strict = replace(CSV, strict=True)
    return Act(lambda engine: import_samples(engine, ["-"], strict, NOW, stdin=io.BytesIO(ROWS.encode())))


def _ordered(stage: Stage, connection: sa.Connection) -> None:
    """One signed request; whoever sends it again is told so."""
    if use_once(connection, "a signature", NOW, fresh_ms=1):
        orgs.override(connection, "idle", stage.by, max_concurrent=4, halted=None, until_ms=None)


def _ordered_once(stage: Stage) -> Iterator[str]:
    ((times,),) = stage.rows("SELECT COUNT(*) FROM operator_actions WHERE action = 'org_override'")
    if times > 1:
        yield f"one signature was done {times} times"


SERVER: Final = (
    plain("server.api.gate:_ask", lambda s, c: may_ask(c, "spent", NOW)),
    plain("server.api.gate:_ask answered", lambda s, c: end_request(c, "spent", NOW)),
    plain("server.api.admin:assign", lambda s, c: assignments.cancel(c, "later", s.by, NOW + DAY_MS)),
    plain("server.api.admin:override", _ordered, _ordered_once),
    plain("server.api.webhooks:take", lambda s, c: webhooks.take_event(c, EVENT, [CustomerChanged("acme")], NOW)),
    plain("server.api.webhooks:take refused", _refused),
    Party("providers.embedded:_charged", _charge),
    Party("worker.sources.samples.importer:import_samples", _import),
    Party("worker.sources.samples.importer:import_samples strict", _import_strictly),
)  # fmt: skip


def _sample(name: str, org: str, ts: int) -> Party:
    values = {"id": name, "org": org, "memory_mb": 1024, "seconds": 60, "ts": ts}
    return host(f"inserts {name}", SAMPLE.text, **values)


SANDBOX: Final = "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES (:name, :org, :cell, 'running')"

HOSTS: Final = (
    _sample("late", "acme", FLIP + 7),
    _sample("fresh", "acme", NOW - 1),
    _sample("ancient", "acme", OLD + 7),
    _sample("stopped", "held", FLIP + 7),
    _sample("stranger", "nobody", FLIP + 7),
    host("updates", "UPDATE usage_samples SET interval_s = 1 WHERE id = 'acme-0'"),
    host(
        "replaces",
        SAMPLE.text + " ON CONFLICT (id) DO UPDATE SET interval_s = excluded.interval_s",
        id="acme-0", org="acme", memory_mb=1024, seconds=7, ts=FLIP + 1,
    ),
    host("deletes", "DELETE FROM usage_samples WHERE id = 'acme-0'"),
    host("adds an organisation", "INSERT INTO orgs (org_id) VALUES ('nobody')"),
    host("starts a sandbox", SANDBOX, name="box-new", org="acme", cell="cell-2"),
    host("starts one of a halted", SANDBOX, name="box-more", org="spent", cell="cell-2"),
    host("wakes a sandbox", "UPDATE sandboxes SET state = 'running' WHERE sandbox_id = 'box-idle'"),
    host("moves a sandbox", "UPDATE sandboxes SET cell_id = 'cell-2' WHERE sandbox_id = 'box-acme'"),
    host("moves one of a halted", "UPDATE sandboxes SET cell_id = 'cell-2' WHERE sandbox_id = 'box-spent'"),
    host("stops a sandbox", "UPDATE sandboxes SET state = 'stopped' WHERE sandbox_id = 'box-spent'"),
)  # fmt: skip
