"""Act as the hosts of the demo.

The functions write sandboxes and samples, as the programs of a fleet do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from drawdown.schema.sql import queries

SQL = queries(__file__)


@dataclass(frozen=True)
class Sandbox:
    """A sandbox on a cell. `memory_mb`: its memory in MB."""

    sandbox_id: str
    org_id: str
    cell_id: str
    memory_mb: int


@dataclass(frozen=True)
class SandboxSample:
    """A sample: `interval_s` seconds of a sandbox, dated at `ts` in milliseconds."""

    id: str
    sandbox: Sandbox
    interval_s: int
    ts: int


def start_sandboxes(connection: sa.Connection, sandboxes: Sequence[Sandbox]) -> None:
    """Insert running sandboxes."""
    SQL.run(connection, "start_sandbox", [asdict(sandbox) for sandbox in sandboxes])


def stop_sandboxes(connection: sa.Connection, cell_id: str, org_id: str) -> None:
    """Stop an organisation's sandboxes on a cell, as a halt requests."""
    SQL.run(connection, "stop_sandboxes", {"cell_id": cell_id, "org_id": org_id})


def write_samples(connection: sa.Connection, samples: Sequence[SandboxSample], now_ms: int) -> None:
    """Insert samples, as a host does."""
    rows = [
        {
            **asdict(sample.sandbox),
            "id": sample.id,
            "interval_s": sample.interval_s,
            "ts": sample.ts,
            "ingested_at": now_ms,
        }
        for sample in samples
    ]
    SQL.run(connection, "write_sample", rows)
