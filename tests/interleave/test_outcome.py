"""Cases that left the same behind are judged once; whatever differs is judged by itself."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.providers.protocol import PushRequest
from drawdown.schema.database import read
from drawdown.schema.tables import metadata
from tests.interleave.explore import Case, Explorer
from tests.interleave.outcome import left_behind
from tests.interleave.stage import T0

pytestmark = pytest.mark.xdist_group("interleave")

CASE = Case("seal", "cli.nouns.orgs:release", 1)


def test_what_left_the_same_is_judged_once(explorer: Explorer) -> None:
    explorer.forget()
    runs = [explorer.run(CASE) for _ in range(4)]
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
def test_a_row_that_differs_is_another_outcome(explorer: Explorer, change: str) -> None:
    stage = explorer.stage()
    before = left_behind(stage)
    assert left_behind(explorer.stage()) == before
    stage.write(change)
    assert left_behind(stage) != before


def test_what_the_provider_knows_is_in_it(explorer: Explorer) -> None:
    stage = explorer.stage()
    before = left_behind(stage)
    stage.fake.charged["more"] = PushRequest("more", "acme", "compute_1gb", 1, T0, 1)
    assert left_behind(stage) != before


def test_every_table_is_in_it(explorer: Explorer) -> None:
    tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    found = read(explorer.engine, lambda c: set(c.execute(sa.text(tables)).scalars()))
    assert found - {"alembic_version"} == set(metadata.tables)
