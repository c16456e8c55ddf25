"""The seed's way, for comparison: a worker as one writes it first. One customer after the other is added up, pushed
over HTTP, marked and asked about; nothing waits beside anything else."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import httpx
import sqlalchemy as sa

from drawdown.schema.database import read, write

TABLES: Final = (
    "CREATE TABLE seed_samples (org_id TEXT NOT NULL, quantity BIGINT NOT NULL)",
    "CREATE TABLE seed_orgs (org_id TEXT PRIMARY KEY, billed BIGINT NOT NULL, is_halted BOOLEAN NOT NULL)",
    "CREATE INDEX seed_by_org ON seed_samples (org_id)",
)
SAMPLES: Final = 3


@dataclass(frozen=True)
class Done:
    """What was done, and in which time; every other number is reckoned from it."""

    count: int
    s: float
    cpu_s: float


def prepare(engine: sa.Engine, count: int) -> None:
    """So many customers, each with what it used, in tables of its own."""
    orgs = [{"org": f"org-{number}"} for number in range(count)]

    def work(connection: sa.Connection) -> None:
        for text in TABLES:
            connection.execute(sa.text(text))
        connection.execute(
            sa.text("INSERT INTO seed_orgs VALUES (:org, 0, :no)"), [{**org, "no": False} for org in orgs]
        )
        connection.execute(sa.text("INSERT INTO seed_samples VALUES (:org, 1)"), orgs * SAMPLES)

    write(engine, work)


def bill(engine: sa.Engine, service: str, count: int, *, asks: bool) -> Done:
    """One after the other; each is asked about after its push where it `asks`, as where a provider decides on halts."""
    began, cpu = time.perf_counter(), time.process_time()
    with httpx.Client() as client:
        for number in range(count):
            org = f"org-{number}"
            used = read(
                engine,
                lambda c, org=org: c.execute(  # type: ignore[misc]
                    sa.text("SELECT SUM(quantity) FROM seed_samples WHERE org_id = :org"), {"org": org}
                ).scalar_one(),
            )
            sent = {"customer_id": org, "feature_id": "compute", "value": int(used), "idempotency_key": f"usage:{org}"}
            client.post(f"{service}/v1/track", json=sent).raise_for_status()
            _mark(engine, "billed = billed + 1", {"org": org})
            if asks:
                told = client.post(f"{service}/v1/customers.get", json={"customer_id": org}).raise_for_status().json()
                _mark(
                    engine, "is_halted = :halted", {"org": org, "halted": told["balances"]["compute"]["remaining"] <= 0}
                )
    return Done(count, time.perf_counter() - began, time.process_time() - cpu)


def _mark(engine: sa.Engine, what: str, values: dict[str, object]) -> None:
    write(engine, lambda c: c.execute(sa.text(f"UPDATE seed_orgs SET {what} WHERE org_id = :org"), values))
