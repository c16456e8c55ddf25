"""Bad samples: refused with line and reason by the import, quarantined where another program inserts them directly.

Whatever comes in, the good ones beside it are billed to the second.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.schema.database import connect, read, write
from drawdown.schema.migrate import upgrade
from drawdown.schema.text import counted
from drawdown.schema.units import EARLIEST_TS, FUTURE_SLACK_MS, MAX_INTERVAL_S, MAX_MEMORY_MB, WINDOW_MS
from drawdown.worker.push.explanation import explain_push
from tests.acceptance.commands import drawdown, must
from tests.acceptance.tables import billed_exactly, rows
from tests.sqlite_databases import migrated
from tests.world import T0, Fleet

NOW = T0 + 4 * WINDOW_MS
COLUMNS = ("id", "org_id", "sandbox_id", "cell_id", "memory_mb", "cpu_count", "interval_s", "ts", "ingested_at")
GOOD: dict[str, Any] = dict(
    zip(COLUMNS, ("good", "acme", "box", "cell-1", 1024, 2, 60, T0 + 5, T0 + 60_000), strict=True)
)
BAD_IDS = ("", "x" * 201, "a\x07b", "a\nb", "a\x7fb", "a\u0085b", None)
BAD: list[tuple[str, str, Any]] = [
    *((f"bad_{name}", name, value) for name in COLUMNS[1:4] for value in BAD_IDS),
    *(("bad_id", "id", value) for value in BAD_IDS[:-1]),
    ("memory_missing", "memory_mb", None),
    ("memory_out_of_bounds", "memory_mb", -1),
    ("memory_out_of_bounds", "memory_mb", MAX_MEMORY_MB + 1),
    ("interval_missing", "interval_s", None),
    ("interval_negative", "interval_s", -1),
    ("interval_negative", "interval_s", -0.5),
    ("interval_fractional", "interval_s", 12.5),
    ("interval_over_a_day", "interval_s", MAX_INTERVAL_S + 1),
    ("interval_over_a_day", "interval_s", 10**18),
    ("ts_missing", "ts", None),
    ("ts_before_2000", "ts", EARLIEST_TS - 1),
    ("ts_before_2000", "ts", T0 // 1000),
    ("ts_before_2000", "ts", -1),
    ("ts_in_the_future", "ts", GOOD["ingested_at"] + FUTURE_SLACK_MS + 1),
    ("ts_in_the_future", "ts", 2**63 - 1),
]
SQLITE_ALONE: list[tuple[str, str, Any]] = [  # PostgreSQL's types refuse these themselves
    ("bad_id", "id", "a\0b"),
    ("bad_id", "id", b"blob"),
    ("bad_org_id", "org_id", b"blob"),
    ("interval_not_a_number", "interval_s", "soon"),
    ("interval_over_a_day", "interval_s", float("inf")),
    ("memory_out_of_bounds", "memory_mb", "big"),
    ("ts_not_milliseconds", "ts", "2026-01-01"),
    ("ts_not_milliseconds", "ts", T0 + 0.5),
]
AT_THE_EDGE: list[dict[str, Any]] = [
    {"interval_s": 0},
    {"interval_s": MAX_INTERVAL_S},
    {"interval_s": 32.0},
    {"memory_mb": 1024.0},
    {"cpu_count": None},
    {"cpu_count": 0.125},
    {"sandbox_id": "x" * 200},
    {"sandbox_id": "ümläut \u202e '\"%s:name{}"},
]

INSERT = f"INSERT INTO usage_samples ({', '.join(COLUMNS)}) VALUES ({', '.join(f':{name}' for name in COLUMNS)})"


def _insert(engine: sa.Engine, samples: list[dict[str, Any]]) -> None:
    """As another program does: without asking anybody."""
    write(engine, lambda connection: connection.execute(sa.text(INSERT), samples))


def _bad(engine: sa.Engine) -> list[tuple[str, str, Any]]:
    return BAD + (SQLITE_ALONE if engine.dialect.name == "sqlite" else [])


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    made.assign("acme", "bolt", from_ms=T0)
    made.clock.at_ms = NOW
    return made


@pytest.mark.both_databases
def test_bad_samples_are_quarantined_by_reason_and_valid_usage_billed(fleet: Fleet, database_url: str) -> None:
    bad = _bad(fleet.engine)
    samples = [{**GOOD, "id": f"bad{number}", name: value} for number, (_, name, value) in enumerate(bad)]
    edge = [{**GOOD, "id": f"edge{number}", **values} for number, values in enumerate(AT_THE_EDGE)]
    _insert(fleet.engine, [*samples, *edge, {**GOOD, "id": "b", "org_id": "bolt"}])
    expected: dict[str, int] = {}
    for reason, _, _ in bad:
        expected[reason] = expected.get(reason, 0) + 1

    report = fleet.tick()
    assert (report.stopped_orgs, report.failures, report.exit_status) == ([], [], 0)
    acme = sum(int(values.get("interval_s", 60)) for values in AT_THE_EDGE)
    billed_exactly(database_url, {("acme", T0): acme, ("bolt", T0): 60})
    assert report.left.quarantined == expected
    assert must(database_url, "status", at=str(NOW), status=75)["left"]["quarantined"] == expected
    row = json.loads(str(fleet.one("SELECT report FROM ticks ORDER BY tick_id DESC LIMIT 1")))
    assert row["left"]["quarantined"] == expected
    must(database_url, "verify", at=str(NOW))
    said = drawdown(database_url, "status", at=str(NOW)).out
    assert all(
        f"{counted(count, 'sample', 'samples')} quarantined: {reason}" in said for reason, count in expected.items()
    )


def test_unsealable_sample_is_pending_by_reason_and_billed_after_fix(fleet: Fleet, database_url: str) -> None:
    fleet.write("INSERT INTO orgs (org_id) VALUES ('idle')")
    kinds = {"size": ("acme", 3000, 7), "stranger": ("nobody", 1024, 11), "idle": ("idle", 1024, 13)}
    odd = [
        {**GOOD, "id": name, "org_id": org, "memory_mb": size, "interval_s": seconds}
        for name, (org, size, seconds) in kinds.items()
    ]
    _insert(fleet.engine, [GOOD, *odd])
    report, pending = fleet.tick(), {"no_mapping": 7, "unknown_org": 11, "no_assignment": 13}
    assert report.left.pending_s == pending
    assert must(database_url, "status", at=str(NOW), status=75)["left"]["pending_s"] == pending
    row = json.loads(str(fleet.one("SELECT report FROM ticks ORDER BY tick_id DESC LIMIT 1")))
    assert row["left"]["pending_s"] == pending
    billed_exactly(database_url, {("acme", T0): 60})

    at, start = str(NOW), ("--from", str(T0))
    must(database_url, "org", "assign", "nobody", "idle", "--new", *start, at=at)
    must(database_url, "feature", "map", "compute_4gb", "--up-to", "4096", *start, "--yes", at=at)
    assert must(database_url, "tick", at=at)["tick"]["left"]["pending_s"] == {}
    billed_exactly(database_url, {("acme", T0): 67, ("nobody", T0): 11, ("idle", T0): 13})
    must(database_url, "verify", at=at)


ODD_ORGS = (
    "a'; DROP TABLE orgs;--", "a:b", ":name", "%(name)s", "100%", "ünï 🚀", 'a"b', "back\\slash", "{scope}", "[red]",
    "-x", "--", " ", "x\u202ey", "no\u00a0break", "null", "usage:acme:0:compute_1gb", "é", "e\u0301", "y" * 200,
)  # fmt: skip


def test_org_and_sample_ids_with_odd_characters_are_billed_and_withdrawn(fleet: Fleet, database_url: str) -> None:
    _insert(fleet.engine, [{**GOOD, "id": f"'{org}:%s"[:200], "org_id": org} for org in ODD_ORGS])
    at = str(NOW)
    must(database_url, "org", "assign", "--unassigned", "--from", str(T0), at=at)
    assert fleet.tick().accepted == len(ODD_ORGS)
    billed_exactly(database_url, {(org, T0): 60 for org in ODD_ORGS})
    for (key,) in rows(database_url, "SELECT key FROM pushes"):
        assert read(fleet.engine, partial(explain_push, key=str(key))).sealed_qty == 60
    must(database_url, "sample", "withdraw", "--", *(f"'{org}:%s"[:200] for org in ODD_ORGS), at=at)
    assert fleet.tick().accepted == len(ODD_ORGS)
    assert fleet.rows("SELECT SUM(sealed_qty), COUNT(*) FROM pushes") == [(0, 2 * len(ODD_ORGS))]
    must(database_url, "verify", at=at)


def test_org_with_odd_id_and_overflow_is_stopped_alone(fleet: Fleet, database_url: str) -> None:
    """The search for the organisation at fault names organisations in SQL, too."""
    fleet.assign(*ODD_ORGS, from_ms=T0)
    _insert(fleet.engine, [{**GOOD, "id": org, "org_id": org} for org in (*ODD_ORGS, "acme")])
    evil = ODD_ORGS[0]
    for revision in (0, 1):  # rows that no seal wrote: what is owed overflows
        fleet.write(
            "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, "
            "key, sealed_at_ms, seal_id, state, due_at_ms) VALUES (:w, :o, 'compute_1gb', :r, 'embedded', :o, "
            "-9000000000000000000, 1, :k, 0, 0, 'accepted', 0)",
            {"w": T0, "r": revision, "k": f"k{revision}", "o": evil},
        )
    report = fleet.tick()
    assert report.stopped_orgs == [evil]
    assert report.accepted == len(ODD_ORGS)
    assert drawdown(database_url, "org", "show", "--", evil).status == 0


@pytest.mark.both_databases
def test_extreme_rate_rejects_push_and_does_not_block_other_org(fleet: Fleet, database_url: str) -> None:
    rate = ("ledger", "rate", "compute_64gb", "--micro-credits", str(10**12), "--from", str(T0))
    must(database_url, *rate, at=str(T0))
    large = {"memory_mb": 65_536, "interval_s": MAX_INTERVAL_S}
    _insert(fleet.engine, [{**GOOD, **large, "id": f"large{number}"} for number in range(130)])
    _insert(fleet.engine, [{**GOOD, "org_id": "bolt"}])
    report = fleet.tick()
    assert (report.accepted, report.left.rejected, report.exit_status) == (1, 1, 1)
    assert fleet.rows("SELECT from_account, amount_micro FROM ledger_entries") == [("wallet:bolt", 6_000)]


def test_org_id_not_utf8_is_quarantined_and_other_usage_billed(tmp_path: Path) -> None:
    """SQLite stores any bytes as text; PostgreSQL refuses them itself."""
    url = f"sqlite:///{tmp_path}/drawdown.db"
    engine = connect(migrated(url))
    upgrade(engine)
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=T0)
    _insert(engine, [GOOD])
    odd = INSERT.replace(":org_id", "CAST(X'41FF42' AS TEXT)")
    fleet.write(odd, {**GOOD, "id": "odd"})
    report = fleet.tick(NOW)
    assert report.left.quarantined == {"bad_org_id": 1}
    billed_exactly(url, {("acme", T0): 60})


LINES = {
    3: ("b1,acme,box,c,1024,1,-5,{ts}", "interval_s is negative"),
    4: ("b2,acme,box,c,1024,1,12.5,{ts}", "interval_s must be whole seconds"),
    5: ("b3,acme,box,c,1024,1,86401,{ts}", "interval_s"),
    6: ("b4,acme,box,c,1024,1,,{ts}", "interval_s"),
    7: ("b5,acme,box,c,1024,1,60,1999-12-31T23:59:59Z", "ts"),
    8: ("b6,acme,box,c,1024,1,60,2026-01-01T00:25:01Z", "ts"),
    9: ("b7,acme,box,c,1024,1,60,yesterday", "ts"),
    10: (",acme,box,c,1024,1,60,{ts}", "id"),
    11: ("b9,,box,c,1024,1,60,{ts}", "org_id"),
    12: (f"b10,{'x' * 201},box,c,1024,1,60,{{ts}}", "org_id"),
    13: ("b11,ac\x07me,box,c,1024,1,60,{ts}", "org_id"),
    14: ("b12,acme,box,c,1024,1,60,{ts},more", "more fields"),
    15: ("b13,acme", "fewer fields"),
    16: ("b14,ac\udcffme,box,c,1024,1,60,{ts}", "UTF-8"),
}


def test_import_of_bad_rows_reports_line_and_reason(fleet: Fleet, database_url: str, tmp_path: Path) -> None:
    ts = "2026-01-01T00:00:05Z"
    header = ",".join(COLUMNS[:-1])
    text = [header, f"g1,acme,box,c,1024,1,60,{ts}", *(row.format(ts=ts) for row, _ in LINES.values())]
    file, rejects = tmp_path / "usage.csv", tmp_path / "rejects.csv"
    file.write_bytes("\n".join([*text, f"g2,acme,box,c,1024,1,32.0,{ts}", ""]).encode(errors="surrogateescape"))
    at = "2026-01-01T00:20:00Z"
    said = drawdown(database_url, "import", str(file), "--rejects", str(rejects), at=at)
    assert said.status == 1 and "Traceback" not in said.err
    assert "2 new, 0 already stored, 14 refused" in said.out
    for number, (_, reason) in LINES.items():
        line = next(one for one in said.out.splitlines() if f"usage.csv:{number}:" in one)
        assert reason in line, line
    assert len(rejects.read_text().splitlines()) == 1 + len(LINES)
    assert must(database_url, "tick", at=at)["tick"]["left"]["quarantined"] == {}
    billed_exactly(database_url, {("acme", T0): 92})
    strict = drawdown(database_url, "import", str(file), "--strict", at=at)
    assert strict.status == 1 and "nothing was imported" in strict.out
