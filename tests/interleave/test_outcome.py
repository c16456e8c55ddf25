"""Cases that left the same behind are judged once; whatever differs is judged by itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import PushRequest
from drawdown.schema.audit import record
from drawdown.schema.database import read, write
from drawdown.schema.tables.whole import metadata
from tests.interleave.explore import Case, Explorer
from tests.interleave.outcome import left_behind
from tests.interleave.stage import T0

pytestmark = pytest.mark.xdist_group("interleave")

CASE = Case("seal", "cli.declared:run org resume", 1)


def test_outcome_of_identical_runs_is_judged_once(explorer: Explorer) -> None:
    explorer.forget()
    runs = [explorer.run(CASE) for _ in range(2)]
    assert {(one.reached, *one.wrong) for one in runs} == {(True,)}
    judged = explorer._judged
    assert 1 <= len(judged) <= 2, "in which order a claim takes organisations is PostgreSQL's own affair"
    judged.update({known: ["this"] for known in judged})
    assert explorer.run(CASE).wrong in (["this"], [])
    explorer.forget()
    assert not judged


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE orgs SET max_concurrent_sandboxes = 99 WHERE org_id = 'acme'",
        "DELETE FROM dirty_windows",
        "UPDATE pushes SET last_error = 'other' WHERE state = 'queued'",
        "UPDATE buckets SET cursor = cursor - 1, epoch = epoch + 1 WHERE id = 1",
        "UPDATE buckets SET in_flight = in_flight || 1::bigint WHERE id = 1",
    ],
)
def test_outcome_with_changed_row_differs(explorer: Explorer, change: str) -> None:
    stage = explorer.stage()
    before = left_behind(stage)
    assert left_behind(explorer.stage()) == before
    stage.write(change)
    assert left_behind(stage) != before


def test_outcome_ignores_action_order_and_detects_broken_chain(explorer: Explorer) -> None:
    def after(*said: str, spoil: str = "") -> str:
        stage = explorer.stage()
        for by in (replace(stage.by, reason=reason) for reason in said):
            write(stage.engine, partial(record, action="looked", target="acme", details={}, by=by))
        with stage.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
            connection.execute(sa.text(spoil or "SELECT 1"))
        return left_behind(stage)

    assert after("a", "b") == after("b", "a") != after("a", "c")
    newest = "UPDATE operator_actions SET {} WHERE action_id = (SELECT MAX(action_id) FROM operator_actions)"
    assert after("a", "b") != after("a", "b", spoil=newest.format("hash = repeat('0', 64)"))
    assert after("a", "b") != after("a", "b", spoil=newest.format("actor = 'another'"))


def test_outcome_includes_charges_at_provider(explorer: Explorer) -> None:
    stage = explorer.stage()
    before = left_behind(stage)
    stage.fake.charged["more"] = PushRequest("more", "acme", "compute_1gb", 1, T0, 1)
    assert left_behind(stage) != before


def test_outcome_tables_match_database_tables(explorer: Explorer) -> None:
    tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    found = read(explorer.engine, lambda c: set(c.execute(sa.text(tables)).scalars()))
    assert found - {"alembic_version"} == set(metadata.tables)
