"""A batch whose fields have columns of other names: the same map as that of an import, kept with the batch."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.schema.database import write
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.batches import file_sums, sources
from drawdown.worker.batches.files import found_file
from drawdown.worker.batches.take import BY_HAND, TakenFile, meet_types, take
from drawdown.worker.features.actions import map_event
from drawdown.worker.sources.field_map import FieldMap, field_map, from_text
from tests.integration.test_batches import ROWS, SEALED, Row, clean, proven, sealed, unguarded, written
from tests.world import T0, Fleet

TENANTS = FieldMap({"org_id": "tenant", "ts": "used at"}, {"memory_mb": "1024"})


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    made.clock.at_ms = T0 + DAY_MS
    made.assign("acme", "globex", from_ms=T0)
    return made


def taken(fleet: Fleet, path: Path, fields: FieldMap) -> TakenFile:
    with closing(file_sums.add_up(found_file(path), fleet.clock.at_ms, fields=fields)) as sums:
        write(fleet.engine, lambda c: meet_types(c, sums, fleet.clock.at_ms))
        return write(fleet.engine, lambda c: take(c, sums, BY_HAND, fleet.by))


def tenants(rows: tuple[Row, ...] = ROWS) -> list[Row]:
    return [{"tenant": one["org_id"], "used at": one["ts"], "interval_s": one["interval_s"]} for one in rows]


@pytest.mark.parametrize("name", ["u.parquet", "u.csv", "u.csv.gz", "u.jsonl"])
def test_batch_mapped_columns_are_billed_as_fields(fleet: Fleet, tmp_path: Path, name: str) -> None:
    done = taken(fleet, written(tmp_path / name, tenants()), TENANTS)
    assert (done.outcome, done.rows, done.refused) == ("taken", 5, 0)
    fleet.tick_windows(1)
    assert sealed(fleet) == SEALED
    assert fleet.one("SELECT COUNT(*) FROM usage_samples WHERE memory_mb <> 1024") == 0
    clean(fleet, 1)


@pytest.mark.parametrize("name", ["u.parquet", "u.csv", "u.jsonl"])
def test_batch_id_column_mapped_to_field_is_taken(fleet: Fleet, tmp_path: Path, name: str) -> None:
    """An event type that is the same in all rows, and a column called `id` that names the organisation."""
    write(fleet.engine, lambda c: map_event(c, "page.render", "render", fleet.by))
    path = written(tmp_path / name, [{"id": "acme", "ts": T0, "pages": 3}, {"id": "acme", "ts": T0 + 1, "pages": 4}])
    fields = FieldMap({"org_id": "id", "quantity": "pages"}, {"event_type": "page.render"})
    with pytest.raises(Refused, match="id"):
        taken(fleet, path, FieldMap({"quantity": "pages"}, {"event_type": "page.render"}))
    assert taken(fleet, path, fields).rows == 2
    fleet.tick_windows(1)
    assert sealed(fleet) == {("acme", 0): 7}
    clean(fleet, 1)


def test_batch_same_file_with_different_map_conflicts(fleet: Fleet, tmp_path: Path) -> None:
    path = written(tmp_path / "u.csv", tenants())
    assert taken(fleet, path, TENANTS).outcome == "taken"
    assert taken(fleet, path, TENANTS).outcome == "repeated"
    other = taken(fleet, path, FieldMap(TENANTS.columns, {"memory_mb": "4096"}))
    assert other.outcome == "conflict"
    assert "--map org_id=tenant --map ts=used at --set memory_mb=1024" in other.said
    # The same rows under their own names are the same use.
    plain = written(tmp_path / "plain.csv", [{**one, "memory_mb": 1024} for one in ROWS])
    assert taken(fleet, plain, FieldMap()).outcome == "repeated"
    fleet.tick_windows(1)
    assert sealed(fleet) == SEALED


def test_batch_label_in_mapped_column_distinguishes_rows(fleet: Fleet, tmp_path: Path) -> None:
    rows = [{**one, "box": box} for one, box in zip(ROWS, "abcde", strict=True)]
    fields = FieldMap({"sandbox_id": "box"})
    assert taken(fleet, written(tmp_path / "one.csv", rows), fields).outcome == "taken"
    others = [{**one, "box": box} for one, box in zip(ROWS, "fghij", strict=True)]
    assert taken(fleet, written(tmp_path / "two.csv", others), fields).outcome == "taken"
    again = [{**one, "sandbox_id": box} for one, box in zip(ROWS, "fghij", strict=True)]
    assert taken(fleet, written(tmp_path / "three.csv", again), FieldMap()).outcome == "repeated"


def test_batch_map_not_matching_file_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    path = written(tmp_path / "u.csv", tenants())
    with pytest.raises(Refused, match=r"missing columns org_id, ts, memory_mb.*--map FIELD=COLUMN"):
        taken(fleet, path, FieldMap())
    with pytest.raises(Refused, match="missing column owner"):
        taken(fleet, path, FieldMap({**TENANTS.columns, "org_id": "owner"}, TENANTS.constants))
    with pytest.raises(Refused, match="missing column box"):
        taken(fleet, path, FieldMap({**TENANTS.columns, "sandbox_id": "box"}, TENANTS.constants))
    with pytest.raises(UsageError, match="unknown field 'org'"):
        taken(fleet, path, FieldMap({"org": "tenant"}))
    with pytest.raises(UsageError, match="has two sources"):
        taken(fleet, path, FieldMap({"ts": "used at"}, {"ts": "1"}))
    with pytest.raises(Refused, match="all rows are invalid"):
        taken(fleet, path, FieldMap(TENANTS.columns, {"memory_mb": "much"}))
    assert fleet.one("SELECT COUNT(*) FROM usage_samples") == 0


@pytest.mark.parametrize("name", ["u.csv", "u.jsonl"])
def test_batch_empty_file_with_map_has_zero_rows(fleet: Fleet, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    assert taken(fleet, path, FieldMap({"org_id": "id"}, {"event_type": "page.render"})).rows == 0
    clean(fleet, 1)


def test_source_added_with_different_map_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = written(folder / "u.csv", tenants())
    at = (fleet.clock.at_ms - 2 * MINUTE_MS) / 1000
    os.utime(path, (at, at))

    def add(fields: FieldMap) -> str | None:
        return write(fleet.engine, lambda c: sources.add_source(c, "boxes", folder, fleet.by, fields)).field_map

    assert from_text(add(TENANTS)) == TENANTS
    add(TENANTS)
    with pytest.raises(Refused, match="--map org_id=tenant"):
        add(FieldMap())
    fleet.tick_windows(1)
    fleet.tick_windows(1)
    assert sealed(fleet) == SEALED
    clean(fleet, 1)


def test_verify_batch_with_changed_map_is_reported(fleet: Fleet, tmp_path: Path) -> None:
    rows = [{**one, "other_s": 1} for one in tenants()]
    assert taken(fleet, written(tmp_path / "u.csv", rows), TENANTS).outcome == "taken"
    with pytest.raises(sa.exc.DBAPIError, match="S7"):
        write(fleet.engine, lambda c: c.exec_driver_sql("UPDATE batches SET field_map = NULL"))
    clean(fleet, 1)
    wrong = FieldMap({**TENANTS.columns, "interval_s": "other_s"}, TENANTS.constants).text
    unguarded(fleet, "batches_rows_frozen", "batches", f"UPDATE batches SET field_map = '{wrong}'")
    assert proven(fleet).breaches


def test_map_options_are_parsed_or_refused() -> None:
    assert field_map(["org_id=tenant"], ["interval_s=60"]) == FieldMap({"org_id": "tenant"}, {"interval_s": "60"})
    for wrong in (["org_id"], ["=x"], ["ts=a", "ts=b"]):
        with pytest.raises(UsageError, match="--map"):
            field_map(wrong, None)


def test_batch_and_source_commands_accept_map(
    fleet: Fleet, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    monkeypatch.setenv("DRAWDOWN_STATE_DIR", str(tmp_path / "state"))

    def said(*words: str) -> tuple[int, Any]:
        status = drawdown(["--at", str(fleet.clock.at_ms), "--json", *words])
        return status, json.loads(capfd.readouterr().out or "{}")

    options = ("--map", "org_id=tenant", "--map", "ts=used at", "--set", "memory_mb=1024")
    path = written(tmp_path / "u.csv", tenants())
    status, answer = said("batch", "take", str(path), *options)
    assert (status, answer["files"][0]["rows"]) == (0, 5)
    assert said("verify", "--deep")[0] == 0
    folder = tmp_path / "in"
    folder.mkdir()
    assert said("source", "add", "boxes", str(folder), *options)[0] == 0
    (source,) = said("source", "list")[1]["sources"]
    assert from_text(source["field_map"]) == TENANTS
    query = tmp_path / "q.sql"
    query.write_text("SELECT 1 AS org_id WHERE :from_ms < :until_ms")
    assert said("source", "add", "calls", "--query", str(query), "--database", "x", *options)[0] == 2
