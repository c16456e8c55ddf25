"""An assignment that begins later changes nothing of who bills now; each says what usage it brings in."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.schema import database
from drawdown.schema.database import read, write
from drawdown.schema.errors import Exit, Refused
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.orgs import assignments
from drawdown.worker.usage.withdrawals import withdraw
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.beside import beside
from tests.integration.losing import lost
from tests.integration.telling_events import event, mapped, told
from tests.world import T0, Fleet


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    return Fleet(engine)


READ = "SELECT balance_micro, balance_read_ms FROM orgs WHERE org_id = 'acme'"


@pytest.mark.both_databases
def test_balance_is_unchanged_until_later_assignment_begins(engine: sa.Engine) -> None:
    fleet = Fleet(engine, extra={"fake": FakeProvider(capabilities())})
    fleet.assign("acme")
    fleet.tick_windows(2)
    ((balance, read_ms),) = fleet.rows(READ)
    assert balance is not None and read_ms is not None

    def flip(from_ms: int) -> None:
        write(fleet.engine, lambda c: assignments.assign(c, ["acme"], "fake", fleet.by, from_ms=from_ms))

    later = fleet.clock.at_ms + 10 * WINDOW_MS
    flip(later)
    assert fleet.rows(READ) == [(balance, read_ms)]
    write(fleet.engine, lambda c: assignments.cancel(c, "acme", fleet.by))
    assert fleet.rows(READ) == [(balance, read_ms)]
    flip(later)
    fleet.clock.at_ms = later
    fleet.tick()
    assert fleet.one("SELECT billing_provider FROM orgs WHERE org_id = 'acme'") == "fake"
    assert fleet.rows(READ) != [(balance, read_ms)], "another's customer has another balance"


def test_balance_is_unchanged_by_assignment_of_earlier_gap(fleet: Fleet) -> None:
    fleet.assign("acme", from_ms=T0 + WINDOW_MS)
    fleet.tick(T0 + 4 * WINDOW_MS)
    ((balance, read_ms),) = fleet.rows(READ)
    assert balance is not None and read_ms is not None
    write(fleet.engine, lambda c: assignments.assign(c, ["acme"], "embedded", fleet.by, customer_id="old", from_ms=T0))
    assert fleet.rows(READ) == [(balance, read_ms)], "the present customer is the same"


@pytest.fixture
def twice(fleet: Fleet) -> tuple[int, int]:
    """When the two assignments of acme begin that are still to come."""
    fleet.assign("acme")
    fleet.tick_windows(2)
    starts = fleet.clock.at_ms // WINDOW_MS * WINDOW_MS + 12 * WINDOW_MS, T0 + 2 * DAY_MS

    def assign(connection: sa.Connection) -> None:
        for start, provider in zip(starts, ("none", "embedded"), strict=True):
            assignments.assign(connection, ["acme"], provider, fleet.by, from_ms=start)

    write(fleet.engine, assign)
    return starts


def to_come(fleet: Fleet) -> list[int]:
    return [
        int(str(start))
        for (start,) in fleet.rows(
            "SELECT start_ms FROM assignments WHERE org_id = 'acme' AND start_ms > :now ORDER BY 1",
            now=fleet.clock.at_ms,
        )
    ]


def test_assign_undo_repeated_after_lost_commit_is_refused(
    fleet: Fleet, twice: tuple[int, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after the answer of a commit that was lost: what it says to do is done."""
    first, _ = twice

    def undo(*more: str) -> tuple[int, str]:
        url = fleet.engine.url.render_as_string(hide_password=False)
        code = run(["--database-url", url, "--at", str(fleet.clock.at_ms), "org", "assign", "acme", "--undo", *more])
        said = capsys.readouterr()
        return code, " ".join((said.out + said.err).split())

    with monkeypatch.context() as patch:
        patch.setattr(database, "_commit", lost)
        code, said = undo()
    again = re.search(r"repeat the command with --from (\S+),", said)
    assert code == Exit.LEFT and again is not None and to_come(fleet) == [first]
    code, said = undo("--from", again[1])
    assert code == Exit.PERSON and "the latest assignment of acme begins at" in said and to_come(fleet) == [first]
    assert undo("--from", str(first))[0] == Exit.SETTLED and to_come(fleet) == []
    assert "it has already begun, or does not exist" in undo("--from", str(first))[1]


def test_concurrent_assign_undo_second_is_refused(fleet: Fleet, twice: tuple[int, int]) -> None:
    first, second = twice
    seen = read(fleet.engine, lambda c: assignments.to_come_ms(c, "acme", fleet.clock.at_ms))
    assert seen == second

    def undo(connection: sa.Connection) -> object:
        return assignments.cancel(connection, "acme", fleet.by, seen)

    one, other = beside(fleet.engine, undo, undo)
    assert isinstance(one, assignments.Assigned) and isinstance(other, Refused)
    assert to_come(fleet) == [first]


def told_then(fleet: Fleet) -> dict[str, assignments.Waited]:
    """What assignments from T0 on say; and that the next tick bills and leaves out just that, in seconds and units."""
    orgs = read(fleet.engine, assignments.unassigned)
    done = write(fleet.engine, lambda c: assignments.assign(c, orgs, "embedded", fleet.by, from_ms=T0))
    fleet.tick_windows(1)
    for one in done:
        waited, of = one.waited, {"org": one.org_id}
        billed = fleet.rows("SELECT SUM(sealed_qty) FROM pushes WHERE org_id = :org", **of)[0][0]
        left = fleet.rows("SELECT SUM(seconds) FROM pending_usage WHERE org_id = :org", **of)[0][0]
        said = (waited.resolved_s + waited.resolved_units, waited.before_start_s + waited.before_start_units)
        assert said == (int(str(billed or 0)), int(str(left or 0))), one.org_id
    return {one.org_id: one.waited for one in done}


def test_assign_late_samples_not_yet_read_are_counted(fleet: Fleet) -> None:
    mapped(fleet, from_ms=T0 - 2 * DAY_MS)
    fleet.sample("seen", T0 + 1, 30)
    fleet.tick(T0 + 3 * WINDOW_MS)
    fleet.sample("acme", T0 + 1)
    fleet.sample("old", T0 - 6 * DAY_MS)
    fleet.sample("seen", T0 + 2, 7)
    told(fleet, event("a", 3, org_id="events"), event("b", 9, org_id="events", occurred_ms=T0 - DAY_MS))
    found = told_then(fleet)
    assert found == {
        "acme": assignments.Waited(resolved_s=60),
        "events": assignments.Waited(resolved_units=3, before_start_units=9),
        "old": assignments.Waited(before_start_s=60),
        "seen": assignments.Waited(resolved_s=37),
    }


def test_assign_samples_withdrawn_since_last_tick_are_not_counted(fleet: Fleet) -> None:
    fleet.sample("acme", T0 + 1, 30, sample_id="pending")
    fleet.sample("acme", T0 + 2, 5)
    fleet.sample("acme", T0 - DAY_MS, 8, sample_id="before")
    fleet.tick(T0 + 3 * WINDOW_MS)
    fleet.sample("acme", T0 + WINDOW_MS, 11, sample_id="late")
    write(fleet.engine, lambda c: withdraw(c, ["pending", "before", "late"], fleet.by))
    assert told_then(fleet) == {"acme": assignments.Waited(resolved_s=5)}


def test_assign_usage_of_later_assignment_is_not_counted(fleet: Fleet) -> None:
    fleet.assign("acme", from_ms=T0 + WINDOW_MS)
    fleet.tick(T0 + 4 * WINDOW_MS)
    fleet.sample("acme", T0 + 1, 11)
    fleet.sample("acme", T0 + WINDOW_MS, 60)
    (made,) = write(fleet.engine, lambda c: assignments.assign(c, ["acme"], "embedded", fleet.by, from_ms=T0))
    assert made.waited == assignments.Waited(resolved_s=11)
