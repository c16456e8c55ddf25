"""The demo's hosts: what writes sandboxes and samples, as any program of a fleet would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa


@dataclass(frozen=True)
class Box:
    """A sandbox that runs on a cell."""

    sandbox_id: str
    org_id: str
    cell_id: str
    memory_mb: int


@dataclass(frozen=True)
class BoxSample:
    """So many seconds of a sandbox, dated at `ts`."""

    id: str
    box: Box
    interval_s: int
    ts: int


def start_boxes(connection: sa.Connection, boxes: Sequence[Box]) -> None:
    """Sandboxes run from now on."""
    connection.execute(
        sa.text(
            "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) "
            "VALUES (:sandbox_id, :org_id, :cell_id, 'running')"
        ),
        [asdict(box) for box in boxes],
    )


def stop_boxes(connection: sa.Connection, cell_id: str, org_id: str) -> None:
    """A cell did as it was told."""
    connection.execute(
        sa.text("UPDATE sandboxes SET state = 'stopped' WHERE cell_id = :cell AND org_id = :org"),
        {"cell": cell_id, "org": org_id},
    )


def write_samples(connection: sa.Connection, samples: Sequence[BoxSample], now_ms: int) -> None:
    """Insert samples, as a host does."""
    connection.execute(
        sa.text(
            "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
            "VALUES (:id, :org_id, :sandbox_id, :cell_id, :memory_mb, :interval_s, :ts, :now)"
        ),
        [{**asdict(s.box), "id": s.id, "interval_s": s.interval_s, "ts": s.ts, "now": now_ms} for s in samples],
    )
