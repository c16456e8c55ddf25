"""What runs of `verify` found is kept, and told by `drawdown proof`: when each invariant last held."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.schema.database import read, write
from drawdown.worker.checks import proofs
from drawdown.worker.checks.proofs import Invariant, keep, to_continue
from drawdown.worker.verify.findings import INVARIANTS
from drawdown.worker.verify.incremental import Before, Mark
from drawdown.worker.verify.verify import Breach, Verification
from tests.integration.verifying import tamper
from tests.world import T0, Fleet


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine)
    made.assign("acme", from_ms=T0)
    made.sample("acme", T0 + 1)
    made.tick_windows(3)
    return made


def found(*broken: int, seen: int = 99) -> Verification:
    """`seen`: the newest run that it saw."""
    made = Verification(checked={"samples": 3}, open={"dirty_windows": 0, "stopped_orgs": 1}, newest_action="ab" * 32)
    made.before = Before(run=seen)
    for invariant in broken:
        made.add(Breach(invariant, "acme", None, None, "somebody tampered with it"))
    return made


def held(fleet: Fleet) -> dict[int, Invariant]:
    return {one.invariant: one for one in read(fleet.engine, proofs.standing)}


def test_invariant_holds_by_newest_whole_undoubted_run(fleet: Fleet) -> None:
    assert {one.holds for one in held(fleet).values()} == {None} and list(held(fleet)) == list(INVARIANTS)

    def kept(*broken: int, orgs: int | None = None, doubted: str | None = None) -> int:
        return write(fleet.engine, lambda c: keep(c, found(*broken), fleet.by, orgs=orgs, doubted=doubted))

    some, lost = kept(orgs=2), kept(doubted="restored")
    assert {one.holds for one in held(fleet).values()} == {None}, "a part, or a past that was lost, proves nothing"
    whole = kept(4, 4, 9)
    assert {one.invariant for one in held(fleet).values() if not one.holds} == {4, 9}
    assert (held(fleet)[4].breaches, held(fleet)[4].held_by, held(fleet)[1].held_by) == (2, None, whole)
    part = kept(1, orgs=1)
    assert held(fleet)[1].holds is False and held(fleet)[1].held_by == whole, "a part may show a breach"
    last = kept()
    assert {(one.holds, one.held_by, one.rows["samples"]) for one in held(fleet).values()} == {(True, last, 3)}
    assert held(fleet)[4].broken_by == whole, "what was broken once stays told"

    page = read(fleet.engine, lambda c: proofs.list_runs(c, most=2))
    assert [run.number for run in page.runs] == [last, part] and page.next_before == part
    rest = read(fleet.engine, lambda c: proofs.list_runs(c, before=part, most=9))
    assert [run.number for run in rest.runs] == [whole, lost, some] and rest.next_before is None
    assert (rest.runs[0].by_invariant, rest.runs[0].open_items) == ({4: 2, 9: 1}, {"stopped_orgs": 1})


def test_verify_run_begun_before_stored_breach_does_not_clear_breach(fleet: Fleet) -> None:
    """It began before the other one, and is kept after it: neither is the other's past by the clock of a machine."""

    def kept(*broken: int, seen: int) -> int:
        made = found(*broken, seen=seen)
        made.mark = Mark(T0, 1)
        return write(fleet.engine, lambda c: keep(c, made, fleet.by))

    first = kept(seen=0)
    broken = kept(4, seen=first)
    slow = kept(seen=first)
    assert [(one.holds, one.held_by) for one in held(fleet).values() if one.invariant in (1, 4)] == [
        (True, slow),
        (False, first),
    ]
    assert read(fleet.engine, lambda c: to_continue(c, fleet.by.now_ms)) is None
    last = kept(seen=broken)
    assert {(one.holds, one.held_by) for one in held(fleet).values()} == {(True, last)}
    going_on = read(fleet.engine, lambda c: to_continue(c, fleet.by.now_ms))
    assert going_on is not None and going_on.run == last


def test_verify_command_run_is_stored_and_listed_by_proof(
    fleet: Fleet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url = fleet.engine.url.render_as_string(hide_password=False)

    def asked(*words: str) -> tuple[int, dict[str, object]]:
        capfd.readouterr()
        status = drawdown(["--database-url", url, "--at", str(fleet.clock.at_ms), "--json", *words])
        return status, json.loads(capfd.readouterr().out)

    assert asked("proof")[1]["runs"] == []
    status, verified = asked("verify")
    (run,) = read(fleet.engine, proofs.list_runs).runs
    assert status == 0 and run.checked == verified["checked"] and run.newest_action == verified["newest_action"]
    assert (run.orgs, run.breaches, run.at_ms, run.doubted) == (None, 0, fleet.clock.at_ms, None)
    assert asked("verify", "--org", "acme", "--org", "acme")[0] == 0
    tamper(fleet, "UPDATE pushes SET sealed_qty = sealed_qty + 1")
    assert asked("verify", "--no-stop")[0] == 1
    told = asked("proof", "--most", "2")[1]
    runs = told["runs"]
    assert isinstance(runs, list) and [(one["orgs"], one["breaches"] > 0) for one in runs] == [(None, True), (1, False)]
    assert told["next_before"] == 2
    invariants = told["invariants"]
    assert isinstance(invariants, list)
    assert {one["invariant"]: (one["held_by"], one["broken_by"]) for one in invariants}[1] == (1, 3)


def test_verify_without_table_of_proofs_still_reports_invariants(
    fleet: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    """As where the login may read alone."""
    fleet.write("DROP TABLE invariants")
    url = fleet.engine.url.render_as_string(hide_password=False)
    assert drawdown(["--database-url", url, "--at", str(fleet.clock.at_ms), "verify"]) == 0
    out = capfd.readouterr().out
    assert "all invariants hold" in out and "is not stored for `drawdown proof`" in out
    assert fleet.rows("SELECT 1 FROM proofs") == [], "a run is kept whole, or not at all"
