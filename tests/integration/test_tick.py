"""The tick end to end, on both databases, with the embedded ledger."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.schema.units import WINDOW_MS
from drawdown.worker.seal import seal
from tests.world import T0, Fleet


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    made.assign("acme")
    return made


def test_tick_bills_window_once_after_grace(fleet: Fleet) -> None:
    fleet.sample("acme", T0 + 1)
    fleet.sample("acme", T0 + WINDOW_MS - 1, 30)
    assert fleet.tick(T0 + WINDOW_MS + 119_999).sealed == 0
    report = fleet.tick(T0 + WINDOW_MS + 120_000)
    assert (report.sealed, report.accepted, report.exit_status) == (1, 1, 0)
    assert fleet.pushes() == [("acme", T0, "compute_1gb", 0, 90, "accepted")]
    assert fleet.tick().sealed == 0
    assert fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'") == -9000


def test_late_sample_is_billed_as_revision(fleet: Fleet) -> None:
    fleet.sample("acme", T0 + 1)
    fleet.tick_windows(2)
    fleet.sample("acme", T0 + 2, 7)
    report = fleet.tick()
    assert (report.sealed, report.accepted) == (1, 1)
    assert fleet.pushes() == [
        ("acme", T0, "compute_1gb", 0, 60, "accepted"),
        ("acme", T0, "compute_1gb", 1, 7, "accepted"),
    ]
    keys = fleet.rows("SELECT key FROM pushes ORDER BY revision")
    assert keys == [(f"usage:acme:{T0}:compute_1gb",), (f"usage:acme:{T0}:compute_1gb:r1",)]


def test_usage_without_org_assignment_or_feature_is_pending_with_reason(fleet: Fleet) -> None:
    fleet.sample("acme", T0 + 1, memory_mb=3000)
    fleet.sample("nobody", T0 + 1)
    fleet.write("INSERT INTO orgs (org_id) VALUES ('idle')")
    fleet.sample("idle", T0 + 1)
    report = fleet.tick_windows(2)
    assert report.left.pending_s == {"no_mapping": 60, "unknown_org": 60, "no_assignment": 60}
    fleet.assign("nobody", "idle", from_ms=T0)
    report = fleet.tick_windows(1)
    assert report.left.pending_s == {"no_mapping": 60}
    assert {row[0] for row in fleet.pushes()} == {"nobody", "idle"}


def test_halt_is_sent_to_cell_until_its_sandboxes_stop(fleet: Fleet) -> None:
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    fleet.write("INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('b', 'acme', 'cell-1', 'running')")
    fleet.sample("acme", T0 + 1)
    report = fleet.tick_windows(2)
    assert (report.halted, report.halts_acknowledged) == (1, 1)
    assert [halt.org_id for halt in fleet.cells.received] == ["acme"]
    assert fleet.tick_windows(1).halts_acknowledged == 1  # its sandbox still runs
    fleet.write("UPDATE sandboxes SET state = 'stopped'")
    assert fleet.tick_windows(1).halts_acknowledged == 0


@pytest.mark.both_databases
def test_tick_with_bad_organisation_stops_only_that_org(fleet: Fleet) -> None:
    fleet.assign("bad")
    fleet.tick_windows(1)
    start = fleet.clock.at_ms
    fleet.sample("bad", start + 1)
    fleet.sample("acme", start + 1)
    # A row that no seal wrote, in a window that is not sealed yet: computing what is owed overflows.
    for revision in (0, 1):
        fleet.write(
            "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, "
            "key, sealed_at_ms, seal_id, state, due_at_ms) VALUES (:w, 'bad', 'compute_1gb', :r, 'embedded', 'bad', "
            "-9000000000000000000, 1, :k, 0, 0, 'accepted', 0)",
            {"w": start, "r": revision, "k": f"k{revision}"},
        )
    report = fleet.tick_windows(2)
    assert report.stopped_orgs == ["bad"]
    assert report.exit_status == 1
    assert ("acme", start, "compute_1gb", 0, 60, "accepted") in fleet.pushes()


def test_unknown_orgs_are_registered_in_portions(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that named 200,000 of them had one tick take 23 s: each was a statement of its own."""
    monkeypatch.setattr(seal, "AT_ONCE", 10)
    for number in range(25):
        fleet.sample(f"made-up-{number}", T0 + number)
    asked: list[int] = []
    real = seal.SQL.run

    def counted(connection: sa.Connection, name: str, *values: Any, **slots: str) -> Any:
        if name == "give_bucket":
            asked.append(len(values[0]["strangers"]))
        return real(connection, name, *values, **slots)

    monkeypatch.setattr(seal.SQL, "run", counted)
    fleet.tick_windows(2)
    assert asked == [10, 10, 5]
    assert fleet.one("SELECT COUNT(*) FROM pending_usage WHERE reason = 'unknown_org'") == 25
