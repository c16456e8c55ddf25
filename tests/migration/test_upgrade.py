"""A database of an earlier version keeps everything when it is upgraded, and gets the new guards."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.schema.database import connect, read, write
from drawdown.schema.migrate import migrate_to, require_ready, upgrade
from tests.conftest import _new_database
from tests.world import T0

BEFORE = (
    "INSERT INTO buckets (id, watermark_ms, cursor, sweep_began_ms, sweep_next_ms) VALUES (7, 0, 0, 0, 0)",
    "INSERT INTO orgs (org_id, bucket, billing_provider) VALUES ('acme', 7, 'embedded')",
    "INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
    "VALUES ('acme', 0, 'embedded', 'acme', 0, 'a', 'r')",
    *(
        "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key, "
        f"sealed_at_ms, seal_id, state, due_at_ms, attempts) VALUES ({T0}, 'acme', 'compute', {number}, 'embedded', "
        f"'acme', 60, 60, 'k{number}', 0, 1, '{state}', 0, 1)"
        for number, state in enumerate(("accepted", "due", "in_doubt", "rejected"))
    ),
    f"INSERT INTO voids VALUES ({T0}, 'acme', 'compute', 3, 0, 'rejected', 'no rate', 'a', 'r')",
    f"UPDATE pushes SET state = 'voided' WHERE revision = 3 AND window_ms = {T0}",
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
    f"VALUES ('one', 'acme', 'box', 'cell-1', 1024, 60, {T0}, {T0})",
    f"INSERT INTO pending_usage VALUES ({T0}, 'acme', 77, 'no_mapping', 60, 1)",
)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_from_0001(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if kind == "sqlite":
        engine = connect(f"sqlite:///{tmp_path}/old.db")
    else:
        engine = connect(_new_database(request.getfixturevalue("postgres_server"), "upgrade"))
    with engine.begin() as connection:
        migrate_to(connection, "0001")
        for statement in BEFORE:
            connection.execute(sa.text(statement))
    upgrade(engine)
    read(engine, require_ready)
    found = read(
        engine,
        lambda c: {
            "pushes": c.execute(sa.text("SELECT revision, state, lookups, wire_key FROM pushes ORDER BY 1")).all(),
            "voids": c.execute(sa.text("SELECT evidence FROM voids")).scalars().all(),
            "pending": c.execute(sa.text("SELECT reason, seconds FROM pending_usage")).all(),
        },
    )
    assert [tuple(row) for row in found["pushes"]] == [
        (0, "accepted", 0, None),
        (1, "due", 0, None),
        (2, "in_doubt", 0, None),
        (3, "voided", 0, None),
    ]
    assert (list(found["voids"]), [tuple(row) for row in found["pending"]]) == (["no rate"], [("no_mapping", 60)])
    for statement, rule in {
        "UPDATE pushes SET sealed_qty = 1": "S3",
        "UPDATE pushes SET state = 'due' WHERE state = 'in_doubt'": "P2",
        "UPDATE pushes SET state = 'voided' WHERE state = 'due'": "P5",
        "DELETE FROM voids": "append-only",
        "DELETE FROM pushes": "S3",
        "UPDATE assignments SET customer_id = 'other'": "P4",
    }.items():
        with pytest.raises(DBAPIError, match=rule):
            write(engine, lambda c, text=statement: c.execute(sa.text(text)))  # type: ignore[misc]
    if kind == "sqlite":
        replace = BEFORE[-2].replace("INSERT", "INSERT OR REPLACE").replace("1024, 60", "1024, 61")
        write(engine, lambda c: c.execute(sa.text(replace)))
        kept = read(engine, lambda c: c.execute(sa.text("SELECT interval_s FROM usage_samples")).scalars().all())
        assert list(kept) == [60]
    engine.dispose()
