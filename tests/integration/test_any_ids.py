"""An id that is taken is one that the database reads as it was said; what a host writes past the door stops nobody."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from drawdown.events.envelope import Unfit
from drawdown.schema import ids
from drawdown.schema.database import read, write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.sources.samples.quarantine import QuarantineFilter, list_quarantined
from drawdown.worker.usage import quarantined as samples
from tests.integration.telling_events import billed_by_units, clean, event, mapped, told
from tests.world import T0, Fleet

AT_ONCE = 128
"""Code points in one id, which is looked at one by one where the database refuses it."""
SURROGATES = range(0xD800, 0xE000)
UNREADABLE = "\ufffe\uffff"
"""What SQLite's functions read as U+FFFD."""
EDGES = "\x00\x1f\x7f\x9f\xa0\xad\u200f\u2028\ud7ff\ue000\ufdd0\ufdef\ufeff\ufffc\ufffd\ufffe\uffff\U00010000"
_round = count()


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    made.clock.at_ms = T0 + 10
    return made


def quarantined(fleet: Fleet, texts: Iterable[str]) -> set[str]:
    """Those of these texts of which the database says that they are no id."""
    rows = [{"id": f"s{next(_round)}", "org": text, "ts": T0} for text in texts]
    fleet.write(
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        "VALUES (:id, :org, 'box', 'cell-1', 1024, 60, :ts, :ts)",
        rows,
    )
    found = fleet.rows("SELECT id, problem FROM usage_samples WHERE problem IS NOT NULL")
    assert {problem for _, problem in found} <= {"bad_org_id"}
    there = {name for name, _ in found}
    return {str(row["org"]) for row in rows if row["id"] in there}


def test_id_code_points_refused_by_database_are_not_clean(fleet: Fleet) -> None:
    points = [chr(point) for point in range(1, 0x110000) if point not in SURROGATES]
    many = ["".join(points[at : at + AT_ONCE]) for at in range(0, len(points), AT_ONCE)]
    refused = quarantined(fleet, {char for text in quarantined(fleet, many) for char in text})
    no_ids = {char for char in points if not ids.is_clean_id(char)}
    assert refused == no_ids - set(UNREADABLE if fleet.engine.dialect.name == "postgresql" else "")
    assert not ids.is_clean_id("\x00") and not any(ids.is_clean_id(chr(point)) for point in SURROGATES)


@pytest.mark.both_databases
def test_event_with_any_id_is_refused_or_billed(fleet: Fleet) -> None:
    few = 10  # each ticks, which takes PostgreSQL ten times as long

    @settings(max_examples=40 if fleet.engine.dialect.name == "sqlite" else few, deadline=None)
    @given(st.text(st.characters() | st.sampled_from(EDGES), min_size=1, max_size=12), st.integers(0, 3))
    def each(text: str, at: int) -> None:
        is_refused_or_billed(fleet, text, at)

    each()
    assert fleet.one("SELECT COUNT(*) FROM usage_events") != 0
    clean(fleet)  # once for all of them: to prove it after each took most of the time


def is_refused_or_billed(fleet: Fleet, text: str, at: int) -> None:
    mine = f"{next(_round)} {text}"
    name = ("org_id", "event_type", "source", "subject")[at]
    said = {"org_id": f"org {mine}", "occurred_ms": fleet.clock.at_ms, name: mine}
    try:
        one = event(mine if ids.is_clean_id(mine) else "e", 3, **said)
    except Unfit as unfit:
        assert unfit.code == "bad_id" and not ids.is_clean_id(mine)
        return
    fleet.assign(one.org_id)
    mapped(fleet, one.event_type, from_ms=None)
    (answer,) = told(fleet, one)
    assert answer.status in ("accepted", "pending")
    fleet.tick_windows(2)
    assert fleet.rows("SELECT id FROM usage_samples WHERE problem IS NOT NULL") == []
    assert fleet.one("SELECT COUNT(*) FROM usage_events WHERE org_id = :org", org=one.org_id) == 1


@pytest.mark.parametrize("column", ["id", "org_id", "sandbox_id", "cell_id"])
@pytest.mark.parametrize("mark", UNREADABLE)
def test_sample_with_unreadable_id_does_not_block_billing(fleet: Fleet, column: str, mark: str) -> None:
    """PostgreSQL reads it, and bills it. SQLite does not: it is quarantined, listed, and may be dismissed."""
    fleet.assign("acme", from_ms=T0)
    sound = {"id": "s", "org_id": "acme", "sandbox_id": "box", "cell_id": "cell-1", "ts": T0, "now": T0}
    insert = (
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        "VALUES (:id, :org_id, :sandbox_id, :cell_id, 1024, 60, :ts, :now)"
    )
    fleet.write(insert, sound)
    fleet.write(insert, {**sound, "id": "t", column: f"a{mark}"})
    fleet.tick(T0 + 2 * WINDOW_MS)
    clean(fleet)
    billed = fleet.one("SELECT SUM(sealed_qty) FROM pushes WHERE org_id = 'acme'")
    if fleet.engine.dialect.name == "postgresql":
        assert billed == (60 if column == "org_id" else 120)
        return
    assert billed == 60
    (listed,) = read(fleet.engine, lambda c: list_quarantined(c, QuarantineFilter(), fleet.clock.now_ms())).samples
    assert listed.reason == f"bad_{column}"
    chosen = QuarantineFilter(ids=(listed.sample_id,))
    assert write(fleet.engine, lambda c: samples.dismiss(c, chosen, fleet.by)) == [listed.sample_id]
    clean(fleet)


@pytest.mark.parametrize("name", ["org_id", "event_type"])
def test_event_with_unreadable_id_does_not_block_billing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Earlier versions took it, and PostgreSQL reads it. SQLite does not: it is quarantined, listed, and taken back."""
    billed_by_units(fleet, "acme")
    with monkeypatch.context() as before:
        before.setattr("drawdown.events.envelope.is_clean_id", lambda _text: True)
        old = event("old", 5, **{name: f"{'acme' if name == 'org_id' else 'page'}\ufffe"})
    told(fleet, old, event("good", 3))
    fleet.tick(T0 + 2 * WINDOW_MS)
    clean(fleet)
    assert fleet.one("SELECT SUM(sealed_qty) FROM pushes WHERE org_id = 'acme' AND feature = 'render'") == 3
    found = read(fleet.engine, lambda c: list_quarantined(c, QuarantineFilter(), fleet.clock.now_ms())).samples
    bad = "bad_org_id" if name == "org_id" else "bad_sandbox_id"
    assert [row.reason for row in found] == ([bad] if fleet.engine.dialect.name == "sqlite" else [])
    chosen = QuarantineFilter(ids=tuple(row.sample_id for row in found))
    if found:
        write(fleet.engine, lambda c: samples.dismiss(c, chosen, fleet.by))
    told(fleet, event("again", 5))
    fleet.tick_windows(2)
    clean(fleet)
    assert fleet.one("SELECT SUM(sealed_qty) FROM pushes WHERE org_id = 'acme' AND feature = 'render'") == 8
